// embed/...: what the library costs an application, beside the same datagrams over plain UDP sockets.
//
//   embed/datagram/node/SIZE        from one node to another over loopback, both driven by this thread: IPv6 and UDP
//                                   headers, sealing, two system calls a burst, opening, and the copies
//   embed/datagram/threads/SIZE     the same between two nodes with a worker each: what all threads spend
//   embed/datagram/plain_udp/SIZE   the rival: sendmmsg and recvmmsg alone, without protection
//   embed/datagram/udp_aead/SIZE    the bar: sockets carrying what WireGuard puts on the wire, and one seal and one
//   open embed/open/node                 a node with a new key comes and goes
#include <netinet/in.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include <array>
#include <chrono>
#include <cstring>
#include <string>
#include <vector>

#include "bench/bench.h"
#include "control/embed/node.h"
#include "dataplane/aead/aead.h"

namespace wireplane::bench {
namespace {

constexpr std::size_t kAtOnce = 64;

void datagrams_by_node(benchmark::State& state) {
  auto opened_a = Node::open({.ipv6 = false}), opened_b = Node::open({.ipv6 = false});
  if (!opened_a || !opened_b) return state.SkipWithError("no node");
  Node &a = **opened_a, &b = **opened_b;
  const auto ab = a.add_peer(b.key_text(), "127.0.0.1:" + std::to_string(b.port()));
  if (!ab || !b.add_peer(a.key())) return state.SkipWithError("no peer");
  const std::vector<std::uint8_t> payload(static_cast<std::size_t>(state.range(0)), 1);
  const std::vector<Datagram> burst(kAtOnce, Datagram{*ab, payload});
  const auto round = [&] {  // until the burst has arrived
    std::size_t arrived = a.send(burst) ? 0 : kAtOnce;
    for (int turns = 0; arrived < kAtOnce && turns < 1000; ++turns) {
      static_cast<void>(!a.process());
      static_cast<void>(!b.process());
      arrived += b.receive([](const Received& in) { benchmark::DoNotOptimize(in.octets.data()); }, 1024);
    }
    return arrived;
  };
  if (round() != kAtOnce) return state.SkipWithError("the nodes do not hear each other");
  const Meter meter;
  for (auto _ : state)
    if (round() != kAtOnce) return state.SkipWithError("datagrams were lost");
  meter.report(state, kAtOnce, static_cast<double>(kAtOnce * payload.size()));
}

// What the inner headers and WireGuard make of a payload: 48 of IPv6 and UDP, padded to 16; 32 of header and tag.
std::size_t on_the_wire(std::size_t payload) { return (payload + 48 + 15) / 16 * 16 + 32; }

// Sockets, and the cipher if `aead`, over `size` octets a datagram; what is reported counts `payload` octets.
void datagrams_by_sockets(benchmark::State& state, std::size_t size, std::size_t reported, bool aead) {
  const int to = ::socket(AF_INET, SOCK_DGRAM, 0), from = ::socket(AF_INET, SOCK_DGRAM, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t length = sizeof address;
  const int room = 1 << 20;
  ::setsockopt(to, SOL_SOCKET, SO_RCVBUF, &room, sizeof room);
  const bool bound = ::bind(to, reinterpret_cast<sockaddr*>(&address), length) == 0 &&
                     ::getsockname(to, reinterpret_cast<sockaddr*>(&address), &length) == 0;
  if (!bound) return state.SkipWithError("no socket");
  std::vector<std::uint8_t> octets(kAtOnce * 2048, 1), memory(kAtOnce * 2048);
  const std::array<std::uint8_t, 32> key{};
  std::array<SealJob, kAtOnce> seals;
  std::array<OpenJob, kAtOnce> opens;
  std::array<mmsghdr, kAtOnce> out{}, in{};
  std::array<iovec, kAtOnce> out_parts, in_parts;
  for (std::size_t i = 0; i < kAtOnce; ++i) {
    std::uint8_t *from_here = octets.data() + i * 2048, *to_here = memory.data() + i * 2048;
    const auto text = static_cast<std::uint32_t>(aead ? size - 32 : 0);
    seals[i] = {key.data(), i, nullptr, 0, text, from_here + 16, from_here + 16, 0};
    opens[i] = {key.data(), i, to_here + 16, text + 16, to_here + 16, false};
    out_parts[i] = {from_here, size};
    in_parts[i] = {memory.data() + i * 2048, 2048};
    out[i].msg_hdr.msg_name = &address;
    out[i].msg_hdr.msg_namelen = sizeof address;
    out[i].msg_hdr.msg_iov = &out_parts[i];
    in[i].msg_hdr.msg_iov = &in_parts[i];
    out[i].msg_hdr.msg_iovlen = in[i].msg_hdr.msg_iovlen = 1;
  }
  const Aead& kernel = Aead::chosen();
  const Meter meter;
  for (auto _ : state) {
    if (aead) kernel.seal(seals.data(), kAtOnce);
    ::sendmmsg(from, out.data(), kAtOnce, 0);
    std::size_t arrived = 0;
    while (arrived < kAtOnce) {
      const int got = ::recvmmsg(to, in.data(), kAtOnce, MSG_DONTWAIT, nullptr);
      if (got <= 0) return state.SkipWithError("datagrams were lost");
      arrived += static_cast<std::size_t>(got);
    }
    if (aead) kernel.open(opens.data(), kAtOnce);
    if (aead && !opens[kAtOnce - 1].authentic) return state.SkipWithError("not what was sent");
  }
  meter.report(state, kAtOnce, static_cast<double>(kAtOnce * reported));
  ::close(to);
  ::close(from);
}

void datagrams_by_plain_udp(benchmark::State& state) {
  const auto size = static_cast<std::size_t>(state.range(0));
  datagrams_by_sockets(state, size, size, false);
}
void datagrams_by_udp_and_aead(benchmark::State& state) {
  const auto size = static_cast<std::size_t>(state.range(0));
  datagrams_by_sockets(state, on_the_wire(size), size, true);
}

double process_ns() {
  timespec now{};
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
  return 1e9 * static_cast<double>(now.tv_sec) + static_cast<double>(now.tv_nsec);
}

void datagrams_by_threads(benchmark::State& state) {
  auto opened_a = Node::open({.ipv6 = false, .workers = 1}), opened_b = Node::open({.ipv6 = false, .workers = 1});
  if (!opened_a || !opened_b) return state.SkipWithError("no node");
  Node &a = **opened_a, &b = **opened_b;
  const auto ab = a.add_peer(b.key_text(), "127.0.0.1:" + std::to_string(b.port()));
  if (!ab || !b.add_peer(a.key())) return state.SkipWithError("no peer");
  const std::vector<std::uint8_t> payload(static_cast<std::size_t>(state.range(0)), 1);
  const std::vector<Datagram> burst(kAtOnce, Datagram{*ab, payload});
  const auto round = [&] {
    std::size_t left = 4 * kAtOnce, flying = 0;
    const auto end = std::chrono::steady_clock::now() + std::chrono::seconds{10};
    while (left != 0 && std::chrono::steady_clock::now() < end) {
      if (flying <= kAtOnce)
        if (const auto taken = a.send(burst)) flying += *taken;
      const std::size_t got = b.receive([](const Received& in) { benchmark::DoNotOptimize(in.octets.data()); },
                                        std::min(left, 2 * kAtOnce));
      left -= got;
      flying -= std::min(got, flying);
      if (got != 0) continue;
      const auto waiting = b.wait(20ms);
      if (!waiting || *waiting == 0) flying = 0;  // lost
    }
    return left == 0;
  };
  for (int i = 0; i < 1000; ++i) {  // what waits for a key is not much
    static_cast<void>(!a.send(*ab, payload));
    if (b.wait(10ms) && b.receive([](const Received&) {}, 1024) != 0) break;
  }
  static_cast<void>(!b.wait(100ms));
  b.receive([](const Received&) {}, 1024);
  if (!round()) return state.SkipWithError("the nodes do not hear each other");
  const double begun = process_ns();
  for (auto _ : state)
    if (!round()) return state.SkipWithError("datagrams were lost");
  const auto packets = static_cast<double>(4 * kAtOnce * state.iterations());
  Meter::set(state, process_ns() - begun, packets, packets * static_cast<double>(payload.size()));
}

void open_node(benchmark::State& state) {
  for (auto _ : state) {
    const auto node = Node::open({.ipv6 = false, .peers = 32});
    if (!node) return state.SkipWithError("no node");
  }
  state.counters["per_second"] =
      benchmark::Counter{static_cast<double>(state.iterations()), benchmark::Counter::kIsRate};
}

BENCHMARK(datagrams_by_node)->Name("embed/datagram/node")->Arg(64)->Arg(512)->Arg(1372);
BENCHMARK(datagrams_by_plain_udp)->Name("embed/datagram/plain_udp")->Arg(64)->Arg(512)->Arg(1372);
BENCHMARK(datagrams_by_udp_and_aead)->Name("embed/datagram/udp_aead")->Arg(64)->Arg(512)->Arg(1372);
BENCHMARK(datagrams_by_threads)->Name("embed/datagram/threads")->Arg(64)->Arg(512)->Arg(1372)->UseRealTime();
BENCHMARK(open_node)->Name("embed/open/node");

}  // namespace
}  // namespace wireplane::bench
