// What the kernel may answer: sockets that are full or have no way, links that go down, descriptors that run out,
// randomness that is late, netlink that overruns. tests/FAULTS.md
//
// This program's own sendmmsg() and getrandom() stand before the C library's; each asks the kernel unless a test says
// otherwise.
#include <gtest/gtest.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <functional>
#include <memory>
#include <thread>

#include "control/embed/node.h"
#include "control/system.h"
#include "control/worker_threads.h"
#include "drivers/file_descriptor.h"
#include "drivers/neighbours.h"
#include "drivers/udp_port.h"
#include "tests/support/conservation.h"
#include "tests/support/net_namespace.h"
#include "tests/support/sim.h"
#include "tests/support/test_worker.h"

namespace wireplane {
namespace {

// How many octets of randomness come, and when; negative: -errno.
std::atomic<ssize_t (*)(std::size_t wanted)> randomness{nullptr};
std::function<int(int fd, mmsghdr* messages, unsigned count)> sending;

}  // namespace
}  // namespace wireplane

extern "C" ssize_t getrandom(void* out, std::size_t size, unsigned flags) {
  if (const auto broken = wireplane::randomness.load()) {
    const ssize_t length = broken(size);
    if (length < 0) return errno = static_cast<int>(-length), -1;
    size = static_cast<std::size_t>(length);
  }
  return ::syscall(SYS_getrandom, out, size, flags);
}

extern "C" int sendmmsg(int fd, mmsghdr* messages, unsigned count, int flags) {
  if (wireplane::sending) return wireplane::sending(fd, messages, count);
  return static_cast<int>(::syscall(SYS_sendmmsg, fd, messages, count, flags));
}

namespace wireplane {
namespace {

const auto* const kLaw = test::every_test_accounts();

// ---- sockets

// The kernel's sendmmsg, but the message that begins with 'x' fails with `code`: it ends a call that has sent some
// before, as the kernel does.
int failing_at_x(int fd, mmsghdr* messages, unsigned count, int code) {
  unsigned good = 0;
  while (good < count && *static_cast<const char*>(messages[good].msg_hdr.msg_iov[0].iov_base) != 'x') ++good;
  if (good == 0) return errno = code, -1;
  return static_cast<int>(::syscall(SYS_sendmmsg, fd, messages, good, 0));
}

// Goal: whatever a send call answers, every packet is sent or counted under the reason that fits; one message's own
// failure costs no other message; a full socket costs the rest of the burst and no more system calls.
// Method: ten messages, the fourth of which the kernel refuses, for every answer that Linux is known to give.
TEST(FaultsKernel, EverySendErrorIsCountedUnderItsReason) {
  WG_OWN_NETWORK_OR_SKIP(network);
  struct Case {
    int code;
    Drop reason;
    std::size_t sent;
    unsigned most_calls;
  };
  for (const Case& one :
       {Case{EAGAIN, Drop::kOuterSend, 3, 2}, Case{ENOBUFS, Drop::kOuterSend, 9, 3},
        Case{ENOMEM, Drop::kOuterSend, 9, 3}, Case{EPERM, Drop::kOuterSend, 9, 3}, Case{EIO, Drop::kOuterSend, 9, 3},
        Case{EMSGSIZE, Drop::kOuterMessageSize, 9, 3}, Case{ENETUNREACH, Drop::kOuterUnreachable, 9, 3},
        Case{ENETDOWN, Drop::kOuterUnreachable, 9, 3}, Case{EHOSTUNREACH, Drop::kOuterUnreachable, 9, 3},
        Case{EHOSTDOWN, Drop::kOuterUnreachable, 9, 3}, Case{ENODEV, Drop::kOuterUnreachable, 9, 3},
        Case{EACCES, Drop::kOuterUnreachable, 9, 3}, Case{EADDRNOTAVAIL, Drop::kOuterUnreachable, 9, 3},
        Case{ECONNREFUSED, Drop::kOuterSend, 9, 4}, Case{EINTR, Drop::kOuterSend, 9, 4}}) {
    TestWorker w;
    auto device = UdpDevice::open({.workers = 1});
    auto other = UdpDevice::open({.workers = 1});
    ASSERT_TRUE(device && other);
    const Endpoint to = endpoint_of(ipv4(127, 0, 0, 1), (*other)->listen_port());
    for (int i = 0; i < 10; ++i)  // each longer than the one before, so that each is a message of its own
      w.put(std::string(static_cast<std::size_t>(i) + 1, static_cast<char>(i == 3 ? 'x' : '0' + i)), &to);
    unsigned calls = 0;
    sending = [&](int fd, mmsghdr* messages, unsigned count) {
      ++calls;
      return failing_at_x(fd, messages, count, one.code);
    };
    EXPECT_EQ((*device)->queue(0).send(w.burst, w.context), one.sent) << std::strerror(one.code);
    sending = nullptr;
    EXPECT_EQ(w.drops(one.reason), 10 - one.sent) << std::strerror(one.code);
    EXPECT_EQ(w.all_drops(), 10 - one.sent) << std::strerror(one.code);
    EXPECT_LE(calls, one.most_calls) << std::strerror(one.code);
    EXPECT_EQ(w.receive((*other)->queue(0), one.sent), one.sent) << std::strerror(one.code);
  }
}

// Goal: a send that was interrupted, or met what an earlier datagram had caused, is done again and not lost.
TEST(FaultsKernel, AnInterruptedSendIsRepeated) {
  WG_OWN_NETWORK_OR_SKIP(network);
  for (const int code : {EINTR, ECONNREFUSED}) {
    TestWorker w;
    auto device = UdpDevice::open({.workers = 1});
    ASSERT_TRUE(device);
    const Endpoint to = endpoint_of(ipv4(127, 0, 0, 1), (*device)->listen_port());
    for (int i = 0; i < 10; ++i) w.put("y", &to);
    bool failed = false;
    sending = [&](int fd, mmsghdr* messages, unsigned count) {
      if (!std::exchange(failed, true)) return errno = code, -1;
      return static_cast<int>(::syscall(SYS_sendmmsg, fd, messages, count, 0));
    };
    EXPECT_EQ((*device)->queue(0).send(w.burst, w.context), 10u);
    sending = nullptr;
    EXPECT_EQ(w.all_drops(), 0u);
    EXPECT_EQ(w.receive((*device)->queue(0), 10), 10u);
  }
}

// Goal: a link that goes down costs the packets of that time, counted; when it is up again they flow.
// Method: a veth pair in a namespace; down and up; IPv4 and IPv6.
TEST(FaultsKernel, ALinkThatGoesDownCostsItsPacketsOnly) {
  WG_OWN_NETWORK_OR_SKIP(network);
  ASSERT_TRUE(
      NetNamespace::run("ip link add v0 type veth peer name v1 && ip addr add 10.1.0.1/24 dev v0 && "
                        "ip -6 addr add fd01::1/64 dev v0 nodad && ip link set v0 up && ip link set v1 up && "
                        "ip neigh add 10.1.0.2 lladdr 02:00:00:00:00:02 dev v0 && "
                        "ip -6 neigh add fd01::2 lladdr 02:00:00:00:00:02 dev v0"));
  TestWorker w;
  auto device = UdpDevice::open({.workers = 1});
  ASSERT_TRUE(device);
  const Endpoint v4 = endpoint_of(ipv4(10, 1, 0, 2), 9), v6 = endpoint_of(ipv6({0xfd, 0x01}, 2), 9);
  const auto send_five = [&] {
    for (int i = 0; i < 5; ++i) w.put("packet", i % 2 == 0 ? &v4 : &v6);
    return (*device)->queue(0).send(w.burst, w.context);
  };
  EXPECT_EQ(send_five(), 5u);
  ASSERT_TRUE(NetNamespace::run("ip link set v0 down"));
  EXPECT_EQ(send_five(), 0u);
  EXPECT_EQ(w.drops(Drop::kOuterUnreachable), 5u);
  ASSERT_TRUE(
      NetNamespace::run("ip link set v0 up && ip -6 addr replace fd01::1/64 dev v0 nodad && "
                        "ip neigh replace 10.1.0.2 lladdr 02:00:00:00:00:02 dev v0 && "
                        "ip -6 neigh replace fd01::2 lladdr 02:00:00:00:00:02 dev v0"));
  EXPECT_EQ(send_five(), 5u);
  ASSERT_TRUE(NetNamespace::run("ip link del v0"));
  EXPECT_EQ(send_five(), 0u);
  EXPECT_EQ(w.drops(Drop::kOuterUnreachable), 10u);
  EXPECT_EQ(w.all_drops(), 10u);
}

// Goal: a firewall that forbids our datagrams (EPERM) costs them, counted, and nothing else.
TEST(FaultsKernel, AFirewallThatForbidsCostsThePackets) {
  WG_OWN_NETWORK_OR_SKIP(network);
  if (!NetNamespace::run("nft -v")) GTEST_SKIP() << "no nft on this host";
  if (!NetNamespace::run("nft add table inet t 2>/dev/null")) GTEST_SKIP() << "no nftables in this kernel";
  ASSERT_TRUE(
      NetNamespace::run("nft 'add chain inet t out { type filter hook output priority 0; }' && "
                        "nft add rule inet t out udp dport 9 drop"));
  TestWorker w;
  auto device = UdpDevice::open({.workers = 1});
  ASSERT_TRUE(device);
  const Endpoint forbidden = endpoint_of(ipv4(127, 0, 0, 1), 9),
                 allowed = endpoint_of(ipv4(127, 0, 0, 1), (*device)->listen_port());
  for (int i = 0; i < 10; ++i) w.put("packet", i % 2 == 0 ? &forbidden : &allowed);
  EXPECT_EQ((*device)->queue(0).send(w.burst, w.context), 5u);
  EXPECT_EQ(w.drops(Drop::kOuterSend), 5u);
  EXPECT_EQ(w.receive((*device)->queue(0), 5), 5u);
}

// Goal: a worker's thread for which no descriptor was left (it cannot be woken) looks by itself, soon enough.
// Method: none may be opened while the thread is made; later, while it naps, it is given an order.
TEST(FaultsKernel, AWorkerWithoutADoorbellLooksByItself) {
  test::Sim sim;
  test::Node& node = sim.add();
  // UBSan opens a pipe when it first sees an object of a type, and would find none below.
  static_cast<void>(std::make_shared<const FileDescriptor>());
  rlimit before{};
  ASSERT_EQ(::getrlimit(RLIMIT_NOFILE, &before), 0);
  const int next = ::dup(0);
  ::close(next);
  const rlimit none{static_cast<rlim_t>(next), before.rlim_max};
  ASSERT_EQ(::setrlimit(RLIMIT_NOFILE, &none), 0);
  WorkerThread thread{node.engine, *node.workers[0], 0, false, -1};
  ASSERT_EQ(::setrlimit(RLIMIT_NOFILE, &before), 0);
  thread.start();
  std::this_thread::sleep_for(std::chrono::milliseconds{20});  // it naps
  Order order{.kind = Order::Kind::kSend, .peer = {}, .length = 32, .to = node.at(), .message = {}};
  ASSERT_TRUE(node.engine.link(0).orders.push(order));
  node.engine.link(0).doorbell.ring_if_asleep();
  for (int i = 0; i < 1000 && node.engine.link(0).counters.outer_out.get() == 0; ++i)
    std::this_thread::sleep_for(std::chrono::milliseconds{1});
  thread.stop();
  EXPECT_EQ(node.engine.link(0).counters.outer_out.get(), 1u);
}

// ---- randomness

// Goal: keys are whole, however randomness comes: interrupted, in single octets, late.
TEST(FaultsKernel, InterruptedAndShortRandomnessIsCompleted) {
  static std::atomic<unsigned> calls;
  calls = 0;
  randomness = [](std::size_t wanted) -> ssize_t {
    switch (calls++ % 3) {
      case 0:
        return -EINTR;
      case 1:
        return 1;
      default:
        std::this_thread::sleep_for(std::chrono::milliseconds{1});
        return static_cast<ssize_t>(std::min<std::size_t>(wanted, 7));
    }
  };
  SystemEntropy entropy;
  std::array<std::uint8_t, 256> octets{};
  entropy.fill(octets);
  randomness = nullptr;
  EXPECT_GE(calls, 256u / 8 * 3);
  std::array<unsigned, 256> seen{};
  for (const std::uint8_t octet : octets) ++seen[octet];
  EXPECT_LT(seen[0], 16u) << "some were left as they had been";
}

// Goal: without any randomness there are no keys, and no loop without an end: the program stops and says so.
TEST(FaultsKernel, WithoutRandomnessTheProgramStops) {
  GTEST_FLAG_SET(death_test_style, "fast");
  SystemEntropy entropy;
  std::array<std::uint8_t, 32> octets{};
  EXPECT_DEATH(
      {
        randomness = [](std::size_t) -> ssize_t { return -ENOSYS; };
        entropy.fill(octets);
      },
      "broken invariant");
}

// Goal: slow randomness holds up handshakes, not packets. Method: two nodes with a session; then every call for
// randomness takes 200 ms while peers come that nobody answers, so that control is busy making initiations; round
// trips of the session stay far below that.
TEST(FaultsKernel, SlowRandomnessDoesNotHoldUpSessions) {
  NodeOptions options;
  options.workers = 1;
  auto a = *Node::open(std::move(options));
  NodeOptions others;
  others.workers = 1;
  auto b = *Node::open(std::move(others));
  const auto loopback = [](const Node& node) { return endpoint_of(ipv4(127, 0, 0, 1), node.port()); };
  const NodePeer to_b = *a->add_peer(b->key(), {.endpoint = loopback(*b)});
  const NodePeer to_a = *b->add_peer(a->key());
  const std::uint8_t payload[4] = {1, 2, 3, 4};
  const auto round_trip = [&](std::chrono::milliseconds at_most) {
    const auto begun = std::chrono::steady_clock::now();
    static_cast<void>(a->send(to_b, payload));
    for (bool answered = false; !answered;) {
      static_cast<void>(b->wait(1ms));
      b->receive([&](const Received&) { static_cast<void>(b->send(to_a, payload)); });
      a->receive([&](const Received&) { answered = true; });
      if (std::chrono::steady_clock::now() - begun > at_most) return at_most;
    }
    return std::chrono::duration_cast<std::chrono::milliseconds>(std::chrono::steady_clock::now() - begun);
  };
  ASSERT_LT(round_trip(std::chrono::seconds{10}), std::chrono::seconds{10});
  static std::atomic<unsigned> calls;
  calls = 0;
  randomness = [](std::size_t wanted) {
    ++calls;
    std::this_thread::sleep_for(std::chrono::milliseconds{200});
    return static_cast<ssize_t>(wanted);
  };
  std::thread configuring{[&] {
    for (std::uint8_t i = 1; i <= 3; ++i) {
      PublicKey nobody = b->key();
      nobody.octets[5] ^= i;
      static_cast<void>(!a->add_peer(nobody, {.endpoint = endpoint_of(ipv4(127, 0, 0, 9), 9), .keepalive_s = 1}));
    }
  }};
  std::vector<std::chrono::milliseconds> times;
  for (int i = 0; i < 40; ++i) times.push_back(round_trip(std::chrono::seconds{2}));
  configuring.join();
  randomness = nullptr;
  std::ranges::sort(times);
  EXPECT_GT(calls, 0u);
  EXPECT_LT(times[20], std::chrono::milliseconds{100}) << "half of the round trips";
  EXPECT_LT(times[35], std::chrono::milliseconds{200}) << "nine in ten";
}

// ---- netlink

// Goal: more changes than the netlink socket holds are not missed: what is, is read anew as a whole.
// Method: a monitor with the smallest buffer, three hundred addresses and routes at once; the tables as they are then.
TEST(FaultsKernel, ANetlinkOverrunIsMadeUpForByADump) {
  WG_OWN_NETWORK_OR_SKIP(network);
  ASSERT_TRUE(
      NetNamespace::run("ip link add v0 type veth peer name v1 && ip addr add 10.1.0.1/24 dev v0 && "
                        "ip link set v0 up && ip link set v1 up"));
  auto monitor = NetlinkMonitor::open();
  ASSERT_TRUE(monitor);
  const int smallest = 1;
  ASSERT_EQ(::setsockopt(monitor->fd(), SOL_SOCKET, SO_RCVBUF, &smallest, sizeof smallest), 0);
  NeighbourOptions options;
  options.kernel_interface = "v0";
  auto neighbours = Neighbours::open(std::move(options), 1);
  ASSERT_TRUE(neighbours) << neighbours.error().what;
  while (monitor->changed()) {
  }
  std::string batch;
  for (int i = 0; i < 300; ++i)
    batch += "route add 10." + std::to_string(100 + i / 100) + "." + std::to_string(i % 100) +
             ".0/24 dev v0 src 10.1.0.1\\n";
  batch += "neigh add 10.102.99.7 lladdr 02:00:00:00:00:07 dev v0\\n";
  ASSERT_TRUE(NetNamespace::run("printf '" + batch + "' | ip -batch -"));
  char octets[8192];
  ssize_t first;
  std::size_t messages = 0;
  bool overrun = false;
  while ((first = ::recv(monitor->fd(), octets, sizeof octets, MSG_DONTWAIT)) >= 0 || errno == ENOBUFS) {
    overrun = overrun || first < 0;
    if (++messages > 1000) break;
  }
  EXPECT_TRUE(overrun) << "or this test shows nothing";
  // The same through the table: its own monitor has room for all, so it is overrun by hand.
  NextHops::Hop hop;
  Endpoint to = endpoint_of(ipv4(10, 102, 99, 7), 1);
  EXPECT_NE((*neighbours)->find((*neighbours)->latest(), to, hop), NextHops::Found::kReady);
  ASSERT_TRUE((*neighbours)->poll(Instant{1h}));
  EXPECT_EQ((*neighbours)->find((*neighbours)->latest(), to, hop), NextHops::Found::kReady);
  EXPECT_EQ(hop.mac[5], 7);
  // And a monitor that was overrun says so once, and then hears on.
  ASSERT_TRUE(NetNamespace::run("printf '" + std::string{"addr add 10.9.0.1/32 dev v0\\n"} + "' | ip -batch -"));
  EXPECT_TRUE(monitor->changed());
  EXPECT_FALSE(monitor->changed());
}

}  // namespace
}  // namespace wireplane
