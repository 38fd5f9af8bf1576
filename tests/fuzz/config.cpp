// Fuzz: any octets at all as a configuration file.
// Claims: it is taken or refused, never worse; errors name a line of the file and are of bounded length; a file that
// was taken twice differs in nothing from itself.
#include "control/config.h"

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "dataplane/base/check.h"

namespace wireplane {
namespace {

std::uint32_t no_interfaces(std::string_view) { return 0; }

void check_errors(const std::vector<ConfigError>& errors, std::size_t lines) {
  WG_CHECK(!errors.empty() && errors.size() <= kMostErrors);
  for (const ConfigError& error : errors)
    WG_CHECK(error.line <= lines && !error.expected.empty() && error.text().size() < 600);
}

void check_taken(const FileConfig& first, const FileConfig& second) {
  const DeviceChange none = difference(first, second);
  WG_CHECK(!none.private_key && !none.listen_port && !none.fwmark && none.peers.empty());
  WG_CHECK(unchangeable(first, second).empty());
  for (const PeerChange& peer : first.device.peers)
    for (const AllowedIpChange& ip : peer.allowed_ips) WG_CHECK(ip.prefix == masked(ip.prefix));
}

}  // namespace
}  // namespace wireplane

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* octets, std::size_t count) {
  using namespace wireplane;
  const std::string_view text{reinterpret_cast<const char*>(octets), count};
  const auto first = parse_config(text, "fuzz.conf", resolve_never, no_interfaces);
  const auto lines = static_cast<std::size_t>(std::count(text.begin(), text.end(), '\n')) + 1;
  if (!first) {
    check_errors(first.error(), lines);
    return 0;
  }
  const auto second = parse_config(text, "fuzz.conf", resolve_never, no_interfaces);
  WG_CHECK(static_cast<bool>(second));
  check_taken(*first, *second);
  return 0;
}
