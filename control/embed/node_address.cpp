#include "control/embed/node_address.h"

#include <algorithm>
#include <string_view>

#include "control/noise/blake2s.h"

namespace wireplane {

Address address_of(const PublicKey& key) {
  static constexpr std::string_view kLabel = "wireplane address v1";
  const Octets label{reinterpret_cast<const std::uint8_t*>(kLabel.data()), kLabel.size()};
  const Digest digest = hash({label, key.octets});
  std::array<std::uint8_t, 16> octets{0xfd};
  std::copy_n(digest.begin(), octets.size() - 1, octets.begin() + 1);
  return Address::v6(octets.data());
}

}  // namespace wireplane
