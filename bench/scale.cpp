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
// L2 and, all workers' together, smaller than L3, as a NIC's would come, and start over with fresh replay windows at
// its end. `generator_share` is the part of the workers' time that they take.
//
// `speedup` compares with one worker, which has its slices in turn with the others', on each of the cores in turn. A
// guest's cores are not always whole cores: another guest computes on a core's other thread, or ours are the two
// threads of one. So between slices the cores run a loop of nothing but instructions: a slice is undisturbed when
// before and after it every core it ran on did what the fastest ever did. `speedup` is the quotient of the medians of
// undisturbed slices, if there are enough of both, or of all; `undisturbed` is the part of the workers' slices that
// were; `speedup_in_all_slices` is what all would give. `separate_engines` is the speedup of as many engines with one
// worker each, which share nothing, in turn with the others: what the machine has to give at that moment.
// A guest's cores move, too: `near` is the part of the slices around which a line took less than twice the best round
// trip from the first core to the last (50 ns in one complex of a Zen 4, 320 between two); `speedup_near` and
// `speedup_far` are of those and of the others.
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

constexpr auto kSlice = std::chrono::milliseconds{5}, kTunnelSlice = std::chrono::milliseconds{20};  // it must be lent
constexpr std::size_t kCorpusOctets = std::size_t{4} << 20, kTunnelCorpusOctets = std::size_t{16} << 20;  // a worker
constexpr auto kWarmUp = std::chrono::milliseconds{2};  // of a slice: lines come from the cores that had them before
constexpr double kFullSpeed = 0.93;                     // of the loop, to its best
constexpr std::size_t kEnough = 7;                      // undisturbed slices
constexpr std::size_t kOneIn = 10;                      // of all slices: fewer are a choice of odd moments

// This thread runs on that core. Refused in a small cpuset: then anywhere.
void pin(unsigned core) {
  cpu_set_t set;
  CPU_ZERO(&set);
  CPU_SET(core, &set);
  ::pthread_setaffinity_np(::pthread_self(), sizeof set, &set);
}

// Turns a TSC cycle of a loop that wants all of a core's front end and nothing of its caches.
double loop_rate() {
  constexpr std::uint64_t kTicks = 500'000;
  const std::uint64_t begin = __rdtsc();
  std::uint64_t turns = 0, a = 0, b = 0, c = 0, d = 0, ticks = 0;
  for (; (ticks = __rdtsc() - begin) < kTicks; turns += 100)
    for (int i = 0; i < 100; ++i)
      asm volatile(
          "add $1, %0\n add $1, %1\n nop\n add $1, %2\n add $1, %3\n nop\n add $3, %0\n add $3, %1\n nop\n"
          "add $3, %2\n add $3, %3\n nop\n add $5, %0\n add $5, %1\n nop\n add $5, %2\n add $5, %3\n nop"
          : "+r"(a), "+r"(b), "+r"(c), "+r"(d));
  return static_cast<double>(turns) / static_cast<double>(ticks);
}

// What the loop does on each core, all running it at once.
std::vector<double> loop_rates(unsigned cores) {
  std::vector<double> rates(cores);
  std::vector<std::thread> threads;
  for (unsigned i = 0; i < cores; ++i)
    threads.emplace_back([&rates, i] {
      pin(i);
      static_cast<void>(loop_rate());  // until the others have begun
      rates[i] = loop_rate();
    });
  for (std::thread& thread : threads) thread.join();
  return rates;
}

// How long a line takes from the first core to the last and back, in ns. In threads of its own: the caller, and what
// it runs later, stays where it was.
double line_round_trip(unsigned cores) {
  constexpr int kTrips = 300;
  alignas(4 * kCacheLine) std::atomic<int> line{0};
  std::chrono::duration<double, std::nano> passed{};
  std::thread there{[&] {
    pin(cores - 1);
    for (int i = 1; i <= kTrips; ++i) {
      while (line.load() != 2 * i - 1) continue;
      line.store(2 * i);
    }
  }};
  std::thread here{[&] {
    pin(0);
    std::chrono::steady_clock::time_point begin;
    for (int i = 1; i <= kTrips; ++i) {
      line.store(2 * i - 1);
      while (line.load() != 2 * i) continue;
      if (i == 1) begin = std::chrono::steady_clock::now();  // the other one has begun
    }
    passed = std::chrono::steady_clock::now() - begin;
  }};
  for (std::thread* thread : {&there, &here}) thread->join();
  return passed.count() / (kTrips - 1);
}

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
    const std::size_t octets = is_tunnel(c) ? kTunnelCorpusOctets : kCorpusOctets;
    memory_.reserve(octets + 2048 * kReceiveBurst);
    while (memory_.size() < octets || datagrams_.size() % kReceiveBurst != 0) {
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

// Of one worker. Seats are pages apart: a core that fetches a line may fetch the next one, too, and here each packet
// writes the first line and the last.
struct alignas(4096) Seat {
  SyntheticPort outer, inner;
  std::unique_ptr<Corpus> corpus;
  std::unique_ptr<Worker> worker;
  std::uint64_t given = 0, taken = 0;
};

class Team {
 public:
  Team(const Case& c, const std::vector<std::uint32_t>& lengths, unsigned workers)
      : slice_{is_tunnel(c) ? kTunnelSlice : kSlice},
        fixture_{c.peers, workers, std::size_t{8192} * workers},
        seats_(workers) {
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

  // What the workers did from the end of their warming up on.
  struct Slice {
    double packets = 0, octets = 0, seconds = 0, generator_ticks = 0, ticks = 0, helped = 0;
    [[nodiscard]] double rate() const { return packets / seconds; }
  };
  // All workers for a slice, each on the core of its number, or that many further.
  Slice run(unsigned shift = 0) {
    std::atomic<unsigned> ready{0};
    std::atomic<bool> begun{false};
    std::vector<Slice> slices(seats_.size());
    std::vector<std::thread> threads;
    for (unsigned i = 0; i < seats_.size(); ++i)
      threads.emplace_back([&, i] {
        pin(i + shift);
        ++ready;
        while (ready.load() < seats_.size()) std::this_thread::yield();
        if (i == 0) {  // the time that threads take to be made is no worker's
          resumed_ = std::chrono::steady_clock::now();
          begun = true;
        }
        while (!begun.load()) std::this_thread::yield();
        step_until(seats_[i], EngineFixture::start() + ran_ + kWarmUp);
        slices[i] = step_until(seats_[i], EngineFixture::start() + ran_ + kWarmUp + slice_);
      });
    for (std::thread& thread : threads) thread.join();
    ran_ += kWarmUp + slice_;
    return sum_of(slices);
  }

  // Of those who ran at the same time.
  static Slice sum_of(const std::vector<Slice>& slices) {
    Slice sum;
    for (const Slice& slice : slices) {
      sum.packets += slice.packets;
      sum.octets += slice.octets;
      sum.seconds += slice.seconds / static_cast<double>(slices.size());
      sum.generator_ticks += slice.generator_ticks;
      sum.ticks += slice.ticks;
      sum.helped += slice.helped;
    }
    return sum;
  }

 private:
  Slice step_until(Seat& seat, Instant end) const {
    const auto so_far = [&] {
      return Slice{static_cast<double>(seat.taken),
                   static_cast<double>(seat.inner.octets + seat.outer.octets),
                   std::chrono::duration<double>{std::chrono::steady_clock::now() - resumed_}.count(),
                   static_cast<double>(seat.inner.ticks + seat.outer.ticks),
                   static_cast<double>(__rdtsc()),
                   static_cast<double>(seat.worker->counters().parts_helped.get())};
    };
    const Slice before = so_far();
    for (Instant at = now(); at < end; at = now()) seat.worker->step(at);
    const Slice after = so_far();
    return {after.packets - before.packets, after.octets - before.octets,
            after.seconds - before.seconds, after.generator_ticks - before.generator_ticks,
            after.ticks - before.ticks,     after.helped - before.helped};
  }
  [[nodiscard]] Instant now() const {  // the workers' clock stands still between slices
    const auto passed = std::chrono::steady_clock::now() - resumed_;
    return EngineFixture::start() + ran_ + std::chrono::duration_cast<Duration>(passed);
  }

  const Duration slice_;
  Duration ran_{};
  std::chrono::steady_clock::time_point resumed_;
  EngineFixture fixture_;
  std::vector<Seat> seats_;
};

// What the cores were like at some moment.
struct Conditions {
  std::vector<double> loop;  // loop_rates()
  double round_trip_ns = 0;  // line_round_trip()
  static Conditions now(unsigned cores) {
    Conditions now{loop_rates(cores), cores > 1 ? line_round_trip(cores) : 0};
    best_loop = std::max(best_loop, *std::max_element(now.loop.begin(), now.loop.end()));
    best_round_trip_ns = std::min(best_round_trip_ns, now.round_trip_ns);
    return now;
  }
  [[nodiscard]] double slowest() const { return *std::min_element(loop.begin(), loop.end()); }
  static inline double best_loop = 0, best_round_trip_ns = 1e9;  // of all cases
};

// Slices of one team, how fast the loop was around each on the slowest of its cores, and how far the cores were apart.
class Record {
 public:
  void add(const Team::Slice& slice, double loop, double round_trip_ns = 0) {
    slices_.push_back({slice, loop, round_trip_ns});
  }
  [[nodiscard]] Record undisturbed() const {
    return those([](const Timed& t) { return t.loop >= kFullSpeed * Conditions::best_loop; });
  }
  [[nodiscard]] Record with_cores(bool near) const {
    return those([near](const Timed& t) { return (t.round_trip_ns < 2 * Conditions::best_round_trip_ns) == near; });
  }
  [[nodiscard]] std::size_t size() const { return slices_.size(); }
  template <class Value>
  [[nodiscard]] double median_of(Value value) const {
    std::vector<double> values;
    for (const Timed& timed : slices_) values.push_back(value(timed.slice));
    return median(values);
  }
  [[nodiscard]] double rate() const {
    return median_of([](const Team::Slice& s) { return s.rate(); });
  }

 private:
  struct Timed {
    Team::Slice slice;
    double loop, round_trip_ns;
  };
  template <class Test>
  [[nodiscard]] Record those(Test test) const {
    Record some;
    std::copy_if(slices_.begin(), slices_.end(), std::back_inserter(some.slices_), test);
    return some;
  }
  std::vector<Timed> slices_;
};

// One worker each, each on a core of its own, at once.
Team::Slice run_side_by_side(std::vector<std::unique_ptr<Team>>& teams) {
  std::vector<Team::Slice> slices(teams.size());
  std::vector<std::thread> threads;
  for (unsigned i = 0; i < teams.size(); ++i) threads.emplace_back([&, i] { slices[i] = teams[i]->run(i); });
  for (std::thread& thread : threads) thread.join();
  return Team::sum_of(slices);
}

void run(benchmark::State& state, const Case& c, const std::string& sizes, unsigned workers) {
  const std::vector<std::uint32_t> lengths = lengths_of(sizes);
  Team one{c, lengths, 1}, team{c, lengths, workers};
  std::vector<std::unique_ptr<Team>> separate;
  while (!is_tunnel(c) && workers > 1 && separate.size() < workers)
    separate.push_back(std::make_unique<Team>(c, lengths, 1));
  static_cast<void>(one.run());
  static_cast<void>(team.run());
  static_cast<void>(run_side_by_side(separate));
  const auto add = [](Record& record, const Team::Slice& slice, const Conditions& before, const Conditions& after) {
    record.add(slice, std::min(before.slowest(), after.slowest()), std::max(before.round_trip_ns, after.round_trip_ns));
  };
  Record alone, all, apart;
  unsigned core = 0;
  for (auto _ : state) {
    const Conditions before = Conditions::now(workers);
    const Team::Slice first = one.run(core);
    const Conditions between = Conditions::now(workers);
    const Team::Slice second = team.run();
    const Conditions after = Conditions::now(workers);
    alone.add(first, std::min(before.loop[core], between.loop[core]));
    add(all, second, between, after);
    if (!separate.empty()) {
      const Team::Slice third = run_side_by_side(separate);
      add(apart, third, after, Conditions::now(workers));
    }
    core = (core + 1) % workers;
    state.SetIterationTime(first.seconds + second.seconds);
  }
  state.counters["speedup_in_all_slices"] = all.rate() / alone.rate();
  const auto choose = [](const Record& record) {
    const Record some = record.undisturbed();
    return some.size() >= std::max(kEnough, record.size() / kOneIn) ? some : record;
  };
  state.counters["undisturbed"] = static_cast<double>(all.undisturbed().size()) / static_cast<double>(all.size());
  const Record chosen[] = {choose(alone), choose(all), choose(apart)};
  if (chosen[0].size() < alone.size() && chosen[1].size() < all.size()) {
    alone = chosen[0];
    all = chosen[1];
    apart = chosen[2];
  }
  if (workers > 1) {
    const Record near = all.with_cores(true), far = all.with_cores(false);
    state.counters["near"] = static_cast<double>(near.size()) / static_cast<double>(all.size());
    if (near.size() >= kEnough) state.counters["speedup_near"] = near.rate() / alone.rate();
    if (far.size() >= kEnough) state.counters["speedup_far"] = far.rate() / alone.rate();
  }
  if (!separate.empty()) state.counters["separate_engines"] = apart.rate() / alone.rate();
  state.counters["speedup"] = all.rate() / alone.rate();
  state.counters["Mpps"] = all.rate() / 1e6;
  state.counters["Gbit/s"] = all.median_of([](const Team::Slice& s) { return 8e-9 * s.octets / s.seconds; });
  state.counters["generator_share"] = all.median_of([](const Team::Slice& s) { return s.generator_ticks / s.ticks; });
  state.counters["helped"] = all.median_of([](const Team::Slice& s) { return s.helped; });
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
