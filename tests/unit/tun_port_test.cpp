#include "drivers/tun_port.h"

#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <netinet/in.h>

#include <fstream>
#include <set>
#include <sstream>

#include "dataplane/base/bytes.h"
#include "drivers/file_descriptor.h"
#include "drivers/netlink.h"
#include "tests/support/net_namespace.h"
#include "tests/support/test_worker.h"

namespace wireplane {
namespace {

std::unique_ptr<TunDevice> open_or_fail(const TunOptions& options) {
  auto device = TunDevice::open(options);
  if (!device) ADD_FAILURE() << device.error().what;
  return device ? std::move(*device) : nullptr;
}

Netlink netlink_or_die() {
  auto netlink = Netlink::open();
  WG_CHECK(netlink);
  return std::move(*netlink);
}

std::string output_of(const std::string& command) {
  std::string text;
  FILE* pipe = ::popen(command.c_str(), "r");
  char line[512];
  while (std::fgets(line, sizeof line, pipe) != nullptr) text += line;
  ::pclose(pipe);
  return text;
}

sockaddr_in to_sockaddr(const char* address, std::uint16_t port) {
  sockaddr_in a{};
  a.sin_family = AF_INET;
  a.sin_port = htons(port);
  ::inet_pton(AF_INET, address, &a.sin_addr);
  return a;
}

// The host behind the TUN: a UDP socket bound to its address.
struct Host {
  explicit Host(const char* address, std::uint16_t port) : fd{::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0)} {
    const sockaddr_in a = to_sockaddr(address, port);
    timeval patience{2, 0};
    ::setsockopt(fd.get(), SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    WG_CHECK(::bind(fd.get(), reinterpret_cast<const sockaddr*>(&a), sizeof a) == 0);
  }
  bool send(const char* address, std::uint16_t port, std::size_t length) {
    const sockaddr_in a = to_sockaddr(address, port);
    const std::vector<char> octets(length, 'x');
    return ::sendto(fd.get(), octets.data(), length, 0, reinterpret_cast<const sockaddr*>(&a), sizeof a) ==
           static_cast<ssize_t>(length);
  }
  ssize_t receive() {
    char octets[2048];
    return ::recv(fd.get(), octets, sizeof octets, 0);
  }
  FileDescriptor fd;
};

// Keeps UDP packets; the kernel also talks of its own accord (router solicitations, multicast reports).
void keep_udp(TestWorker& w) {
  w.burst.filter(w.context, [](Packet& packet) {
    return packet.length > 28 && packet.data[0] >> 4 == 4 && packet.data[9] == IPPROTO_UDP ? Drop::kNone
                                                                                           : Drop::kInnerMalformed;
  });
}

// Goal: the host's packets come in, ours reach the host. Method: a datagram out, its addresses and ports swapped, back
// in.
TEST(TunPort, CarriesPacketsBothWays) {
  WG_OWN_NETWORK_OR_SKIP(net);
  TestWorker w;
  auto device = open_or_fail({.name = "wgtest0"});
  ASSERT_TRUE(device);
  EXPECT_EQ(device->name(), "wgtest0");
  auto netlink = netlink_or_die();
  ASSERT_TRUE(netlink.add_address(device->interface(), ipv4(10, 77, 0, 1), 24));
  Host host{"10.77.0.1", 5000};
  ASSERT_TRUE(host.send("10.77.0.2", 6000, 100));
  for (int i = 0; i < 100 && w.burst.empty(); ++i) {
    w.receive(device->queue(0));
    keep_udp(w);
  }
  ASSERT_EQ(w.burst.size(), 1u);
  Packet& packet = w.burst[0];
  EXPECT_EQ(packet.length, 128u);
  EXPECT_EQ(packet.origin, Origin::kHost);
  EXPECT_GE(packet.headroom(), 96u);
  EXPECT_GE(packet.tailroom(), 31u);
  std::swap_ranges(packet.data + 12, packet.data + 16, packet.data + 16);  // addresses
  std::swap_ranges(packet.data + 20, packet.data + 22, packet.data + 22);  // ports
  store_be16(packet.data + 26, 0);                                         // no UDP checksum
}

// Goal: a burst larger than a receive's is handed over in pieces, in order. Method: 100 numbered datagrams, unread.
TEST(TunPort, HandsOverBurstsInOrder) {
  WG_OWN_NETWORK_OR_SKIP(net);
  TestWorker w;
  auto device = open_or_fail({.name = "wgtest0"});
  ASSERT_TRUE(device);
  auto netlink = netlink_or_die();
  ASSERT_TRUE(netlink.add_address(device->interface(), ipv4(10, 77, 0, 1), 24));
  Host host{"10.77.0.1", 5000};
  for (std::size_t i = 1; i <= 100; ++i) ASSERT_TRUE(host.send("10.77.0.2", 6000, i));
  std::size_t next = 1;
  while (next <= 100) {
    ASSERT_GT(w.receive(device->queue(0)), 0u);
    ASSERT_LE(w.burst.size(), kReceiveBurst);
    keep_udp(w);
    for (Packet& packet : w.burst) EXPECT_EQ(packet.length, 28 + next++);
    w.clear();
  }
}

// Goal: with several queues every packet arrives once, and different flows use different queues.
// Method: four queues, datagrams of many flows.
TEST(TunPort, SpreadsFlowsOverItsQueues) {
  WG_OWN_NETWORK_OR_SKIP(net);
  constexpr unsigned kQueues = 4, kFlows = 64;
  TestWorker w;
  auto device = open_or_fail({.name = "wgtest%d", .queues = kQueues});
  ASSERT_TRUE(device);
  EXPECT_EQ(device->name(), "wgtest0");
  EXPECT_EQ(device->queues(), kQueues);
  auto netlink = netlink_or_die();
  ASSERT_TRUE(netlink.add_address(device->interface(), ipv4(10, 77, 0, 1), 24));
  Host host{"10.77.0.1", 5000};
  for (std::uint16_t flow = 0; flow < kFlows; ++flow)
    ASSERT_TRUE(host.send("10.77.0.2", static_cast<std::uint16_t>(6000 + flow), 50));
  ::usleep(20'000);
  std::set<unsigned> ports, used;
  std::size_t total = 0;
  for (unsigned queue = 0; queue < kQueues; ++queue) {
    device->queue(queue).receive(w.burst, w.context);
    keep_udp(w);
    for (Packet& packet : w.burst) ports.insert(load_be16(packet.data + 22));
    if (!w.burst.empty()) used.insert(queue);
    total += w.burst.size();
    w.clear();
  }
  EXPECT_EQ(total, kFlows);
  EXPECT_EQ(ports.size(), kFlows);
  EXPECT_GT(used.size(), 1u);
}

// Goal: an interface that is down costs packets, nothing else. Method: down, send; up, send; receive in both states.
TEST(TunPort, SurvivesAnInterfaceThatIsDown) {
  WG_OWN_NETWORK_OR_SKIP(net);
  TestWorker w;
  auto device = open_or_fail({.name = "wgtest0", .up = false});
  ASSERT_TRUE(device);
  const std::vector<std::uint8_t> packet{0x45, 0, 0, 20, 0, 0, 0, 0, 64, 17, 0, 0, 10, 77, 0, 2, 10, 77, 0, 1};
  w.put(packet);
  EXPECT_EQ(device->queue(0).send(w.burst, w.context), 0u);
  EXPECT_EQ(w.drops(Drop::kInnerSend), 1u);
  device->queue(0).receive(w.burst, w.context);
  EXPECT_TRUE(w.burst.empty());
  ASSERT_TRUE(netlink_or_die().set_link(device->interface(), true));
  w.put(packet);
  w.put(std::vector<std::uint8_t>{0x05, 1, 2, 3});  // neither IPv4 nor IPv6
  EXPECT_EQ(device->queue(0).send(w.burst, w.context), 1u);
  EXPECT_EQ(w.drops(Drop::kInnerSend), 2u);
  ASSERT_TRUE(NetNamespace::run("ip link del wgtest0"));
  w.put(packet);
  EXPECT_EQ(device->queue(0).send(w.burst, w.context), 0u);
  device->queue(0).receive(w.burst, w.context);
  EXPECT_TRUE(w.burst.empty());
}

// Goal: a packet larger than a buffer is refused, not cut. Method: MTU 1500, buffers of 200.
TEST(TunPort, RefusesWhatDoesNotFitABuffer) {
  WG_OWN_NETWORK_OR_SKIP(net);
  TestWorker w{64, 200};
  auto device = open_or_fail({.name = "wgtest0", .mtu = 1500});
  ASSERT_TRUE(device);
  auto netlink = netlink_or_die();
  ASSERT_TRUE(netlink.add_address(device->interface(), ipv4(10, 77, 0, 1), 24));
  Host host{"10.77.0.1", 5000};
  for (const std::size_t length : {std::size_t{172}, std::size_t{173}, std::size_t{1400}, std::size_t{50}})
    ASSERT_TRUE(host.send("10.77.0.2", 6000, length));
  ::usleep(10'000);
  w.receive(device->queue(0));
  keep_udp(w);
  ASSERT_EQ(w.burst.size(), 2u);
  EXPECT_EQ(w.burst[0].length, 200u);
  EXPECT_EQ(w.burst[1].length, 78u);
  EXPECT_EQ(w.drops(Drop::kTruncated), 2u);
}

// Goal: what wg-quick does to an interface is done over netlink. Method: do it; let `ip` say what it sees.
TEST(Netlink, SetsAddressesRoutesAndRules) {
  WG_OWN_NETWORK_OR_SKIP(net);
  auto device = open_or_fail({.name = "wgtest0", .mtu = 1400});
  ASSERT_TRUE(device);
  auto netlink = netlink_or_die();
  const std::uint32_t interface = device->interface();
  ASSERT_TRUE(netlink.add_address(interface, ipv4(10, 77, 0, 1), 32));
  ASSERT_TRUE(netlink.add_address(interface, ipv6({0xfd, 0x77}, 1), 64));
  ASSERT_TRUE(netlink.add_route({.destination = ipv4(10, 78, 0, 0), .prefix_length = 16, .interface = interface}));
  ASSERT_TRUE(netlink.add_route({.destination = ipv6({0xfd, 0x78}, 0), .prefix_length = 16, .interface = interface}));
  const KernelRoute everything{.destination = ipv4(0, 0, 0, 0), .interface = interface, .table = 51820};
  ASSERT_TRUE(netlink.add_route(everything));
  const KernelRule unmarked{.family = Address::Family::kV4, .not_fwmark = 51820, .table = 51820};
  const KernelRule specific{.family = Address::Family::kV4, .suppress_prefix_length = 0};
  ASSERT_TRUE(netlink.add_rule(unmarked));
  ASSERT_TRUE(netlink.add_rule(specific));

  EXPECT_NE(output_of("ip link show wgtest0").find("mtu 1400"), std::string::npos);
  EXPECT_NE(output_of("ip addr show wgtest0").find("inet 10.77.0.1/32"), std::string::npos);
  EXPECT_NE(output_of("ip addr show wgtest0").find("inet6 fd77::1/64"), std::string::npos);
  EXPECT_NE(output_of("ip route").find("10.78.0.0/16 dev wgtest0"), std::string::npos);
  EXPECT_NE(output_of("ip -6 route").find("fd78::/16 dev wgtest0"), std::string::npos);
  EXPECT_NE(output_of("ip route show table 51820").find("default dev wgtest0"), std::string::npos);
  EXPECT_NE(output_of("ip rule").find("not from all fwmark 0xca6c lookup 51820"), std::string::npos)
      << output_of("ip rule");
  EXPECT_NE(output_of("ip rule").find("lookup main suppress_prefixlength 0"), std::string::npos);

  EXPECT_EQ(netlink.add_route(everything).error().code, EEXIST);
  EXPECT_TRUE(netlink.remove_rule(unmarked));
  EXPECT_TRUE(netlink.remove_rule(specific));
  EXPECT_TRUE(netlink.remove_route(everything));
  EXPECT_EQ(output_of("ip rule").find("51820"), std::string::npos);
}

// Goal: what the kernel knows is read back. Method: a veth with an address, routes and permanent neighbours.
TEST(Netlink, ReadsLinksAddressesRoutesAndNeighbours) {
  WG_OWN_NETWORK_OR_SKIP(net);
  ASSERT_TRUE(NetNamespace::run(
      "ip link add va type veth peer name vb && ip link set va address 02:00:00:00:00:0a && "
      "ip link set va mtu 1300 && ip link set vb up && ip link set va up && ip addr add 192.0.2.1/24 dev va && "
      "ip route add default via 192.0.2.9 && ip neigh add 192.0.2.9 lladdr 02:00:00:00:00:99 dev va && "
      "ip -6 neigh add fe80::9 lladdr 02:00:00:00:00:66 dev va"));
  auto netlink = netlink_or_die();
  const std::uint32_t interface = ::if_nametoindex("va");
  auto link = netlink.link(interface);
  ASSERT_TRUE(link);
  EXPECT_EQ(link->name, "va");
  EXPECT_EQ(link->mtu, 1300u);
  EXPECT_EQ(link->mac, (MacAddress{2, 0, 0, 0, 0, 0x0a}));
  EXPECT_TRUE(link->up);
  auto addresses = netlink.addresses(interface);
  ASSERT_TRUE(addresses);
  EXPECT_NE(std::ranges::find(*addresses, ipv4(192, 0, 2, 1)), addresses->end());
  auto routes = netlink.routes(interface);
  ASSERT_TRUE(routes);
  const auto has = [&](std::uint8_t length, const Address& gateway) {
    return std::ranges::any_of(*routes, [&](const KernelRoute& route) {
      return route.destination.is_v4() && route.prefix_length == length && route.gateway == gateway;
    });
  };
  EXPECT_TRUE(has(24, {}));
  EXPECT_TRUE(has(0, ipv4(192, 0, 2, 9)));
  auto neighbours = netlink.neighbours(interface);
  ASSERT_TRUE(neighbours);
  const auto mac_of = [&](const Address& address) {  // the kernel adds multicast groups of its own
    for (const KernelNeighbour& neighbour : *neighbours)
      if (neighbour.address == address) return neighbour.mac[5];
    return std::uint8_t{0};
  };
  EXPECT_EQ(mac_of(ipv4(192, 0, 2, 9)), 0x99);
  EXPECT_EQ(mac_of(ipv6({0xfe, 0x80}, 9)), 0x66);
  EXPECT_FALSE(netlink.link(9999));
  const Status refused = netlink.set_link(9999, true);
  ASSERT_FALSE(refused);
  EXPECT_NE(refused.error().what.find("9999"), std::string::npos);
}

// Goal: mistakes are answered in words. Method: a name too long, no queue, a name that is taken.
TEST(TunPort, RefusesSenselessOptions) {
  WG_OWN_NETWORK_OR_SKIP(net);
  EXPECT_FALSE(TunDevice::open({.name = "sixteen-letters-"}));
  EXPECT_FALSE(TunDevice::open({.name = "wgtest0", .queues = 0}));
  const auto taken = TunDevice::open({.name = "lo"});
  ASSERT_FALSE(taken);
  EXPECT_NE(taken.error().what.find("lo"), std::string::npos) << taken.error().what;
}

// Not a test: what one core writes to the kernel's stack (which counts and drops it), for drivers/README.md.
TEST(TunPort, DISABLED_Speed) {
  WG_OWN_NETWORK_OR_SKIP(net);
  for (const std::size_t length : {std::size_t{96}, std::size_t{1420}}) {
    TestWorker w;
    auto device = open_or_fail({.name = "wgtest0"});
    std::uint64_t sent = 0;
    const auto begin = std::chrono::steady_clock::now();
    auto end = begin;
    for (; end - begin < std::chrono::seconds{1}; end = std::chrono::steady_clock::now()) {
      for (std::size_t i = 0; i < kReceiveBurst; ++i) {
        w.put(std::vector<std::uint8_t>(length, 0x45));
        store_be16(w.burst[i].data + 2, static_cast<std::uint16_t>(length));
      }
      sent += device->queue(0).send(w.burst, w.context);
    }
    const double rate = static_cast<double>(sent) / std::chrono::duration<double>(end - begin).count();
    std::printf("tun %4zu octets: %.2f Mpps, %.0f ns a packet, in to the host\n", length, rate / 1e6, 1e9 / rate);
  }
}

}  // namespace
}  // namespace wireplane
