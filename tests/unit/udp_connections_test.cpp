// Sockets of their own for the peers that much passes to and from: the same datagrams, by another way.
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>

#include <functional>
#include <thread>

#include "drivers/file_descriptor.h"
#include "drivers/udp_connections.h"
#include "drivers/udp_port.h"
#include "tests/support/net_namespace.h"
#include "tests/support/test_worker.h"

namespace {
std::function<void()> before_connect;
}

// In place of libc's.
extern "C" int connect(int fd, const sockaddr* to, socklen_t size) {
  if (before_connect) before_connect();
  return static_cast<int>(::syscall(SYS_connect, fd, to, size));
}

namespace wireplane {
namespace {

const Address kLoopback4 = ipv4(127, 0, 0, 1);
const Address kLoopback6 = ipv6({}, 1);
constexpr int kForEver = 1 << 30;  // ms: nobody is let go

UdpOptions single() {  // no trains: each datagram is a message
  UdpOptions options;
  options.trains = false;
  return options;
}

struct Host {
  explicit Host(UdpOptions options = single()) {
    if (options.period_ms == 1000) options.period_ms = kForEver;
    auto opened = UdpDevice::open(options);
    if (!opened) ADD_FAILURE() << opened.error().what;
    if (opened) device = std::move(*opened);
  }
  [[nodiscard]] Port& port() const { return device->queue(0); }
  [[nodiscard]] std::uint16_t number() const { return device->listen_port(); }
  [[nodiscard]] Endpoint at(const Address& address) const { return endpoint_of(address, number()); }

  TestWorker w;
  std::unique_ptr<UdpDevice> device;
};

std::vector<std::uint8_t> numbered(std::uint32_t number) {
  std::vector<std::uint8_t> octets(100 + number % 7, static_cast<std::uint8_t>(number));
  std::memcpy(octets.data(), &number, sizeof number);
  return octets;
}
std::uint32_t number_of(const Packet& packet) {
  std::uint32_t number;
  std::memcpy(&number, packet.data, sizeof number);
  return number;
}

// As a peer: with our own address, so that replies leave from where we were reached.
Endpoint between(const Host& to, const Address& remote, const Address& local) {
  Endpoint e = to.at(remote);
  e.local = local;
  e.interface = ::if_nametoindex("lo");
  return e;
}

// Sends `count` numbered datagrams in bursts, has them received, and says whether all came, in order, each as from
// `expected`.
::testing::AssertionResult carries(Host& a, Host& b, const Endpoint& to, const Endpoint& expected, std::uint32_t count,
                                   std::uint8_t tos = 0) {
  std::uint32_t next = 0;
  for (std::uint32_t sent = 0; sent < count;) {
    const std::uint32_t burst = std::min<std::uint32_t>(48, count - sent);
    for (std::uint32_t i = 0; i < burst; ++i) a.w.put(numbered(sent + i), &to, tos);
    if (a.port().send(a.w.burst, a.w.context) != burst) return ::testing::AssertionFailure() << "not all left";
    sent += burst;
    while (next < sent) {
      if (b.w.receive(b.port()) == 0) return ::testing::AssertionFailure() << next << " did not come";
      for (const Packet& packet : b.w.burst) {
        if (packet.from != expected) return ::testing::AssertionFailure() << next << " comes from elsewhere";
        if (packet.tos != tos) return ::testing::AssertionFailure() << "DS field " << int{packet.tos};
        if (number_of(packet) != next++) return ::testing::AssertionFailure() << number_of(packet) << ", not in order";
      }
      b.w.clear();
    }
  }
  return ::testing::AssertionSuccess();
}

// Goal: much traffic gets a socket of its own on both sides, and nothing else changes: octets, order, source, own
// address, interface, DS field. Method: over both families, with trains and without, before, while and after.
TEST(UdpConnections, CarryTheSameAsTheSocketOfThePort) {
  WG_OWN_NETWORK_OR_SKIP(net);
  for (const bool trains : {false, true}) {
    for (const Address& address : {kLoopback4, kLoopback6}) {
      UdpOptions options;
      options.trains = trains;
      Host a{options}, b{options};
      const Endpoint ab = between(b, address, address), ba = between(a, address, address);
      ASSERT_TRUE(carries(a, b, ab, ba, 20));
      EXPECT_EQ(a.device->connections() + b.device->connections(), 0u);
      ASSERT_TRUE(carries(a, b, ab, ba, trains ? 50'000 : 2000));
      EXPECT_EQ(a.device->connections(), 1u);
      EXPECT_EQ(b.device->connections(), 1u);
      ASSERT_TRUE(carries(b, a, ba, ab, 200));  // the way back uses the same
      ASSERT_TRUE(carries(a, b, ab, ba, 100, 0x2e << 2));
      ASSERT_TRUE(carries(a, b, ab, ba, 100, 0x02));
      std::this_thread::sleep_for(std::chrono::milliseconds{2 * UdpConnections::kYouth});
      for (int i = 0; i < 3; ++i) {  // the sources are not read any more
        ASSERT_TRUE(carries(a, b, ab, ba, 50, 0x03));
        ASSERT_TRUE(carries(b, a, ba, ab, 50, 0x01));
      }
      std::vector<int> fds;
      a.port().wake_fds(fds);
      EXPECT_EQ(fds.size(), 3u);
      EXPECT_EQ(a.w.all_drops() + b.w.all_drops(), 0u);
    }
  }
}

// Goal: between bind() and connect() the socket hears everybody; nobody's datagrams are taken for the peer's.
// Method: connect() is ours here, and lets another peer speak first; each datagram says who sent it.
TEST(UdpConnections, NobodysDatagramsAreTakenForAnothers) {
  WG_OWN_NETWORK_OR_SKIP(net);
  UdpOptions none = single();
  none.connections = 0;
  Host a{none}, other{none}, b;
  const Endpoint ab = between(b, kLoopback4, kLoopback4);
  const Endpoint theirs = between(b, kLoopback4, ipv4(127, 0, 0, 9));
  before_connect = [&] {
    for (std::uint32_t i = 0; i < 5; ++i) other.w.put(numbered(1'000'000 + i), &theirs);
    EXPECT_EQ(other.port().send(other.w.burst, other.w.context), 5u);
  };
  std::uint32_t sent = 0, from_a = 0, from_other = 0;
  for (int round = 0; round < 60; ++round) {
    for (int i = 0; i < 48; ++i) a.w.put(numbered(sent++), &ab);
    ASSERT_EQ(a.port().send(a.w.burst, a.w.context), 48u);
    while (from_a < sent && b.w.receive(b.port()) != 0) {
      for (const Packet& packet : b.w.burst) {
        const bool of_a = number_of(packet) < 1'000'000;
        EXPECT_EQ(number_of(packet), of_a ? from_a++ : 1'000'000 + from_other++);
        EXPECT_EQ(packet.from.remote, of_a ? kLoopback4 : ipv4(127, 0, 0, 9));
        EXPECT_EQ(packet.from.port, of_a ? a.number() : other.number());
        EXPECT_EQ(packet.from.local, kLoopback4);
      }
      b.w.clear();
    }
  }
  before_connect = {};
  EXPECT_EQ(b.device->connections_opened(), 1u);
  EXPECT_EQ(from_a, sent);
  EXPECT_EQ(from_other, 5u);
}

// Goal: an own address that goes away costs no datagram: the host chooses another one (P37).
// Method: a connection from an address that is removed then.
TEST(UdpConnections, AnAddressThatGoesIsDoneWithout) {
  WG_OWN_NETWORK_OR_SKIP(net);
  ASSERT_TRUE(NetNamespace::run("ip addr add 10.1.1.1/32 dev lo"));
  Host a, b;
  const Address gone = ipv4(10, 1, 1, 1);
  const Endpoint ab = between(b, kLoopback4, gone);
  ASSERT_TRUE(carries(a, b, ab, between(a, gone, kLoopback4), 2000));
  ASSERT_EQ(a.device->connections(), 1u);
  ASSERT_TRUE(NetNamespace::run("ip addr del 10.1.1.1/32 dev lo"));
  ASSERT_TRUE(carries(a, b, ab, between(a, kLoopback4, kLoopback4), 500));
  EXPECT_EQ(a.w.all_drops(), 0u);
  static_cast<void>(a.port().receive(a.w.burst, a.w.context));
  EXPECT_EQ(a.device->connections(), 0u);
}

// Goal: a peer that is not there (ICMP: port unreachable) and comes back loses no more than it would have without.
// Method: close its device, send, open one on the same port.
TEST(UdpConnections, RefusedDatagramsHarmNoLaterOnes) {
  WG_OWN_NETWORK_OR_SKIP(net);
  Host a;
  auto b = std::make_unique<Host>();
  const std::uint16_t port = b->number();
  const Endpoint ab = between(*b, kLoopback4, kLoopback4), ba = between(a, kLoopback4, kLoopback4);
  ASSERT_TRUE(carries(a, *b, ab, ba, 2000));
  ASSERT_EQ(a.device->connections(), 1u);
  b.reset();
  for (std::uint32_t i = 0; i < 40; ++i) a.w.put(numbered(0), &ab, static_cast<std::uint8_t>(i % 2 << 2));
  EXPECT_EQ(a.port().send(a.w.burst, a.w.context), 40u);
  static_cast<void>(a.port().receive(a.w.burst, a.w.context));
  UdpOptions again = single();
  again.listen_port = port;
  b = std::make_unique<Host>(again);
  ASSERT_TRUE(carries(a, *b, ab, ba, 500));
  EXPECT_EQ(a.w.all_drops(), 0u);
}

// Goal: a change of the port takes connections along, and the old port is free at once, whatever the worker does.
// Method: rebind while the worker does nothing; another engine takes the old port; back and forth.
TEST(UdpConnections, EndWithTheirPort) {
  WG_OWN_NETWORK_OR_SKIP(net);
  Host a, b;
  const std::uint16_t old = a.number();
  const Endpoint ab = between(b, kLoopback4, kLoopback4);
  ASSERT_TRUE(carries(a, b, ab, between(a, kLoopback4, kLoopback4), 2000));
  ASSERT_EQ(a.device->connections(), 1u);
  ASSERT_TRUE(a.device->set_listen_port(0));
  ASSERT_NE(a.number(), old);
  {
    UdpOptions its = single();
    its.listen_port = old;
    const Host other{its};
    ASSERT_NE(other.device, nullptr);
  }
  ASSERT_TRUE(carries(a, b, ab, between(a, kLoopback4, kLoopback4), 500));
  ASSERT_TRUE(a.device->set_listen_port(old));
  ASSERT_TRUE(carries(a, b, ab, between(a, kLoopback4, kLoopback4), 500));
  ASSERT_TRUE(carries(b, a, between(a, kLoopback4, kLoopback4), ab, 500));
  EXPECT_EQ(a.w.all_drops() + b.w.all_drops(), 0u);
}

// Goal: a second engine is refused while connections are there, and while one is opened.
TEST(UdpConnections, DoNotLetASecondEngineIn) {
  WG_OWN_NETWORK_OR_SKIP(net);
  Host a, b;
  ASSERT_TRUE(carries(a, b, between(b, kLoopback4, kLoopback4), between(a, kLoopback4, kLoopback4), 2000));
  ASSERT_EQ(a.device->connections(), 1u);
  for (const unsigned workers : {1u, 2u}) {
    UdpOptions options;
    options.workers = workers;
    options.listen_port = a.number();
    const auto second = UdpDevice::open(options);
    ASSERT_FALSE(second);
    EXPECT_EQ(second.error().code, EADDRINUSE);
  }
}

// Goal: the fwmark is theirs, too. Method: a rule that leads marked datagrams nowhere, before and after a connection.
TEST(UdpConnections, HaveTheFwmark) {
  WG_OWN_NETWORK_OR_SKIP(net);
  Host a, b;
  const Endpoint ab = between(b, kLoopback4, kLoopback4), ba = between(a, kLoopback4, kLoopback4);
  ASSERT_TRUE(carries(a, b, ab, ba, 2000));
  ASSERT_EQ(a.device->connections(), 1u);
  std::vector<int> fds;
  a.port().wake_fds(fds);
  ASSERT_TRUE(a.device->set_fwmark(77));
  ASSERT_TRUE(b.device->set_fwmark(78));
  for (const int fd : fds) {
    int mark = 0;
    socklen_t length = sizeof mark;
    ASSERT_EQ(::getsockopt(fd, SOL_SOCKET, SO_MARK, &mark, &length), 0);
    EXPECT_EQ(mark, 77);
  }
  ASSERT_TRUE(carries(a, b, ab, ba, 500));
}

// Goal: at most eight, the quiet ones go, and those who come later get their place; whoever is busy gets one, whatever
// others there are. Method: thirty peers in three groups, one after the other, the last beside as many that say little.
TEST(UdpConnections, AreFewAndGoToWhoNeedsThem) {
  WG_OWN_NETWORK_OR_SKIP(net);
  UdpOptions options = single(), without = single();
  options.much = 128;
  options.period_ms = 400;
  without.connections = 0;
  Host a{options};
  std::vector<std::unique_ptr<Host>> peers;
  std::vector<Endpoint> to;
  for (int i = 0; i < 30; ++i) {
    peers.push_back(std::make_unique<Host>(without));
    to.push_back(between(*peers.back(), kLoopback4, kLoopback4));
  }
  // Until there are `enough`, which a slow machine's period may end before; to the others once in 32 rounds.
  const auto speak_to = [&](std::size_t first, std::size_t end, unsigned enough, std::size_t others = 0,
                            int rounds = 20'000) {
    for (int round = 0; round < rounds && a.device->connections() < enough; ++round) {
      const std::size_t now = round % 32 == 0 ? end + others : end;
      for (std::size_t i = first; i < now; ++i) a.w.put("to everybody", &to[i]);
      EXPECT_EQ(a.port().send(a.w.burst, a.w.context), now - first);
      a.port().receive(a.w.burst, a.w.context);
      a.w.clear();
    }
    return a.device->connections();
  };
  const auto be_quiet = [&] {  // for two periods
    for (int i = 0; i < 90; ++i) {
      std::this_thread::sleep_for(std::chrono::milliseconds{10});
      a.port().receive(a.w.burst, a.w.context);
    }
  };
  EXPECT_EQ(speak_to(0, 10, UdpConnections::kMost), UdpConnections::kMost);
  EXPECT_EQ(speak_to(0, 10, UdpConnections::kMost + 1, 0, 300), UdpConnections::kMost);
  be_quiet();
  EXPECT_EQ(a.device->connections(), 0u);
  EXPECT_EQ(speak_to(10, 12, 2), 2u);
  be_quiet();
  EXPECT_EQ(speak_to(12, 15, 3, 15), 3u);
}

// Goal: without descriptors, and with several workers, there are none, and nobody minds.
TEST(UdpConnections, AreNoNecessity) {
  WG_OWN_NETWORK_OR_SKIP(net);
  UdpOptions two = single();
  two.workers = 2;
  Host a, b, c{two};
  const Endpoint ab = between(b, kLoopback4, kLoopback4), ba = between(a, kLoopback4, kLoopback4);
  const Endpoint ca = between(a, kLoopback4, kLoopback4), ac = between(c, kLoopback4, kLoopback4);
  rlimit before{};
  ASSERT_EQ(::getrlimit(RLIMIT_NOFILE, &before), 0);
  rlimit none = before;
  none.rlim_cur = 3;
  ASSERT_EQ(::setrlimit(RLIMIT_NOFILE, &none), 0);
  EXPECT_TRUE(carries(a, b, ab, ba, 2000));
  EXPECT_TRUE(carries(c, a, ca, ac, 2000));
  ASSERT_EQ(::setrlimit(RLIMIT_NOFILE, &before), 0);
  EXPECT_EQ(a.device->connections() + b.device->connections() + c.device->connections(), 0u);
  EXPECT_TRUE(carries(c, a, ca, ac, 2000));
  EXPECT_EQ(c.device->connections(), 0u);
  EXPECT_EQ(a.w.all_drops() + b.w.all_drops() + c.w.all_drops(), 0u);
}

}  // namespace
}  // namespace wireplane
