#include "dataplane/wire/ecn.h"

#include <gtest/gtest.h>

#include "tests/support/ip_packets.h"

namespace wireplane {
namespace {

using test::Octets;
constexpr Ecn N = Ecn::kNotEct, E0 = Ecn::kEct0, E1 = Ecn::kEct1, CE = Ecn::kCe;
constexpr std::uint8_t kDscp = 0xb8;  // EF: must survive inside, and not be seen outside

Octets packet(bool v4, Ecn ecn) {
  const auto ds = static_cast<std::uint8_t>(kDscp | static_cast<std::uint8_t>(ecn));
  return v4 ? test::ip_packet("10.0.0.1", "10.0.0.2", 17, Octets(40), 64, ds)
            : test::ip_packet("2001:db8::1", "2001:db8::2", 17, Octets(40), 64, ds);
}

// Goal: RFC 6040's Figure 4, all sixteen cases in both families; DSCP untouched, IPv4's header checksum right.
// Method: the table is written here once more, by hand.
// proves: P40
TEST(Ecn, DecapsulationIsRfc6040sTableOfSixteen) {
  struct Case {
    Ecn inner, outer, result;
    Drop drop = Drop::kNone;
  };
  const Case cases[] = {
      {N, N, N},   {N, E0, N},   {N, E1, N},   {N, CE, N, Drop::kEcnForged},
      {E0, N, E0}, {E0, E0, E0}, {E0, E1, E1}, {E0, CE, CE},
      {E1, N, E1}, {E1, E0, E1}, {E1, E1, E1}, {E1, CE, CE},
      {CE, N, CE}, {CE, E0, CE}, {CE, E1, CE}, {CE, CE, CE},
  };
  for (const bool v4 : {true, false}) {
    for (const Case& c : cases) {
      Octets inner = packet(v4, c.inner);
      const Octets wanted = packet(v4, c.result);  // equal octets: the checksum too
      const auto outer_ds = static_cast<std::uint8_t>(0x28 | static_cast<std::uint8_t>(c.outer));
      EXPECT_EQ(ecn_decapsulate(inner.data(), outer_ds), c.drop) << v4 << int(c.inner) << int(c.outer);
      EXPECT_EQ(inner, wanted) << v4 << int(c.inner) << int(c.outer);
    }
  }
}

// Goal: the outer header shows the inner packet's ECN, CE included, and nothing of its DSCP.
// Method: four marks, two families.
// proves: P40
TEST(Ecn, EncapsulationCopiesTheMarkAndHidesTheClass) {
  for (const bool v4 : {true, false})
    for (const Ecn ecn : {N, E0, E1, CE})
      EXPECT_EQ(outer_ds_for(packet(v4, ecn).data()), static_cast<std::uint8_t>(ecn));
}

}  // namespace
}  // namespace wireplane
