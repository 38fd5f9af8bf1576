// Numbers drawn in advance by several workers: each is used once, in time, and every octet is paid (P31, P33).
#include "dataplane/session/reservations.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <memory>
#include <random>
#include <thread>
#include <vector>

namespace wireplane {
namespace {

constexpr PeerSlot kPeer{7};
constexpr std::uint32_t kOctets = 96;

class ReservationsTest : public testing::Test {
 protected:
  std::uint64_t draw(Reservations& of, Stamp now) { return of.draw(*session, kPeer, kOctets, now); }
  static std::unique_ptr<Session> created(std::int64_t at) {
    auto made = std::make_unique<Session>();
    made->created = made->sent.created = at;
    return made;
  }
  std::unique_ptr<Session> session = created(1);
  Reservations a{2}, b{2};
};

// Goal: a session that much is sent with has its counter written seldom; alone, its numbers follow each other.
TEST_F(ReservationsTest, OfABusySessionAreSeldomDrawn) {
  std::uint64_t writes = 0, counter = 0;
  for (std::uint64_t n = 0; n < 10'000; ++n) {
    ASSERT_EQ(draw(a, 1000), n);
    writes += counter != session->sent.counter;
    counter = session->sent.counter;
  }
  EXPECT_LE(writes, 10'000 / 255 + 4);
}

// Goal: workers that send seldom reserve nothing: numbers are in the order of time, whoever draws them.
TEST_F(ReservationsTest, OfASeldomUsedSessionKeepTheOrderOfTime) {
  for (Stamp n = 0; n < 200; ++n) ASSERT_EQ(draw(n % 3 == 0 ? a : b, 1000 + 20 * n), n);
}

// Goal: after a busy time comes a quiet one: what was reserved and is late, or behind what others drew, is left out.
TEST_F(ReservationsTest, ThatAreLateOrBehindAreNotUsed) {
  for (int i = 0; i < 300; ++i) static_cast<void>(draw(a, 1000));
  const std::uint64_t counter = session->sent.counter;
  EXPECT_EQ(draw(a, 1000 + Reservations::kManyValid), counter) << "late";

  for (int i = 0; i < 300; ++i) static_cast<void>(draw(a, 2000));
  const std::uint64_t next = draw(a, 2000) + 1;
  ASSERT_LT(next, session->sent.counter) << "some are left";
  for (int i = 0; i < 2000; ++i) static_cast<void>(draw_shared(session->sent, 1, 0));
  const std::uint64_t others = session->sent.counter;
  EXPECT_EQ(draw(a, 2000), others) << "behind";
}

// Goal: a session that is busy for a while has its counter written every kManyValid or every 255 packets; one that is
// sent with less often keeps to what is used in kValid, so that numbers of several workers stay close.
// Method: each rate, in packets a millisecond, for a second.
TEST_F(ReservationsTest, OfASessionThatIsBusyForAWhileAreValidForLonger) {
  for (const unsigned rate : {1u, 2u, 5u, 20u}) {
    a.settle();  // before its session goes
    session = created(rate);
    std::uint64_t writes = 0, counter = 0, most = 0;
    for (Stamp now = 1000; now < 2000; ++now) {
      for (unsigned n = 0; n < rate; ++n) {
        const std::uint64_t number = draw(a, now);
        if (counter == session->sent.counter) continue;
        counter = session->sent.counter;
        most = std::max(most, counter - number);
        ++writes;
      }
    }
    const bool busy = rate >= 5;
    EXPECT_LE(most, busy ? 255 : 8 * rate * Reservations::kValid) << rate;
    EXPECT_LE(writes,
              busy ? 1000 / Reservations::kManyValid + rate * 1000 / 255 + 10 : 1000 / Reservations::kValid + 50)
        << rate;
  }
}

// Goal: however many workers take turns at full speed, no number is further behind than a window of 1024 accepts.
TEST_F(ReservationsTest, OfAllWorkersStayWithinASmallWindow) {
  for (const unsigned workers : {2u, 3u, 8u, 64u}) {
    session = created(workers);
    std::vector<Reservations> all(workers, Reservations{workers});
    std::mt19937 random{workers};
    std::uint64_t newest = 0, furthest = 0;
    for (int i = 0; i < 100'000; ++i) {
      const std::uint64_t n = draw(all[std::min(random() % workers, random() % workers)], 1000 + i / 1000);
      newest = std::max(newest, n);
      furthest = std::max(furthest, newest - n);
    }
    EXPECT_LE(furthest, Reservations::kMostBehind) << workers;
    for (Reservations& each : all) each.settle();
    EXPECT_EQ(session->sent.octets, 100'000u * kOctets) << workers;
  }
}

// Goal: another session of the same peer, at the same place in memory even, starts at its own numbers.
TEST_F(ReservationsTest, AreNotAnotherSessions) {
  for (int i = 0; i < 300; ++i) static_cast<void>(draw(a, 1000));
  a.settle();
  session->sent.counter = session->sent.octets = 0;  // wiped, and used anew
  session->sent.created = 2;
  EXPECT_EQ(draw(a, 1000), 0u);
  EXPECT_EQ(draw(a, 1000), 1u);
  a.settle();
  EXPECT_EQ(session->sent.octets, 2u * kOctets);
}

// Goal: a peer that takes another's place pays what that one's session is owed; both go on with numbers of their own.
TEST_F(ReservationsTest, OfPeersThatShareAPlaceLoseNoOctets) {
  const auto other = created(2);
  const PeerSlot twin{kPeer.raw() + static_cast<std::uint32_t>(Reservations::kPlaces)};
  for (std::uint64_t i = 0; i < 100; ++i) {
    for (int n = 0; n < 10; ++n) static_cast<void>(draw(a, 1000));
    EXPECT_LT(a.draw(*other, twin, 10, 1000), 255 * (i + 1));
    EXPECT_EQ(session->sent.octets, 10 * (i + 1) * kOctets);
  }
  a.settle();
  EXPECT_EQ(other->sent.octets, 1000u);
  EXPECT_FALSE(a.owes());
}

// Goal: what is owed is known, due after a while, and paid once.
TEST_F(ReservationsTest, OweOctetsUntilTheyAreSettled) {
  EXPECT_FALSE(a.owes());
  for (int i = 0; i < 100; ++i) static_cast<void>(draw(a, 1000));
  EXPECT_TRUE(a.owes());
  EXPECT_FALSE(a.is_due(1000 + Reservations::kManyValid - 1));
  EXPECT_TRUE(a.is_due(1000 + Reservations::kManyValid));
  EXPECT_LT(session->sent.octets, 100u * kOctets);
  a.settle();
  a.settle();
  EXPECT_FALSE(a.owes());
  EXPECT_EQ(session->sent.octets, 100u * kOctets);
}

// Goal: no number is used twice, by threads that draw at once up to the last one, each in order; all octets are paid.
TEST_F(ReservationsTest, AreUsedOnceUpToTheLastOne) {
  constexpr std::uint64_t kLeft = 300'007, kFirst = kRejectAfterMessages - kLeft;
  session->sent.counter = kFirst;
  std::vector<std::vector<std::uint64_t>> drawn(3);
  std::vector<std::thread> threads;
  for (std::size_t t = 0; t < drawn.size(); ++t)
    threads.emplace_back([&, t] {
      Reservations own{3};
      Stamp now = 1000;
      for (std::uint64_t n; (n = draw(own, now)) < kRejectAfterMessages;) {
        drawn[t].push_back(n);
        if (drawn[t].size() % (1000 * (t + 1)) == 0)
          now += 20 * static_cast<Stamp>(t) + 3;  // and some reservations are too old
        if (own.is_due(now)) own.settle();
      }
      own.settle();
    });
  for (std::thread& thread : threads) thread.join();
  std::vector<bool> seen(kLeft);
  std::uint64_t count = 0;
  for (const auto& of_thread : drawn) {
    EXPECT_TRUE(std::is_sorted(of_thread.begin(), of_thread.end()));
    for (const std::uint64_t n : of_thread) {
      ASSERT_GE(n, kFirst);
      ASSERT_FALSE(seen[n - kFirst]);
      seen[n - kFirst] = true;
      ++count;
    }
  }
  EXPECT_GT(count, kLeft / 2);
  EXPECT_EQ(session->sent.octets, count * kOctets);
}

}  // namespace
}  // namespace wireplane
