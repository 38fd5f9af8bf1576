// Goal of this program: a change of allowed IPs that finds no memory has not happened.
#include <gtest/gtest.h>

#include <functional>
#include <map>
#include <tuple>
#include <vector>

#include "dataplane/base/bytes.h"
#include "dataplane/route/allowed_ips.h"
#include "tests/support/failing_new.h"
#include "tests/support/seed.h"

namespace wireplane {
namespace {

using test::FailingNew;
using test::Random;
using Rows = std::vector<std::tuple<Address, unsigned, std::uint32_t>>;

// All that can be seen: every peer's list in order, and that each prefix is found where its list says.
Rows rows_of(const AllowedIps& ips) {
  Rows rows;
  for (std::uint32_t slot = 0; slot < 4; ++slot)
    ips.for_each(PeerSlot{slot}, [&](const Address& a, unsigned length) {
      EXPECT_EQ(ips.owner(a, length), PeerSlot{slot});
      rows.emplace_back(a, length, slot);
    });
  EXPECT_EQ(rows.size(), ips.count());
  return rows;
}

Address near(Random& random) {  // so that prefixes nest and buckets burst
  std::uint8_t octets[16] = {10};
  store_be32(octets + 2, static_cast<std::uint32_t>(random() & 0x1f071fff));
  return random() % 2 ? Address::v4(octets) : Address::v6(octets);
}

// Goal: whichever allocation of an insert, move or remove fails, list and trie are as before, and the same change
// succeeds when there is memory.
// Method: each change of a random history is tried with no allocation allowed, then one, then two ..., with and without
// a hook that needs memory itself; after each failure everything is compared. At the end all is removed.
TEST(AllowedIpsMemory, AChangeWithoutMemoryHasNotHappened) {
  const std::uint64_t seed = test::seed_from_env_or(71);
  for (const bool hooked : {false, true}) {
    Random random{seed};
    std::vector<std::function<void()>> kept;
    AllowedIps::Retire hook;
    if (hooked) hook = [&](std::function<void()> free) { kept.push_back(std::move(free)); };
    std::size_t failures = 0;
    {
      AllowedIps ips{hook};
      for (int step = 0; step < 1500; ++step) {
        const PeerSlot slot{static_cast<std::uint32_t>(random() % 4)};
        Address a = near(random);
        unsigned length = static_cast<unsigned>(random() % (a.bits() + 1));
        const Rows before = rows_of(ips);
        const bool removes = random() % 3 == 0 && !before.empty();
        if (removes) std::tie(a, length, std::ignore) = before[random() % before.size()];
        const std::optional<PeerSlot> had = ips.owner(a, length);
        const PeerSlot of = removes ? *had : slot;
        for (long allowed = 0;; ++allowed) {
          try {
            const FailingNew fail{allowed};
            if (removes)
              EXPECT_TRUE(ips.remove(a, length, of));
            else
              EXPECT_EQ(ips.insert(a, length, of), had);
            break;
          } catch (const std::bad_alloc&) {
            ++failures;
          }
          ASSERT_EQ(rows_of(ips), before) << "WG_SEED=" << seed;
        }
        ASSERT_EQ(ips.owner(a, length), removes ? std::nullopt : std::optional{of});
        if (hooked && step % 16 == 0)
          for (auto ready = std::move(kept); const auto& free : ready) free();
      }
      for (std::uint32_t slot = 0; slot < 4; ++slot) ips.remove_all(PeerSlot{slot});
      EXPECT_EQ(ips.count(), 0u);
    }
    for (std::size_t i = 0; i < kept.size(); ++i) kept[i]();
    EXPECT_GT(failures, 10u);
  }
}

}  // namespace
}  // namespace wireplane
