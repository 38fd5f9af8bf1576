// TCP and UDP over nodes: what an application can rely on, whatever the peer, the path and the application itself do.
#include "control/embed/ip_stack.h"

#include <gtest/gtest.h>

#include <poll.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <random>
#include <string>
#include <thread>

#include "control/address_text.h"
#include "dataplane/wire/inner_ip.h"
#include "tests/support/nodes.h"

namespace wireplane {
namespace {

using Octets = std::vector<std::uint8_t>;
using test::SteadyClock;

Octets pattern(std::size_t count, unsigned seed = 1) {
  std::mt19937 random{seed};
  Octets octets(count);
  for (std::uint8_t& octet : octets) octet = static_cast<std::uint8_t>(random());
  return octets;
}

// lwIP's allocator, in place of its own: fails each so manieth time.
std::atomic<unsigned> fail_each{0}, allocations{0};

Prefix prefix(std::string_view text) { return *parse_prefix(text); }
Address address(std::string_view text) { return *parse_address(text); }

// A client and a server that know each other: 10.9.0.1 and 10.9.0.2, beside the addresses of their keys.
struct World {
  explicit World(NodeOptions client_options = {}, NodeOptions server_options = {}, IpStackOptions client_stack = {},
                 IpStackOptions server_stack = {}) {
    client_node = test::open(std::move(client_options));
    server_node = test::open(std::move(server_options));
    const Endpoint there = *parse_endpoint("127.0.0.1:" + std::to_string(server_node->port()), interface_index_of_host);
    server_at_client =
        *client_node->add_peer(server_node->key(), {.endpoint = there, .allowed_ips = {prefix("10.9.0.2/32")}});
    client_at_server = *server_node->add_peer(client_node->key(), {.allowed_ips = {prefix("10.9.0.1/32")}});
    client_stack.addresses.push_back(address("10.9.0.1"));
    server_stack.addresses.push_back(address("10.9.0.2"));
    client = open_stack(*client_node, std::move(client_stack));
    server = open_stack(*server_node, std::move(server_stack));
  }
  static std::unique_ptr<IpStack> open_stack(Node& node, IpStackOptions options) {
    auto stack = IpStack::open(node, std::move(options));
    EXPECT_TRUE(stack) << (stack ? "" : stack.error().what);
    return stack ? std::move(*stack) : nullptr;
  }
  template <class Reached>
  bool until(Reached reached, std::chrono::seconds at_most = std::chrono::seconds{20}) {
    const auto end = SteadyClock::now() + at_most;
    while (SteadyClock::now() < end) {
      if (reached()) return true;
      if (client != nullptr) static_cast<void>(!client->wait(1ms));
      if (server != nullptr) static_cast<void>(!server->wait(1ms));
    }
    return false;
  }
  IpEndpoint server_v4(std::uint16_t port) const { return {address("10.9.0.2"), port}; }
  IpEndpoint server_v6(std::uint16_t port) const { return {server_node->address(), port}; }

  std::unique_ptr<Node> client_node, server_node;
  NodePeer server_at_client, client_at_server;
  std::unique_ptr<IpStack> client, server;
};

// One end of a connection that sends `out` and keeps what it gets.
struct Mover {
  TcpSocket socket;
  Octets out{}, in{};
  std::size_t sent = 0;
  bool ended = false;
  int failure = 0;
  void move() {
    while (sent < out.size()) {
      const auto wrote = socket.write(std::span{out}.subspan(sent));
      if (!wrote) break;
      sent += *wrote;
      if (sent == out.size()) {
        EXPECT_TRUE(socket.finish());
      }
    }
    for (std::array<std::uint8_t, 20000> into; !ended && failure == 0;) {
      const auto got = socket.read(into);
      if (got && *got == 0) ended = true;
      if (got) in.insert(in.end(), into.begin(), into.begin() + static_cast<std::ptrdiff_t>(*got));
      if (!got && got.error().code != EAGAIN) failure = got.error().code;
      if (!got) break;
    }
  }
};

// Goal: TCP carries octets unaltered and in order, both ways at once, in both families, whoever drives the nodes.
// Method: 1.5 MB each way between two stacks in one process; then both ends have ended.
TEST(IpStack, CarriesStreamsBothWaysOverBothFamilies) {
  for (const unsigned workers : {0u, 1u}) {
    NodeOptions a, b;
    a.workers = b.workers = workers;
    World world{std::move(a), std::move(b)};
    auto listener = world.server->listen(80);
    ASSERT_TRUE(listener) << listener.error().what;
    for (const IpEndpoint& to : {world.server_v4(80), world.server_v6(80)}) {
      auto connected = world.client->connect(to);
      ASSERT_TRUE(connected) << connected.error().what;
      Mover client{std::move(*connected), pattern(1'500'000, 1)}, server{};
      ASSERT_TRUE(world.until([&] {
        client.move();
        auto arrived = listener->accept();
        if (arrived) server = {std::move(*arrived), pattern(1'500'000, 2)};
        if (server.socket) server.move();
        return client.ended && server.ended;
      })) << "workers "
          << workers << ", sent " << client.sent << " and " << server.sent << ", got " << client.in.size() << " and "
          << server.in.size();
      EXPECT_TRUE(server.in == client.out);
      EXPECT_TRUE(client.in == server.out);
      EXPECT_EQ(client.socket.remote(), to);
      EXPECT_EQ(server.socket.remote(), client.socket.local());
    }
  }
}

// A packet that a stack would rather not get: random octets under a right length, or a TCP, UDP or ICMP packet with
// some of its octets changed; with good checksums half of the time, in fragments now and then.
void set_checksums(Octets& packet) {
  std::uint8_t* ip = packet.data();
  const std::size_t header = ip_header_length(ip);
  if (is_ipv4(ip)) {
    store_be16(ip + 10, 0);
    ChecksumSum sum;
    sum.add(ip, std::min(header, packet.size()));
    store_be16(ip + 10, sum.finish());
  }
  const std::uint8_t protocol = is_ipv4(ip) ? ip[9] : ip[6];
  const std::size_t at = header + (protocol == kProtocolTcp ? 16 : protocol == kProtocolUdp ? 6 : 2);
  if (at + 2 > packet.size()) return;
  store_be16(ip + at, 0);
  ChecksumSum sum = protocol == kProtocolIcmp ? ChecksumSum{} : pseudo_header(ip, protocol, packet.size() - header);
  sum.add(ip + header, packet.size() - header);
  store_be16(ip + at, sum.finish());
}

Octets hostile_packet(std::mt19937& random, const Address& to_v6, const Address& from_v6) {
  const auto below = [&](std::uint32_t n) { return static_cast<std::uint32_t>(random() % n); };
  const bool v4 = below(2) != 0;
  const std::size_t header = v4 ? 20 : 40;
  Octets packet(header + below(4) * 20 + below(60));
  for (std::uint8_t& octet : packet) octet = static_cast<std::uint8_t>(random());
  std::uint8_t* ip = packet.data();
  const std::uint8_t protocols[] = {
      6, 6, 6, 17, static_cast<std::uint8_t>(v4 ? 1 : 58), 44, 0, static_cast<std::uint8_t>(random())};
  const std::uint8_t protocol = protocols[below(8)];
  if (v4) {
    ip[0] = below(8) == 0 && packet.size() >= 40 ? 0x47 : 0x45;
    if (below(3) != 0) store_be16(ip + 6, 0);
    store_be16(ip + 2, static_cast<std::uint16_t>(packet.size()));
    ip[8] = 64, ip[9] = protocol;
    const std::uint8_t from[] = {10, 9, 9, static_cast<std::uint8_t>(random())},
                       to[] = {10, 9, 0, static_cast<std::uint8_t>(below(8) == 0 ? random() : 2)};
    std::memcpy(ip + 12, from, 4), std::memcpy(ip + 16, to, 4);
  } else {
    store_be32(ip, 0x6000'0000);
    store_be16(ip + 4, static_cast<std::uint16_t>(packet.size() - 40));
    ip[6] = protocol, ip[7] = below(4) == 0 ? 255 : 64;
    std::memcpy(ip + 8, from_v6.octets.data(), 16), std::memcpy(ip + 24, to_v6.octets.data(), 16);
    if (below(8) == 0) ip[39] ^= 1;
  }
  if ((protocol == 6 || protocol == 17) && packet.size() >= header + 20) {
    const std::uint16_t ports[] = {80, 7, 5158, static_cast<std::uint16_t>(random())};
    store_be16(ip + header + 2, ports[below(4)]);
    store_be16(ip + header, static_cast<std::uint16_t>(50000 + below(4)));  // few, so that some meet a connection
    if (protocol == 6 && below(2) != 0) ip[header + 12] = static_cast<std::uint8_t>((5 + below(4)) << 4);
    if (protocol == 6 && below(2) != 0) ip[header + 13] = below(2) != 0 ? 0x02 : 0x10;
    if (protocol == 6) store_be32(ip + header + 4, below(5000));
    if (protocol == 17) store_be16(ip + header + 4, static_cast<std::uint16_t>(packet.size() - header));
  }
  if (below(2) != 0) set_checksums(packet);
  return packet;
}

// A connection that was made, and both its ends.
struct Connected {
  explicit Connected(World& world, std::uint16_t port = 80) {
    listener = std::move(*world.server->listen(port));
    client = std::move(*world.client->connect(world.server_v4(port)));
    EXPECT_TRUE(world.until([&] {
      if (auto arrived = listener.accept()) server = std::move(*arrived);
      return server && client.connected();
    }));
  }
  TcpListener listener;
  TcpSocket client, server;
};

int code_of_read(TcpSocket& socket) {
  std::array<std::uint8_t, 1000> into;
  const auto got = socket.read(into);
  return got ? 0 : got.error().code;
}

// Goal: an application learns in words and at once what cannot be; nothing is half done.
// Method: addresses, ports and options that make no sense.
TEST(IpStack, RefusesWhatMakesNoSense) {
  World world;
  for (const char* text : {"127.0.0.1:80", "224.0.0.1:80", "255.255.255.255:80", "0.0.0.0:80", "10.9.0.1:80",
                           "[::1]:80", "[ff02::1]:80", "[fe80::1]:80", "[::ffff:10.9.0.2]:80", "10.9.0.2"})
    EXPECT_EQ(world.client->connect(text).error().code, EINVAL) << text;
  EXPECT_EQ(world.client->connect({world.client_node->address(), 80}).error().code, EINVAL);
  EXPECT_EQ(world.client->connect(world.server_v4(0)).error().code, EINVAL);
  EXPECT_EQ(world.client->connect(world.server_v4(80), address("10.9.0.7")).error().code, EADDRNOTAVAIL);
  EXPECT_EQ(world.client->connect(world.server_v4(80), world.client_node->address()).error().code, EADDRNOTAVAIL);
  EXPECT_EQ(world.client->listen(80, address("10.9.0.7")).error().code, EADDRNOTAVAIL);

  const auto node = test::open();
  EXPECT_EQ(IpStack::open(*node, {.addresses = {address("10.0.0.1"), address("10.0.0.2")}}).error().code, EINVAL);
  EXPECT_EQ(IpStack::open(*node, {.addresses = {address("fe80::1")}}).error().code, EINVAL);
  EXPECT_EQ(IpStack::open(*node, {.addresses = {Address{}}}).error().code, EINVAL);
  EXPECT_EQ(IpStack::open(*node, {.addresses = {node->address()}}).error().code, EINVAL);
  IpStackOptions many;
  for (int i = 1; i < 10; ++i) many.addresses.push_back(address("fd00::" + std::to_string(i)));
  EXPECT_EQ(IpStack::open(*node, std::move(many)).error().code, EINVAL);
  const auto only_v6 = std::move(*IpStack::open(*node));
  EXPECT_EQ(only_v6->connect("10.0.0.1:80").error().code, EADDRNOTAVAIL);

  TcpSocket none;
  UdpSocket nothing;
  std::array<std::uint8_t, 4> octets{};
  EXPECT_EQ(none.read(octets).error().code, ENOTCONN);
  EXPECT_EQ(none.write("x").error().code, ENOTCONN);
  EXPECT_EQ(nothing.send(world.server_v4(1), octets).error().code, ENOTCONN);
  EXPECT_FALSE(nothing.receive([](const IpEndpoint&, std::span<const std::uint8_t>) {}));
  none.close(), none.abort(), none.deadline(1s), nothing.close();
  Connected two{world};
  EXPECT_EQ(two.client.read({}).error().code, EINVAL);
  EXPECT_EQ(two.client.write("").error().code, EINVAL);
  EXPECT_EQ(code_of_read(two.client), EAGAIN);
  EXPECT_TRUE(two.client.finish());
  EXPECT_EQ(two.client.write("x").error().code, EPIPE);
  two.client.close();
  EXPECT_EQ(two.client.write("x").error().code, ENOTCONN);
}

// Goal: a port that nobody listens on refuses, though lwIP, which answers for all stacks of the process, would send the
// refusal by whichever interface comes first. A host that is not there is a matter of the deadline.
// Method: a third stack that was there first and could have every address; both families; then no peer has the address.
TEST(IpStack, TellsRefusedFromUnreachable) {
  const auto first_node = test::open();
  const auto first = std::move(*IpStack::open(*first_node, {.addresses = {address("10.9.0.7")}}));
  World world;
  for (const IpEndpoint& to : {world.server_v4(81), world.server_v6(81)}) {
    TcpSocket socket = std::move(*world.client->connect(to));
    EXPECT_TRUE(world.until([&] { return socket.readable(); }));
    EXPECT_EQ(code_of_read(socket), ECONNREFUSED);
    EXPECT_EQ(socket.write("x").error().code, ECONNREFUSED);
    EXPECT_FALSE(socket.connected());
  }
  TcpSocket nowhere = std::move(*world.client->connect("10.9.0.9:80"));
  int called = 0;
  nowhere.on_ready([&] { ++called; });
  nowhere.deadline(100ms);
  EXPECT_EQ(code_of_read(nowhere), EAGAIN);
  const auto begun = SteadyClock::now();
  EXPECT_TRUE(world.until([&] { return called != 0; }));
  EXPECT_GE(SteadyClock::now() - begun, 90ms);
  EXPECT_EQ(code_of_read(nowhere), ETIMEDOUT);
  nowhere.deadline(0s);  // a deadline that passed is no end
  EXPECT_EQ(code_of_read(nowhere), EAGAIN);
}

// Goal: a connect outlives a tunnel that needs its time: the peer's first handshake messages are lost, the next try is
// 5 s later. Method: the server learns the client's key only after 4 s.
TEST(IpStack, ConnectOutlivesASlowHandshake) {
  World world;
  ASSERT_TRUE(world.server_node->remove_peer(world.client_node->key()));
  TcpListener listener = std::move(*world.server->listen(80));
  TcpSocket socket = std::move(*world.client->connect(world.server_v4(80)));
  EXPECT_FALSE(world.until([&] { return socket.readable(); }, std::chrono::seconds{4}));
  world.client_at_server =
      *world.server_node->add_peer(world.client_node->key(), {.allowed_ips = {prefix("10.9.0.1/32")}});
  EXPECT_TRUE(world.until([&] { return socket.connected(); }));
}

// Goal: who is closed, reset, or left by his stack in the middle of a transfer gets a defined answer; nothing leaks.
// Method: both ends are full of unread and unsent data each time.
TEST(IpStack, EndsInTheMiddleOfATransferAreTold) {
  World world;
  const Octets much = pattern(300'000);
  const auto fill = [&](TcpSocket& a, TcpSocket& b) {
    for (int quiet = 0; quiet < 20; ++quiet) {
      if (a.write(much)) quiet = 0;
      if (b.write(much)) quiet = 0;
      static_cast<void>(!world.client->wait(1ms)), static_cast<void>(!world.server->wait(1ms));
    }
  };
  {
    Connected two{world};
    fill(two.client, two.server);
    two.server.abort();
    EXPECT_TRUE(world.until([&] {
      while (code_of_read(two.client) == 0) {
      }
      return code_of_read(two.client) == ECONNRESET;
    }));
    EXPECT_EQ(two.server.read({}).error().code, ENOTCONN);
  }
  {
    Connected two{world};
    fill(two.client, two.server);
    two.server.close();  // with octets unread: the peer must learn that they were not
    EXPECT_TRUE(world.until([&] {
      while (code_of_read(two.client) == 0) {
      }
      return code_of_read(two.client) == ECONNRESET;
    }));
  }
  {
    Connected two{world};
    fill(two.client, two.server);
    world.server.reset();
    EXPECT_EQ(code_of_read(two.server), ESHUTDOWN);
    EXPECT_EQ(two.server.write("x").error().code, ESHUTDOWN);
    EXPECT_EQ(two.listener.accept().error().code, ESHUTDOWN);
    world.server = World::open_stack(*world.server_node, {.addresses = {address("10.9.0.2")}});
    EXPECT_TRUE(world.until([&] {  // the reset came with the stack's end, or comes as the answer of the new one
      while (code_of_read(two.client) == 0) {
      }
      return code_of_read(two.client) == ECONNRESET;
    }));
  }
  Connected two{world};
  fill(two.client, two.server);
  world.server_node->close();
  EXPECT_EQ(world.server->process().error().code, ESHUTDOWN);
  EXPECT_EQ(code_of_read(two.server), 0);  // what has come can still be read
  two.client.deadline(50ms);
  static_cast<void>(!world.client->wait(60ms));
  while (code_of_read(two.client) == 0) {
  }
  EXPECT_EQ(code_of_read(two.client), ETIMEDOUT);
}

// Goal: a callback may do anything: read, write, connect, close its own socket, or end the stack that calls it.
// Method: each in turn, from on_ready.
TEST(IpStack, CallbacksMayReenter) {
  World world;
  Connected two{world};
  TcpSocket second;
  two.client.on_ready([&] {
    std::array<std::uint8_t, 100> into;
    if (!two.client.read(into)) return;
    second = std::move(*world.client->connect(world.server_v4(80)));
    static_cast<void>(!second.write("from a callback"));
    two.client.close();
  });
  ASSERT_TRUE(two.server.write("go"));
  TcpSocket accepted;
  bool heard = false;
  EXPECT_TRUE(world.until([&] {
    if (auto arrived = two.listener.accept()) accepted = std::move(*arrived);
    heard = heard || (accepted && code_of_read(accepted) == 0);
    return heard;
  }));
  second.on_ready([&] { world.client.reset(); });
  ASSERT_TRUE(accepted.write("go"));
  EXPECT_TRUE(world.until([&] { return world.client == nullptr; }));
  EXPECT_EQ(code_of_read(second), ESHUTDOWN);
}

// Goal: a port is free again when its listener is closed, even while connections through it rest; until then it is
// taken, for this stack alone. Ports that we choose differ.
// Method: listeners and sockets on one port, in two stacks of one process.
TEST(IpStack, PortsAreOfOneStackAndFreeWhenClosed) {
  World world;
  {
    Connected two{world};
    EXPECT_EQ(world.server->listen(80).error().code, EADDRINUSE);
    EXPECT_EQ(world.server->listen(80, address("10.9.0.2")).error().code, EADDRINUSE);
    EXPECT_TRUE(world.client->listen(80));  // another stack
    two.server.close();                     // first: it will rest
    EXPECT_TRUE(world.until([&] { return code_of_read(two.client) == 0; }));
  }
  EXPECT_TRUE(world.until([&] { return world.server->stats().connections_resting == 1; }));
  {
    Connected again{world};
    Mover a{std::move(again.client), pattern(1000)}, b{std::move(again.server), pattern(1000)};
    EXPECT_TRUE(world.until([&] {
      a.move(), b.move();
      return a.ended && b.ended;
    }));
  }
  std::vector<TcpListener> listeners;
  std::vector<std::uint16_t> ports;
  for (int i = 0; i < 50; ++i) {
    listeners.push_back(std::move(*world.server->listen(0)));
    ports.push_back(listeners.back().port());
  }
  std::ranges::sort(ports);
  EXPECT_TRUE(std::ranges::adjacent_find(ports) == ports.end());
  UdpSocket udp = std::move(*world.server->bind(5000));
  EXPECT_EQ(world.server->bind(5000).error().code, EADDRINUSE);
  EXPECT_TRUE(world.client->bind(5000));
  udp.close();
  EXPECT_TRUE(world.server->bind(5000));
}

// Goal: UDP goes both ways over both families, larger than the MTU too; what is for no socket of the stack is the
// application's; who does not receive loses, and that is counted.
// Method: sockets of two stacks, datagrams of the node itself between them.
TEST(IpStack, CarriesUdpBesideTheNodesDatagrams) {
  std::vector<std::string> others;
  IpStackOptions with_others;
  with_others.otherwise = [&](const Received& in) {
    if (in.datagram) others.emplace_back(in.octets.begin(), in.octets.end());
  };
  World world{{}, {}, {}, std::move(with_others)};
  UdpSocket client = std::move(*world.client->bind()), server = std::move(*world.server->bind(7));
  for (const IpEndpoint& to : {world.server_v4(7), world.server_v6(7)}) {
    for (const std::size_t size : {std::size_t{0}, std::size_t{1}, std::size_t{1300}, std::size_t{6000}}) {
      const Octets sent = pattern(size, static_cast<unsigned>(size));
      ASSERT_TRUE(client.send(to, sent)) << size;
      Octets back;
      bool echoed = false;
      EXPECT_TRUE(world.until([&] {
        server.receive([&](const IpEndpoint& from, std::span<const std::uint8_t> octets) {
          EXPECT_TRUE(server.send(from, octets));
        });
        client.receive([&](const IpEndpoint& from, std::span<const std::uint8_t> octets) {
          EXPECT_EQ(from, to);
          back.assign(octets.begin(), octets.end());
          echoed = true;
        });
        return echoed;
      })) << to_text(to)
          << ' ' << size;
      EXPECT_TRUE(back == sent) << size;
    }
  }
  const std::string_view hello = "for the application";
  ASSERT_TRUE(world.client_node->send(world.server_at_client,
                                      std::span{reinterpret_cast<const std::uint8_t*>(hello.data()), hello.size()}));
  EXPECT_TRUE(world.until([&] { return !others.empty(); }));
  EXPECT_EQ(others.front(), hello);

  const Octets one(1);
  for (int i = 0; i < 200; ++i) {
    static_cast<void>(!client.send(world.server_v4(7), one));
    if (i % 32 == 0) static_cast<void>(!world.client->wait(1ms)), static_cast<void>(!world.server->wait(1ms));
  }
  EXPECT_TRUE(world.until([&] { return world.server->stats().too_many != 0; }));
  std::size_t waiting = 0;
  while (server.receive([](const IpEndpoint&, std::span<const std::uint8_t>) {})) ++waiting;
  EXPECT_EQ(waiting, 64u);
  EXPECT_EQ(client.send(world.server_v4(7), Octets(65508)).error().code, EMSGSIZE);
  EXPECT_EQ(client.send(world.server_v4(0), one).error().code, EINVAL);
}

// Goal: a full queue of the node costs time, never octets, and is no reason for a timeout.
// Method: small queues, many connections at a time, in both driving modes; the node drops next to nothing on its way
// in, as its sockets keep for a moment what we have not taken yet.
TEST(IpStack, ManyConnectionsOverSmallQueuesLoseNothing) {
  for (const unsigned workers : {0u, 1u}) {
    NodeOptions a, b;
    a.workers = b.workers = workers;
    a.queue = b.queue = 16;
    World world{std::move(a), std::move(b)};
    TcpListener listener = std::move(*world.server->listen(80));
    std::vector<Mover> clients(20), servers;
    for (Mover& client : clients) {
      client.out = pattern(60'000, 3);
      client.socket = std::move(*world.client->connect(world.server_v6(80)));
    }
    EXPECT_TRUE(world.until(
        [&] {
          while (auto arrived = listener.accept()) servers.push_back({std::move(*arrived), pattern(30'000, 4)});
          std::size_t done = 0;
          for (auto* side : {&clients, &servers})
            for (Mover& mover : *side) mover.move(), done += mover.ended && mover.sent == mover.out.size() ? 1 : 0;
          return done == 2 * clients.size();
        },
        std::chrono::seconds{60}))
        << "workers " << workers;
    for (const Mover& client : clients) EXPECT_TRUE(client.in == pattern(30'000, 4)) << client.failure;
    for (const Mover& server : servers) EXPECT_TRUE(server.in == pattern(60'000, 3)) << server.failure;
    EXPECT_GT(world.client->stats().queue_full + world.server->stats().queue_full, 0u);
    for (Node* node : {world.client_node.get(), world.server_node.get()})
      EXPECT_LT(node->stats().dropped(Drop::kInnerSend), 200u) << "workers " << workers;
  }
}

// Goal: nobody makes us hold more connections than we said; those that we have go on.
// Method: more connects than `connections`; more arrivals than `backlog` that nobody accepts.
TEST(IpStack, ConnectionsAndBacklogAreBounded) {
  World world{{}, {}, {.connections = 20}, {.backlog = 8}};
  TcpListener listener = std::move(*world.server->listen(80));
  std::vector<TcpSocket> sockets;
  for (int i = 0; i < 20; ++i) sockets.push_back(std::move(*world.client->connect(world.server_v4(80))));
  EXPECT_EQ(world.client->connect(world.server_v4(80)).error().code, EMFILE);
  EXPECT_TRUE(world.until([&] { return world.server->stats().too_many != 0; }));
  std::size_t accepted = 0;
  std::vector<TcpSocket> arrived;
  EXPECT_TRUE(world.until([&] {  // those that were turned away come again by themselves (a SYN), or were reset
    while (auto socket = listener.accept()) arrived.push_back(std::move(*socket)), ++accepted;
    return accepted >= 8;
  }));
  ASSERT_TRUE(arrived.front().write("still here"));
  EXPECT_TRUE(world.until(
      [&] { return std::ranges::any_of(sockets, [](TcpSocket& socket) { return code_of_read(socket) == 0; }); }));
  sockets.clear();
  EXPECT_TRUE(world.until([&] { return world.client->stats().connections < 20; }));
}

// Goal: whatever a peer puts into the tunnel is dropped and counted, or is an answer's cause; never a crash, and real
// connections go on beside it.
// Method: a node without a stack, whose key the server knows, sends random packets and mutations of real ones, half of
// them with good checksums, while a connection transfers.
TEST(IpStack, GarbageFromAPeerHarmsNothing) {
  World world;
  Connected two{world};
  UdpSocket udp = std::move(*world.server->bind(7));
  const auto evil_node = test::open();
  const NodePeer evil = *world.server_node->add_peer(evil_node->key(), {.allowed_ips = {prefix("10.9.9.0/24")}});
  const Endpoint there =
      *parse_endpoint("127.0.0.1:" + std::to_string(world.server_node->port()), interface_index_of_host);
  const NodePeer server = *evil_node->add_peer(
      world.server_node->key(), {.endpoint = there, .allowed_ips = {prefix("0.0.0.0/0"), prefix("::/0")}});
  Mover a{std::move(two.client), pattern(2'000'000, 5)}, b{std::move(two.server), {1}};
  std::mt19937 random{11};
  std::uint64_t sent = 0;
  for (int i = 0; i < 30'000; ++i) {
    const Octets packet = hostile_packet(random, world.server_node->address(), evil_node->address());
    if (evil_node->send_packet(packet)) ++sent;
    if (i % 32 != 0) continue;
    static_cast<void>(!evil_node->process());
    evil_node->receive([](const Received&) {}, 1000);
    static_cast<void>(!world.server->process()), static_cast<void>(!world.client->process());
    a.move(), b.move();
    udp.receive([](const IpEndpoint&, std::span<const std::uint8_t>) {});
    while (two.listener.accept()) {
    }
  }
  EXPECT_TRUE(world.until([&] {
    a.move(), b.move();
    return a.ended && b.ended;
  }));
  EXPECT_TRUE(b.in == a.out);
  const IpStackStats stats = world.server->stats();
  EXPECT_GT(sent, 15'000u);
  EXPECT_GT(stats.received, 5'000u);
  EXPECT_GT(stats.refused, 300u);
  EXPECT_GT(stats.not_ours, 300u);
  static_cast<void>(evil), static_cast<void>(server);
}

// Goal: lwIP without memory drops, refuses and goes on when there is some again.
// Method: its allocator fails each so manieth time, then always, while connections come, transfer and go.
TEST(IpStack, GoesOnAfterMemoryWasExhausted) {
  World world;
  TcpListener listener = std::move(*world.server->listen(80));
  for (const unsigned every : {50u, 7u, 2u, 1u}) {
    fail_each = every;
    std::vector<TcpSocket> sockets;
    for (int i = 0; i < 30; ++i) {
      auto socket = world.client->connect(world.server_v4(80));
      if (socket) static_cast<void>(!socket->write("hello"));
      if (socket) sockets.push_back(std::move(*socket));
      static_cast<void>(!world.client->wait(1ms)), static_cast<void>(!world.server->wait(1ms));
      if (auto arrived = listener.accept()) {
        static_cast<void>(!arrived->write("world"));
        sockets.push_back(std::move(*arrived));
      }
      auto udp = world.client->bind();
      if (udp) static_cast<void>(!udp->send(world.server_v4(7), Octets(100)));
      auto another = world.server->listen(0);
    }
    if (every == 1) {
      EXPECT_EQ(world.client->connect(world.server_v4(80)).error().code, ENOMEM);
      EXPECT_EQ(world.client->listen(0).error().code, ENOMEM);
      EXPECT_EQ(world.client->bind().error().code, ENOMEM);
    }
    fail_each = 0;
  }
  while (listener.accept()) {
  }
  Mover a{std::move(*world.client->connect(world.server_v4(80))), pattern(100'000, 6)}, b{};
  EXPECT_TRUE(world.until([&] {
    a.move();
    while (auto arrived = listener.accept()) b = {std::move(*arrived), {1}};
    if (b.socket) b.move();
    return a.ended && b.ended;
  }));
  EXPECT_TRUE(b.in == a.out);
}

// Goal: a connection that waits for nothing costs nothing: the application is woken about once a second.
// Method: wakeups of poll() over the stack's descriptor in two seconds, with an idle connection and a resting one.
TEST(IpStack, IdleConnectionsHardlyWakeTheApplication) {
  World world;
  Connected two{world}, resting{world, 81};
  resting.client.close(), resting.server.close();
  world.until([] { return false; }, std::chrono::seconds{1});
  int wakeups = 0;
  const auto end = SteadyClock::now() + std::chrono::seconds{2};
  while (SteadyClock::now() < end) {
    pollfd polled{world.client->fd(), POLLIN, 0};
    if (::poll(&polled, 1, 500) == 1) ++wakeups;
    static_cast<void>(!world.client->process());
  }
  EXPECT_LE(wakeups, 12);
}

// Goal: sockets of one stack may be used by several threads while another drives it.
// Method: four threads with a connection each, and one thread a stack.
TEST(IpStack, SocketsMayBeUsedByManyThreads) {
  World world;
  TcpListener listener = std::move(*world.server->listen(80));
  std::atomic<bool> stop{false};
  std::thread drive_client{[&] {
    while (!stop) static_cast<void>(!world.client->wait(5ms));
  }};
  std::thread drive_server{[&] {
    while (!stop) static_cast<void>(!world.server->wait(5ms));
  }};
  std::vector<std::thread> threads;
  std::atomic<int> right{0};
  for (unsigned i = 0; i < 4; ++i) {
    threads.emplace_back([&, i] {
      Mover mover{std::move(*world.client->connect(world.server_v4(80))), pattern(200'000, 20 + i)};
      const auto end = SteadyClock::now() + std::chrono::seconds{20};
      while (!mover.ended && SteadyClock::now() < end) mover.move(), std::this_thread::sleep_for(1ms);
      if (mover.in == mover.out) ++right;
    });
  }
  std::vector<TcpSocket> servers;
  std::vector<Octets> kept;
  const auto end = SteadyClock::now() + std::chrono::seconds{20};
  std::array<std::uint8_t, 5000> into;
  while (right < 4 && SteadyClock::now() < end) {  // an echo
    while (auto arrived = listener.accept()) servers.push_back(std::move(*arrived)), kept.emplace_back();
    for (std::size_t i = 0; i < servers.size(); ++i) {
      const auto got = servers[i].read(into);
      if (got) kept[i].insert(kept[i].end(), into.begin(), into.begin() + static_cast<std::ptrdiff_t>(*got));
      if (!kept[i].empty())
        if (const auto wrote = servers[i].write(kept[i]))
          kept[i].erase(kept[i].begin(), kept[i].begin() + static_cast<std::ptrdiff_t>(*wrote));
      if (got && *got == 0 && kept[i].empty()) static_cast<void>(!servers[i].finish());
    }
    std::this_thread::sleep_for(1ms);
  }
  for (std::thread& thread : threads) thread.join();
  stop = true;
  drive_client.join(), drive_server.join();
  EXPECT_EQ(right, 4);
}

// Goal: stacks come and go; a process has a bound of them, told in words.
// Method: as many as there may be, over one node each; then again.
TEST(IpStack, ManyStacksInOneProcess) {
  for (int round = 0; round < 2; ++round) {
    std::vector<std::unique_ptr<Node>> nodes;
    std::vector<std::unique_ptr<IpStack>> stacks;
    std::optional<Error> why;
    while (!why && stacks.size() < 300) {
      nodes.push_back(std::move(*Node::open({.peers = 1, .queue = 16})));
      auto stack = IpStack::open(*nodes.back(), {.addresses = {address("10.9.0.1")}});
      if (stack)
        stacks.push_back(std::move(*stack));
      else
        why = stack.error();
    }
    ASSERT_TRUE(why);
    EXPECT_EQ(why->code, ENFILE) << why->what;
    EXPECT_EQ(stacks.size(), 200u);
    std::vector<TcpListener> listeners;
    for (auto& stack : stacks) {
      auto listener = stack->listen(80);
      if (listener) listeners.push_back(std::move(*listener));
    }
  }
}

}  // namespace
}  // namespace wireplane

// Instead of lwIP's own: the dynamic linker takes the program's.
extern "C" void* mem_malloc(std::size_t size) {
  using namespace wireplane;
  const unsigned each = fail_each;
  return each != 0 && ++allocations % each == 0 ? nullptr : std::malloc(size);
}
