// worker.cpp: a worker's whole path over synthetic ports, one core, real engine, real sessions, real buffers of a pool.
//
//   worker/<seal|open|relay>/<octets|imix>/<sessions>
//
// seal: inner packets from the host to peers. open: datagrams from peers to the host. relay: from one peer to another.
// Packets of different peers follow each other at random. A round is kRound bursts: the generator seals or writes them
// (not timed), then the worker steps through them (timed, TSC); so packets come from L2 or L3, as from a NIC. Beside
// it, in the same round and on the same packets:
//
//   ratio_to_ipsec_mb    cycles over ipsec-mb's bare open and/or seal
//   path_cycles          cycles a packet beside what the chosen AEAD kernel alone takes: parse, find, replay, routes,
//   headers, counters
#include <benchmark/benchmark.h>
#include <x86intrin.h>

#include <algorithm>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "bench/bench.h"
#include "bench/engine_fixture.h"

namespace wireplane {

// Worker::step() with a clock between the stages; cycles (TSC) since the last reset.
struct Stages {
  static constexpr std::array<const char*, 13> kNames{
      "begin",          "receive", "classify",        "find_sessions", "open", "accept",  "for_the_host",
      "join_from_host", "route",   "choose_sessions", "number",        "seal", "send_out"};
  std::array<std::uint64_t, kNames.size()> cycles{};

  void step(Worker& w, Instant now) {
    last_ = __rdtsc();
    stage_ = 0;
    w.begin(now);
    w.take_orders();
    mark();
    w.receive(w.burst_);
    mark();
    w.classify(w.burst_);
    mark();
    w.find_sessions(w.burst_);
    mark();
    w.open(w.burst_);
    mark();
    w.accept(w.burst_);
    mark();
    w.for_the_host(w.burst_);
    mark();
    w.join_from_host(w.burst_);
    mark();
    w.route(w.burst_);
    mark();
    w.choose_sessions(w.burst_);
    mark();
    w.number(w.burst_);  // what transmit() does
    mark();
    w.engine_.aead().seal(w.seal_jobs_.data(), w.prepare_seal(w.burst_, w.seal_jobs_.data()));
    mark();
    if (!w.burst_.empty()) w.send_out(w.burst_);
    w.end();
    mark();
  }

 private:
  void mark() {
    const std::uint64_t now = __rdtsc();
    cycles[stage_++] += now - last_;
    last_ = now;
  }
  std::uint64_t last_ = 0;
  std::size_t stage_ = 0;
};

namespace bench {
namespace {

constexpr std::size_t kRound = 32;  // bursts

// Hands over what lies ready, takes what is sent back into the pool.
class ReadyPort final : public Port {
 public:
  void receive(Burst& burst, WorkerContext& context) override {
    static_cast<void>(context);
    for (std::size_t i = 0; i < kReceiveBurst && next_ < ready.size(); ++i) burst.add(ready[next_++]);
    if (next_ == ready.size()) {
      ready.clear();
      next_ = 0;
    }
  }
  std::size_t send(Burst& burst, WorkerContext& context) override {
    const std::size_t sent = burst.size();
    for (Packet& packet : burst) context.release(packet);
    burst.clear();
    return sent;
  }
  std::vector<Packet> ready;

 private:
  std::size_t next_ = 0;
};

// One worker over such ports.
class Fixture {
 public:
  explicit Fixture(std::size_t count)
      : fixture_{count, 1, 4 * kRound * kReceiveBurst}, worker_{engine(), 0, outer, &inner}, counters(count) {}

  Session& session(std::uint32_t peer) { return fixture_.session(peer); }
  Engine& engine() { return fixture_.engine(); }
  Worker& worker() { return worker_; }
  BufferCache& buffers() { return buffers_; }

  ReadyPort outer, inner;

 private:
  EngineFixture fixture_;
  BufferCache buffers_{engine().pool()};
  Worker worker_;

 public:
  std::vector<std::uint64_t> counters;  // the generator's, a peer
};

Fixture& fixture(std::size_t count) {  // the last one made is kept: a million peers take a while
  static std::unique_ptr<Fixture> last;
  static std::size_t last_count = 0;
  if (last_count != count) {
    last.reset();
    last = std::make_unique<Fixture>(count);
    last_count = count;
  }
  return *last;
}

// One round's packets, where the port will find them, and the bare AEAD work that is in them.
struct Round {
  std::vector<SealJob> seals;
  std::vector<OpenJob> opens;
  double octets = 0;
};

class Generator {
 public:
  Generator(Fixture& fixture, Way way, std::vector<std::uint32_t> lengths)
      : f_{fixture}, way_{way}, lengths_{std::move(lengths)} {}

  Round make() {
    Round round;
    for (std::size_t i = 0; i < kRound * kReceiveBurst; ++i) one(round);
    return round;
  }

 private:
  void one(Round& round) {
    const auto peers = static_cast<std::uint32_t>(f_.counters.size());
    const auto from = static_cast<std::uint32_t>(random_() % peers);
    const auto to = peers == 1 ? from : static_cast<std::uint32_t>((from + 1 + random_() % (peers - 1)) % peers);
    const std::uint32_t length = lengths_[random_() % lengths_.size()];
    round.octets += length;
    Packet packet;
    packet.buffer = f_.buffers().take();
    packet.data = packet.buffer->memory + kHeadroom;
    std::uint8_t* ip = packet.data + (way_ == Way::kSeal ? 0 : kDataHeaderSize);
    const Address host = EngineFixture::host();
    write_ip(ip, length, way_ == Way::kSeal ? host : EngineFixture::address_of(from),
             way_ == Way::kOpen ? host : EngineFixture::address_of(to));
    packet.length = length;
    const std::uint32_t padding = (16 - length % 16) % 16;
    if (way_ != Way::kSeal) {
      const Session& session = f_.session(from);
      store_le(packet.data, std::uint32_t{4});
      store_le(packet.data + 4, session.self.raw());
      store_le(packet.data + 8, f_.counters[from]);
      SealJob job{session.receive_key, f_.counters[from]++, nullptr, 0, length, ip, ip, padding};
      f_.engine().aead().seal(&job, 1);
      packet.length = length + padding + kDataOverhead;
      packet.from = EngineFixture::endpoint_of(from);
      round.opens.push_back({session.receive_key, job.counter, ip, length + padding + 16, ip, false});
    }
    if (way_ != Way::kOpen) round.seals.push_back({f_.session(to).sent.key, 0, nullptr, 0, length, ip, ip, padding});
    (way_ == Way::kSeal ? f_.inner : f_.outer).ready.push_back(packet);
  }

  Fixture& f_;
  Way way_;
  std::vector<std::uint32_t> lengths_;
  std::mt19937_64 random_{7};
};

// The same packets through a bare kernel, in bursts of the same size, before the worker has them. Opening in place
// would destroy them: the output goes to a scratch buffer, which favours the kernel (it stays in L1).
std::uint64_t bare_cycles(const Aead& aead, Round& round) {
  static std::vector<std::uint8_t> scratch(2048 + 64);
  std::uint64_t cycles = 0;
  const auto run = [&](auto jobs, auto call) {
    for (auto& job : jobs) job.destination = scratch.data();
    const std::uint64_t begin = __rdtsc();
    for (std::size_t i = 0; i < jobs.size(); i += kReceiveBurst)
      call(&jobs[i], std::min(kReceiveBurst, jobs.size() - i));
    cycles += __rdtsc() - begin;
  };
  run(round.opens, [&](OpenJob* jobs, std::size_t n) { aead.open(jobs, n); });
  run(round.seals, [&](SealJob* jobs, std::size_t n) { aead.seal(jobs, n); });
  return cycles;
}

void run(benchmark::State& state, Way way, const std::string& sizes, std::size_t sessions) {
  Fixture& f = fixture(sessions);
  Generator generator{f, way, lengths_of(sizes)};
  const Aead* rival = Aead::find("ipsec_mb");
  const auto packets = static_cast<double>(kRound * kReceiveBurst);
  std::vector<double> whole, to_rival, beside;
  double octets = 0;
  const Counters& counters = f.worker().counters();
  const std::uint64_t sent_before = counters.outer_out.get() + counters.inner_out.get();
  for (auto _ : state) {
    Round round = generator.make();
    octets = round.octets / packets;
    const auto bare_rival = rival == nullptr ? 0.0 : static_cast<double>(bare_cycles(*rival, round));
    const auto bare_own = static_cast<double>(bare_cycles(f.engine().aead(), round));
    const std::uint64_t begin = __rdtsc();
    for (std::size_t i = 0; i < kRound; ++i) f.worker().step(EngineFixture::start() + 1s);
    const auto cycles = static_cast<double>(__rdtsc() - begin);
    whole.push_back(cycles / packets);
    beside.push_back((cycles - bare_own) / packets);
    if (bare_rival > 0) to_rival.push_back(cycles / bare_rival);
  }
  const std::uint64_t sent = counters.outer_out.get() + counters.inner_out.get() - sent_before;
  if (sent != whole.size() * kRound * kReceiveBurst) return state.SkipWithError("packets were lost on the way");
  const double cycles = median(whole);
  state.counters["cycles_per_packet"] = cycles;
  state.counters["cycles_per_byte"] = cycles / octets;
  state.counters["Mpps"] = 1e3 * Meter::tsc_per_ns() / cycles;
  state.counters["Gbit/s"] = 8 * Meter::tsc_per_ns() * octets / cycles;
  state.counters["path_cycles"] = median(beside);
  if (!to_rival.empty()) state.counters["ratio_to_ipsec_mb"] = median(to_rival);
}

// Where a packet's cycles go, stage by stage: means, the clock's own cost (about 30 cycles a stage and burst) included.
void run_stages(benchmark::State& state, Way way, const std::string& sizes, std::size_t sessions) {
  Fixture& f = fixture(sessions);
  Generator generator{f, way, lengths_of(sizes)};
  const auto packets = static_cast<double>(kRound * kReceiveBurst);
  std::array<std::vector<double>, Stages::kNames.size()> cycles;
  std::vector<double> bare;
  for (auto _ : state) {
    Round round = generator.make();
    bare.push_back(static_cast<double>(bare_cycles(f.engine().aead(), round)) / packets);
    Stages stages;
    for (std::size_t i = 0; i < kRound; ++i) stages.step(f.worker(), EngineFixture::start() + 1s);
    for (std::size_t i = 0; i < cycles.size(); ++i)
      cycles[i].push_back(static_cast<double>(stages.cycles[i]) / packets);
  }
  for (std::size_t i = 0; i < cycles.size(); ++i) state.counters[Stages::kNames[i]] = median(cycles[i]);
  state.counters["bare_aead"] = median(bare);
}

[[maybe_unused]] const bool registered = [] {
  for (const std::size_t sessions : {1u, 10u, 1000u, 100'000u, 1'000'000u})
    for (const auto& [name, way] :
         {std::pair{"seal", Way::kSeal}, std::pair{"open", Way::kOpen}, std::pair{"relay", Way::kRelay}}) {
      if (way == Way::kRelay && sessions == 1) continue;  // nobody to relay to
      for (const char* sizes : {"64", "256", "512", "1024", "1420", "imix"}) {
        benchmark::RegisterBenchmark(
            (std::string{"worker/stages/"} + name + "/" + sizes + "/" + std::to_string(sessions)).c_str(),
            [way = way, sizes, sessions](benchmark::State& state) { run_stages(state, way, sizes, sessions); })
            ->Unit(benchmark::kMicrosecond);
        benchmark::RegisterBenchmark(
            (std::string{"worker/"} + name + "/" + sizes + "/" + std::to_string(sessions)).c_str(),
            [way = way, sizes, sessions](benchmark::State& state) { run(state, way, sizes, sessions); })
            ->Unit(benchmark::kMicrosecond);
      }
    }
  return true;
}();

}  // namespace
}  // namespace bench
}  // namespace wireplane
