#include "drivers/fault_port.h"

#include <gtest/gtest.h>

#include <map>

#include "drivers/memory_port.h"
#include "tests/support/test_worker.h"

namespace wireplane {
namespace {

constexpr std::uint32_t kPackets = 20'000;

// What came out: numbers in order of arrival, damaged ones apart.
struct Outcome {
  std::vector<std::uint32_t> order;
  std::size_t damaged = 0;
  std::uint64_t in = 0, out = 0;  // as a worker would count them
  friend bool operator==(const Outcome&, const Outcome&) = default;
};

// A packet says its number twice, so that damage shows.
std::array<std::uint8_t, 64> numbered(std::uint32_t number) {
  std::array<std::uint8_t, 64> octets{};
  for (std::size_t i = 0; i < octets.size(); i += 4) std::memcpy(octets.data() + i, &number, 4);
  return octets;
}

void note(Outcome& outcome, std::span<const std::uint8_t> octets) {
  std::uint32_t number;
  std::memcpy(&number, octets.data(), 4);
  const auto expected = numbered(number);
  if (std::ranges::equal(octets, expected))
    outcome.order.push_back(number);
  else
    ++outcome.damaged;
}

// Everything that must be zero for packet.h's conservation law to hold, given what passed.
std::int64_t imbalance(const TestWorker& w, const Outcome& outcome, std::size_t held) {
  return static_cast<std::int64_t>(outcome.in + w.counters.made.get() + w.counters.refused.get()) -
         static_cast<std::int64_t>(outcome.out + w.all_drops() + held);
}

Outcome receive_through(const Faults& faults, std::uint64_t seed, TestWorker& w) {
  MemoryInnerDevice wire{1, 256};
  FaultPort port{wire.queue(0), faults, {}, seed};
  Outcome outcome;
  std::uint32_t next = 0;
  for (int idle = 0; idle < 10;) {
    for (int i = 0; i < 40 && next < kPackets; ++i) EXPECT_TRUE(wire.push(numbered(next++)));
    do {
      w.burst.clear();
      port.receive(w.burst, w.context);
      EXPECT_LE(w.burst.size(), kReceiveBurst);
      for (Packet& packet : w.burst) {
        note(outcome, packet.octets());
        w.context.release(packet);
      }
      outcome.in += w.burst.size();
      idle = w.burst.empty() && next == kPackets ? idle + 1 : 0;
    } while (!w.burst.empty());
  }
  outcome.out = outcome.in;  // all of them ended well
  EXPECT_EQ(imbalance(w, outcome, port.held()), 0);
  return outcome;
}

Outcome send_through(const Faults& faults, std::uint64_t seed, TestWorker& w) {
  MemoryInnerDevice wire{1, 1024};
  FaultPort port{wire.queue(0), {}, faults, seed};
  Outcome outcome;
  std::vector<std::uint8_t> octets;
  const auto drain = [&] {
    while (wire.pop(octets)) note(outcome, octets);
  };
  for (std::uint32_t next = 0; next < kPackets;) {
    for (int i = 0; i < 40; ++i) w.put(numbered(next++));
    outcome.in += w.burst.size();
    w.counters.made.value.fetch_sub(w.burst.size());  // they stand for packets that came in elsewhere
    outcome.out += port.send(w.burst, w.context);
    EXPECT_TRUE(w.burst.empty());
    EXPECT_EQ(imbalance(w, outcome, port.held()), 0);
    drain();
  }
  for (unsigned i = 0; i < FaultPort::kReorderDistance; ++i) port.receive(w.burst, w.context);
  drain();
  EXPECT_EQ(imbalance(w, outcome, port.held()), 0);
  outcome.out += port.send(w.burst, w.context);
  EXPECT_EQ(port.held(), 0u);
  EXPECT_EQ(imbalance(w, outcome, 0), 0);
  return outcome;
}

using Through = Outcome (*)(const Faults&, std::uint64_t, TestWorker&);

class FaultPortBothWays : public testing::TestWithParam<Through> {};
INSTANTIATE_TEST_SUITE_P(Directions, FaultPortBothWays, testing::Values(&receive_through, &send_through),
                         [](const auto& way) { return way.index == 0 ? "Receive" : "Send"; });

// Goal: without faults nothing happens. Method: all packets, in order, uncounted.
TEST_P(FaultPortBothWays, WithoutFaultsItIsTransparent) {
  TestWorker w;
  const Outcome outcome = GetParam()({}, 1, w);
  EXPECT_EQ(outcome.order.size(), kPackets);
  EXPECT_TRUE(std::ranges::is_sorted(outcome.order));
  EXPECT_EQ(w.all_drops(), 0u);
}

// Goal: each fault happens about as often as asked, and is counted, and only it. Method: one at a time, 10 %.
TEST_P(FaultPortBothWays, LosesAsOftenAsAsked) {
  TestWorker w;
  const Outcome outcome = GetParam()({.loss = 0.1}, 7, w);
  EXPECT_NEAR(static_cast<double>(outcome.order.size()), 0.9 * kPackets, 0.01 * kPackets);
  EXPECT_TRUE(std::ranges::is_sorted(outcome.order));
  EXPECT_EQ(w.drops(Drop::kFaultInjected), kPackets - outcome.order.size());
  EXPECT_EQ(outcome.damaged, 0u);
}
TEST_P(FaultPortBothWays, DoublesAsOftenAsAsked) {
  TestWorker w;
  const Outcome outcome = GetParam()({.duplicate = 0.1}, 7, w);
  EXPECT_NEAR(static_cast<double>(outcome.order.size()), 1.1 * kPackets, 0.01 * kPackets);
  EXPECT_TRUE(std::ranges::is_sorted(outcome.order));
  EXPECT_EQ(w.all_drops(), 0u);
}
TEST_P(FaultPortBothWays, DamagesOneBitAsOftenAsAsked) {
  TestWorker w;
  const Outcome outcome = GetParam()({.corrupt = 0.1}, 7, w);
  EXPECT_NEAR(static_cast<double>(outcome.damaged), 0.1 * kPackets, 0.01 * kPackets);
  EXPECT_EQ(outcome.damaged + outcome.order.size(), kPackets);
}
TEST_P(FaultPortBothWays, ReordersAsOftenAsAskedAndNotTooFar) {
  TestWorker w;
  const Outcome outcome = GetParam()({.reorder = 0.1}, 7, w);
  ASSERT_EQ(outcome.order.size(), kPackets);
  std::size_t late = 0;
  std::uint32_t newest = 0;
  for (const std::uint32_t number : outcome.order) {
    if (number < newest) {
      ++late;
      EXPECT_LE(newest - number, 2 * FaultPort::kReorderDistance + 2);
    }
    newest = std::max(newest, number);
  }
  EXPECT_NEAR(static_cast<double>(late), 0.1 * kPackets, 0.03 * kPackets);
}

// Goal: a run can be repeated. Method: all faults at once, the same seed twice, another once.
TEST_P(FaultPortBothWays, TheSeedDecidesEverything) {
  const Faults all{.loss = 0.1, .duplicate = 0.1, .reorder = 0.2, .corrupt = 0.05};
  TestWorker a, b, c;
  const Outcome first = GetParam()(all, 42, a), again = GetParam()(all, 42, b), other = GetParam()(all, 43, c);
  EXPECT_EQ(first, again);
  EXPECT_NE(first, other);
  for (TestWorker* w : {&a, &b, &c}) {  // and no buffer is lost
    w->cache.drain();
    EXPECT_EQ(w->pool.available(), w->pool.capacity());
  }
}

// Goal: held outer packets keep their destination, though the peer's endpoint is gone. Method: overwrite it after send.
TEST(FaultPort, HeldPacketsRememberTheirDestination) {
  MemoryNetwork network;
  auto b = network.attach({ipv4(10, 0, 0, 2)}, 2000);
  auto a = with_faults(network.attach({ipv4(10, 0, 0, 1)}, 1000), {}, {.reorder = 1.0}, 5);
  TestWorker wa, wb;
  Endpoint to = endpoint_of(ipv4(10, 0, 0, 2), 2000);
  wa.put("late", &to);
  EXPECT_EQ(a->queue(0).send(wa.burst, wa.context), 0u);
  to = endpoint_of(ipv4(10, 0, 0, 99), 9);
  for (unsigned i = 0; i < FaultPort::kReorderDistance; ++i) a->queue(0).receive(wa.burst, wa.context);
  EXPECT_EQ(wb.receive(b->queue(0)), 1u);
  EXPECT_EQ(a->queue(0).send(wa.burst, wa.context), 1u);  // reported with the next burst
  EXPECT_EQ(a->describe(), "faults (seed 5) over memory port 1000 x1");
  ASSERT_TRUE(a->set_listen_port(1001));
  EXPECT_EQ(a->listen_port(), 1001);
}

// Goal: what is held when the port ends is given back. Method: hold everything, both ways; destroy; count the pool.
TEST(FaultPort, GivesItsBuffersBack) {
  TestWorker w{256};
  MemoryInnerDevice wire;
  {
    FaultPort port{wire.queue(0), {.reorder = 1.0}, {.reorder = 1.0}, 3};
    for (std::uint32_t i = 0; i < 10; ++i) {
      EXPECT_TRUE(wire.push(numbered(i)));
      w.put(numbered(i));
    }
    EXPECT_EQ(port.send(w.burst, w.context), 0u);
    port.receive(w.burst, w.context);
    w.clear();
  }
  w.cache.drain();
  EXPECT_EQ(w.pool.available(), w.pool.capacity());
}

}  // namespace
}  // namespace wireplane
