// embed/...: what the library costs an application, beside the same datagrams over plain UDP sockets.
//
//   embed/datagram/node/SIZE        from one node to another over loopback, both driven by this thread: IPv6 and UDP
//                                   headers, sealing, two system calls a burst, opening, and the copies
//   embed/datagram/plain_udp/SIZE   the rival: sendmmsg and recvmmsg alone, without protection
//   embed/open/node                 a node with a new key comes and goes
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <cstring>
#include <string>
#include <vector>

#include "bench/bench.h"
#include "control/embed/node.h"

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

void datagrams_by_plain_udp(benchmark::State& state) {
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
  std::vector<std::uint8_t> payload(static_cast<std::size_t>(state.range(0)), 1), memory(kAtOnce * 2048);
  std::array<mmsghdr, kAtOnce> out{}, in{};
  std::array<iovec, kAtOnce> out_parts, in_parts;
  for (std::size_t i = 0; i < kAtOnce; ++i) {
    out_parts[i] = {payload.data(), payload.size()};
    in_parts[i] = {memory.data() + i * 2048, 2048};
    out[i].msg_hdr.msg_name = &address;
    out[i].msg_hdr.msg_namelen = sizeof address;
    out[i].msg_hdr.msg_iov = &out_parts[i];
    in[i].msg_hdr.msg_iov = &in_parts[i];
    out[i].msg_hdr.msg_iovlen = in[i].msg_hdr.msg_iovlen = 1;
  }
  const Meter meter;
  for (auto _ : state) {
    ::sendmmsg(from, out.data(), kAtOnce, 0);
    std::size_t arrived = 0;
    while (arrived < kAtOnce) {
      const int got = ::recvmmsg(to, in.data(), kAtOnce, MSG_DONTWAIT, nullptr);
      if (got <= 0) return state.SkipWithError("datagrams were lost");
      arrived += static_cast<std::size_t>(got);
    }
  }
  meter.report(state, kAtOnce, static_cast<double>(kAtOnce * payload.size()));
  ::close(to);
  ::close(from);
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
BENCHMARK(open_node)->Name("embed/open/node");

}  // namespace
}  // namespace wireplane::bench
