// TCP and UDP over nodes: what an application can rely on, whatever the peer, the path and the application itself do.
#include "control/embed/ip_stack.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <random>
#include <string>
#include <thread>

#include "control/address_text.h"

namespace wireplane {
namespace {

using Octets = std::vector<std::uint8_t>;
using SteadyClock = std::chrono::steady_clock;

Octets pattern(std::size_t count, unsigned seed = 1) {
  std::mt19937 random{seed};
  Octets octets(count);
  for (std::uint8_t& octet : octets) octet = static_cast<std::uint8_t>(random());
  return octets;
}

Prefix prefix(std::string_view text) { return *parse_prefix(text); }
Address address(std::string_view text) { return *parse_address(text); }

std::unique_ptr<Node> open_node(NodeOptions options = {}) {
  auto node = Node::open(std::move(options));
  EXPECT_TRUE(node) << (node ? "" : node.error().what);
  return node ? std::move(*node) : nullptr;
}

// A client and a server that know each other: 10.9.0.1 and 10.9.0.2, beside the addresses of their keys.
struct World {
  explicit World(NodeOptions client_options = {}, NodeOptions server_options = {}, IpStackOptions client_stack = {},
                 IpStackOptions server_stack = {}) {
    client_node = open_node(std::move(client_options));
    server_node = open_node(std::move(server_options));
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
// Method: 3 MB each way between two stacks in one process; then both ends have ended.
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
      Mover client{std::move(*connected), pattern(3'000'000, 1)}, server{};
      ASSERT_TRUE(world.until([&] {
        client.move();
        auto arrived = listener->accept();
        if (arrived) server = {std::move(*arrived), pattern(3'000'000, 2)};
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

}  // namespace
}  // namespace wireplane
