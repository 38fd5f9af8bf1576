// embed/datagrams/...: what the library's datagrams cost, beside sockets and the cipher alone, over loopback.
//
//   embed/datagrams/process/SIZE/gso|plain   between two nodes that this thread drives in turn
//   embed/datagrams/threads/SIZE/gso|plain   between two nodes with a worker each: what all threads spend, one or two
//                                            bursts under way at a time
//   embed/datagrams/deep/SIZE/gso|plain      the same, with 512 datagrams under way
//   embed/open/node                          a node with a new key comes and goes
//
// The bar is measured in the same loop, some bursts of the one and some of the other: sendmmsg and recvmmsg of 64
// datagrams as long as WireGuard's are on the wire, one seal and one open of each; no control messages, no copies, no
// inner headers. gso: with UDP_SEGMENT and UDP_GRO on both sides, the bar's trains lying in one piece of memory, opened
// where they arrive. `ratio`: node by bar; `bar_ns`: a datagram of the bar; `sockets_ns`: of it without the cipher.
#include <netinet/in.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
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
constexpr int kUdpSegment = 103, kUdpGro = 104;  // of <linux/udp.h>

double cpu_ns(clockid_t of) {
  timespec now{};
  clock_gettime(of, &now);
  return 1e9 * static_cast<double>(now.tv_sec) + static_cast<double>(now.tv_nsec);
}

// ---- the bar

// What the inner headers and WireGuard make of a payload: 48 of IPv6 and UDP, padded to 16; 32 of header and tag.
std::size_t on_the_wire(std::size_t payload) { return (payload + 48 + 15) / 16 * 16 + 32; }

class Bar {
 public:
  Bar(std::size_t payload, bool gso)
      : size_{on_the_wire(payload)},
        a_train_{gso ? std::min(kAtOnce, 65'507 / size_) : 1},
        gso_{gso},
        out_octets_(kAtOnce * kStride, 1),
        in_octets_(gso ? kMessages * kArea : kAtOnce * kStride) {
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t length = sizeof address;
    good_ = ::bind(to_, reinterpret_cast<sockaddr*>(&address), length) == 0 &&
            ::getsockname(to_, reinterpret_cast<sockaddr*>(&address), &length) == 0 &&
            set(to_, SOL_SOCKET, SO_RCVBUF, 1 << 20);
    if (gso)
      good_ =
          good_ && set(from_, IPPROTO_UDP, kUdpSegment, static_cast<int>(size_)) && set(to_, IPPROTO_UDP, kUdpGro, 1);
    address_ = address;
    for (std::size_t i = 0; i < kAtOnce; ++i) {
      std::uint8_t* here = out_octets_.data() + i * (gso ? size_ : kStride);
      seals_[i] = {key_.data(), i, nullptr, 0, static_cast<std::uint32_t>(size_ - 32), here + 16, here + 16, 0};
      if (i % a_train_ != 0) continue;
      out_parts_[messages_] = {here, std::min(a_train_, kAtOnce - i) * size_};
      msghdr& header = out_[messages_].msg_hdr;
      header.msg_name = &address_;
      header.msg_namelen = sizeof address_;
      header.msg_iov = &out_parts_[messages_++];
      header.msg_iovlen = 1;
    }
    for (std::size_t i = 0; i < (gso ? kMessages : kAtOnce); ++i) {
      in_parts_[i] = {in_octets_.data() + i * (gso ? kArea : kStride), gso ? kArea : kStride};
      in_[i].msg_hdr.msg_iov = &in_parts_[i];
      in_[i].msg_hdr.msg_iovlen = 1;
    }
  }
  ~Bar() {
    ::close(to_);
    ::close(from_);
  }
  Bar(const Bar&) = delete;
  Bar& operator=(const Bar&) = delete;
  [[nodiscard]] bool good() const { return good_; }

  // A burst goes and comes. False: not what was sent.
  bool round(bool aead) {
    const Aead& kernel = Aead::chosen();
    if (aead) kernel.seal(seals_.data(), kAtOnce);
    if (::sendmmsg(from_, out_.data(), static_cast<unsigned>(messages_), 0) != static_cast<int>(messages_))
      return false;
    std::size_t arrived = 0;
    while (arrived < kAtOnce) {
      const std::size_t most = gso_ ? kMessages : kAtOnce - arrived;
      for (std::size_t i = 0; gso_ && i < most; ++i) {
        in_[i].msg_hdr.msg_control = control_[i].data();
        in_[i].msg_hdr.msg_controllen = control_[i].size();
      }
      const int got = ::recvmmsg(to_, in_.data(), static_cast<unsigned>(most), MSG_DONTWAIT, nullptr);
      if (got <= 0) return false;
      std::size_t jobs = 0;
      for (int i = 0; i < got; ++i) {
        mmsghdr& message = in_[static_cast<std::size_t>(i)];
        const std::size_t segment = segment_of(message);
        auto* here = static_cast<std::uint8_t*>(message.msg_hdr.msg_iov->iov_base);
        for (std::size_t at = 0; at < message.msg_len && jobs < kAtOnce; at += segment, ++jobs)
          opens_[jobs] = {key_.data(),    arrived + jobs, here + at + 16, static_cast<std::uint32_t>(segment - 16),
                          here + at + 16, false};
      }
      if (aead) kernel.open(opens_.data(), jobs);
      if (aead && !opens_[jobs - 1].authentic) return false;
      arrived += jobs;
    }
    return true;
  }

 private:
  static constexpr std::size_t kStride = 2048, kArea = 1 << 16, kMessages = 3;
  static bool set(int fd, int level, int option, int value) {
    return ::setsockopt(fd, level, option, &value, sizeof value) == 0;
  }
  std::size_t segment_of(mmsghdr& message) const {
    const cmsghdr* c = gso_ ? CMSG_FIRSTHDR(&message.msg_hdr) : nullptr;
    if (c == nullptr || c->cmsg_type != kUdpGro) return message.msg_len;
    int value;
    std::memcpy(&value, CMSG_DATA(c), sizeof value);
    return static_cast<std::size_t>(value);
  }

  const int to_ = ::socket(AF_INET, SOCK_DGRAM, 0), from_ = ::socket(AF_INET, SOCK_DGRAM, 0);
  const std::size_t size_, a_train_;
  const bool gso_;
  bool good_;
  sockaddr_in address_;
  std::size_t messages_ = 0;
  std::vector<std::uint8_t> out_octets_, in_octets_;
  const std::array<std::uint8_t, 32> key_{};
  std::array<SealJob, kAtOnce> seals_;
  std::array<OpenJob, kAtOnce> opens_;
  std::array<mmsghdr, kAtOnce> out_{}, in_{};
  std::array<iovec, kAtOnce> out_parts_, in_parts_;
  alignas(cmsghdr) std::array<std::array<std::uint8_t, 64>, kMessages> control_;
};

// ---- the nodes

class Pair {
 public:
  Pair(std::size_t payload, bool gso, unsigned workers)
      : a_{Node::open({.ipv6 = false, .workers = workers, .trains = gso})},
        b_{Node::open({.ipv6 = false, .workers = workers, .trains = gso})},
        payload_(payload, 1) {
    if (!a_ || !b_) return;
    const auto ab = a().add_peer(b().key_text(), "127.0.0.1:" + std::to_string(b().port()));
    if (!ab || !b().add_peer(a().key())) return;
    burst_.assign(kAtOnce, Datagram{*ab, payload_});
  }
  // The first may wait for the handshake, and be lost.
  bool ready() {
    for (int i = 0; i < 1000 && !burst_.empty(); ++i) {
      static_cast<void>(!a().send(burst_[0].to, payload_));
      static_cast<void>(!a().wait(1ms));
      if (b().wait(10ms) && take() != 0) return true;
    }
    return false;
  }
  bool round_by_process() {
    const auto sent = a().send(burst_);
    const std::size_t flying = sent ? *sent : 0;
    std::size_t arrived = 0;
    for (int turns = 0; arrived < flying && turns < 1000; ++turns) {
      static_cast<void>(!a().process());
      static_cast<void>(!b().process());
      arrived += take();
    }
    return flying == kAtOnce && arrived == kAtOnce;
  }
  // `bursts` of them, with at most so many datagrams under way.
  bool rounds_by_threads(std::size_t bursts, std::size_t under_way) {
    const std::size_t all = bursts * kAtOnce;
    std::size_t sent = 0, arrived = 0;
    const auto end = std::chrono::steady_clock::now() + std::chrono::seconds{10};
    while (arrived < all && std::chrono::steady_clock::now() < end) {
      while (sent < all && sent - arrived + kAtOnce <= under_way) {
        const auto taken = a().send(burst_);
        if (!taken) break;  // the queue is full: some of them leave while we receive
        sent += *taken;
      }
      const std::size_t got = take();
      arrived += got;
      if (got != 0) continue;
      const auto waiting = b().wait(20ms);
      if (!waiting || *waiting == 0) sent = arrived;  // lost
    }
    return arrived >= all;
  }

 private:
  Node& a() { return **a_; }
  Node& b() { return **b_; }
  std::size_t take() {
    return b().receive([](const Received& in) { benchmark::DoNotOptimize(in.octets.data()); }, 1024);
  }
  Result<std::unique_ptr<Node>> a_, b_;
  std::vector<std::uint8_t> payload_;
  std::vector<Datagram> burst_;
};

// How the nodes are driven, and how many datagrams are under way: by process(), a burst; by threads, more or fewer.
struct Driving {
  const char* name;
  bool threads;
  std::size_t under_way, rounds;  // rounds: bursts of the nodes, then of the bar
};
constexpr std::array kDrivings{Driving{"process", false, kAtOnce, 16}, Driving{"threads", true, 2 * kAtOnce, 16},
                               Driving{"deep", true, 8 * kAtOnce, 128}};

void datagrams(benchmark::State& state, std::size_t payload, bool gso, const Driving& driving) {
  const auto [name, threads, under_way, rounds] = driving;
  Pair pair{payload, gso, threads ? 1u : 0u};
  Bar bar{payload, gso};
  if (!bar.good()) return state.SkipWithError("no sockets with trains");
  if (!pair.ready()) return state.SkipWithError("the nodes do not hear each other");
  const clockid_t clock = threads ? CLOCK_PROCESS_CPUTIME_ID : CLOCK_THREAD_CPUTIME_ID;
  double node_ns = 0, bar_ns = 0, sockets_ns = 0;
  const auto node = [&] {
    if (threads) return pair.rounds_by_threads(rounds, under_way);
    for (std::size_t i = 0; i < rounds; ++i)
      if (!pair.round_by_process()) return false;
    return true;
  };
  const auto sockets = [&](bool aead) {
    for (std::size_t i = 0; i < rounds; ++i)
      if (!bar.round(aead)) return false;
    return true;
  };
  const auto time = [&](double& sum, auto what) {
    const double begun = cpu_ns(clock);
    const bool done = what();
    sum += cpu_ns(clock) - begun;
    return done;
  };
  if (!node() || !sockets(true)) return state.SkipWithError("datagrams were lost");
  for (auto _ : state) {
    const bool done = time(node_ns, node) && time(bar_ns, [&] { return sockets(true); }) &&
                      time(sockets_ns, [&] { return sockets(false); });
    if (!done) return state.SkipWithError("datagrams were lost");
  }
  const auto packets = static_cast<double>(rounds * kAtOnce * state.iterations());
  Meter::set(state, node_ns, packets, packets * static_cast<double>(payload));
  state.counters["bar_ns"] = bar_ns / packets;
  state.counters["sockets_ns"] = sockets_ns / packets;
  state.counters["ratio"] = node_ns / bar_ns;
}

void open_node(benchmark::State& state) {
  for (auto _ : state) {
    const auto node = Node::open({.ipv6 = false, .peers = 32});
    if (!node) return state.SkipWithError("no node");
  }
  state.counters["per_second"] =
      benchmark::Counter{static_cast<double>(state.iterations()), benchmark::Counter::kIsRate};
}

[[maybe_unused]] const bool registered = [] {
  for (const Driving& driving : kDrivings)
    for (const std::size_t size : {64, 512, 1372})
      for (const bool gso : {true, false}) {
        const std::string name =
            std::string{"embed/datagrams/"} + driving.name + "/" + std::to_string(size) + (gso ? "/gso" : "/plain");
        benchmark::RegisterBenchmark(name.c_str(), datagrams, size, gso, driving)->UseRealTime();
      }
  return true;
}();
BENCHMARK(open_node)->Name("embed/open/node");

}  // namespace
}  // namespace wireplane::bench
