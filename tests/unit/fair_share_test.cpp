// Back-pressure that is fair between peers (dataplane/fair_share.h): a port of a given rate, peers of given rates.
#include "dataplane/fair_share.h"

#include <gtest/gtest.h>

#include <numeric>
#include <vector>

namespace wireplane {
namespace {

constexpr std::uint32_t kOctets = 1000;

// Peers offer `demand` packets each an interval, evenly mixed; a port takes `capacity` of them, evenly too. Returns
// what of each peer's passed in the last `counted` of `intervals`.
struct Link {
  std::vector<unsigned> demand;
  unsigned capacity;
  FairShare share;
  Instant now{std::chrono::hours{1}};

  std::vector<double> run(unsigned intervals, unsigned counted) {
    std::vector<double> passed(demand.size());
    for (unsigned k = 0; k < intervals; ++k) interval(k + counted >= intervals ? &passed : nullptr);
    for (double& p : passed) p /= counted;
    return passed;
  }

 private:
  void interval(std::vector<double>* passed) {
    constexpr unsigned kSteps = 20;
    std::vector<double> owed(demand.size());
    double room = 0;
    for (unsigned step = 0; step < kSteps; ++step, now += FairShare::kInterval / kSteps) {
      std::vector<std::size_t> burst;
      for (std::size_t i = 0; i < demand.size(); ++i)
        for (owed[i] += 1.0 * demand[i] / kSteps; owed[i] >= 1; owed[i] -= 1)
          if (!share.active() || share.take(PeerSlot{static_cast<std::uint32_t>(i)}, kOctets)) burst.push_back(i);
      room += 1.0 * capacity / kSteps;
      const double fits = std::min(1.0, room / static_cast<double>(std::max<std::size_t>(burst.size(), 1)));
      double credit = 0.5;
      std::uint64_t taken = 0;
      for (std::size_t k = 0; k < burst.size(); ++k) {  // the port refuses without looking whose it is
        credit += fits;
        if (credit < 1) continue;
        credit -= 1;
        ++taken;
        if (passed != nullptr) (*passed)[burst[(k * 7919) % burst.size()]] += 1;
      }
      room = std::min(room - static_cast<double>(taken), 2.0 * capacity / kSteps);
      share.offered(burst.size() * kOctets, (burst.size() - taken) * kOctets, now);
    }
  }
};

double jain(const std::vector<double>& x) {
  const double sum = std::accumulate(x.begin(), x.end(), 0.0);
  const double squares = std::inner_product(x.begin(), x.end(), x.begin(), 0.0);
  return sum * sum / (static_cast<double>(x.size()) * squares);
}

// Goal: while a port takes everything, nobody has a share.
TEST(FairShare, IsNotThereWhileThePortTakesAll) {
  Link link{std::vector<unsigned>(100, 10), 2000, {}};
  const auto passed = link.run(50, 10);
  EXPECT_FALSE(link.share.active());
  for (const double p : passed) EXPECT_DOUBLE_EQ(p, 10);
}

// Goal: one greedy peer among a hundred takes what the others leave, and from none of them.
TEST(FairShare, AGreedyPeerTakesWhatOthersLeave) {
  Link link{std::vector<unsigned>(101, 10), 1500, {}};
  link.demand[37] = 10'000;
  const auto passed = link.run(200, 100);
  EXPECT_TRUE(link.share.active());
  for (std::size_t i = 0; i < passed.size(); ++i) {
    if (i == 37) continue;
    EXPECT_GT(passed[i], 9.2) << i;
  }
  EXPECT_GT(passed[37], 350);  // 500 are left
  EXPECT_LT(passed[37], 600);
}

// Goal: peers that all want more than there is get the same.
TEST(FairShare, EqualPeersGetTheSame) {
  Link link{std::vector<unsigned>(100, 40), 2000, {}};
  const auto passed = link.run(100, 50);
  EXPECT_GT(jain(passed), 0.99);
  EXPECT_GT(std::accumulate(passed.begin(), passed.end(), 0.0), 0.85 * 2000);
}

// Goal: a peer that is alone has no share: a port that stalls for a moment costs it what the port refuses, no more.
// Method: a port that takes nothing in every fourth interval, and twice of what is offered in the others.
TEST(FairShare, WhoIsAloneHasNoShare) {
  Link link{{100}, 200, {}};
  double passed = 0;
  for (unsigned k = 0; k < 40; ++k) {
    link.capacity = k % 4 == 0 ? 0 : 200;
    passed += link.run(1, 1)[0];
    if (k != 0) {
      EXPECT_EQ(link.share.share(), UINT64_MAX) << k;
    }
  }
  EXPECT_TRUE(link.share.active());
  EXPECT_GT(passed, 30 * 100 * 0.95);
}

// Goal: the share follows a port whose rate changes, and is forgotten a second after the last refusal.
TEST(FairShare, FollowsThePortAndEnds) {
  Link link{std::vector<unsigned>(50, 20), 400, {}};
  static_cast<void>(link.run(100, 1));
  ASSERT_TRUE(link.share.active());
  const std::uint64_t narrow = link.share.share();
  link.capacity = 800;
  static_cast<void>(link.run(60, 1));
  EXPECT_GT(link.share.share(), narrow * 3 / 2);
  link.capacity = 5000;
  static_cast<void>(link.run(FairShare::kCalm + 20, 1));
  EXPECT_FALSE(link.share.active());
}

// Goal: a port that takes nothing at all (a link that is down) leaves the share alone: there is nothing to divide.
TEST(FairShare, AClosedPortIsNotAShareOfNothing) {
  Link link{std::vector<unsigned>(10, 20), 100, {}};
  static_cast<void>(link.run(50, 1));
  const std::uint64_t before = link.share.share();
  link.capacity = 0;
  static_cast<void>(link.run(50, 1));
  EXPECT_GE(link.share.share(), before / 2);
}

}  // namespace
}  // namespace wireplane
