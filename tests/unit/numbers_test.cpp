// Numbers of transport messages: each is drawn once, by however many workers (P31, P33).
#include "dataplane/session/numbers.h"

#include <gtest/gtest.h>

#include <memory>
#include <thread>
#include <vector>

namespace wireplane {
namespace {

using Draw = Drawn (*)(Session::Sent&, std::uint64_t, std::uint64_t);

// One after the other, as where there is one worker.
Drawn draw_each_alone(Session::Sent& sent, std::uint64_t wanted, std::uint64_t octets) {
  Drawn drawn{sent.counter, 0};
  for (; drawn.granted < wanted; ++drawn.granted)
    if (draw_alone(sent, octets / wanted) >= kRejectAfterMessages) break;
  return drawn;
}

class Numbers : public testing::TestWithParam<Draw> {
 protected:
  std::unique_ptr<Session> session = std::make_unique<Session>();
  Session::Sent& sent = session->sent;
  const Draw draw = GetParam();
};

// Goal: numbers start at 0 and follow each other; the octets of all draws are added up.
TEST_P(Numbers, StartAtZeroAndFollowEachOther) {
  for (const std::uint64_t wanted : {1u, 5u, 192u}) {
    const std::uint64_t next = sent.counter;
    const Drawn drawn = draw(sent, wanted, 100 * wanted);
    EXPECT_EQ(drawn.first, next);
    EXPECT_EQ(drawn.granted, wanted);
  }
  EXPECT_EQ(sent.counter, 198u);
  EXPECT_EQ(sent.octets, 19800u);
}

// Goal: none is drawn from Reject-After-Messages on, however many are wanted.
TEST_P(Numbers, EndAtRejectAfterMessages) {
  sent.counter = kRejectAfterMessages - 3;
  EXPECT_EQ(draw(sent, 2, 0).granted, 2u);
  const Drawn last = draw(sent, 2, 0);
  EXPECT_EQ(last.first, kRejectAfterMessages - 1);
  EXPECT_EQ(last.granted, 1u);
  EXPECT_EQ(draw(sent, 2, 1000).granted, 0u);
  EXPECT_EQ(sent.counter, kRejectAfterMessages);
  EXPECT_EQ(sent.octets, 0u) << "what is refused is not sent";
}

INSTANTIATE_TEST_SUITE_P(Of, Numbers, testing::Values(draw_each_alone, draw_shared), [](const auto& tested) {
  return tested.param == Draw{draw_each_alone} ? "OneWorker" : "Several";
});

// Goal: no number is drawn twice and none is left out when several workers draw from one session, up to the last one.
// Method: threads draw different amounts at once until nothing is left; what each got is laid side by side.
TEST(NumbersOfSeveralWorkers, AreDrawnOnce) {
  constexpr std::uint64_t kLeft = 100'003;
  const auto session = std::make_unique<Session>();
  session->sent.counter = kRejectAfterMessages - kLeft;
  std::vector<std::vector<Drawn>> drawn(3);
  std::vector<std::thread> threads;
  for (std::size_t t = 0; t < drawn.size(); ++t)
    threads.emplace_back([&, t] {
      for (;;) {
        const Drawn got = draw_shared(session->sent, t + 1, t + 1);
        if (got.granted == 0) return;
        drawn[t].push_back(got);
      }
    });
  for (std::thread& thread : threads) thread.join();
  std::vector<bool> seen(kLeft);
  std::uint64_t count = 0;
  for (const auto& of_thread : drawn)
    for (const auto& [first, granted] : of_thread)
      for (std::uint64_t n = first; n < first + granted; ++n, ++count) {
        ASSERT_GE(n, kRejectAfterMessages - kLeft);
        ASSERT_LT(n, kRejectAfterMessages);
        ASSERT_FALSE(seen[n - (kRejectAfterMessages - kLeft)]);
        seen[n - (kRejectAfterMessages - kLeft)] = true;
      }
  EXPECT_EQ(count, kLeft);
  EXPECT_GE(session->sent.octets, kLeft);
}

}  // namespace
}  // namespace wireplane
