// embed/connect/... and embed/stream/...: how soon two ends that have never spoken exchange octets, and how fast then.
// Both ends on loopback, driven by this thread in turn, so that every way there is one turn.
//
//   embed/connect/datagram   from add_peer() to the first octet at the other node: handshake there, back, data: 1.5 RTT
//   embed/connect/stream     from Node::connect() to the first octet read: and INIT, INIT ACK, COOKIE ECHO + data: 2.5
//   embed/connect/tls13      the rival: TCP, and TLS 1.3 by OpenSSL with a P-256 certificate: 2.5 round trips
//   embed/stream/node/MTU    octets of one stream, both ends' work
//   embed/stream/tls13       the rival, AES-128-GCM or ChaCha20 as OpenSSL chooses; loopback has 64 KiB segments
//   embed/stream/ratio/MTU   both in turn; times_tls13: how much faster than TLS (less than 1: slower)
//
// `trips`: round trips, the median; `cpu_us`: this thread's own time for both ends; `wall_us`, `wall_us_99`: time
// passed, median and 99 %. Both ends take turns in one thread, so that a way takes no time but theirs: wall_us is what
// comes on top of the round trips. Opening the nodes is not counted.
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <openssl/ssl.h>
#include <openssl/x509.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <memory>
#include <string>
#include <vector>

#include "bench/bench.h"
#include "control/embed/node.h"

namespace wireplane::bench {
namespace {

using Clock = std::chrono::steady_clock;

double thread_us() {
  timespec now{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return 1e6 * static_cast<double>(now.tv_sec) + 1e-3 * static_cast<double>(now.tv_nsec);
}

// Sums what the iterations cost, and says it.
class Journeys {
 public:
  template <class Journey>  // returns how many ways it took, or 0: failed
  bool time(benchmark::State& state, Journey journey) {
    const double cpu = thread_us();
    const auto begun = Clock::now();
    const int ways = journey();
    const double passed = std::chrono::duration<double>(Clock::now() - begun).count();
    state.SetIterationTime(passed);
    wall_us_.push_back(1e6 * passed);
    cpu_us_ += thread_us() - cpu;
    ways_.push_back(ways);
    ++count_;
    return ways != 0;
  }
  void report(benchmark::State& state) {
    auto middle = ways_.begin() + static_cast<std::ptrdiff_t>(ways_.size() / 2);
    std::nth_element(ways_.begin(), middle, ways_.end());
    state.counters["trips"] = ways_.empty() ? 0 : *middle / 2.0;
    state.counters["trips_at_most"] = ways_.empty() ? 0 : *std::max_element(ways_.begin(), ways_.end()) / 2.0;
    std::sort(wall_us_.begin(), wall_us_.end());
    state.counters["wall_us"] = wall_us_.empty() ? 0 : wall_us_[wall_us_.size() / 2];
    state.counters["wall_us_99"] = wall_us_.empty() ? 0 : wall_us_[wall_us_.size() * 99 / 100];
    state.counters["cpu_us"] = cpu_us_ / count_;
    state.counters["per_second_and_core"] = 1e6 * count_ / cpu_us_;
  }

 private:
  double cpu_us_ = 0, count_ = 0;
  std::vector<int> ways_;
  std::vector<double> wall_us_;
};

NodeOptions small() { return {.ipv6 = false, .peers = 4096}; }

void connect_datagram(benchmark::State& state) {
  const auto b = Node::open(small());
  if (!b) return state.SkipWithError("no node");
  const std::string there = "127.0.0.1:" + std::to_string((*b)->port());
  const std::array<std::uint8_t, 100> octets{};
  Journeys journeys;
  for (auto _ : state) {
    const auto a = Node::open({.ipv6 = false, .peers = 8, .queue = 64});
    if (!a || !(*b)->add_peer((*a)->key())) return state.SkipWithError("no node");
    const bool arrived = journeys.time(state, [&] {
      const auto peer = (*a)->add_peer((*b)->key_text(), there);
      if (!peer || !(*a)->send(*peer, octets)) return 0;
      const auto end = Clock::now() + std::chrono::seconds{10};
      for (int ways = 1; Clock::now() < end; ways += 2) {
        static_cast<void>(!(*a)->process());
        static_cast<void>(!(*b)->process());
        if ((*b)->receive([](const Received&) {}) != 0) return ways;
      }
      return 0;
    });
    if (!arrived) return state.SkipWithError("nothing arrived");
    static_cast<void>(!(*b)->remove_peer((*a)->key()));
  }
  journeys.report(state);
}

void connect_stream(benchmark::State& state) {
  const auto b = Node::open(small());
  if (!b) return state.SkipWithError("no node");
  const std::string there = "127.0.0.1:" + std::to_string((*b)->port());
  std::array<std::uint8_t, 100> octets{};
  Journeys journeys;
  for (auto _ : state) {
    const auto a = Node::open({.ipv6 = false, .peers = 8, .queue = 64});
    if (!a || !(*b)->add_peer((*a)->key())) return state.SkipWithError("no node");
    const bool arrived = journeys.time(state, [&] {
      const auto peer = (*a)->connect((*b)->key_text(), there);
      auto stream = peer ? peer->open_stream() : Result<Stream>{peer.error()};
      if (!stream || !stream->write(octets)) return 0;
      const auto end = Clock::now() + std::chrono::seconds{10};
      for (int ways = 1; Clock::now() < end; ways += 2) {
        static_cast<void>(!(*a)->process());
        static_cast<void>(!(*b)->process());
        auto accepted = (*b)->accept_stream();
        if (accepted && accepted->read(octets)) return ways;
      }
      return 0;
    });
    if (!arrived) return state.SkipWithError("nothing arrived");
    static_cast<void>(!(*b)->remove_peer((*a)->key()));
  }
  journeys.report(state);
}

// One stream between two nodes: round() moves a megabyte.
class NodeStream {
 public:
  static constexpr std::size_t kOctets = 1 << 20;
  explicit NodeStream(std::uint16_t mtu) {
    auto a = Node::open({.ipv6 = false, .mtu = mtu}), b = Node::open({.ipv6 = false, .mtu = mtu});
    if (!a || !b || !(*b)->add_peer((*a)->key())) return;
    a_ = std::move(*a);
    b_ = std::move(*b);
    auto stream = a_->connect(b_->key_text(), "127.0.0.1:" + std::to_string(b_->port()))->open_stream();
    if (!stream) return;
    ours_ = *stream;
    good = true;
    for (int i = 0; i < 8 && good; ++i) good = round();  // the congestion window opens
  }
  bool round() {
    std::size_t written = 0, read = 0;
    for (int turns = 0; read < kOctets && turns < 1000000; ++turns) {
      while (written < kOctets) {
        const auto taken = ours_.write(std::span{octets_}.subspan(written));
        if (!taken) break;
        written += *taken;
      }
      static_cast<void>(!a_->process());
      static_cast<void>(!b_->process());
      if (!theirs_)
        if (auto accepted = b_->accept_stream()) theirs_ = *accepted;
      if (!theirs_) continue;
      while (const auto got = theirs_.read(room_)) read += got->octets;
    }
    return read == kOctets;
  }
  [[nodiscard]] double lost() const { return static_cast<double>(a_->stats().stream_packets_lost); }
  bool good = false;

 private:
  std::unique_ptr<Node> a_, b_;
  Stream ours_, theirs_;
  const std::vector<std::uint8_t> octets_ = std::vector<std::uint8_t>(kOctets);
  std::vector<std::uint8_t> room_ = std::vector<std::uint8_t>(1 << 16);
};

// What SCTP has in a packet: IPv6 40, common header 12, chunk header 16, and a multiple of 4.
double packets_of(std::size_t octets, int mtu) { return static_cast<double>(octets) / ((mtu - 68) / 4 * 4); }

void stream_by_node(benchmark::State& state) {
  const auto mtu = static_cast<std::uint16_t>(state.range(0));
  NodeStream stream{mtu};
  if (!stream.good) return state.SkipWithError("a stream stands still");
  const Meter meter;
  for (auto _ : state)
    if (!stream.round()) return state.SkipWithError("a stream stands still");
  meter.report(state, packets_of(NodeStream::kOctets, mtu), static_cast<double>(NodeStream::kOctets));
  state.counters["packets_lost"] = stream.lost();
}

// ---- the rival

template <auto free_it>
struct Freed {
  template <class T>
  void operator()(T* it) const {
    free_it(it);
  }
};
using Context = std::unique_ptr<SSL_CTX, Freed<SSL_CTX_free>>;
using Session = std::unique_ptr<SSL, Freed<SSL_free>>;

struct Tls {
  Tls() : client{SSL_CTX_new(TLS_client_method())}, server{SSL_CTX_new(TLS_server_method())} {
    const std::unique_ptr<EVP_PKEY, Freed<EVP_PKEY_free>> key{EVP_EC_gen("P-256")};
    const std::unique_ptr<X509, Freed<X509_free>> certificate{X509_new()};
    X509_gmtime_adj(X509_getm_notBefore(certificate.get()), 0);
    X509_gmtime_adj(X509_getm_notAfter(certificate.get()), 3600);
    X509_set_pubkey(certificate.get(), key.get());
    X509_sign(certificate.get(), key.get(), EVP_sha256());
    SSL_CTX_use_certificate(server.get(), certificate.get());
    SSL_CTX_use_PrivateKey(server.get(), key.get());
    for (SSL_CTX* context : {client.get(), server.get()}) {
      SSL_CTX_set_min_proto_version(context, TLS1_3_VERSION);
      SSL_CTX_set_mode(context, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
    }
    SSL_CTX_set_num_tickets(server.get(), 0);
    SSL_CTX_set_session_cache_mode(client.get(), SSL_SESS_CACHE_OFF);
    listener = ::socket(AF_INET, SOCK_STREAM, 0);
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t length = sizeof address;
    good = ::bind(listener, reinterpret_cast<sockaddr*>(&address), length) == 0 && ::listen(listener, 16) == 0 &&
           ::getsockname(listener, reinterpret_cast<sockaddr*>(&address), &length) == 0;
  }
  ~Tls() { ::close(listener); }
  Context client, server;
  sockaddr_in address{};
  int listener;
  bool good = false;
};

struct TlsPair {
  explicit TlsPair(Tls& tls) : ours{SSL_new(tls.client.get())}, theirs{SSL_new(tls.server.get())} {
    our_fd = ::socket(AF_INET, SOCK_STREAM, 0);
    ::connect(our_fd, reinterpret_cast<sockaddr*>(&tls.address), sizeof tls.address);
    their_fd = ::accept4(tls.listener, nullptr, nullptr, SOCK_NONBLOCK);
    const int on = 1;
    for (const int fd : {our_fd, their_fd}) ::setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    ::fcntl(our_fd, F_SETFL, O_NONBLOCK);
    SSL_set_fd(ours.get(), our_fd);
    SSL_set_fd(theirs.get(), their_fd);
    SSL_set_connect_state(ours.get());
    SSL_set_accept_state(theirs.get());
  }
  ~TlsPair() {
    ::close(our_fd);
    ::close(their_fd);
  }
  Session ours, theirs;
  int our_fd, their_fd;
};

void connect_tls(benchmark::State& state) {
  Tls tls;
  if (!tls.good) return state.SkipWithError("no socket");
  std::array<char, 100> octets{};
  Journeys journeys;
  for (auto _ : state) {
    std::unique_ptr<TlsPair> pair;
    const bool arrived = journeys.time(state, [&] {
      pair = std::make_unique<TlsPair>(tls);
      for (int ways = 3; ways < 1000; ways += 2) {  // TCP's own round trip is over
        if (SSL_write(pair->ours.get(), octets.data(), octets.size()) < 0) SSL_get_error(pair->ours.get(), -1);
        if (SSL_read(pair->theirs.get(), octets.data(), octets.size()) > 0) return ways;
      }
      return 0;
    });
    if (!arrived) return state.SkipWithError("nothing arrived");
  }
  journeys.report(state);
}

class TlsStream {
 public:
  TlsStream() : pair_{tls_} { good = tls_.good && round(); }
  bool round() {
    std::size_t written = 0, read = 0;
    for (int turns = 0; read < octets_.size() && turns < 100000; ++turns) {
      if (written < octets_.size()) {
        const auto most = static_cast<int>(std::min<std::size_t>(octets_.size() - written, 1 << 16));
        const int taken = SSL_write(pair_.ours.get(), octets_.data() + written, most);
        if (taken > 0) written += static_cast<std::size_t>(taken);
      }
      for (int got; (got = SSL_read(pair_.theirs.get(), room_.data(), static_cast<int>(room_.size()))) > 0;)
        read += static_cast<std::size_t>(got);
    }
    return read == octets_.size();
  }
  bool good = false;

 private:
  Tls tls_;
  TlsPair pair_;
  const std::vector<char> octets_ = std::vector<char>(NodeStream::kOctets);
  std::vector<char> room_ = std::vector<char>(1 << 16);
};

void stream_by_tls(benchmark::State& state) {
  TlsStream stream;
  if (!stream.good) return state.SkipWithError("TLS stands still");
  const Meter meter;
  for (auto _ : state)
    if (!stream.round()) return state.SkipWithError("TLS stands still");
  meter.report(state, packets_of(NodeStream::kOctets, 1420), static_cast<double>(NodeStream::kOctets));
}

// Both in turn, a megabyte each, so that a busy machine is busy for both.
void stream_ratio(benchmark::State& state) {
  NodeStream node{static_cast<std::uint16_t>(state.range(0))};
  TlsStream tls;
  if (!node.good || !tls.good) return state.SkipWithError("a stream stands still");
  double node_us = 0, tls_us = 0;
  for (auto _ : state) {
    const double begun = thread_us();
    if (!node.round()) return state.SkipWithError("a stream stands still");
    const double between = thread_us();
    if (!tls.round()) return state.SkipWithError("TLS stands still");
    node_us += between - begun;
    tls_us += thread_us() - between;
  }
  state.counters["times_tls13"] = tls_us / node_us;
}

BENCHMARK(connect_datagram)->Name("embed/connect/datagram")->UseManualTime()->Unit(benchmark::kMicrosecond);
BENCHMARK(connect_stream)->Name("embed/connect/stream")->UseManualTime()->Unit(benchmark::kMicrosecond);
BENCHMARK(connect_tls)->Name("embed/connect/tls13")->UseManualTime()->Unit(benchmark::kMicrosecond);
BENCHMARK(stream_by_node)->Name("embed/stream/node")->Arg(1420)->Arg(8920);
BENCHMARK(stream_ratio)->Name("embed/stream/ratio")->Arg(1420)->Arg(8920);
BENCHMARK(stream_by_tls)->Name("embed/stream/tls13");

}  // namespace
}  // namespace wireplane::bench
