// Goal: our timestamps are TAI64N, coarse, and never go backwards; of the peers' only a greater one is accepted.
#include "control/noise/initiation_history.h"
#include "control/noise/tai64n.h"
#include "tests/unit/noise_fixture.h"

namespace wireplane::test {
namespace {

// Goal: the octets are those of the kernel's tai64n_now: base 2^62 + 10, no leap seconds, whitened by 2^24 ns.
// Method: chosen wall clocks; then all of 100 ms, microsecond by microsecond; two initiations within a step are equal,
// so that a peer refuses the second, and two as far apart as our spacing never are.
// proves: P17
TEST(Tai64n, LabelsTheWallClockInStepsOfSixteenMilliseconds) {
  EXPECT_EQ(hex_of(timestamp_at(0ns).octets), "400000000000000a00000000");
  EXPECT_EQ(hex_of(timestamp_at(1500000000s + 16777215ns).octets), "4000000059682f0a00000000");
  EXPECT_EQ(hex_of(timestamp_at(1500000000s + 16777216ns).octets), "4000000059682f0a01000000");
  EXPECT_EQ(hex_of(timestamp_at(1500000000s + 999999999ns).octets), "4000000059682f0a3b000000");
  EXPECT_EQ(hex_of(timestamp_at(1500000001s).octets), "4000000059682f0b00000000");
  for (Duration wall = 1500000000s + 950ms; wall < 1500000001s + 50ms; wall += 1us) {
    EXPECT_LE(timestamp_at(wall - 1us), timestamp_at(wall));
    EXPECT_LT(timestamp_at(wall), timestamp_at(wall + kInitiationSpacing));
  }
  TimestampClock clock;
  const Timestamp first = clock.read({at(0s), 1500000000s});
  const Timestamp second = clock.read({at(16ms), 1500000000s + 16ms});
  InitiationHistory peer;
  peer.record(first, at(0s));
  EXPECT_EQ(peer.judge(second, at(1s)), Drop::kOldTimestamp);
  EXPECT_EQ(peer.judge(clock.read({at(40ms), 1500000000s + 40ms}), at(1s)), Drop::kNone);
}

// Goal: whatever is done to the wall clock, labels never go backwards, and grow as initiations are really sent.
// Method: a random walk of the wall, an engine clock that goes on.
TEST(Tai64n, GrowsThoughTheWallClockIsSetBack) {
  std::mt19937_64 random{11};
  for (int run = 0; run < 50; ++run) {
    TimestampClock clock;
    Instant engine = at(0s);
    Duration wall = 1500000000s;
    Timestamp last{};
    for (int i = 0; i < 100; ++i) {
      const Duration passed = kInitiationSpacing + Duration{random() % Duration{10s}.count()};
      engine += passed;
      wall += passed;
      if (random() % 4 == 0) wall += Duration{3600s} - Duration{random() % Duration{7200s}.count()};
      const Timestamp next = clock.read({engine, wall});
      EXPECT_GT(next, last);
      EXPECT_GE(next, timestamp_at(wall));
      last = next;
    }
  }
}

TEST(Tai64n, ReturnsToTheWallClockOnceItHasCaughtUp) {
  TimestampClock clock;
  (void)clock.read({at(0s), 1500000000s});
  EXPECT_EQ(clock.read({at(5s), 1499999000s}), timestamp_at(1500000005s));
  EXPECT_EQ(clock.read({at(10s), 1500000100s}), timestamp_at(1500000100s));
}

// Goal: only a strictly greater timestamp is accepted, also 540 s later, when every session has long expired.
// proves: P16
TEST(InitiationHistory, AcceptsOnlyAGreaterTimestamp) {
  const Timestamp accepted = timestamp_at(1500000000s);
  InitiationHistory history;
  EXPECT_EQ(history.judge(accepted, at(0s)), Drop::kNone);
  history.record(accepted, at(0s));
  for (const Duration later : {Duration{1s}, Duration{180s}, Duration{540s}, Duration{86400s}}) {
    EXPECT_EQ(history.judge(accepted, at(later)), Drop::kOldTimestamp);
    EXPECT_EQ(history.judge(timestamp_at(1499999999s), at(later)), Drop::kOldTimestamp);
    EXPECT_EQ(history.judge(timestamp_at(1500000000s + 20ms), at(later)), Drop::kNone);
  }
  for (std::size_t i = 0; i < accepted.octets.size(); ++i) {  // big-endian: the first octet that differs decides
    Timestamp smaller = accepted, greater = accepted;
    std::fill(smaller.octets.begin() + i + 1, smaller.octets.end(), 0xff);
    std::fill(greater.octets.begin() + i + 1, greater.octets.end(), 0x00);
    ++greater.octets[i];
    EXPECT_EQ(history.judge(greater, at(540s)), Drop::kNone) << i;
    if (smaller.octets[i]-- == 0) continue;
    EXPECT_EQ(history.judge(smaller, at(540s)), Drop::kOldTimestamp) << i;
  }
}

// Goal: at most 50 initiations a second are accepted from one peer, however fresh their timestamps are; and one that is
// refused does not put off the next.
// proves: P18
TEST(InitiationHistory, AcceptsFiftyASecond) {
  InitiationHistory history;
  int accepted = 0;
  for (Duration t = 0s; t < 1s; t += 1ms) {
    const Timestamp timestamp = timestamp_at(1500000000s + t * 100);
    const Drop verdict = history.judge(timestamp, at(t));
    if (verdict == Drop::kNone) {
      history.record(timestamp, at(t));
      ++accepted;
    } else {
      EXPECT_EQ(verdict, Drop::kInitiationFlood);
    }
  }
  EXPECT_EQ(accepted, 50);
}

}  // namespace
}  // namespace wireplane::test
