#include "drivers/udp_port.h"

#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <poll.h>

#include <set>

#include "drivers/file_descriptor.h"
#include "tests/support/net_namespace.h"
#include "tests/support/test_worker.h"

namespace wireplane {
namespace {

const Address kLoopback4 = ipv4(127, 0, 0, 1);
const Address kLoopback6 = ipv6({}, 1);

std::unique_ptr<UdpDevice> open_or_fail(const UdpOptions& options) {
  auto device = UdpDevice::open(options);
  if (!device) ADD_FAILURE() << device.error().what;
  return device ? std::move(*device) : nullptr;
}

// A peer with a plain socket of the kernel.
struct PlainSocket {
  explicit PlainSocket(int family = AF_INET) : fd{::socket(family, SOCK_DGRAM | SOCK_CLOEXEC, 0)} {
    timeval patience{2, 0};
    ::setsockopt(fd.get(), SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
  }
  void bind4(const char* address, std::uint16_t port = 0) {
    sockaddr_in a{};
    a.sin_family = AF_INET;
    a.sin_port = htons(port);
    ::inet_pton(AF_INET, address, &a.sin_addr);
    ASSERT_EQ(::bind(fd.get(), reinterpret_cast<sockaddr*>(&a), sizeof a), 0) << std::strerror(errno);
  }
  [[nodiscard]] std::uint16_t port() const {
    sockaddr_in6 a{};
    socklen_t length = sizeof a;
    ::getsockname(fd.get(), reinterpret_cast<sockaddr*>(&a), &length);
    return ntohs(a.sin6_port);
  }
  bool send4(std::span<const std::uint8_t> octets, const char* address, std::uint16_t to) {
    sockaddr_in a{};
    a.sin_family = AF_INET;
    a.sin_port = htons(to);
    ::inet_pton(AF_INET, address, &a.sin_addr);
    return ::sendto(fd.get(), octets.data(), octets.size(), 0, reinterpret_cast<sockaddr*>(&a), sizeof a) ==
           static_cast<ssize_t>(octets.size());
  }
  FileDescriptor fd;
};

// Goal: both families carry data both ways, with source, own address and DS field.
// Method: two devices on loopback; one sends over both families with a DS field of its own each.
TEST(UdpPort, CarriesBothFamiliesWithSourceLocalAddressAndDsField) {
  WG_OWN_NETWORK_OR_SKIP(net);
  TestWorker wa, wb;
  auto a = open_or_fail({}), b = open_or_fail({});
  ASSERT_TRUE(a && b);
  EXPECT_NE(a->listen_port(), b->listen_port());
  const Endpoint to4 = endpoint_of(kLoopback4, b->listen_port()), to6 = endpoint_of(kLoopback6, b->listen_port());
  wa.put("four", &to4, 0x88);
  wa.put("six", &to6, 0x03);
  wa.put("six without", &to6);
  EXPECT_EQ(a->queue(0).send(wa.burst, wa.context), 3u);
  ASSERT_EQ(wb.receive(b->queue(0), 3), 3u);
  for (std::size_t i = 0; i < 3; ++i) {
    const Packet& packet = wb.burst[i];
    const bool four = wb.text(i) == "four";
    EXPECT_EQ(packet.from.remote, four ? kLoopback4 : kLoopback6);
    EXPECT_EQ(packet.from.local, four ? kLoopback4 : kLoopback6);
    EXPECT_EQ(packet.from.port, a->listen_port());
    EXPECT_EQ(packet.from.interface, ::if_nametoindex("lo"));
    EXPECT_EQ(packet.tos, four ? 0x88 : wb.text(i) == "six" ? 0x03 : 0);
    EXPECT_GE(packet.headroom(), 96u);
    EXPECT_GE(packet.tailroom(), 31u);
    EXPECT_EQ(packet.data, packet.buffer->memory + kHeadroom);
  }
  EXPECT_EQ(wa.all_drops() + wb.all_drops(), 0u);
}

// Goal: an oversized datagram in a batch is refused whole, and harms none of its neighbours.
// Method: a plain socket sends small, 65,507 octets, small, before the port looks; buffers hold 2048.
// proves: P5
TEST(UdpPort, OversizedDatagramIsRefusedAndItsNeighboursArrive) {
  WG_OWN_NETWORK_OR_SKIP(net);
  TestWorker w;
  auto device = open_or_fail({});
  ASSERT_TRUE(device);
  PlainSocket peer;
  std::vector<std::uint8_t> first{1, 2, 3}, last{4, 5, 6, 7};
  std::vector<std::uint8_t> largest(65'507, 0xaa), one_more(2049, 0xbb), fits(2048, 0xcc);
  for (int round = 0; round < 3; ++round) {  // again, with the buffers that held the refused ones
    for (const auto* octets : {&first, &largest, &one_more, &fits, &largest, &last})
      ASSERT_TRUE(peer.send4(*octets, "127.0.0.1", device->listen_port()));
    ASSERT_EQ(w.receive(device->queue(0), 3), 3u);
    EXPECT_TRUE(std::ranges::equal(w.burst[0].octets(), first));
    EXPECT_TRUE(std::ranges::equal(w.burst[1].octets(), fits));
    EXPECT_TRUE(std::ranges::equal(w.burst[2].octets(), last));
    w.clear();
  }
  EXPECT_EQ(w.drops(Drop::kTruncated), 9u);
  EXPECT_EQ(w.counters.refused.get(), 9u);
}

// Goal: a message that cannot be sent is dropped for its own reason, and those around it leave.
// Method: between good ones: no route, too large for UDP, no endpoint's family, an address that is not ours as source.
TEST(UdpPort, OneBadMessageDoesNotStopTheRest) {
  WG_OWN_NETWORK_OR_SKIP(net);
  TestWorker wa{256, 66'000}, wb;
  auto a = open_or_fail({}), b = open_or_fail({});
  ASSERT_TRUE(a && b);
  const Endpoint good = endpoint_of(kLoopback4, b->listen_port()), nowhere = endpoint_of(ipv4(10, 9, 8, 7), 9);
  Endpoint moved = good, nothing;
  moved.local = ipv4(10, 1, 1, 1);
  wa.put("1", &nowhere);
  wa.put("2", &good);
  wa.put(std::vector<std::uint8_t>(65'508), &good);
  wa.put("3", &nothing);
  wa.put("4", &moved);  // P37: the sticky source is gone; sent from the host's choice
  wa.put("5", &nowhere);
  wa.put("6", &good);
  EXPECT_EQ(a->queue(0).send(wa.burst, wa.context), 3u);
  EXPECT_TRUE(wa.burst.empty());
  ASSERT_EQ(wb.receive(b->queue(0), 3), 3u);
  EXPECT_EQ(wb.text(0), "2");
  EXPECT_EQ(wb.text(1), "4");
  EXPECT_EQ(wb.text(2), "6");
  EXPECT_EQ(wa.drops(Drop::kOuterUnreachable), 2u);
  EXPECT_EQ(wa.drops(Drop::kOuterMessageSize), 1u);
  EXPECT_EQ(wa.drops(Drop::kNoEndpoint), 1u);
}

// Goal: a reply leaves from the address the peer reached us at. Method: the peer sends to several addresses of
// loopback.
TEST(UdpPort, RepliesLeaveFromTheAddressTheyWereSentTo) {
  WG_OWN_NETWORK_OR_SKIP(net);
  ASSERT_TRUE(NetNamespace::run("ip -6 addr add fd00::7/128 dev lo nodad"));
  TestWorker wa, wb;
  auto a = open_or_fail({}), b = open_or_fail({});
  ASSERT_TRUE(a && b);
  std::vector<Endpoint> reached;
  for (const Address& address : {ipv4(127, 0, 0, 2), ipv4(127, 9, 9, 9), kLoopback6, ipv6({0xfd}, 7)})
    reached.push_back(endpoint_of(address, b->listen_port()));
  for (unsigned attempt = 0; attempt < 5 && wb.burst.size() != 4; ++attempt) {  // a new namespace may lose a datagram
    wb.clear();
    for (const Endpoint& to : reached) wa.put("ping", &to);
    EXPECT_EQ(a->queue(0).send(wa.burst, wa.context), 4u);
    wb.receive(b->queue(0), 4);
  }
  ASSERT_EQ(wb.burst.size(), 4u);
  std::vector<Endpoint> peers;
  for (Packet& packet : wb.burst) peers.push_back(packet.from);
  for (std::size_t i = 0; i < 4; ++i) wb.burst[i].to = &peers[i];
  EXPECT_EQ(b->queue(0).send(wb.burst, wb.context), 4u);
  ASSERT_EQ(wa.receive(a->queue(0), 4), 4u);
  std::set<Address> heard, expected;
  for (Packet& packet : wa.burst) heard.insert(packet.from.remote);
  for (const Endpoint& to : reached) expected.insert(to.remote);
  EXPECT_EQ(heard, expected);
}

// Goal: link-local peers work, by the interface they were heard on. Method: a veth pair between two namespaces.
TEST(UdpPort, LinkLocalPeersAreReachedByTheirInterface) {
  WG_OWN_NETWORK_OR_SKIP(left);
  ASSERT_TRUE(
      NetNamespace::run("ip link add va type veth peer name vb && "
                        "ip link set va address 02:00:00:00:00:0a && ip link set vb address 02:00:00:00:00:0b"));
  TestWorker wa, wb;
  NetNamespace right;
  ASSERT_TRUE(right);
  left.enter();
  ASSERT_TRUE(right.take_in("vb"));
  ASSERT_TRUE(NetNamespace::run("sysctl -qw net.ipv6.conf.va.accept_dad=0 && ip link set va up"));
  auto a = open_or_fail({});
  right.enter();
  ASSERT_TRUE(NetNamespace::run("sysctl -qw net.ipv6.conf.vb.accept_dad=0 && ip link set vb up"));
  auto b = open_or_fail({});
  ASSERT_TRUE(a && b);
  Endpoint to_b = endpoint_of(ipv6({0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xfe, 0, 0}, 0x0b), b->listen_port());
  to_b.remote.octets[8] = 0;  // EUI-64 of 02:..:0b: fe80::ff:fe00:b
  left.enter();
  to_b.interface = ::if_nametoindex("va");
  for (int tries = 0; tries < 20 && wb.burst.empty(); ++tries) {  // until the interface has carrier and its address
    wa.put("hello", &to_b);
    static_cast<void>(a->queue(0).send(wa.burst, wa.context));
    ::usleep(50'000);
    b->queue(0).receive(wb.burst, wb.context);
  }
  ASSERT_FALSE(wb.burst.empty());
  const Endpoint back = wb.burst[0].from;
  EXPECT_EQ(back.local, to_b.remote);
  EXPECT_NE(back.interface, 0u);
  wb.burst[0].to = &back;
  for (std::size_t i = 1; i < wb.burst.size(); ++i) wb.burst[i].to = &back;
  EXPECT_GE(b->queue(0).send(wb.burst, wb.context), 1u);
  EXPECT_GE(wa.receive(a->queue(0)), 1u);
  left.leave();
}

// Goal: with several workers, what carries a receiver index arrives at its owner; initiations are spread.
// Method: indices of all low 6 bits in the three message types, from one socket; initiations from many.
TEST(UdpPort, SteersByReceiverIndexAndSpreadsInitiations) {
  WG_OWN_NETWORK_OR_SKIP(net);
  constexpr unsigned kWorkers = 3;
  TestWorker w;
  UdpOptions options;
  options.workers = kWorkers;
  auto device = open_or_fail(options);
  ASSERT_TRUE(device);
  PlainSocket peer;
  for (const std::uint8_t type : std::to_array<std::uint8_t>({2, 3, 4})) {
    std::size_t total = 0;
    for (std::uint8_t low = 0; low < 64; ++low) {
      std::vector<std::uint8_t> message(64);
      message[0] = type;
      message[type == 2 ? 8 : 4] = static_cast<std::uint8_t>(low | 0x40);
      message[type == 2 ? 9 : 5] = 0xee;
      ASSERT_TRUE(peer.send4(message, "127.0.0.1", device->listen_port()));
    }
    for (unsigned worker = 0; worker < kWorkers; ++worker) {
      total += w.receive(device->queue(worker), 21);
      for (Packet& packet : w.burst) EXPECT_EQ(steer(packet.octets(), kWorkers, 0), worker);
      w.clear();
    }
    EXPECT_EQ(total, 64u) << "type " << int{type};
  }
  for (int i = 0; i < 60; ++i) {
    PlainSocket other;
    std::vector<std::uint8_t> initiation(148);
    initiation[0] = 1;
    ASSERT_TRUE(other.send4(initiation, "127.0.0.1", device->listen_port()));
  }
  const std::vector<std::uint8_t> stub{4, 0, 0};  // ends the program with 0: the first worker's
  ASSERT_TRUE(peer.send4(stub, "127.0.0.1", device->listen_port()));
  std::size_t total = 0;
  for (unsigned worker = 0; worker < kWorkers; ++worker) {
    const std::size_t got = w.receive(device->queue(worker));
    EXPECT_GT(got, 4u) << "worker " << worker;
    total += got;
    w.clear();
  }
  EXPECT_EQ(total, 61u);
}

// Goal: a port that another holds is refused, even another of several workers. Method: a second device on the same
// port.
TEST(UdpPort, ASecondEngineOnTheSamePortIsRefused) {
  WG_OWN_NETWORK_OR_SKIP(net);
  UdpOptions options;
  options.workers = 2;
  auto first = open_or_fail(options);
  ASSERT_TRUE(first);
  options.listen_port = first->listen_port();
  const auto second = UdpDevice::open(options);
  ASSERT_FALSE(second);
  EXPECT_EQ(second.error().code, EADDRINUSE);
  EXPECT_NE(second.error().what.find(std::to_string(options.listen_port)), std::string::npos) << second.error().what;
}

// Goal: rebinding keeps descriptors, moves all workers, and a failure changes nothing.
// Method: move to a port, to one that is taken, and to any; after each, data comes through.
TEST(UdpPort, RebindsWithoutDisturbingWorkers) {
  WG_OWN_NETWORK_OR_SKIP(net);
  UdpOptions options;
  options.workers = 2;
  TestWorker wa, wb;
  auto a = open_or_fail({}), b = open_or_fail(options);
  ASSERT_TRUE(a && b);
  std::vector<int> before, after;
  b->queue(0).wake_fds(before);
  const auto reaches = [&](unsigned worker) {
    const Endpoint to = endpoint_of(kLoopback6, b->listen_port());
    const std::vector<std::uint8_t> data{4, 0, 0, 0, static_cast<std::uint8_t>(worker), 0, 0, 0};
    wa.put(data, &to);
    EXPECT_EQ(a->queue(0).send(wa.burst, wa.context), 1u);
    const bool arrived = wb.receive(b->queue(worker)) == 1;
    wb.clear();
    return arrived;
  };
  ASSERT_TRUE(b->set_listen_port(40'001));
  EXPECT_EQ(b->listen_port(), 40'001);
  EXPECT_TRUE(reaches(0) && reaches(1));
  const auto refused = b->set_listen_port(a->listen_port());
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, EADDRINUSE);
  EXPECT_EQ(b->listen_port(), 40'001);
  EXPECT_TRUE(reaches(0) && reaches(1));
  ASSERT_TRUE(b->set_listen_port(0));
  EXPECT_NE(b->listen_port(), 40'001);
  EXPECT_TRUE(reaches(0) && reaches(1));
  b->queue(0).wake_fds(after);
  EXPECT_EQ(before, after);
  PlainSocket squatter;  // the old port is free again
  squatter.bind4("0.0.0.0", 40'001);
}

// Goal: an ICMP error for one datagram neither stops receiving nor costs another datagram.
// Method: send to closed ports over and over while a peer sends to us.
TEST(UdpPort, IcmpErrorsDoNotStopReceiving) {
  WG_OWN_NETWORK_OR_SKIP(net);
  TestWorker wa, wb;
  auto a = open_or_fail({}), b = open_or_fail({});
  ASSERT_TRUE(a && b);
  const Endpoint closed4 = endpoint_of(kLoopback4, 9), closed6 = endpoint_of(kLoopback6, 9);
  const Endpoint to_a = endpoint_of(kLoopback4, a->listen_port());
  for (int i = 0; i < 20; ++i) {
    wa.put("nobody hears", &closed4);
    wa.put("nobody hears", &closed6);
    EXPECT_EQ(a->queue(0).send(wa.burst, wa.context), 2u);
    wb.put("data", &to_a);
    EXPECT_EQ(b->queue(0).send(wb.burst, wb.context), 1u);
    ASSERT_EQ(wa.receive(a->queue(0)), 1u);
    wa.clear();
  }
  EXPECT_EQ(wa.all_drops(), 0u);
}

// Goal: more than one batch of the system calls is carried whole and in order, over both families mixed.
// Method: 192 packets in a burst, alternating; received in bursts of 64 at most.
TEST(UdpPort, FullBurstsArriveInOrder) {
  WG_OWN_NETWORK_OR_SKIP(net);
  TestWorker wa, wb;
  auto a = open_or_fail({}), b = open_or_fail({});
  ASSERT_TRUE(a && b);
  const Endpoint to4 = endpoint_of(kLoopback4, b->listen_port()), to6 = endpoint_of(kLoopback6, b->listen_port());
  for (unsigned i = 0; i < kBurst; ++i) {
    const std::vector<std::uint8_t> octets(1 + i, static_cast<std::uint8_t>(i));
    wa.put(octets, i % 3 == 0 ? &to6 : &to4);
  }
  EXPECT_EQ(a->queue(0).send(wa.burst, wa.context), kBurst);
  unsigned next4 = 1, next6 = 0, received = 0;
  while (received < kBurst) {
    b->queue(0).receive(wb.burst, wb.context);
    ASSERT_GT(wb.burst.size(), 0u);
    ASSERT_LE(wb.burst.size(), kReceiveBurst);
    for (Packet& packet : wb.burst) {
      unsigned& next = packet.from.remote.is_v6() ? next6 : next4;
      EXPECT_EQ(packet.length, next + 1);
      EXPECT_EQ(packet.data[packet.length - 1], next);
      next += packet.from.remote.is_v6() ? 3 : next4 % 3 == 1 ? 1 : 2;
    }
    received += static_cast<unsigned>(wb.burst.size());
    wb.clear();
  }
}

// Goal: no buffer is lost or kept beyond the device's life. Method: count the pool before and after traffic.
TEST(UdpPort, GivesItsBuffersBack) {
  WG_OWN_NETWORK_OR_SKIP(net);
  TestWorker w{256};
  {
    auto device = open_or_fail({});
    ASSERT_TRUE(device);
    const Endpoint self = endpoint_of(kLoopback4, device->listen_port());
    for (int i = 0; i < 10; ++i) {
      w.put("to myself", &self);
      EXPECT_EQ(device->queue(0).send(w.burst, w.context), 1u);
      EXPECT_EQ(w.receive(device->queue(0)), 1u);
      w.clear();
    }
  }
  w.cache.drain();
  EXPECT_EQ(w.pool.available(), w.pool.capacity());
}

// Goal: fwmark is set on all sockets, also those of a later port. Method: read it back.
TEST(UdpPort, FwmarkStaysOverRebinding) {
  WG_OWN_NETWORK_OR_SKIP(net);
  auto device = open_or_fail({});
  ASSERT_TRUE(device);
  ASSERT_TRUE(device->set_fwmark(0x1234));
  ASSERT_TRUE(device->set_listen_port(0));
  std::vector<int> fds;
  device->queue(0).wake_fds(fds);
  ASSERT_EQ(fds.size(), 2u);
  for (const int fd : fds) {
    int mark = 0;
    socklen_t length = sizeof mark;
    ASSERT_EQ(::getsockopt(fd, SOL_SOCKET, SO_MARK, &mark, &length), 0);
    EXPECT_EQ(mark, 0x1234);
  }
}

// Goal: mistakes in options are answered in words. Method: no worker, too many, no family.
TEST(UdpPort, RefusesSenselessOptions) {
  UdpOptions none, many, neither;
  none.workers = 0;
  many.workers = 65;
  neither.ipv4 = neither.ipv6 = false;
  EXPECT_FALSE(UdpDevice::open(none));
  EXPECT_FALSE(UdpDevice::open(many));
  const auto refused = UdpDevice::open(neither);
  ASSERT_FALSE(refused);
  EXPECT_NE(refused.error().what.find("IPv6"), std::string::npos);
}

// Not a test: what one core carries through loopback and back, for drivers/README.md.
TEST(UdpPort, DISABLED_Speed) {
  WG_OWN_NETWORK_OR_SKIP(net);
  for (const bool six : {false, true})
    for (const std::size_t length : {std::size_t{96}, std::size_t{1452}}) {
      TestWorker w;
      auto a = open_or_fail({}), b = open_or_fail({});
      const Endpoint to = endpoint_of(six ? kLoopback6 : kLoopback4, b->listen_port());
      const double rate = packets_per_second(w, a->queue(0), b->queue(0), length, &to);
      std::printf("udp (IPv%d loopback) %4zu octets: %.3f Mpps, %.0f ns a packet, out and in\n", six ? 6 : 4, length,
                  rate / 1e6, 1e9 / rate);
    }
}

}  // namespace
}  // namespace wireplane
