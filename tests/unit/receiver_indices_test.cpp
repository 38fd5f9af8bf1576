// Receiver indices tell an observer nothing and name one session each.
#include "control/receiver_indices.h"

#include <array>
#include <set>

#include "tests/support/speaker.h"

namespace wireplane::test {
namespace {

Limits limits_of(unsigned workers, std::size_t sessions) {
  Limits limits = small_limits();
  limits.workers = workers;
  limits.sessions = sessions;
  return limits;
}

// Goal: indices are uniform over 32 bits, never given twice while one is in use, and belong to the worker asked for.
// Method: a million draws for three workers, held for a while and given back; each bit is set in half of them (within
// five standard deviations, for the bits that name the owner: within the owner's share), each in-use one is unique.
// proves: P23
TEST(ReceiverIndices, AreUniformAndUniqueOverAMillionDraws) {
  Engine engine{limits_of(4, 8192)};
  SeededEntropy entropy{1};
  ReceiverIndices indices{engine, entropy};
  constexpr unsigned kDraws = 1'000'000;
  std::array<std::uint32_t, 32> ones{};
  std::deque<ReceiverIndex> in_use;
  std::set<std::uint32_t> resting_or_used;
  Instant now{1000s};
  for (unsigned i = 0; i < kDraws; ++i) {
    const unsigned worker = i % 4;
    const std::optional<ReceiverIndex> index = indices.draw(worker, now);
    ASSERT_TRUE(index);
    ASSERT_EQ(engine.owner(*index), worker);
    ASSERT_TRUE(resting_or_used.insert(index->raw()).second) << "given twice";
    for (unsigned bit = 0; bit < 32; ++bit) ones[bit] += index->raw() >> bit & 1;
    in_use.push_back(*index);
    if (in_use.size() == 1000) {
      for (const ReceiverIndex old : in_use) indices.give_back(old, now);
      in_use.clear();
      now += kIndexRestTime;
      resting_or_used.clear();
    }
  }
  for (unsigned bit = 0; bit < 32; ++bit)  // sigma is 500
    EXPECT_NEAR(ones[bit], kDraws / 2, 2500) << "bit " << bit;
}

// Goal: an index that was given back meets nobody for ten seconds, unless its place is needed.
// Method: a table with five free places, and one that rests: it is the last to be drawn, and after it none is.
TEST(ReceiverIndices, RestBeforeTheyAreDrawnAgainAsLongAsThereAreOthers) {
  Engine engine{limits_of(1, 16)};
  SeededEntropy entropy{1};
  ReceiverIndices indices{engine, entropy};
  const Instant now{1000s};
  const SessionTable& table = engine.link(0).sessions;
  const std::size_t most = table.capacity() / 4 * 3;
  std::vector<ReceiverIndex> drawn;
  while (drawn.size() < most - 5) drawn.push_back(*indices.draw(0, now));
  indices.give_back(drawn[0], now);
  for (int i = 0; i < 5; ++i) {
    const std::optional<ReceiverIndex> index = indices.draw(0, now + kIndexRestTime - 1ns);
    ASSERT_TRUE(index);
    EXPECT_NE(table.position(*index), table.position(drawn[0]));
  }
  EXPECT_TRUE(indices.draw(0, now + kIndexRestTime - 1ns));
  EXPECT_FALSE(indices.draw(0, now + kIndexRestTime - 1ns));
}

// Goal: a peer that shakes hands as often as it may (50 a second) leaves room for others. Found by the handshake
// fuzzer. Method: 400 handshakes of one peer with a device for eight, more than its table has places; then another
// peer's.
TEST(ReceiverIndices, OfOneEagerPeerLeaveRoomForOthers) {
  Sim sim;
  Node& node = sim.add();
  Speaker eager{sim, node}, other{sim, node, "198.51.100.2"};
  eager.join();
  other.join(true, {"10.9.0.2/32"});
  ASSERT_LT(node.engine.link(0).sessions.capacity(), 400u);
  for (int i = 0; i < 400; ++i) {
    eager.send(eager.initiation());
    sim.run_for(21ms);
  }
  EXPECT_NO_FATAL_FAILURE(static_cast<void>(other.shake_and_confirm()));
  EXPECT_EQ(node.drops(Drop::kHandshakeQueueFull), 0u);
}

// Goal: no two live sessions or handshakes of a device share an index, and the response's index is its keypair's.
// Method: 300 handshakes of two nodes; every index ever seen on the wire is new.
TEST(ReceiverIndices, AreNewInEveryHandshake) {
  Sim sim;
  Node &a = sim.add(), &b = sim.add();
  sim.connect(a, b);
  std::set<std::uint32_t> seen;
  for (int i = 0; i < 300; ++i) {
    a.say(b);
    sim.run_for(130s);
  }
  EXPECT_EQ(b.count_from(a), 300u);
  std::size_t handshakes = 0;
  for (const Wire& wire : sim.record) {
    if (wire.is_data()) {
      EXPECT_TRUE(seen.contains(wire.receiver()));
    } else {
      EXPECT_TRUE(seen.insert(wire.sender()).second);
      ++handshakes;
    }
  }
  EXPECT_GE(handshakes, 600u);
}

}  // namespace
}  // namespace wireplane::test
