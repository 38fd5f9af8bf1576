#include "control/embed/crc32c.h"

#include <gtest/gtest.h>
#include <usrsctp.h>

#include <cstring>
#include <random>
#include <vector>

#include "dataplane/base/bytes.h"

namespace wireplane {
namespace {

// Goal: the checksum is the one that SCTP asks for, whatever the length, and does not depend on what it replaces.
// Method: against usrsctp's own, of packets of all lengths and of random octets, whose checksum field it wants zero.
TEST(Crc32c, IsTheOneOfAnotherImplementation) {
  std::mt19937 chance{1};
  for (std::size_t length = 12; length < 1500; ++length) {
    std::vector<std::uint8_t> packet(length);
    for (auto& octet : packet) octet = static_cast<std::uint8_t>(chance());
    const std::uint32_t ours = crc32c_of_sctp(packet.data(), length);
    store_be32(packet.data() + 8, 0);
    std::uint8_t stored[4];
    store_be32(stored, ours);
    const std::uint32_t theirs = ::usrsctp_crc32c(packet.data(), length);
    EXPECT_EQ(std::memcmp(stored, &theirs, 4), 0) << length;
    EXPECT_EQ(crc32c_of_sctp(packet.data(), length), ours);
  }
}

}  // namespace
}  // namespace wireplane
