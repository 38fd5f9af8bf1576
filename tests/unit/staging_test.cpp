// What waits for a key: in order, bounded by peer and in all, the heaviest source pays.
#include "dataplane/staging.h"

#include <deque>
#include <map>

#include "dataplane/session/peer_state.h"
#include "tests/support/seed.h"
#include "tests/support/test_worker.h"

namespace wireplane {
namespace {

PeerId peer_id(std::uint32_t n) { return {PeerSlot{n}, n + 1}; }

struct StagingTest : testing::Test {
  TestWorker worker{1024};
  std::vector<std::unique_ptr<PeerState>> sources;
  void SetUp() override {
    for (std::uint32_t i = 0; i < 8; ++i) {
      sources.push_back(std::make_unique<PeerState>());
      sources.back()->id = peer_id(100 + i);
    }
  }
  Packet packet(std::uint64_t number, PeerState* from) {
    Packet p;
    EXPECT_TRUE(worker.context.make(p, 8));
    p.counter = number;
    p.from_peer = from;
    return p;
  }
};

// Goal: a full staging area takes from the heaviest source, so that who sends little loses nothing.
// Method: one source fills it; seven others add a few each; only the first loses, its oldest.
TEST_F(StagingTest, HeaviestSourceLosesItsOldest) {
  Staging staging{64};
  for (std::uint64_t i = 0; i < 64; ++i)
    staging.add(packet(i, nullptr), peer_id(static_cast<std::uint32_t>(i % 4)), worker.context);
  for (std::uint32_t s = 0; s < 7; ++s)
    for (std::uint64_t i = 0; i < 4; ++i)
      staging.add(packet(1000 + s, sources[s].get()), peer_id(50 + s), worker.context);
  EXPECT_EQ(worker.drops(Drop::kStagedOverflow), 28u);
  EXPECT_EQ(staging.size(), 64u);
  for (std::uint32_t s = 0; s < 7; ++s) {
    Packet p;
    for (int i = 0; i < 4; ++i) {
      ASSERT_TRUE(staging.take(peer_id(50 + s), p));
      worker.context.release(p);
    }
    EXPECT_FALSE(staging.take(peer_id(50 + s), p));
  }
  Packet p;
  ASSERT_TRUE(staging.take(peer_id(0), p));
  EXPECT_EQ(p.counter, 28u);  // 0, 4, ... 24 were the oldest
  worker.context.release(p);
  staging.purge_all(worker.context, Drop::kPeerGone);
  EXPECT_EQ(worker.drops(Drop::kPeerGone), 35u);
}

// Goal: whatever is added, taken and purged, each peer's packets come out in order and nothing is lost uncounted.
// Method: random operations against queues of the standard library; only overflow by source is left to the code, which
// is asked what it dropped.
TEST_F(StagingTest, BehavesLikeQueuesUnderRandomUse) {
  test::Random random{test::seed_from_env_or(1)};
  Staging staging{256};
  std::map<std::uint32_t, std::deque<std::uint64_t>> model;
  std::uint64_t number = 0, dropped_before = 0, in = 0, out = 0;
  for (int round = 0; round < 200'000; ++round) {
    const auto peer = static_cast<std::uint32_t>(test::below(random, 12));
    const std::uint64_t what = test::below(random, 100);
    if (what < 60) {
      staging.add(packet(++number, test::below(random, 4) == 0 ? nullptr : sources[test::below(random, 8)].get()),
                  peer_id(peer), worker.context);
      model[peer].push_back(number);
      ++in;
    } else if (what < 97) {
      Packet p;
      if (staging.take(peer_id(peer), p)) {
        auto& queue = model[peer];
        while (!queue.empty() && queue.front() != p.counter) queue.pop_front();  // what overflow took
        ASSERT_FALSE(queue.empty()) << "out of order or never added";
        queue.pop_front();
        worker.context.release(p);
        ++out;
      }
    } else {
      staging.purge(peer_id(peer), worker.context, Drop::kStagedGivenUp);
      EXPECT_FALSE(staging.waits_for(peer_id(peer)));
      model[peer].clear();
    }
    ASSERT_LE(staging.size(), staging.capacity());
    ASSERT_EQ(in, out + staging.size() + worker.all_drops());
    static_cast<void>(dropped_before);
  }
  staging.purge_all(worker.context, Drop::kPeerGone);
  EXPECT_EQ(staging.size(), 0u);
  worker.cache.drain();
  EXPECT_EQ(worker.pool.available(), worker.pool.capacity());
}

// Goal: one peer holds 128 at most, and its own oldest goes, whoever is heavier.
TEST_F(StagingTest, OnePeerHolds128) {
  Staging staging{512};
  for (std::uint64_t i = 0; i < 200; ++i) staging.add(packet(i, nullptr), peer_id(1), worker.context);
  EXPECT_EQ(staging.size(), 128u);
  Packet p;
  ASSERT_TRUE(staging.take(peer_id(1), p));
  EXPECT_EQ(p.counter, 72u);
  worker.context.release(p);
  staging.purge_all(worker.context, Drop::kPeerGone);
}

}  // namespace
}  // namespace wireplane
