// The hub as a router: policy, TTL, MTU, and the errors that a router owes (RFC 1812, RFC 4443).
#include <algorithm>

#include "dataplane/wire/inner_ip.h"
#include "tests/support/speaker.h"

namespace wireplane::test {
namespace {

// A hub with addresses of its own and two leaves that reach everything through it.
struct Hub : testing::Test {
  Sim sim;
  Node& hub = sim.add({.inner = false, .forward = Forward::kAll, .router = true});
  Node& a = sim.add();
  Node& b = sim.add();
  void SetUp() override {
    for (Node* leaf : {&a, &b}) {
      hub.add_peer(leaf->key(),
                   {.endpoint = leaf->at(), .allowed = {leaf->inner_v4() + "/32", leaf->inner_v6() + "/128"}});
      leaf->add_peer(hub.key(), {.endpoint = hub.at(), .allowed = {"0.0.0.0/0", "::/0"}});
    }
    a.say(b);
    b.say(a);
    sim.run_for(1s);
    ASSERT_EQ(a.inbox.size() + b.inbox.size(), 2u);
    clear();
  }
  void clear() { a.inbox.clear(), b.inbox.clear(); }
  Octets to_b(bool v4, std::size_t octets = 100, std::uint8_t ttl = 64) {
    return v4 ? udp_packet(a.inner_v4(), 1, b.inner_v4(), 2, octets, ttl)
              : udp_packet(a.inner_v6(), 1, b.inner_v6(), 2, octets, ttl);
  }
  // The one packet in a's inbox is this error by the hub about that packet.
  void expect_error(const Octets& cause, unsigned type, unsigned code, std::uint32_t mtu = 0) {
    ASSERT_EQ(a.inbox.size(), 1u);
    const Octets& error = a.inbox[0].packet;
    const bool v4 = is_ipv4(error.data());
    const std::size_t at = v4 ? 20 : 40;
    EXPECT_EQ(error[v4 ? 9 : 6], v4 ? kProtocolIcmp : kProtocolIcmpv6);
    EXPECT_EQ(source_of(error.data()), address(v4 ? hub.inner_v4() : hub.inner_v6()));
    EXPECT_EQ(error[at], type);
    EXPECT_EQ(error[at + 1], code);
    if (mtu != 0) {
      EXPECT_EQ(load_be32(&error[at + 4]), mtu);
    }
    const std::size_t quoted = std::min(cause.size(), error.size() - at - 8);
    EXPECT_GE(quoted, std::min<std::size_t>(cause.size(), at + 8));
    EXPECT_TRUE(std::equal(cause.begin(), cause.begin() + static_cast<std::ptrdiff_t>(quoted),
                           error.begin() + static_cast<std::ptrdiff_t>(at + 8)));
    clear();
  }
};

// Goal: each turn through the hub costs one hop, with the checksum kept right, and the last hop is reported.
TEST_F(Hub, SpendsOneHopAndReportsTheLast) {
  for (const bool v4 : {true, false}) {
    a.send(to_b(v4, 100, 7));
    sim.run_for(1s);
    ASSERT_EQ(b.inbox.size(), 1u);
    EXPECT_EQ(b.inbox[0].packet, to_b(v4, 100, 6));
    clear();
    for (const std::uint8_t ttl : {std::uint8_t{1}, std::uint8_t{0}}) {
      a.send(to_b(v4, 100, ttl));
      sim.run_for(1s);
      EXPECT_TRUE(b.inbox.empty());
      expect_error(to_b(v4, 100, ttl), v4 ? 11 : 3, 0);
    }
  }
  EXPECT_EQ(hub.drops(Drop::kTtlExpired), 4u);
}

// Goal: a destination that is no peer's, without a host behind the hub, is unreachable.
TEST_F(Hub, ReportsUnreachableDestinations) {
  const Octets v4 = udp_packet(a.inner_v4(), 1, "10.99.0.1", 2, 30), v6 = udp_packet(a.inner_v6(), 1, "fd99::1", 2, 30);
  a.send(v4);
  sim.run_for(1s);
  expect_error(v4, 3, 1);
  a.send(v6);
  sim.run_for(1s);
  expect_error(v6, 1, 3);
  EXPECT_EQ(hub.drops(Drop::kNoRoute), 2u);
}

// Goal: what the policy forbids is administratively prohibited; groups reach themselves only.
TEST_F(Hub, ForwardsByPolicy) {
  const auto reaches = [&](bool v4) {
    clear();
    a.send(to_b(v4));
    sim.run_for(1s);
    return b.inbox.size() == 1;
  };
  const auto put = [&](Node& leaf, std::uint32_t group) {
    PeerChange change;
    change.public_key = leaf.key();
    change.group = group;
    hub.apply(std::move(change));
  };
  EXPECT_TRUE(reaches(true));
  hub.set_forward(Forward::kNone);
  EXPECT_FALSE(reaches(true));
  expect_error(to_b(true), 3, 13);
  EXPECT_FALSE(reaches(false));
  expect_error(to_b(false), 1, 1);
  hub.set_forward(Forward::kGroups);
  EXPECT_FALSE(reaches(true));  // no group is not a group
  put(a, 1);
  EXPECT_FALSE(reaches(true));
  put(b, 2);
  EXPECT_FALSE(reaches(true));
  put(b, 1);
  EXPECT_TRUE(reaches(true));
  EXPECT_TRUE(reaches(false));
}

// Goal: what is too long for the way out is reported with the MTU if it may not be cut, and cut if it may.
TEST_F(Hub, ReportsOrCutsWhatIsTooLong) {
  hub.set_mtu(1300);
  Octets df = to_b(true, 1350);
  df[6] |= 0x40;
  store_be16(&df[10], 0);
  store_be16(&df[10], internet_checksum(df.data(), 20));
  a.send(df);
  sim.run_for(1s);
  expect_error(df, 3, 4, 1300);
  const Octets v6 = to_b(false, 1350);
  a.send(v6);
  sim.run_for(1s);
  expect_error(v6, 2, 0, 1300);

  const Octets whole = to_b(true, 1350, 9);
  a.send(whole);
  sim.run_for(1s);
  ASSERT_EQ(b.inbox.size(), 2u) << hub.counters_text();
  Octets payload;
  for (const Node::Arrival& piece : b.inbox) {
    EXPECT_LE(piece.packet.size(), 1300u);
    EXPECT_EQ(piece.packet[8], 8) << "every piece has spent its hop";
    EXPECT_EQ(internet_checksum(piece.packet.data(), 20), 0);
    payload.insert(payload.end(), piece.packet.begin() + 20, piece.packet.end());
  }
  EXPECT_TRUE(std::equal(payload.begin(), payload.end(), whole.begin() + 20, whole.end()));
}

// Goal: errors are limited: no more than ten a second and a burst of six to one address, so that nobody makes us shout.
TEST_F(Hub, LimitsItsErrors) {
  for (int i = 0; i < 500; ++i) {
    a.send(to_b(true, 100, 1));
    sim.run_for(10ms);
  }
  EXPECT_EQ(hub.drops(Drop::kTtlExpired), 500u);
  EXPECT_GE(a.inbox.size(), 50u);
  EXPECT_LE(a.inbox.size(), 57u);
}

// Goal: what no router forwards is dropped without a word: martian sources, multicast, packets back to their sender.
TEST_F(Hub, IsSilentAboutWhatMustNotBeForwarded) {
  PeerChange generous;
  generous.public_key = a.key();
  for (const char* text : {"127.0.0.0/8", "10.1.0.0/16"}) generous.allowed_ips.push_back({.prefix = prefix(text)});
  hub.apply(std::move(generous));
  a.send(udp_packet("127.0.0.1", 1, b.inner_v4(), 2, 5));
  a.send(udp_packet(a.inner_v4(), 1, "224.0.0.1", 2, 5));
  a.send(udp_packet(a.inner_v4(), 1, "10.1.2.3", 2, 5));
  sim.run_for(1s);
  EXPECT_EQ(hub.drops(Drop::kMartian), 1u);
  EXPECT_EQ(hub.drops(Drop::kMulticast), 1u);
  EXPECT_EQ(hub.drops(Drop::kReflected), 1u);
  EXPECT_TRUE(a.inbox.empty());
  EXPECT_TRUE(b.inbox.empty());
}

// Goal: with a host behind the hub and Forward = none, everything goes to that host, whose firewall decides.
TEST(HubWithHost, HandsEverythingToItsHostWithoutForwarding) {
  Sim sim;
  Node& hub = sim.add();
  Node &a = sim.add(), &b = sim.add();
  for (Node* leaf : {&a, &b}) {
    hub.add_peer(leaf->key(), {.endpoint = leaf->at(), .allowed = {leaf->inner_v4() + "/32"}});
    leaf->add_peer(hub.key(), {.endpoint = hub.at(), .allowed = {"0.0.0.0/0"}});
  }
  a.say(hub);
  a.say(b);
  a.send(udp_packet(a.inner_v4(), 1, "8.8.8.8", 2, 5));
  sim.run_for(1s);
  EXPECT_EQ(hub.inbox.size(), 3u);
  hub.set_forward(Forward::kAll);
  a.say(hub);
  a.say(b);
  a.send(udp_packet(a.inner_v4(), 1, "8.8.8.8", 2, 5));
  sim.run_for(1s);
  EXPECT_EQ(hub.inbox.size(), 5u);
  EXPECT_EQ(b.inbox.size(), 1u);
}

// Goal: a packet that lands at the wrong worker is handed to its session's owner and is neither lost nor doubled, and
// the counters say so.
// Method: four workers; the steering octet cannot be trusted: the speaker's packets are put into every queue in turn.
TEST(Handover, PacketAtTheWrongWorkerReachesItsOwner) {
  Sim sim;
  Node& node = sim.add({.workers = 4});
  Speaker peer{sim, node};
  peer.join();
  const KeyPair keys = peer.shake_and_confirm();
  // Queues by hand: a network of one's own for each worker would steer; so step workers over a port that does not.
  struct Stuck final : Port {
    std::vector<Octets> waiting;
    Endpoint from;
    void receive(Burst& burst, WorkerContext& context) override {
      for (const Octets& octets : waiting) {
        Packet packet;
        Buffer* buffer = context.buffers.take();
        packet.buffer = buffer;
        packet.data = buffer->memory + kHeadroom;
        packet.length = static_cast<std::uint32_t>(octets.size());
        std::ranges::copy(octets, packet.data);
        packet.from = from;
        burst.add(packet);
      }
      waiting.clear();
    }
    std::size_t send(Burst& burst, WorkerContext& context) override {
      const std::size_t count = burst.size();
      for (Packet& packet : burst) context.release(packet);
      burst.clear();
      return count;
    }
  } stuck;
  stuck.from = peer.at;
  stuck.from.local = node.at().remote;
  const unsigned owner = keys.remote.raw() % 64 % 4;
  const unsigned wrong = (owner + 1) % 4;
  node.workers[wrong] = nullptr;  // its buffers go home first
  node.workers[wrong] = std::make_unique<Worker>(node.engine, wrong, stuck, &node.inner->queue(wrong));
  for (std::uint64_t i = 1; i <= 60; ++i)
    stuck.waiting.push_back(peer.data(keys, i, peer.data_packet(node.inner_v4())));
  sim.touch(node);
  sim.run_for(100ms);
  EXPECT_EQ(node.inbox.size(), 60u) << node.counters_text();
  for (std::uint64_t i = 61; i <= 124; ++i)
    stuck.waiting.push_back(peer.data(keys, i, peer.data_packet(node.inner_v4())));
  for (int i = 0; i < 3; ++i)  // its ring has 64 places: what does not fit is counted
    static_cast<void>(node.workers[wrong]->step(sim.now()));
  for (std::uint64_t i = 125; i <= 134; ++i)
    stuck.waiting.push_back(peer.data(keys, i, peer.data_packet(node.inner_v4())));
  static_cast<void>(node.workers[wrong]->step(sim.now()));
  EXPECT_EQ(node.drops(Drop::kHandoverFull), 10u);
  EXPECT_EQ(node.held(), 64u);
  EXPECT_EQ(node.imbalance(), 0);
  sim.touch(node);
  sim.run_for(100ms);
  EXPECT_EQ(node.inbox.size(), 124u);
  node.workers[wrong] = nullptr;
  node.workers[wrong] = std::make_unique<Worker>(node.engine, wrong, node.outer->queue(wrong), nullptr);
}

// Goal: an empty buffer pool loses packets, counted, and nothing else.
// Method: a pool of 128 buffers and 128 packets waiting for a key in it (its eighth is 16).
TEST(Exhaustion, SmallPoolLosesPacketsButNoBuffers) {
  Sim sim;
  Limits limits = small_limits();
  limits.buffers = 128;
  Node& a = sim.add({.limits = limits});
  Node& b = sim.add({.limits = limits});
  sim.connect(a, b);
  for (int round = 0; round < 20; ++round) {
    for (int i = 0; i < 200; ++i) a.say(b), b.say(a);
    sim.run_for(1s);
  }
  EXPECT_GT(a.count_from(b), 3000u);
  EXPECT_GT(a.drops(Drop::kStagedOverflow), 0u);
}

}  // namespace
}  // namespace wireplane::test
