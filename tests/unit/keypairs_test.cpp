// How a new key moves the others, against the Linux module's noise.c written down a second time.
#include "control/keypairs.h"

#include <gtest/gtest.h>

#include <algorithm>

namespace wireplane {
namespace {

SessionRef ref(std::uint32_t number) { return {SessionSlot{number}, Serial{number}, ReceiverIndex{number * 1000003}}; }

std::vector<std::uint32_t> numbers(const std::vector<SessionRef>& refs) {
  std::vector<std::uint32_t> out;
  for (const SessionRef& r : refs) out.push_back(r.slot.raw());
  std::ranges::sort(out);
  return out;
}

std::uint32_t number(const std::optional<SessionRef>& place) { return place ? place->slot.raw() : 0; }

struct Row {  // 1 = previous, 2 = current, 3 = next, 4 = the new one; 0 = none
  std::uint32_t previous, current, next;
  std::vector<std::uint32_t> freed;
};

// noise.c, add_new_keypair()
Row kernel(std::uint32_t previous, std::uint32_t current, std::uint32_t next, bool initiator) {
  Row row{};
  const auto put = [&](std::uint32_t key) {
    if (key != 0) row.freed.push_back(key);
  };
  if (initiator) {
    if (next != 0) {
      row.previous = next;
      put(current);
    } else {
      row.previous = current;
    }
    put(previous);
    row.current = 4;
  } else {
    row.next = 4;
    put(next);
    row.current = current;
    put(previous);
  }
  std::ranges::sort(row.freed);
  return row;
}

// Goal: a key that was just agreed takes its place as in the Linux module, whatever was there.
// Method: all eight combinations of previous, current and next, in both roles.
// proves: P28
TEST(Keypairs, NewKeyMovesTheOthersInAllCombinationsAndBothRoles) {
  for (unsigned there = 0; there < 8; ++there)
    for (const bool initiator : {true, false}) {
      Keypairs keys;
      if (there & 1) keys.previous = ref(1);
      if (there & 2) keys.current = ref(2);
      if (there & 4) keys.next = ref(3);
      const Row expected = kernel(there & 1 ? 1 : 0, there & 2 ? 2 : 0, there & 4 ? 3 : 0, initiator);
      const std::vector<SessionRef> gone = keys.derived(ref(4), initiator);
      EXPECT_EQ(numbers(gone), expected.freed) << there << ' ' << initiator;
      EXPECT_EQ(number(keys.previous), expected.previous) << there << ' ' << initiator;
      EXPECT_EQ(number(keys.current), expected.current) << there << ' ' << initiator;
      EXPECT_EQ(number(keys.next), expected.next) << there << ' ' << initiator;
    }
}

// Goal: the first packet on `next` makes it current; on any other key nothing moves.
// Method: all combinations, confirmations of each of the three and of a stranger. noise.c,
// wg_noise_received_with_keypair()
TEST(Keypairs, OnlyTheNextKeyIsConfirmed) {
  for (unsigned there = 0; there < 8; ++there)
    for (std::uint32_t confirmed = 1; confirmed <= 4; ++confirmed) {
      Keypairs keys;
      if (there & 1) keys.previous = ref(1);
      if (there & 2) keys.current = ref(2);
      if (there & 4) keys.next = ref(3);
      const Keypairs before = keys;
      const std::vector<SessionRef> gone = keys.confirmed(Serial{confirmed});
      if (confirmed == 3 && (there & 4) != 0) {
        EXPECT_EQ(numbers(gone), (there & 1) != 0 ? std::vector<std::uint32_t>{1} : std::vector<std::uint32_t>{});
        EXPECT_EQ(number(keys.previous), (there & 2) != 0 ? 2u : 0u);
        EXPECT_EQ(number(keys.current), 3u);
        EXPECT_FALSE(keys.next);
      } else {
        EXPECT_TRUE(gone.empty());
        EXPECT_EQ(keys.previous, before.previous);
        EXPECT_EQ(keys.current, before.current);
        EXPECT_EQ(keys.next, before.next);
      }
    }
}

// Goal: clear() leaves nothing and gives everything back once.
TEST(Keypairs, ClearGivesEverythingBack) {
  Keypairs keys{.previous = ref(1), .current = ref(2), .next = ref(3)};
  EXPECT_EQ(numbers(keys.clear()), (std::vector<std::uint32_t>{1, 2, 3}));
  EXPECT_TRUE(keys.clear().empty());
}

}  // namespace
}  // namespace wireplane
