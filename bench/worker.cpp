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
#include <cstring>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "bench/bench.h"
#include "control/device.h"
#include "dataplane/base/bytes.h"
#include "dataplane/wire/checksum.h"
#include "dataplane/worker.h"

namespace wireplane::bench {
namespace {

enum class Way { kSeal, kOpen, kRelay };
constexpr std::size_t kRound = 32;  // bursts

class SeededEntropy final : public Entropy {
 public:
  void fill(std::span<std::uint8_t> octets) override {
    for (std::uint8_t& octet : octets) octet = static_cast<std::uint8_t>(random_());
  }

 private:
  std::mt19937_64 random_{1};
};

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

std::vector<std::uint32_t> lengths_of(const std::string& sizes) {
  if (sizes != "imix") return {static_cast<std::uint32_t>(std::stoul(sizes))};
  std::vector<std::uint32_t> mix(7, 64);
  mix.insert(mix.end(), 4, 576);
  mix.push_back(1420);
  return mix;
}

// An engine with `count` peers, each with a session that sends, one that receives, and a /32.
class Fixture {
 public:
  explicit Fixture(std::size_t count) : engine_{limits(count)}, worker_{engine_, 0, outer, &inner} {
    device_ = std::make_unique<Device>(engine_, nullptr, entropy_, Now{start(), 0ns});
    Settings settings;
    settings.forward = Forward::kAll;
    settings.has_inner = true;
    engine_.publish(settings);
    DeviceChange change;
    for (std::uint32_t i = 0; i < count; ++i) {
      PeerChange& peer = change.peers.emplace_back();
      entropy_.fill(peer.public_key.octets);
      peer.endpoint = endpoint_of(i);
      peer.allowed_ips.push_back({{address_of(i), 32}, false});
    }
    if (!device_->apply(std::move(change))) std::abort();
    for (std::uint32_t i = 0; i < count; ++i) install(i);
  }
  ~Fixture() { device_.reset(); }

  static Address address_of(std::uint32_t peer) {
    std::uint8_t octets[4];
    store_be32(octets, 0x0a000001u + peer);
    return Address::v4(octets);
  }
  static Endpoint endpoint_of(std::uint32_t peer) {
    std::uint8_t octets[4];
    store_be32(octets, 0xc6120001u + peer / 60000);
    Endpoint e;
    e.remote = Address::v4(octets);
    e.port = static_cast<std::uint16_t>(1024 + peer % 60000);
    return e;
  }
  static Instant start() { return Instant{1h}; }

  // Session `i` of the fixture is both sessions of peer i: what we receive with has the key that the generator seals
  // with.
  Session& session(std::uint32_t peer) { return engine_.sessions().at(SessionSlot{peer}); }
  Engine& engine() { return engine_; }
  Worker& worker() { return worker_; }
  BufferCache& buffers() { return buffers_; }

  std::vector<std::uint64_t> counters;  // the generator's, a peer
  ReadyPort outer, inner;

 private:
  static Limits limits(std::size_t count) {
    Limits l;
    l.peers = count + 1;
    l.sessions = count + 1;
    l.buffers = 4 * kRound * kReceiveBurst;
    return l;
  }
  void install(std::uint32_t i) {
    Session& s = *new (&session(i)) Session{};
    entropy_.fill(s.receive_key);
    entropy_.fill(s.sent.key);
    PeerState& peer = engine_.peer(PeerSlot{i});
    s.peer = peer.id;
    s.serial = Serial{1};
    s.slot = SessionSlot{i};
    s.self = ReceiverIndex{i << kBucketBits | (i & (kBuckets - 1))};
    s.sent.remote = ReceiverIndex{entropy_.u32()};
    s.created = s.sent.created = ns(start());
    s.initiator = s.sent.initiator = true;
    engine_.link(0).sessions.store(s.self, s.slot);
    peer.offer_sending(s.serial, s.slot);
    counters.push_back(0);
  }

  SeededEntropy entropy_;
  Engine engine_;
  BufferCache buffers_{engine_.pool()};
  Worker worker_;
  std::unique_ptr<Device> device_;
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

void write_ip(std::uint8_t* ip, std::uint32_t length, const Address& from, const Address& to) {
  std::memset(ip, 0, length);
  ip[0] = 0x45;
  store_be16(ip + 2, static_cast<std::uint16_t>(length));
  ip[8] = 64;
  ip[9] = 17;
  std::memcpy(ip + 12, from.octets.data(), 4);
  std::memcpy(ip + 16, to.octets.data(), 4);
  store_be16(ip + 10, internet_checksum(ip, 20));
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
    static constexpr std::uint8_t kHost[4] = {172, 16, 0, 1};
    const Address host = Address::v4(kHost);
    write_ip(ip, length, way_ == Way::kSeal ? host : f_.address_of(from),
             way_ == Way::kOpen ? host : f_.address_of(to));
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
      packet.from = f_.endpoint_of(from);
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

double median(std::vector<double> values) {
  std::nth_element(values.begin(), values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2), values.end());
  return values[values.size() / 2];
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
    for (std::size_t i = 0; i < kRound; ++i) f.worker().step(Fixture::start() + 1s);
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

[[maybe_unused]] const bool registered = [] {
  for (const std::size_t sessions : {1u, 1000u, 100'000u, 1'000'000u})
    for (const auto& [name, way] :
         {std::pair{"seal", Way::kSeal}, std::pair{"open", Way::kOpen}, std::pair{"relay", Way::kRelay}}) {
      if (way == Way::kRelay && sessions == 1) continue;  // nobody to relay to
      for (const char* sizes : {"64", "256", "512", "1024", "1420", "imix"})
        benchmark::RegisterBenchmark(
            (std::string{"worker/"} + name + "/" + sizes + "/" + std::to_string(sessions)).c_str(),
            [way = way, sizes, sessions](benchmark::State& state) { run(state, way, sizes, sessions); })
            ->Unit(benchmark::kMicrosecond);
    }
  return true;
}();

}  // namespace
}  // namespace wireplane::bench
