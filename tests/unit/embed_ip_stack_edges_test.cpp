// The IP stack where things go wrong: without descriptors, ports, memory or time; with a peer that speaks TCP by hand.
//
// This program's own clock_gettime(), getrandom(), epoll_create1() ... stand before the C library's, and its
// mem_malloc() before lwIP's; each does what it always did unless a test says otherwise.
#include <gtest/gtest.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/random.h>
#include <sys/syscall.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <chrono>
#include <cstdlib>
#include <ctime>
#include <functional>
#include <string>

#include "control/address_text.h"
#include "control/embed/ip_stack.h"
#include "tests/support/clock_ahead.h"
#include "tests/support/failing_new.h"
#include "tests/support/ip_packets.h"
#include "tests/support/nodes.h"

namespace wireplane {
namespace {

std::atomic<std::int64_t> clock_ahead_ns{0};  // of CLOCK_MONOTONIC, which is the stack's; nodes have another
std::atomic<int> fixed_random{-1};            // the octet that all of getrandom()'s are; -1: as they come; -2: it fails
std::atomic<int> refuse_epoll{0}, refuse_timer{0}, refuse_event{0}, refuse_ctl{0};
std::atomic<long> lwip_allocations_left{-1};  // -1: as many as it likes

}  // namespace
}  // namespace wireplane

extern "C" int clock_gettime(clockid_t clock, timespec* out) noexcept {
  return wireplane::test::clock_ahead(clock, out, CLOCK_MONOTONIC, wireplane::clock_ahead_ns);
}
extern "C" ssize_t getrandom(void* out, std::size_t size, unsigned flags) {
  const int fixed = wireplane::fixed_random;
  if (fixed == -2) return errno = ENOSYS, -1;
  if (fixed < 0) return ::syscall(SYS_getrandom, out, size, flags);
  std::memset(out, fixed, size);
  return static_cast<ssize_t>(size);
}
extern "C" int epoll_create1(int flags) noexcept {
  return wireplane::refuse_epoll ? (errno = EMFILE, -1) : static_cast<int>(::syscall(SYS_epoll_create1, flags));
}
extern "C" int timerfd_create(clockid_t clock, int flags) noexcept {
  return wireplane::refuse_timer ? (errno = EMFILE, -1) : static_cast<int>(::syscall(SYS_timerfd_create, clock, flags));
}
extern "C" int eventfd(unsigned value, int flags) noexcept {
  return wireplane::refuse_event ? (errno = EMFILE, -1) : static_cast<int>(::syscall(SYS_eventfd2, value, flags));
}
extern "C" int epoll_ctl(int fd, int what, int other, epoll_event* event) noexcept {
  return wireplane::refuse_ctl ? (errno = ENOSPC, -1)
                               : static_cast<int>(::syscall(SYS_epoll_ctl, fd, what, other, event));
}
extern "C" void* mem_malloc(std::size_t size) {
  using wireplane::lwip_allocations_left;
  if (lwip_allocations_left == 0) return nullptr;
  if (lwip_allocations_left > 0) --lwip_allocations_left;
  return std::malloc(size);
}

namespace wireplane {
namespace {

using test::address;
using test::Octets;

Prefix prefix(std::string_view text) { return *parse_prefix(text); }

// A server at 10.9.0.2 and its client at 10.9.0.1, and `raw`: a node without a stack, which may say that it is any of
// 10.9.9.0/24, 10.9.0.2 (the server itself), 127.0.0.0/8 and fd99::/16.
struct World {
  explicit World(IpStackOptions server_options = {}, IpStackOptions client_options = {}) {
    const Endpoint there = *parse_endpoint("127.0.0.1:" + std::to_string(server_node->port()), interface_index_of_host);
    const std::vector<Prefix> everything{prefix("0.0.0.0/0"), prefix("::/0")};
    server_at_raw = *raw->add_peer(server_node->key(), {.endpoint = there, .allowed_ips = everything});
    static_cast<void>(*server_node->add_peer(
        raw->key(),
        {.allowed_ips = {prefix("10.9.9.0/24"), prefix("10.9.0.2/32"), prefix("127.0.0.0/8"), prefix("fd99::/16")}}));
    static_cast<void>(*client_node->add_peer(
        server_node->key(), {.endpoint = there, .allowed_ips = {prefix("10.9.0.2/32"), prefix("fd55::/16")}}));
    static_cast<void>(
        *server_node->add_peer(client_node->key(), {.allowed_ips = {prefix("10.9.0.1/32"), prefix("fd66::/16")}}));
    server_options.addresses.push_back(address("10.9.0.2"));
    client_options.addresses.push_back(address("10.9.0.1"));
    server = std::move(*IpStack::open(*server_node, std::move(server_options)));
    client = std::move(*IpStack::open(*client_node, std::move(client_options)));
  }
  ~World() { clock_ahead_ns = 0, fixed_random = -1, lwip_allocations_left = -1; }

  void turn() {
    static_cast<void>(!raw->process());
    if (client != nullptr) static_cast<void>(!client->wait(1ms));
    if (server != nullptr) static_cast<void>(!server->wait(1ms));
    raw->receive([this](const Received& in) { heard.emplace_back(in.packet.begin(), in.packet.end()); }, 1000);
  }
  template <class Reached>
  bool until(Reached reached, int turns = 3000) {
    for (; turns > 0; --turns) {
      if (reached()) return true;
      turn();
    }
    return false;
  }
  // Each turn lets the stacks' time pass by what it takes at once.
  template <class Reached>
  bool soon(Reached reached, int turns = 2000) {
    return until(
        [&] {
          clock_ahead_ns += 200'000'000;
          return reached();
        },
        turns);
  }
  void say(const Octets& packet) {
    for (int i = 0; i < 100 && !raw->send_packet(packet); ++i) turn();
    for (int i = 0; i < 3; ++i) turn();
  }
  std::pair<TcpSocket, TcpSocket> connected(TcpListener& listener, std::uint16_t port = 80) {
    TcpSocket ours = std::move(*client->connect({address("10.9.0.2"), port})), theirs;
    EXPECT_TRUE(until([&] {
      if (auto arrived = listener.accept()) theirs = std::move(*arrived);
      return theirs && ours.connected();
    }));
    return {std::move(ours), std::move(theirs)};
  }

  std::unique_ptr<Node> client_node = test::open(), server_node = test::open(), raw = test::open();
  NodePeer server_at_raw;
  std::unique_ptr<IpStack> client, server;
  std::vector<Octets> heard;  // by raw
};

// ---- a TCP segment by hand

constexpr std::uint8_t kFin = 1, kSyn = 2, kRst = 4, kPsh = 8, kAck = 16, kUrg = 32;

struct Segment {
  std::uint8_t flags{};
  std::uint32_t number{}, acknowledged{};
  std::string octets{};
  std::uint16_t from_port = 4000, to_port = 80, urgent = 0, window = 8000;
};

Octets segment_octets(const Segment& s, const std::string& from, const std::string& to) {
  Octets tcp(20 + s.octets.size());
  store_be16(&tcp[0], s.from_port), store_be16(&tcp[2], s.to_port);
  store_be32(&tcp[4], s.number), store_be32(&tcp[8], s.acknowledged);
  tcp[12] = 5 << 4, tcp[13] = s.flags;
  store_be16(&tcp[14], s.window), store_be16(&tcp[18], s.urgent);
  for (std::size_t i = 0; i < s.octets.size(); ++i) tcp[20 + i] = static_cast<std::uint8_t>(s.octets[i]);
  const Octets packet = test::ip_packet(from, to, 6, tcp);
  ChecksumSum sum = pseudo_header(packet.data(), 6, tcp.size());
  sum.add(tcp.data(), tcp.size());
  store_be16(&tcp[16], sum.finish());
  return tcp;
}
Octets segment(const Segment& s, const std::string& from = "10.9.9.1", const std::string& to = "10.9.0.2") {
  return test::ip_packet(from, to, 6, segment_octets(s, from, to));
}
// Part of a packet: IPv4's own fields, or IPv6's header of its own.
Octets fragment(const std::string& from, const std::string& to, const Octets& payload, std::size_t begin,
                std::size_t end, std::uint8_t protocol = 6, std::uint16_t id = 7) {
  Octets part{payload.begin() + static_cast<std::ptrdiff_t>(begin), payload.begin() + static_cast<std::ptrdiff_t>(end)};
  const bool more = end != payload.size();
  if (address(from).is_v4()) {
    Octets packet = test::ip_packet(from, to, protocol, part);
    store_be16(&packet[4], id);
    store_be16(&packet[6], static_cast<std::uint16_t>(begin / 8 | (more ? 0x2000 : 0)));
    store_be16(&packet[10], 0);
    store_be16(&packet[10], internet_checksum(packet.data(), 20));
    return packet;
  }
  Octets header(8 + part.size());
  header[0] = protocol;
  store_be16(&header[2], static_cast<std::uint16_t>(begin | (more ? 1 : 0)));
  store_be32(&header[4], id);
  for (std::size_t i = 0; i < part.size(); ++i) header[8 + i] = part[i];
  return test::ip_packet(from, to, 44, header);
}

// A connection to the server, made by hand: what it sends next has number `ours`, and `theirs` comes next.
struct ByHand {
  explicit ByHand(World& of, std::uint16_t port = 80, std::uint16_t from = 4000)
      : world{of}, to_port{port}, from_port{from} {
    listener = std::move(*world.server->listen(port));
    say({.flags = kSyn, .number = 999});
    EXPECT_TRUE(world.until([&] { return answered(kSyn | kAck); }));
    say({.flags = kAck, .number = ours, .acknowledged = theirs});
    EXPECT_TRUE(world.until([&] {
      if (auto arrived = listener.accept()) socket = std::move(*arrived);
      return static_cast<bool>(socket);
    }));
  }
  void say(Segment s) {
    s.to_port = to_port, s.from_port = from_port;
    world.say(segment(s));
  }
  void say_more(const std::string& octets, std::uint32_t number, std::uint8_t flags = kPsh) {
    say({.flags = static_cast<std::uint8_t>(kAck | flags), .number = number, .acknowledged = theirs, .octets = octets});
  }
  // Was a segment with these flags sent to us? Then `theirs` is what follows it.
  bool answered(std::uint8_t flags) {
    for (const Octets& packet : world.heard) {
      if (packet.size() < 40 || packet[9] != 6 || load_be16(&packet[22]) != from_port || (packet[33] & 0x3f) != flags)
        continue;
      theirs = load_be32(&packet[24]) +
               static_cast<std::uint32_t>(packet.size() - 20 - std::size_t{packet[32]} / 16 * 4) +
               ((flags & (kSyn | kFin)) != 0 ? 1 : 0);
      world.heard.clear();
      return true;
    }
    return false;
  }
  std::string read() {
    std::array<std::uint8_t, 1000> into;
    const auto got = socket.read(into);
    return got ? std::string{into.begin(), into.begin() + static_cast<std::ptrdiff_t>(*got)} : "";
  }
  int code() {
    std::array<std::uint8_t, 1000> into;
    const auto got = socket.read(into);
    return got ? 0 : got.error().code;
  }

  World& world;
  TcpListener listener;
  TcpSocket socket;
  std::uint32_t ours = 1000, theirs = 0;
  std::uint16_t to_port, from_port;
};

// Goal: a stack that cannot have what it needs of the system is refused with the call that failed, and nothing stays.
TEST(IpStackEdges, WithoutDescriptorsAStackIsRefused) {
  const auto node = test::open();
  struct Case {
    std::atomic<int>& refuse;
    const char* what;
    int code;
  };
  const int free_before = ::dup(0);
  ::close(free_before);
  for (const Case& one : {Case{refuse_epoll, "epoll_create1", EMFILE}, Case{refuse_timer, "timerfd", EMFILE},
                          Case{refuse_event, "eventfd", EMFILE}, Case{refuse_ctl, "epoll_ctl", ENOSPC}}) {
    one.refuse = 1;
    const auto stack = IpStack::open(*node);
    one.refuse = 0;
    ASSERT_FALSE(stack) << one.what;
    EXPECT_EQ(stack.error().code, one.code);
    EXPECT_NE(stack.error().what.find(one.what), std::string::npos) << stack.error().what;
  }
  const int free_after = ::dup(0);
  ::close(free_after);
  EXPECT_EQ(free_after, free_before);
  EXPECT_TRUE(IpStack::open(*node));
}

// Goal: which address we speak from: the one that was asked for, the one of the remote's network, our own key's for a
// node, or the first given; never one of another family.
TEST(IpStackEdges, SpeaksFromTheAddressThatFits) {
  IpStackOptions options;
  for (const char* one : {"2001:db8::1", "fd66:1::1", "fd66:2::1"}) options.addresses.push_back(address(one));
  World world{{}, std::move(options)};
  const auto from = [&](const char* to, const Address& wanted = {}) {
    const auto socket = world.client->connect(IpEndpoint{address(to), 80}, wanted);
    return socket ? to_text(socket->local().address) : socket.error().what;
  };
  EXPECT_EQ(from("fd66:1::9"), "fd66:1::1");
  EXPECT_EQ(from("fd66:2::9"), "fd66:2::1");
  EXPECT_EQ(from("fd55::9"), to_text(world.client_node->address()));
  EXPECT_EQ(from("2a00::9"), "2001:db8::1");
  EXPECT_EQ(from("fec0::9"), "2001:db8::1") << "site-local is not link-local";
  EXPECT_EQ(from("10.9.0.2"), "10.9.0.1");
  EXPECT_EQ(from("10.9.0.2", address("10.9.0.1")), "10.9.0.1");
  EXPECT_EQ(from("fd55::9", address("fd66:2::1")), "fd66:2::1");
  EXPECT_EQ(world.client->connect(IpEndpoint{address("10.9.0.2"), 80}, address("fd66:2::1")).error().code,
            EADDRNOTAVAIL);
  EXPECT_EQ(world.client->connect(IpEndpoint{Address{}, 80}).error().code, EINVAL);
  EXPECT_EQ(world.client->connect("[::1.2.3.4]:80").error().code, EINVAL);

  const auto node = test::open();
  const auto alone = std::move(*IpStack::open(*node));  // has its key's address only
  EXPECT_EQ(alone->connect("[2a00::9]:80")->local().address, node->address());
  const TcpListener one = std::move(*world.client->listen(81, address("fd66:1::1")));
  EXPECT_EQ(one.port(), 81);
}

// Goal: without randomness ports are still given; where chance has taken all, it is EADDRINUSE and nothing else.
TEST(IpStackEdges, PortsWithoutChance) {
  World world;
  fixed_random = -2;
  EXPECT_GE(world.client->connect("10.9.0.2:80")->local().port, 0xc000);
  fixed_random = 0x12;
  const TcpListener listener = std::move(*world.client->listen(0));
  EXPECT_EQ(listener.port(), 0xd212);
  EXPECT_EQ(world.client->connect("10.9.0.2:80").error().code, EADDRINUSE) << "a listener has it";
  EXPECT_EQ(world.client->listen(0).error().code, EADDRINUSE);
  fixed_random = 0x13;
  const auto first = world.client->connect("10.9.0.2:80");
  ASSERT_TRUE(first);
  EXPECT_EQ(world.client->connect("10.9.0.2:80").error().code, EADDRINUSE) << "a connection has it";
  const UdpSocket udp = std::move(*world.client->bind());
  EXPECT_EQ(udp.port(), 0xd313);
  EXPECT_EQ(world.client->bind().error().code, EADDRINUSE);
  EXPECT_EQ(world.server->bind()->port(), 0xd313) << "another stack";
}

// Goal: handles of nothing, of what is closed, and moved ones answer, and never crash.
TEST(IpStackEdges, HandlesOfNothingAnswer) {
  World world;
  TcpSocket none;
  TcpListener no_listener;
  UdpSocket no_udp;
  EXPECT_FALSE(none.connected());
  EXPECT_TRUE(none.readable() && none.writable()) << "they would not say EAGAIN";
  EXPECT_EQ(none.remote(), IpEndpoint{});
  EXPECT_EQ(none.local(), IpEndpoint{});
  none.on_ready([] {}), no_listener.on_ready([] {}), no_udp.on_ready([] {});
  no_listener.close();
  EXPECT_EQ(no_listener.port(), 0);
  EXPECT_EQ(no_udp.port(), 0);
  EXPECT_EQ(no_listener.accept().error().code, ENOTCONN);
  EXPECT_EQ(none.finish().error().code, ENOTCONN);

  TcpListener listener = std::move(*world.server->listen(80));
  EXPECT_EQ(listener.accept().error().code, EAGAIN);
  int arrivals = 0;
  listener.on_ready([&] { ++arrivals; });
  std::pair<TcpSocket, TcpSocket> both = world.connected(listener);
  TcpSocket &ours = both.first, &theirs = both.second;
  EXPECT_EQ(arrivals, 1);
  EXPECT_TRUE(ours.connected() && ours.writable() && !ours.readable());
  TcpSocket& same = ours;
  ours = std::move(same);
  EXPECT_TRUE(ours.connected()) << "moved onto itself";
  ours.abort();
  ours.abort(), ours.close(), ours.deadline(1s);
  EXPECT_FALSE(ours.connected());
  EXPECT_EQ(ours.finish().error().code, ENOTCONN);
  EXPECT_EQ(ours.write("x").error().code, ENOTCONN);
  EXPECT_TRUE(world.until([&] { return theirs.readable(); }));
  EXPECT_FALSE(theirs.connected());
  EXPECT_TRUE(theirs.writable());
  EXPECT_EQ(theirs.write("x").error().code, ECONNRESET);
  EXPECT_EQ(theirs.finish().error().code, ECONNRESET);
  TcpListener& itself = listener;
  listener = std::move(itself);
  EXPECT_EQ(listener.port(), 80);
  listener.close(), listener.close();
  EXPECT_EQ(listener.accept().error().code, ENOTCONN);

  UdpSocket udp = std::move(*world.server->bind(7));
  UdpSocket& udp_itself = udp;
  udp = std::move(udp_itself);
  EXPECT_EQ(udp.port(), 7);
  const std::uint8_t octet[1] = {1};
  EXPECT_EQ(udp.send({address("127.0.0.1"), 7}, octet).error().code, EINVAL);
  const auto node = test::open();
  auto only_v6 = std::move(*IpStack::open(*node));
  UdpSocket left = std::move(*only_v6->bind(9));
  EXPECT_EQ(left.send({address("10.9.0.2"), 7}, octet).error().code, EADDRNOTAVAIL);
  only_v6.reset();
  EXPECT_EQ(left.send({address("10.9.0.2"), 7}, octet).error().code, ESHUTDOWN);
  EXPECT_EQ(left.port(), 0);
  udp.close(), udp.close();
  EXPECT_EQ(udp.send({address("10.9.0.1"), 7}, octet).error().code, ENOTCONN);
}

// Goal: closing half of a connection leaves the other half, whoever begins; finish() before the connection is made is
// kept until it is; twice is once.
TEST(IpStackEdges, EitherHalfMayEndFirst) {
  World world;
  TcpListener listener = std::move(*world.server->listen(80));
  std::array<std::uint8_t, 100> into;
  for (const bool client_first : {true, false}) {
    std::pair<TcpSocket, TcpSocket> both = world.connected(listener);
    TcpSocket &ours = both.first, &theirs = both.second;
    TcpSocket &first = client_first ? ours : theirs, &second = client_first ? theirs : ours;
    EXPECT_TRUE(first.finish());
    EXPECT_TRUE(first.finish()) << "again";
    EXPECT_FALSE(first.writable() && !first.write("x").error().code);
    EXPECT_TRUE(world.until([&] { return second.readable(); }));
    EXPECT_EQ(*second.read(into), 0u) << "the end, and it stays";
    EXPECT_EQ(*second.read(into), 0u);
    EXPECT_EQ(*second.write("still"), 5u);
    EXPECT_TRUE(world.until([&] { return first.readable(); }));
    EXPECT_EQ(*first.read(into), 5u);
    EXPECT_TRUE(second.finish());
    EXPECT_TRUE(world.until([&] { return first.readable(); }));
    EXPECT_EQ(*first.read(into), 0u);
    EXPECT_TRUE(world.until([&] { return !first.connected() && !second.connected(); }));
    EXPECT_EQ(*second.read(into), 0u);
    EXPECT_EQ(second.write("x").error().code, EPIPE);
  }
  TcpSocket early = std::move(*world.client->connect("10.9.0.2:80")), late;
  EXPECT_EQ(*early.write("all"), 3u);
  EXPECT_TRUE(early.finish());
  EXPECT_TRUE(world.until([&] {
    if (auto arrived = listener.accept()) late = std::move(*arrived);
    return late && late.readable();
  }));
  EXPECT_EQ(*late.read(into), 3u);
  EXPECT_TRUE(world.until([&] { return late.readable(); }));
  EXPECT_EQ(*late.read(into), 0u);
}

// Goal: a peer that falls silent is given up after a bounded time, told with ETIMEDOUT: while connecting (a minute),
// with octets on their way, and while only finish() or write() let the time pass.
// Method: the stacks' clock runs ahead of the nodes'.
TEST(IpStackEdges, SilentPeersAreGivenUp) {
  std::array<std::uint8_t, 100> into;
  {
    World world;
    TcpSocket nowhere = std::move(*world.client->connect("10.9.0.77:80"));  // no peer has it
    EXPECT_FALSE(world.soon([&] { return nowhere.readable(); }, 100)) << "20 s are not enough";
    EXPECT_TRUE(world.soon([&] { return nowhere.readable(); }));
    EXPECT_EQ(nowhere.read(into).error().code, ETIMEDOUT);
  }
  for (const char* how : {"process", "write", "finish"}) {
    World world;
    TcpListener listener = std::move(*world.server->listen(80));
    std::pair<TcpSocket, TcpSocket> both = world.connected(listener);
    TcpSocket &ours = both.first, &theirs = both.second;
    ASSERT_TRUE(world.server_node->remove_peer(world.client_node->key()));
    static_cast<void>(!ours.write("anybody?"));
    int code = 0;
    for (int i = 0; i < 20'000 && code == 0; ++i) {
      clock_ahead_ns += 200'000'000;
      if (*how == 'p') {
        static_cast<void>(!world.client->process());
        if (ours.readable()) code = ours.read(into).error().code;
      } else if (*how == 'w') {  // only this lets time pass
        const auto wrote = ours.write("x");
        if (!wrote && wrote.error().code != EAGAIN) code = wrote.error().code;
      } else {
        const Status done = ours.finish();
        if (!done) code = done.error().code;
      }
    }
    EXPECT_EQ(code, ETIMEDOUT) << how;
    EXPECT_FALSE(ours.connected());
    theirs.abort();
  }
}

// Goal: a deadline that passes while the application does other things is told by the descriptor, and by callbacks.
TEST(IpStackEdges, ADeadlineThatPassesOutsideIsTold) {
  World world;
  TcpListener listener = std::move(*world.server->listen(80));
  std::pair<TcpSocket, TcpSocket> both = world.connected(listener);
  TcpSocket &ours = both.first, &theirs = both.second;
  int called = 0;
  ours.on_ready([&] { ++called; });
  ours.deadline(50ms), ours.deadline(40ms);
  theirs.deadline(1h), theirs.deadline(0s);
  clock_ahead_ns += 45'000'000;
  static_cast<void>(world.client->connect("10.9.0.2:81"));  // time passes here
  EXPECT_TRUE(ours.readable() && ours.writable());
  EXPECT_EQ(called, 0) << "callbacks come in process() alone";
  EXPECT_TRUE(world.until([&] { return called != 0; }));
  std::array<std::uint8_t, 10> into;
  EXPECT_EQ(ours.read(into).error().code, ETIMEDOUT);
  EXPECT_EQ(theirs.read(into).error().code, EAGAIN);
  ours.deadline(1h);
  ours.close();
}

// ---- TCP by hand

// Goal: what a real network does to segments: late, twice, out of order, urgent; the application reads a stream.
TEST(IpStackEdges, SegmentsOutOfOrderMakeAStream) {
  World world;
  ByHand hand{world};
  hand.say_more("world", 1006);
  EXPECT_EQ(hand.code(), EAGAIN) << "there is a gap";
  EXPECT_FALSE(world.until([&] { return hand.socket.readable(); }, 50));
  hand.say_more("hello ", 1000);
  EXPECT_TRUE(world.until([&] { return hand.socket.readable(); }));
  EXPECT_EQ(hand.read(), "hello world");
  hand.say_more("hello ", 1000);  // again
  EXPECT_FALSE(world.until([&] { return hand.socket.readable(); }, 20));
  hand.say({.flags = kAck | kPsh | kUrg, .number = 1011, .acknowledged = hand.theirs, .octets = "now!", .urgent = 2});
  EXPECT_TRUE(world.until([&] { return hand.socket.readable(); }));
  EXPECT_EQ(hand.read(), "now!") << "urgent octets are octets";
  hand.say_more("bye", 1015, kFin | kPsh);
  EXPECT_TRUE(world.until([&] { return hand.socket.readable(); }));
  EXPECT_EQ(hand.read(), "bye");
  std::array<std::uint8_t, 10> into;
  EXPECT_EQ(*hand.socket.read(into), 0u);
  EXPECT_TRUE(world.until([&] { return hand.answered(kAck); }));
}

// Goal: a reset counts when its number fits, and is ignored when it does not (RFC 5961 §3).
TEST(IpStackEdges, OnlyAResetThatFitsResets) {
  World world;
  ByHand hand{world};
  hand.say({.flags = kRst, .number = 1000 + 500'000'000});
  EXPECT_FALSE(world.until([&] { return hand.socket.readable(); }, 30));
  EXPECT_TRUE(hand.socket.connected());
  hand.say({.flags = kRst, .number = 1000});
  EXPECT_TRUE(world.until([&] { return hand.socket.readable(); }));
  EXPECT_EQ(hand.code(), ECONNRESET);
}

// Goal: a peer without window scaling gets the plain window, and nothing breaks when it closes it.
TEST(IpStackEdges, APeerWithoutWindowScaling) {
  World world;
  ByHand hand{world};
  std::uint32_t number = 1000;
  std::size_t read = 0;
  for (int i = 0; i < 60; ++i) {
    hand.say_more(std::string(1000, 'x'), number);
    number += 1000;
    read += hand.read().size();
  }
  EXPECT_TRUE(world.until([&] { return read += hand.read().size(), read == 60'000; }));
  hand.say({.flags = kAck, .number = number, .acknowledged = hand.theirs, .window = 0});
  while (hand.socket.write(std::string(10'000, 'y'))) {
  }
  EXPECT_FALSE(hand.socket.writable());
  int ready = 0;
  hand.socket.on_ready([&] { ++ready; });
  EXPECT_FALSE(world.soon([&] { return ready != 0; }, 50)) << "persists";
  EXPECT_TRUE(hand.socket.connected());
  hand.socket.close();  // with all of it unsent
}

// Goal: parts of TCP packets are put together, in both families; those that could hide a SYN or a header are refused
// (RFC 1858 §4), as are protocols and ICMP that a host in a tunnel has no use for; each is counted.
TEST(IpStackEdges, FragmentsAndStrangersAreTakenOrCounted) {
  World world;
  ByHand hand{world};
  const Octets tcp = segment_octets(
      {.flags = kAck | kPsh, .number = 1000, .acknowledged = hand.theirs, .octets = std::string(60, 'f')}, "10.9.9.1",
      "10.9.0.2");
  world.say(fragment("10.9.9.1", "10.9.0.2", tcp, 0, 40));
  world.say(fragment("10.9.9.1", "10.9.0.2", tcp, 40, 80));
  EXPECT_TRUE(world.until([&] { return hand.socket.readable(); }));
  EXPECT_EQ(hand.read(), std::string(60, 'f'));

  const std::string server_v6 = to_text(world.server_node->address());
  const auto counts = [&](const char* what, const Octets& packet, std::uint64_t IpStackStats::*counter) {
    const std::uint64_t before = world.server->stats().*counter;
    world.say(packet);
    EXPECT_TRUE(world.until([&] { return world.server->stats().*counter > before; }, 200)) << what;
  };
  const Octets syn =
      segment_octets({.flags = kSyn, .number = 5, .octets = std::string(20, 's')}, "10.9.9.2", "10.9.0.2");
  const Octets syn6 =
      segment_octets({.flags = kSyn, .number = 5, .octets = std::string(20, 's')}, "fd99::1", server_v6);
  const Octets ack6 =
      segment_octets({.flags = kAck, .number = 5, .octets = std::string(20, 's')}, "fd99::1", server_v6);
  counts("a SYN in parts", fragment("10.9.9.2", "10.9.0.2", syn, 0, 24), &IpStackStats::refused);
  counts("behind the ports", fragment("10.9.9.2", "10.9.0.2", syn, 8, 24), &IpStackStats::refused);
  counts("a short header", fragment("10.9.9.2", "10.9.0.2", syn, 0, 16), &IpStackStats::refused);
  counts("a SYN in parts, IPv6", fragment("fd99::1", server_v6, syn6, 0, 24), &IpStackStats::refused);
  counts("behind the ports, IPv6", fragment("fd99::1", server_v6, syn6, 8, 24), &IpStackStats::refused);
  counts("parts of an unknown protocol, IPv6", fragment("fd99::1", server_v6, syn6, 0, 24, 99), &IpStackStats::refused);
  counts("no payload behind the fragment header", fragment("fd99::1", server_v6, Octets{}, 0, 0),
         &IpStackStats::refused);
  counts("the first part, IPv6", fragment("fd99::1", server_v6, ack6, 0, 24), &IpStackStats::received);
  counts("the rest, IPv6", fragment("fd99::1", server_v6, ack6, 24, 40), &IpStackStats::received);
  counts("UDP in parts, IPv6", fragment("fd99::1", server_v6, Octets(40), 0, 24, 17, 8), &IpStackStats::received);
  counts("hop-by-hop options", test::ip_packet("fd99::1", server_v6, 0, Octets(16)), &IpStackStats::refused);
  counts("GRE", test::ip_packet("10.9.9.2", "10.9.0.2", 47, Octets(16)), &IpStackStats::refused);
  counts("short ICMPv6", test::ip_packet("fd99::1", server_v6, 58, Octets(4)), &IpStackStats::refused);
  for (const std::uint8_t type : Octets{5, 100, 127, 133, 134, 135, 137})
    counts("ICMPv6 of routers and groups",
           test::ip_packet("fd99::1", server_v6, 58, Octets{type, 0, 0, 0, 0, 0, 0, 0, 0}), &IpStackStats::refused);
  for (const std::uint8_t type : Octets{1, 2, 3, 4, 128, 129})
    counts("ICMPv6", test::ip_packet("fd99::1", server_v6, 58, Octets{type, 0, 0, 0, 0, 0, 0, 0, 0}),
           &IpStackStats::received);
  counts("to another address", segment({.flags = kSyn}, "10.9.9.2", "10.9.0.9"), &IpStackStats::not_ours);
  counts("from our own address", segment({.flags = kSyn}, "10.9.0.2", "10.9.0.2"), &IpStackStats::not_ours);
}

// Goal: `otherwise` gets what no socket is for, and may end the stack: nothing that came behind is touched.
TEST(IpStackEdges, OtherwiseMayEndTheStack) {
  World world;
  world.server.reset();
  int others = 0;
  world.server = std::move(
      *IpStack::open(*world.server_node, {.addresses = {address("10.9.0.2")}, .otherwise = [&](const Received& in) {
                                            ++others;
                                            if (in.datagram && others > 2) world.server.reset();
                                          }}));
  const auto node = test::open();
  const auto another = std::move(*IpStack::open(*node));
  UdpSocket elsewhere = std::move(*another->bind(kDatagramPort));  // the same port, of another stack
  const std::uint8_t octets[4] = {};
  world.say(segment({.flags = kSyn}, "10.9.9.2", "10.9.0.9"));
  for (int i = 0; i < 6; ++i) static_cast<void>(!world.raw->send(world.server_at_raw, octets));
  EXPECT_TRUE(world.until([&] { return world.server == nullptr; }));
  EXPECT_EQ(others, 3);
  EXPECT_FALSE(elsewhere.receive([](const IpEndpoint&, std::span<const std::uint8_t>) {}));
}

// Goal: who does not accept does not collect connections without end; they and the listener end with the stack.
TEST(IpStackEdges, ArrivalsBeyondTheBacklogAreReset) {
  World world{{.connections = 6, .backlog = 3}};
  TcpListener listener = std::move(*world.server->listen(80));
  std::vector<TcpSocket> sockets;
  for (int i = 0; i < 3; ++i) sockets.push_back(std::move(*world.client->connect("10.9.0.2:80")));
  EXPECT_TRUE(world.until([&] { return world.server->stats().connections == 3; }));
  EXPECT_TRUE(world.soon([&] { return sockets.back().connected(); }));
  for (int i = 0; i < 3; ++i) sockets.push_back(std::move(*world.client->connect("10.9.0.2:80")));
  EXPECT_TRUE(world.soon([&] { return world.server->stats().too_many != 0; }));
  EXPECT_LE(world.server->stats().connections, 6u);
  std::vector<TcpListener> listeners;
  for (std::uint16_t port = 81; port < 84; ++port) listeners.push_back(std::move(*world.server->listen(port)));
  world.server.reset();
  EXPECT_EQ(listener.accept().error().code, ESHUTDOWN);
}

// Goal: UDP that nobody read is given back when its socket, or the stack, ends; what the node's queue has no room for
// is EAGAIN, and what lwIP has no memory for ENOMEM.
TEST(IpStackEdges, UdpEndsWithDatagramsWaiting) {
  World world;
  UdpSocket server = std::move(*world.server->bind(7)), client = std::move(*world.client->bind());
  const Octets octets(100, 1);
  for (int round = 0; round < 2; ++round) {
    int ready = 0;
    server.on_ready([&] { ++ready; });
    ASSERT_TRUE(client.send({address("10.9.0.2"), 7}, octets));
    EXPECT_TRUE(world.until([&] { return ready != 0; }));
    if (round == 0) server = std::move(*world.server->bind(8)), server = std::move(*world.server->bind(7));
  }
  world.server.reset();
  EXPECT_FALSE(server.receive([](const IpEndpoint&, std::span<const std::uint8_t>) {})) << "it ended with the stack";
  lwip_allocations_left = 0;
  EXPECT_EQ(client.send({address("10.9.0.2"), 7}, octets).error().code, ENOMEM);
  lwip_allocations_left = -1;
  Status sent = Nothing{};
  for (int i = 0; i < 1000 && sent; ++i) sent = client.send({address("10.9.0.2"), 7}, octets);
  ASSERT_FALSE(sent);
  EXPECT_EQ(sent.error().code, EAGAIN);
}

// ---- memory

// Goal: wherever memory ends while something is made, it is refused with ENOMEM and leaves nothing: no port, no
// connection, no listener that lwIP would still call.
// Method: operator new, then lwIP's allocator, fails at each of its calls in turn; then a SYN comes to that port.
TEST(IpStackEdges, WithoutMemoryNothingIsHalfMade) {
  World world;
  TcpListener real = std::move(*world.server->listen(79));
  for (const bool of_lwip : {false, true}) {
    for (long left = 0; left < 12; ++left) {
      const auto starved = [&](const auto& call) {
        if (of_lwip) {
          lwip_allocations_left = left;
          auto made = call();
          lwip_allocations_left = -1;
          return made ? 0 : made.error().code;
        }
        test::allocations_left = left;
        auto made = call();
        test::allocations_left = -1;
        return made ? 0 : made.error().code;
      };
      for (const int code :
           {starved([&] {
              return world.server->connect(IpEndpoint{address("10.9.0.1"), 81});
            }),
            starved([&] { return world.server->listen(80); }), starved([&] { return world.server->bind(7); })})
        EXPECT_TRUE(code == 0 || code == ENOMEM) << code;
      EXPECT_TRUE(world.server->listen(80)) << "the port is free, " << left;
      EXPECT_TRUE(world.server->bind(7)) << "the port is free, " << left;
      world.say(segment({.flags = kSyn, .number = 1}));  // nobody is called who is gone
    }
  }
  EXPECT_TRUE(world.until([&] { return world.server->stats().connections == 0; }));
  EXPECT_TRUE(IpStack::open(*test::open()));
}

// Goal: a connection that arrives without memory is refused and counted; later ones are served.
// Method: lwIP's allocator fails from its n-th call on while a SYN is taken, and while its third step is.
TEST(IpStackEdges, ArrivalsWithoutMemoryAreCounted) {
  World world;
  TcpListener listener = std::move(*world.server->listen(80));
  std::uint16_t port = 5000;
  const auto server_alone = [&](long lwip, long news) {
    for (int i = 0; i < 20; ++i) {
      lwip_allocations_left = lwip, test::allocations_left = news;
      static_cast<void>(!world.server->wait(1ms));
      lwip_allocations_left = -1, test::allocations_left = -1;
    }
  };
  for (long left = 0; left < 8; ++left) {
    for (const bool of_lwip : {true, false}) {
      for (int i = 0; i < 50 && !world.raw->send_packet(segment({.flags = kSyn, .number = 1, .from_port = ++port}));
           ++i)
        world.turn();
      static_cast<void>(!world.raw->process());
      server_alone(of_lwip ? left : -1, of_lwip ? -1 : left);
      for (int i = 0; i < 5; ++i) world.turn();
      std::uint32_t theirs = 0;
      for (const Octets& packet : world.heard)
        if (packet.size() >= 40 && load_be16(&packet[22]) == port && packet[33] == (kSyn | kAck))
          theirs = load_be32(&packet[24]);
      world.heard.clear();
      static_cast<void>(!world.raw->send_packet(
          segment({.flags = kAck, .number = 2, .acknowledged = theirs + 1, .octets = "octets", .from_port = port})));
      static_cast<void>(!world.raw->process());
      server_alone(of_lwip ? left : -1, of_lwip ? -1 : left);
      while (listener.accept()) {
      }
    }
  }
  EXPECT_GT(world.server->stats().no_memory, 0u);
  std::pair<TcpSocket, TcpSocket> both = world.connected(listener);
  TcpSocket &ours = both.first, &theirs = both.second;
  EXPECT_TRUE(ours.write("fine"));
  EXPECT_TRUE(world.until([&] { return theirs.readable(); }));
}

// Goal: what arrives on a connection without memory ends that connection with ENOMEM; the node and the others go on.
TEST(IpStackEdges, OctetsWithoutMemoryEndTheConnection) {
  World world;
  TcpListener listener = std::move(*world.server->listen(80));
  std::array<std::uint8_t, 2000> into;
  bool out_of_memory = false;
  for (long left = 0; left < 12; ++left) {
    std::pair<TcpSocket, TcpSocket> both = world.connected(listener);
    TcpSocket &ours = both.first, &theirs = both.second;
    for (int i = 0; i < 200 && theirs.connected() && !out_of_memory; ++i) {  // a deque allocates now and then
      static_cast<void>(!ours.write("octets"));
      static_cast<void>(!world.client->wait(1ms));
      test::allocations_left = left;
      static_cast<void>(!world.server->wait(1ms));
      test::allocations_left = -1;
    }
    Result<std::size_t> got = theirs.read(into);
    while (got && *got != 0) got = theirs.read(into);
    out_of_memory = out_of_memory || (!got && got.error().code == ENOMEM);
    if (out_of_memory) break;
  }
  EXPECT_TRUE(out_of_memory);
  std::pair<TcpSocket, TcpSocket> both = world.connected(listener);
  TcpSocket& ours = both.first;
  EXPECT_TRUE(ours.write("fine"));
}

}  // namespace
}  // namespace wireplane
