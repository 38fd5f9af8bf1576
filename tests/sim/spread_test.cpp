// One worker's AEAD work computed by several (dataplane/spread.h): order, ownership and grace periods; every
// interleaving of the steps where a few show it, real workers by hand, and real threads for ThreadSanitizer.
#include <gtest/gtest.h>

#include <atomic>
#include <deque>
#include <thread>

#include "bench/engine_fixture.h"
#include "tests/support/conservation.h"
#include "tests/support/schedules.h"

namespace wireplane::test {
namespace {

using bench::EngineFixture;

// ---- every interleaving

// "Opens" a job by noting who did it; the key's first octet says whether it was wiped meanwhile.
void mark_open(OpenJob* jobs, std::size_t count) noexcept {
  for (std::size_t i = 0; i < count; ++i) jobs[i].authentic = jobs[i].key[0] != 0;
}
void no_seal(SealJob*, std::size_t) noexcept {}
constexpr AeadKernels kMarking{"marking", nullptr, no_seal, mark_open};

struct Spreading {
  Grace grace{2};
  Spread spread;
  std::uint8_t key[32] = {1};  // reached through a session that control may retire
  bool unlinked = false, read = false;
  std::uint64_t begun = 0;
  Spread::Part part[2];
  bool took[2] = {false, false};
  unsigned taken_back = 0, wrong = 0;
};
constexpr std::size_t kTwoParts = Spread::kPart + 1;

void launch(Spreading& s, std::size_t jobs) {
  s.spread.opening.make();
  Flight<OpenJob>& flight = s.spread.opening.next();
  flight.period = s.grace.period();
  for (std::size_t i = 0; i < jobs; ++i) flight.jobs[i] = {s.key, s.taken_back, nullptr, 0, nullptr, false};
  static_cast<void>(s.spread.launch(s.spread.opening, jobs));
}

// What a flight brings back: all of its jobs computed, with a key that was still there.
void take_back(Spreading& s, std::size_t jobs) {
  for (std::size_t i = 0; i < jobs; ++i) s.wrong += s.spread.opening.oldest().jobs[i].authentic ? 0 : 1;
  s.spread.opening.pop();
  ++s.taken_back;
}

Thread helper(const std::shared_ptr<Spreading>& s, int who, unsigned turns, bool finish_late) {
  Thread steps;
  const Aead aead{kMarking};
  for (unsigned i = 0; i < turns; ++i) {
    const auto compute = [s, who, aead] {
      if (s->took[who]) Spread::compute(s->part[who], aead);
    };
    const auto finish = [s, who] {
      if (s->took[who]) Spread::finish(s->part[who]);
    };
    steps.push_back({.act = [s, who] { s->took[who] = s->spread.take(s->part[who]); }});
    if (finish_late) {
      steps.push_back({.act = compute});
      steps.push_back({.act = finish});
    } else {
      steps.push_back({.act = finish});
      steps.push_back({.act = compute});
    }
  }
  return steps;
}

// Goal: an owner takes a flight back when all of its parts are computed, in the order of launch, whoever computed what.
// Method: two flights of two parts and one; two helpers that take, compute and finish in any interleaving, the owner
// whatever they leave. Left out: a helper that says it is done before it is.
TEST(SpreadSchedules, FlightsComeBackWholeAndInOrder) {
  for (const bool finish_late : {true, false}) {
    unsigned wrong = 0, all = 0;
    const Outcome outcome = run_all([&] {
      auto s = std::make_shared<Spreading>();
      const auto done = [s] { return s->spread.opening.oldest_done(); };
      const Thread owner = {
          {.act =
               [s] {
                 launch(*s, kTwoParts);
                 launch(*s, 1);
               }},
          {.act =
               [s] {
                 while (s->spread.run_one(Aead{kMarking})) continue;
               }},
          {.act = [s] { take_back(*s, kTwoParts); }, .enabled = done},
          {.act = [s] { take_back(*s, 1); }, .enabled = done},
      };
      return Scenario{{owner, helper(s, 0, 1, finish_late), helper(s, 1, 1, finish_late)},
                      [s, &wrong, &all] {
                        wrong += s->wrong;
                        all += s->taken_back == 2 ? 1 : 0;
                      },
                      s};
    });
    EXPECT_GT(outcome.schedules, 300u);
    EXPECT_EQ(outcome.stuck, 0u);
    EXPECT_EQ(all, outcome.schedules);
    EXPECT_EQ(wrong == 0, finish_late);
  }
}

// Goal: no key is wiped that a flight still reads, although its owner's step is over.
// Method: the owner reads a session and launches, ends its step, takes the flight back later; a helper computes;
// control unlinks the session, waits a grace period, wipes. Left out: an owner that goes offline at the step's end.
TEST(SpreadSchedules, WhatIsInFlightIsNotFreed) {
  for (const bool stays_online : {true, false}) {
    unsigned wrong = 0;
    const Outcome outcome = run_all([&] {
      auto s = std::make_shared<Spreading>();
      const Thread owner = {
          {.act = [s] { s->grace.online(0); }},
          {.act =
               [s] {
                 s->read = !s->unlinked;
                 if (s->read) launch(*s, 1);
               }},
          {.act =
               [s, stays_online] {
                 if (!s->read || !stays_online) return s->grace.offline(0);
                 s->grace.hold_since(0, s->spread.oldest_period());  // the next step's beginning
               }},
          {.act =
               [s] {
                 if (s->read) take_back(*s, 1);
                 s->grace.offline(0);
               },
           .enabled = [s] { return !s->read || s->spread.opening.oldest_done(); }},
      };
      const Thread control = {
          {.act =
               [s] {
                 s->unlinked = true;
                 s->begun = s->grace.begin();
               }},
          {.act = [s] { s->key[0] = 0; }, .enabled = [s] { return s->grace.passed(s->begun); }},
      };
      return Scenario{{owner, helper(s, 0, 1, true), control},
                      [s, &wrong] {
                        while (s->spread.run_one(Aead{kMarking})) continue;
                        wrong += s->wrong;
                      },
                      s};
    });
    EXPECT_GT(outcome.schedules, 300u);
    EXPECT_EQ(wrong == 0, stays_online);
  }
}

// ---- real workers

// Gives datagrams and takes what is sent; remembers the number each inner packet carries, and where it went.
class Feed final : public Port {
 public:
  void receive(Burst& burst, WorkerContext& context) override {
    for (std::size_t i = 0; i < kReceiveBurst && !waiting.empty(); ++i) {
      auto& [octets, from] = waiting.front();
      Packet packet;
      packet.buffer = context.buffers.take();
      if (packet.buffer == nullptr) return;
      packet.data = packet.buffer->memory + kHeadroom;
      packet.length = static_cast<std::uint32_t>(octets.size());
      packet.from = from;
      std::ranges::copy(octets, packet.data);
      burst.add(packet);
      waiting.pop_front();
    }
  }
  std::size_t send(Burst& burst, WorkerContext& context) override {
    for (Packet& packet : burst) {
      if (!packet.to_host && packet.to != nullptr) where.push_back(*packet.to);
      sent.push_back(load_le<std::uint64_t>(packet.data + 20));
      context.release(packet);
    }
    const std::size_t count = burst.size();
    burst.clear();
    return count;
  }
  std::deque<std::pair<std::vector<std::uint8_t>, Endpoint>> waiting;
  std::vector<std::uint64_t> sent;
  std::vector<Endpoint> where;
};

// A tunnel (peer 0) at worker 0, and workers without anything of their own.
struct Tunnel {
  explicit Tunnel(unsigned count) : fixture{2, count, 4096} {
    for (unsigned i = 0; i < count; ++i)
      workers.push_back(std::make_unique<Worker>(fixture.engine(), i, outer[i], &inner[i]));
  }
  ~Tunnel() {
    if (!testing::Test::HasFailure()) expect_conserved(fixture.engine(), workers);
  }

  void come(std::size_t packets, const Endpoint& from = EngineFixture::endpoint_of(0)) {
    for (std::size_t i = 0; i < packets; ++i) {
      constexpr std::uint32_t kLength = 96;
      std::vector<std::uint8_t> datagram(kLength + kDataOverhead);
      std::uint8_t* ip = &datagram[kDataHeaderSize];
      bench::write_ip(ip, kLength, EngineFixture::address_of(0), EngineFixture::host());
      store_le(ip + 20, came);
      const Session& session = fixture.session(0);
      store_le(&datagram[0], std::uint32_t{4});
      store_le(&datagram[4], session.self.raw());
      store_le(&datagram[8], came);
      SealJob job{session.receive_key, came++, nullptr, 0, kLength, ip, ip, 0};
      fixture.engine().aead().seal(&job, 1);
      outer[0].waiting.emplace_back(std::move(datagram), from);
    }
  }
  void go_out(std::size_t packets) {
    for (std::size_t i = 0; i < packets; ++i) {
      std::vector<std::uint8_t> packet(96);
      bench::write_ip(packet.data(), 96, EngineFixture::host(), EngineFixture::address_of(0));
      inner[0].waiting.emplace_back(std::move(packet), Endpoint{});
    }
  }
  // Steps worker 0 under full load for `time` of its clock, and the others between.
  void run(Duration time, std::size_t outwards = 0, const Endpoint& from = EngineFixture::endpoint_of(0)) {
    for (const Instant end = now + time; now < end; now += tick()) {
      if (outer[0].waiting.size() < kReceiveBurst) come(kReceiveBurst, from);
      go_out(outwards);
      for (auto& worker : workers) static_cast<void>(worker->step(now));
    }
  }
  // What a burst takes: less with help.
  [[nodiscard]] Duration tick() { return fixture.engine().lenders() == 0 ? 50us : 30us; }
  // Until nothing is under way any more.
  void drain() {
    outer[0].waiting.clear();
    for (int i = 0; i < 1000; ++i, now += 50us)
      for (auto& worker : workers) static_cast<void>(worker->step(now));
  }
  [[nodiscard]] std::uint64_t helped() const {
    std::uint64_t sum = 0;
    for (const auto& worker : workers) sum += worker->counters().parts_helped.get();
    return sum;
  }

  EngineFixture fixture;
  Feed outer[8], inner[8];
  std::vector<std::unique_ptr<Worker>> workers;
  std::uint64_t came = 0;
  Instant now = EngineFixture::start() + 1s;
};

// Goal: under lasting load of one tunnel the others help, its packets keep their order and none is lost or doubled;
// when the load ends, lending ends and nothing stays in flight or holds a grace period up. Method: as the name says;
// one packet after the other carries its number inside.
TEST(Spread, ATunnelThatOneCoreCannotServeIsServedByOthersInOrder) {
  Tunnel t{3};
  t.run(2ms);
  EXPECT_EQ(t.helped(), 0u);  // full, but not for long
  t.run(40ms);
  EXPECT_GT(t.helped(), 100u);
  const std::size_t dropped = t.outer[0].waiting.size();
  t.drain();
  EXPECT_EQ(t.fixture.engine().lenders(), 0u);
  const std::vector<std::uint64_t>& got = t.inner[0].sent;
  ASSERT_EQ(got.size(), t.came - dropped);
  for (std::size_t i = 0; i < got.size(); ++i) ASSERT_EQ(got[i], i);
  Grace& grace = t.fixture.engine().grace();
  EXPECT_TRUE(grace.passed(grace.begin()));
}

// Goal: a flight holds up the grace period it began in, and no later one.
// Method: the helper takes a part and does not finish it; control begins a period, then the part is finished.
TEST(Spread, AGracePeriodWaitsForWhatIsInFlight) {
  Tunnel t{2};
  t.run(20ms);
  ASSERT_NE(t.fixture.engine().lenders(), 0u);
  Spread& spread = t.fixture.engine().link(0).spread;
  Spread::Part part{};
  for (int i = 0; i < 100 && !spread.take(part); ++i) {
    t.come(kReceiveBurst);
    static_cast<void>(t.workers[0]->step(t.now += 50us));
  }
  ASSERT_NE(part.left, nullptr);
  Grace& grace = t.fixture.engine().grace();
  const std::uint64_t period = grace.begin();
  for (int i = 0; i < 50; ++i) static_cast<void>(t.workers[0]->step(t.now += 50us));
  EXPECT_FALSE(grace.passed(period));
  Spread::compute(part, t.fixture.engine().aead());
  Spread::finish(part);
  t.drain();
  EXPECT_TRUE(grace.passed(period));
}

// Goal: helpers that vanish cost throughput, not packets; lending to nobody ends.
// Method: the others stop stepping in the middle.
TEST(Spread, WithoutHelpersTheOwnerDoesItAll) {
  Tunnel t{2};
  t.run(20ms);
  ASSERT_GT(t.helped(), 0u);
  std::unique_ptr<Worker> other = std::move(t.workers[1]);
  t.workers.pop_back();
  t.run(60ms);
  EXPECT_EQ(t.fixture.engine().lenders(), 0u);
  const std::size_t left = t.outer[0].waiting.size();
  t.drain();
  EXPECT_EQ(t.inner[0].sent.size(), t.came - left);
  t.workers.push_back(std::move(other));
}

// Goal: what a worker answers to a peer that has just moved goes where it moved to, also when it was sealed by another
// worker in a later step (P37).
// Method: both directions under load; the peer moves; control never publishes the new endpoint.
TEST(Spread, ARoamedPeerIsAnsweredWhereItIs) {
  Tunnel t{2};
  t.run(20ms, kReceiveBurst);
  ASSERT_NE(t.fixture.engine().lenders(), 0u);
  const Endpoint there = EngineFixture::endpoint_of(7);
  const std::size_t before = t.outer[0].where.size();
  t.run(5ms, kReceiveBurst, there);
  const std::size_t after = t.outer[0].where.size();
  ASSERT_GT(after, before + 20 * kReceiveBurst);
  for (std::size_t i = after - kReceiveBurst; i < after; ++i) ASSERT_EQ(t.outer[0].where[i], there);
  t.drain();
}

// Goal: a worker may end while packets are in flight: each is accounted for.
TEST(Spread, AWorkerThatEndsAccountsForWhatWasInFlight) {
  Tunnel t{2};
  t.run(20ms);
  t.come(kReceiveBurst);
  static_cast<void>(t.workers[0]->step(t.now));
  ASSERT_GT(t.workers[0]->held(), 0u);
  Engine& engine = t.fixture.engine();
  t.workers.clear();
  const Counters& counters = engine.link(0).counters;
  EXPECT_EQ(counters.inside(), 0);
  EXPECT_GT(counters.drops[static_cast<std::size_t>(Drop::kPeerGone)].get(), 0u);
}

// Goal: owner, helpers and control share flights, keys and grace periods without a race; order and count hold.
// Method: real threads; control retires memory all the while.
TEST(Spread, RealThreadsHelpWithoutARace) {
  Tunnel t{3};
  std::atomic<bool> stop{false};
  std::vector<std::thread> threads;
  for (unsigned i = 1; i < 3; ++i)
    threads.emplace_back([&, i] {
      while (!stop.load(std::memory_order_relaxed))
        if (t.workers[i]->step(EngineFixture::start()) == Work::kIdle) std::this_thread::yield();
    });
  std::uint64_t freed = 0;
  threads.emplace_back([&] {
    Engine& engine = t.fixture.engine();
    while (!stop.load(std::memory_order_relaxed)) {
      engine.grace().retire([&freed] { ++freed; });
      static_cast<void>(engine.grace().reclaim());
      std::this_thread::yield();
    }
  });
  for (unsigned i = 1; i < 3; ++i)
    while (t.workers[i]->counters().idle_steps.get() == 0) std::this_thread::yield();
  const auto patience = std::chrono::steady_clock::now() + 30s;
  while ((t.helped() < 500 || t.came < 20'000) && std::chrono::steady_clock::now() < patience) {
    if (t.outer[0].waiting.size() < kReceiveBurst) t.come(kReceiveBurst);
    static_cast<void>(t.workers[0]->step(t.now += t.tick()));
    if (t.fixture.engine().lenders() != 0) std::this_thread::yield();  // fewer cores than threads
  }
  while (t.inner[0].sent.size() < t.came && std::chrono::steady_clock::now() < patience)
    static_cast<void>(t.workers[0]->step(t.now += t.tick()));
  stop = true;
  for (std::thread& thread : threads) thread.join();
  t.drain();
  EXPECT_GT(t.helped(), 0u);
  EXPECT_GT(freed, 0u);
  ASSERT_EQ(t.inner[0].sent.size(), t.came);
  for (std::size_t i = 0; i < t.came; ++i) ASSERT_EQ(t.inner[0].sent[i], i);
}

}  // namespace
}  // namespace wireplane::test
