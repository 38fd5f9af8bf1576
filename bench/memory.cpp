// memory.cpp: what a peer costs, as the kernel counts a process's memory, without sessions and with one and two.
//
//   memory/peers/sessions_<0|1|2>/<peers>   octets a peer of resident memory: the engine's tables, control's state,
//                                           routes (a /32 and a /128), endpoint; `target_octets` is issue 5's
//
// Each case is a child process, so that no other's memory is used again. Peers are configured as uapi does it, in
// pieces; sessions come from what a handshake ends in (Device::install), with what a peer that has had one keeps. The
// keys are noise: a million real handshakes would take minutes, and no more memory.
#include <malloc.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <string>

#include "bench/bench.h"
#include "bench/engine_fixture.h"

namespace wireplane {

struct DeviceWithoutHandshakes {
  // What a handshake that we began leaves: the newer session sends, the one before it stays for late packets.
  static void shake(Device& device, std::uint32_t slot, Entropy& entropy) {
    Peer& peer = *device.peers_[slot];
    if (peer.identity == nullptr) {
      peer.identity = std::make_unique<RemoteIdentity>();
      peer.identity->public_key = peer.public_key;
    }
    KeyPair keys;
    entropy.fill(keys.send.fill());
    entropy.fill(keys.receive.fill());
    keys.self = device.indices_.draw(peer.worker, device.now_.engine).value();
    keys.remote = ReceiverIndex{entropy.u32()};
    keys.initiator = true;
    if (!device.install(peer, keys)) std::abort();
  }
};

namespace bench {
namespace {

std::size_t resident() {
  unsigned long size = 0, pages = 0;
  std::FILE* statm = std::fopen("/proc/self/statm", "r");
  if (statm == nullptr || std::fscanf(statm, "%lu %lu", &size, &pages) != 2) std::abort();
  std::fclose(statm);
  return pages * static_cast<std::size_t>(::sysconf(_SC_PAGESIZE));
}

void configure(Device& device, Entropy& entropy, std::uint32_t from, std::uint32_t to) {
  DeviceChange change;
  for (std::uint32_t i = from; i < to; ++i) {
    PeerChange& peer = change.peers.emplace_back();
    entropy.fill(peer.public_key.octets);
    peer.endpoint = EngineFixture::endpoint_of(i);
    std::uint8_t v6[16] = {0xfd};
    store_be32(v6 + 12, i);
    peer.allowed_ips.push_back({{EngineFixture::address_of(i), 32}, false});
    peer.allowed_ips.push_back({{Address::v6(v6), 128}, false});
  }
  if (!device.apply(std::move(change))) std::abort();
}

double octets_of_a_peer(std::uint32_t peers, unsigned sessions) {
  ::malloc_trim(0);
  SeededEntropy entropy;
  Limits limits;
  limits.peers = peers;
  limits.buffers = 1024;
  Engine engine{limits};
  Device device{engine, nullptr, entropy, Now{EngineFixture::start(), 0ns}};
  const std::size_t before = resident();
  constexpr std::uint32_t kPiece = 1024;
  for (std::uint32_t i = 0; i < peers; i += kPiece) configure(device, entropy, i, std::min(peers, i + kPiece));
  for (unsigned s = 0; s < sessions; ++s)
    for (std::uint32_t i = 0; i < peers; ++i) DeviceWithoutHandshakes::shake(device, i, entropy);
  if (!device.settle(Now{EngineFixture::start(), 0ns}) || device.live_sessions() != std::size_t{peers} * sessions)
    std::abort();
  return static_cast<double>(resident() - before) / peers;
}

void memory(benchmark::State& state, std::uint32_t peers, unsigned sessions) {
  for (auto _ : state) {
    int ends[2];
    if (::pipe(ends) != 0) return state.SkipWithError("no pipe");
    const pid_t child = ::fork();
    if (child == 0) {
      const double octets = octets_of_a_peer(peers, sessions);
      ::_exit(::write(ends[1], &octets, sizeof octets) == sizeof octets ? 0 : 1);
    }
    ::close(ends[1]);
    double octets = 0;
    const bool read = ::read(ends[0], &octets, sizeof octets) == sizeof octets;
    ::close(ends[0]);
    if (child < 0 || ::waitpid(child, nullptr, 0) != child || !read) return state.SkipWithError("the child failed");
    state.counters["octets_per_peer"] = octets;
  }
  constexpr double kTargets[] = {1024, 2560, 4096};
  state.counters["target_octets"] = kTargets[sessions];
}

const bool registered = [] {
  for (const unsigned sessions : {0u, 1u, 2u})
    for (const std::uint32_t peers : {1000u, 100000u, 1000000u})
      benchmark::RegisterBenchmark(std::string{"memory/peers/sessions_"}
                                       .append(std::to_string(sessions))
                                       .append("/")
                                       .append(std::to_string(peers))
                                       .c_str(),
                                   [=](benchmark::State& state) { memory(state, peers, sessions); })
          ->Iterations(1)
          ->Unit(benchmark::kMillisecond);
  return true;
}();

}  // namespace
}  // namespace bench
}  // namespace wireplane
