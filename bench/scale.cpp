// scale.cpp: several workers at once, each on a core of its own.
//
//   scale/<case>/<octets|imix>/<workers>
//
//   relay         1000 peers, each worker receives what belongs to it, from any peer to any peer
//   relay_apart   the same, but a worker's peers send to each other: no line is two workers'
//   popular       every worker seals what the host sends to one and the same peer
//   tunnel_open   one peer: all its datagrams arrive at worker 0; the others have nothing of their own
//   tunnel_seal   one peer: all that is for it comes from the host at worker 0
//   tunnel_relay  one peer at worker 0 sends to 999 others
//
// Generators run inside the workers' ports: they copy datagrams that were sealed beforehand out of a corpus larger than
// L2, as a NIC's would come, and start over with fresh replay windows at its end. `generator_share` is the part of the
// workers' time that they take. `speedup` compares with one worker, which runs its slices in turn with the others'.
#include <benchmark/benchmark.h>
#include <pthread.h>
#include <sched.h>
#include <x86intrin.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <memory>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "bench/bench.h"
#include "bench/engine_fixture.h"

namespace wireplane::bench {
namespace {

constexpr auto kSlice = std::chrono::milliseconds{60};
constexpr std::size_t kCorpusOctets = std::size_t{16} << 20;  // a worker

struct Case {
  const char* name;
  Way way;
  std::size_t peers;
  bool one_source, one_destination;  // peer 0
  bool apart = false;                // destinations are the worker's own, as sources are
};
constexpr Case kCases[] = {
    {"relay", Way::kRelay, 1000, false, false},  {"relay_apart", Way::kRelay, 1000, false, false, true},
    {"popular", Way::kSeal, 1, false, true},     {"tunnel_open", Way::kOpen, 1, true, false},
    {"tunnel_seal", Way::kSeal, 1, false, true}, {"tunnel_relay", Way::kRelay, 1000, true, false},
};
bool is_tunnel(const Case& c) { return std::string_view{c.name}.starts_with("tunnel"); }

// What one worker receives, over and over.
class Corpus {
 public:
  Corpus(EngineFixture& fixture, const Case& c, const std::vector<std::uint32_t>& lengths, unsigned worker)
      : fixture_{fixture} {
    for (std::uint32_t i = 0; i < c.peers; ++i)
      if (fixture.engine().owner(fixture.session(i).self) == worker) own_.push_back(i);
    if (own_.empty() && c.way != Way::kSeal) return;  // a tunnel's idle workers
    if (is_tunnel(c) && worker != 0) return;
    std::mt19937_64 random{worker + 1};
    std::vector<std::uint64_t> counters(c.peers);
    memory_.reserve(kCorpusOctets + 4096);
    while (memory_.size() < kCorpusOctets) {
      const std::uint32_t from = c.one_source || own_.empty() ? 0 : own_[random() % own_.size()];
      std::uint32_t to = c.one_destination ? 0 : static_cast<std::uint32_t>(random() % c.peers);
      if (c.apart) to = own_[random() % own_.size()];
      if (c.way == Way::kRelay && to == from) to = (to + 1) % static_cast<std::uint32_t>(c.peers);
      add(c.way, from, to, lengths[random() % lengths.size()], counters[from]);
    }
  }
  struct Datagram {
    std::size_t at;
    std::uint32_t length, from;
  };
  [[nodiscard]] const std::vector<Datagram>& datagrams() const { return datagrams_; }
  [[nodiscard]] const std::uint8_t* octets(const Datagram& d) const { return &memory_[d.at]; }
  void forget_counters() {  // the same datagrams will be new again
    for (const std::uint32_t peer : own_) fixture_.session(peer).received.window = {};
  }

 private:
  void add(Way way, std::uint32_t from, std::uint32_t to, std::uint32_t length, std::uint64_t& counter) {
    const std::uint32_t padding = (16 - length % 16) % 16;
    const std::size_t at = memory_.size();
    const auto whole = way == Way::kSeal ? length : static_cast<std::uint32_t>(length + padding + kDataOverhead);
    memory_.resize(at + (whole + 63) / 64 * 64);
    std::uint8_t* ip = &memory_[at + (way == Way::kSeal ? 0 : kDataHeaderSize)];
    const Address host = EngineFixture::host();
    write_ip(ip, length, way == Way::kSeal ? host : EngineFixture::address_of(from),
             way == Way::kOpen ? host : EngineFixture::address_of(to));
    if (way != Way::kSeal) {
      const Session& session = fixture_.session(from);
      store_le(&memory_[at], std::uint32_t{4});
      store_le(&memory_[at + 4], session.self.raw());
      store_le(&memory_[at + 8], counter);
      SealJob job{session.receive_key, counter++, nullptr, 0, length, ip, ip, padding};
      fixture_.engine().aead().seal(&job, 1);
    }
    datagrams_.push_back({at, whole, from});
  }

  EngineFixture& fixture_;
  std::vector<std::uint32_t> own_;
  std::vector<std::uint8_t> memory_;
  std::vector<Datagram> datagrams_;
};

// One side of a worker. The generating one gives from the corpus; both take what is sent.
class SyntheticPort final : public Port {
 public:
  void receive(Burst& burst, WorkerContext& context) override {
    if (corpus == nullptr || corpus->datagrams().empty()) return;
    const std::uint64_t begin = __rdtsc();
    if (next_ == corpus->datagrams().size() && *given == *taken) {  // what is in flight has old numbers: wait for it
      corpus->forget_counters();
      next_ = 0;
    }
    for (std::size_t i = 0; i < kReceiveBurst && next_ < corpus->datagrams().size(); ++i) {
      const Corpus::Datagram& datagram = corpus->datagrams()[next_];
      Buffer* buffer = context.buffers.take();
      if (buffer == nullptr) break;
      Packet& packet = burst.add();
      packet.buffer = buffer;
      packet.data = buffer->memory + kHeadroom;
      packet.length = datagram.length;
      packet.from = endpoints[datagram.from];
      std::memcpy(packet.data, corpus->octets(datagram), datagram.length);
      ++next_;
      ++*given;
    }
    ticks += __rdtsc() - begin;
  }
  std::size_t send(Burst& burst, WorkerContext& context) override {
    const std::uint64_t begin = __rdtsc();
    const std::size_t sent = burst.size();
    for (Packet& packet : burst) {
      octets += packet.length;
      context.release(packet);
    }
    *taken += sent;
    burst.clear();
    ticks += __rdtsc() - begin;
    return sent;
  }
  Corpus* corpus = nullptr;
  std::uint64_t *given = nullptr, *taken = nullptr;
  std::vector<Endpoint> endpoints;
  std::uint64_t ticks = 0, octets = 0;

 private:
  std::size_t next_ = 0;
};

struct alignas(kCacheLine) Seat {  // of one worker
  SyntheticPort outer, inner;
  std::unique_ptr<Corpus> corpus;
  std::unique_ptr<Worker> worker;
  std::uint64_t given = 0, taken = 0;
};

class Team {
 public:
  Team(const Case& c, const std::vector<std::uint32_t>& lengths, unsigned workers)
      : fixture_{c.peers, workers, std::size_t{8192} * workers}, seats_(workers) {
    for (unsigned i = 0; i < workers; ++i) {
      Seat& seat = seats_[i];
      seat.corpus = std::make_unique<Corpus>(fixture_, c, lengths, i);
      for (SyntheticPort* port : {&seat.outer, &seat.inner}) {
        port->given = &seat.given;
        port->taken = &seat.taken;
      }
      SyntheticPort& source = c.way == Way::kSeal ? seat.inner : seat.outer;
      source.corpus = seat.corpus.get();
      for (std::uint32_t p = 0; p < c.peers; ++p) source.endpoints.push_back(EngineFixture::endpoint_of(p));
      seat.worker = std::make_unique<Worker>(fixture_.engine(), i, seat.outer, &seat.inner);
    }
  }
  ~Team() {
    for (Seat& seat : seats_) seat.worker.reset();
  }

  struct Slice {
    double packets = 0, octets = 0, seconds = 0, generator_share = 0, helped = 0;
  };
  // All workers for kSlice, each on the core of its number.
  Slice run() {
    const auto tally = [&](auto value) {
      std::uint64_t sum = 0;
      for (Seat& seat : seats_) sum += value(seat);
      return sum;
    };
    const auto packets = [](Seat& s) { return s.taken; };
    const auto octets = [](Seat& s) { return s.inner.octets + s.outer.octets; };
    const auto ticks = [](Seat& s) { return s.inner.ticks + s.outer.ticks; };
    const auto helped = [](Seat& s) { return s.worker->counters().parts_helped.get(); };
    const std::uint64_t before[] = {tally(packets), tally(octets), tally(ticks), tally(helped)};
    std::atomic<unsigned> ready{0};
    std::atomic<std::uint64_t> spent{0};
    std::vector<std::thread> threads;
    for (unsigned i = 0; i < seats_.size(); ++i)
      threads.emplace_back([&, i] {
        pin(i);
        if (i == 0) resumed_ = std::chrono::steady_clock::now();
        ++ready;
        while (ready.load() < seats_.size()) std::this_thread::yield();
        const std::uint64_t from = __rdtsc();
        const Instant end = EngineFixture::start() + ran_ + kSlice;
        for (Instant at = now(); at < end; at = now()) seats_[i].worker->step(at);
        spent += __rdtsc() - from;
      });
    for (std::thread& thread : threads) thread.join();
    const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - resumed_;
    ran_ += kSlice;
    return {static_cast<double>(tally(packets) - before[0]), static_cast<double>(tally(octets) - before[1]),
            seconds.count(), static_cast<double>(tally(ticks) - before[2]) / static_cast<double>(spent.load()),
            static_cast<double>(tally(helped) - before[3])};
  }

 private:
  [[nodiscard]] Instant now() const {  // the workers' clock stands still between slices
    const auto passed = std::chrono::steady_clock::now() - resumed_;
    return EngineFixture::start() + ran_ + std::chrono::duration_cast<Duration>(passed);
  }
  static void pin(unsigned worker) {
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET(worker, &set);
    ::pthread_setaffinity_np(::pthread_self(), sizeof set, &set);  // refused in a small cpuset: then unpinned
  }

  Duration ran_{};
  std::chrono::steady_clock::time_point resumed_;
  EngineFixture fixture_;
  std::vector<Seat> seats_;
};

void run(benchmark::State& state, const Case& c, const std::string& sizes, unsigned workers) {
  const std::vector<std::uint32_t> lengths = lengths_of(sizes);
  Team one{c, lengths, 1}, team{c, lengths, workers};
  static_cast<void>(one.run());
  static_cast<void>(team.run());
  std::vector<double> speedups, rates, gbits, shares, helped;
  for (auto _ : state) {
    const Team::Slice alone = one.run(), all = team.run();
    state.SetIterationTime(alone.seconds + all.seconds);
    rates.push_back(all.packets / all.seconds);
    speedups.push_back(rates.back() / (alone.packets / alone.seconds));
    gbits.push_back(8e-9 * all.octets / all.seconds);
    shares.push_back(all.generator_share);
    helped.push_back(all.helped);
  }
  state.counters["Mpps"] = median(rates) / 1e6;
  state.counters["Gbit/s"] = median(gbits);
  state.counters["speedup"] = median(speedups);
  state.counters["generator_share"] = median(shares);
  state.counters["helped"] = median(helped);
}

[[maybe_unused]] const bool registered = [] {
  const unsigned cores = std::max(1u, std::thread::hardware_concurrency());
  for (const Case& c : kCases)
    for (const char* sizes : {"64", "256", "512", "1420", "imix"})
      for (unsigned workers = 1; workers <= cores && workers <= kBuckets; workers *= 2)
        benchmark::RegisterBenchmark(
            (std::string{"scale/"} + c.name + "/" + sizes + "/" + std::to_string(workers)).c_str(),
            [&c, sizes, workers](benchmark::State& state) { run(state, c, sizes, workers); })
            ->UseManualTime()
            ->Unit(benchmark::kMillisecond);
  return true;
}();

}  // namespace
}  // namespace wireplane::bench
