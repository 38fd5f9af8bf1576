// fairness.cpp: what a worker's back-pressure makes of a port that takes less than comes.
//
//   fairness/<greedy|equal>/<fair_share|tail_drop>
//
// greedy: a hundred peers bring half of the packets, one brings the other half; the port takes five eighths.
// equal: a hundred and one bring the same; the port takes half. tail_drop is the same port, whose refusals the worker
// is not told of: whoever stands last in a burst loses. A step is 50 us of the worker's clock.
//
//   jain         Jain's index of what each peer got over what max-min fairness gives it (1: fair, 1/n: one has it all)
//   worst        the least of these
//   cycles_per_packet  of those that came (TSC): refused ones are spared their sealing
#include <benchmark/benchmark.h>
#include <x86intrin.h>

#include <memory>
#include <random>
#include <string>
#include <vector>

#include "bench/bench.h"
#include "bench/engine_fixture.h"

namespace wireplane::bench {
namespace {

constexpr std::uint32_t kPeers = 101, kOctets = 256;

class Narrow final : public Port {  // gives what is ready, takes `room` packets a step, and a ring of kRing more
 public:
  void receive(Burst& burst, WorkerContext& context) override {
    static_cast<void>(context);
    for (const Packet& packet : ready) burst.add(packet);
    ready.clear();
  }
  std::size_t send(Burst& burst, WorkerContext& context) override {
    std::size_t sent = 0;
    credit = std::min(credit + room, kRing);
    for (Packet& packet : burst) {
      if (sent == credit) {
        context.drop(packet, says_so ? Drop::kOuterSend : Drop::kFaultInjected);
        continue;
      }
      ++sent;
      ++got[packet.from_peer->id.slot.raw()];
      context.release(packet);
    }
    burst.clear();
    credit -= sent;
    return sent;
  }
  static constexpr std::size_t kRing = 256;
  std::vector<Packet> ready;
  std::size_t room = 0, credit = 0;
  bool says_so = true;
  std::vector<std::uint64_t> got = std::vector<std::uint64_t>(kPeers + 1);
};

struct Setup {
  EngineFixture fixture{kPeers, 1, 4096};
  Narrow outer;
  Worker worker{fixture.engine(), 0, outer, nullptr};
  BufferCache buffers{fixture.engine().pool()};
  std::vector<std::uint64_t> counters = std::vector<std::uint64_t>(kPeers), came = counters;
  std::mt19937 random{5};
  Instant now = EngineFixture::start();

  void bring(std::uint32_t from) {
    Packet packet;
    packet.buffer = buffers.take();
    packet.data = packet.buffer->memory + kHeadroom;
    packet.length = kOctets + kDataOverhead;
    packet.from = EngineFixture::endpoint_of(from);
    std::uint8_t* ip = packet.data + kDataHeaderSize;
    write_ip(ip, kOctets, EngineFixture::address_of(from), EngineFixture::address_of((from + 1) % kPeers));
    const Session& session = fixture.session(from);
    store_le(packet.data, std::uint32_t{4});
    store_le(packet.data + 4, session.self.raw());
    store_le(packet.data + 8, counters[from]);
    SealJob job{session.receive_key, counters[from]++, nullptr, 0, kOctets, ip, ip, 0};
    fixture.engine().aead().seal(&job, 1);
    outer.ready.push_back(packet);
    ++came[from];
  }
  std::uint64_t step(bool greedy) {
    for (std::size_t i = 0; i < kReceiveBurst; ++i)
      bring(greedy && random() % 2 == 0 ? 0 : static_cast<std::uint32_t>(random() % kPeers));
    const std::uint64_t begin = __rdtsc();
    static_cast<void>(worker.step(now += 50us));
    return __rdtsc() - begin;
  }
};

// What max-min fairness gives each of `demand` out of `capacity` (water-filling).
std::vector<double> water_filling(const std::vector<std::uint64_t>& demand, double capacity) {
  double level = 0;
  for (double step = capacity; step > 1e-3; step /= 2) {
    double sum = 0;
    for (const std::uint64_t d : demand) sum += std::min(static_cast<double>(d), level + step);
    if (sum <= capacity) level += step;
  }
  std::vector<double> share;
  for (const std::uint64_t d : demand) share.push_back(std::min(static_cast<double>(d), level));
  return share;
}

void run(benchmark::State& state, bool greedy, bool fair) {
  Setup s;
  s.outer.room = kReceiveBurst * (greedy ? 5 : 4) / 8;
  s.outer.says_so = fair;
  for (int i = 0; i < 4000; ++i) static_cast<void>(s.step(greedy));  // 0.2 s: until the share is found
  std::fill(s.outer.got.begin(), s.outer.got.end(), 0);
  std::fill(s.came.begin(), s.came.end(), 0);
  std::uint64_t cycles = 0, steps = 0;
  for (auto _ : state)
    for (int i = 0; i < 2000; ++i, ++steps) cycles += s.step(greedy);
  const double capacity = static_cast<double>(s.outer.room * steps);
  const std::vector<double> ideal = water_filling(s.came, capacity);
  double sum = 0, squares = 0, worst = 1, all = 0;
  for (std::uint32_t i = 0; i < kPeers; ++i) {
    const double x = static_cast<double>(s.outer.got[i]) / ideal[i];
    sum += x;
    squares += x * x;
    worst = std::min(worst, x);
    all += static_cast<double>(s.outer.got[i]);
  }
  state.counters["jain"] = sum * sum / (kPeers * squares);
  state.counters["worst"] = worst;
  state.counters["of_capacity"] = all / capacity;
  state.counters["cycles_per_packet"] = static_cast<double>(cycles) / static_cast<double>(steps * kReceiveBurst);
}

[[maybe_unused]] const bool registered = [] {
  for (const bool greedy : {true, false})
    for (const bool fair : {true, false})
      benchmark::RegisterBenchmark(
          (std::string{"fairness/"} + (greedy ? "greedy/" : "equal/") + (fair ? "fair_share" : "tail_drop")).c_str(),
          [greedy, fair](benchmark::State& state) { run(state, greedy, fair); })
          ->Unit(benchmark::kMillisecond);
  return true;
}();

}  // namespace
}  // namespace wireplane::bench
