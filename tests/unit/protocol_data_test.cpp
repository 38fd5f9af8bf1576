// Transport messages: numbers, padding, who may say what from where, and what waits for a key.
#include <algorithm>

#include "dataplane/wire/icmp.h"
#include "dataplane/wire/inner_ip.h"
#include "tests/support/speaker.h"

namespace wireplane::test {
namespace {

struct Data : testing::Test {
  Sim sim;
  Node& node = sim.add({.router = true});
  Speaker peer{sim, node};
  Octets for_peer(std::size_t octets = 10) { return udp_packet(node.inner_v4(), 1, peer.inner, 2, octets); }
  Octets from_peer(std::size_t octets = 10) { return peer.data_packet(node.inner_v4(), octets); }
  KeyPair joined() {
    peer.join();
    KeyPair keys = peer.shake_and_confirm();
    peer.inbox.clear();
    return keys;
  }
  Session& session() { return *node.session(peer.as_peer().keypairs.current); }
};

// Goal: numbers begin at 0 with each key, are 64 bits wide, and are the nonce as they stand.
// Method: the first packets, then across 2^32, both ways; the other end opens each with the number in its header.
// proves: P31
TEST_F(Data, CountersBeginAtZeroAndAre64BitsWide) {
  const KeyPair keys = joined();
  std::vector<std::uint64_t> expected{0, 1, 2};
  for (int i = 0; i < 3; ++i) node.send(for_peer());
  sim.run_for(100ms);
  session().sent.counter = UINT32_MAX - 1ull;
  for (int i = 0; i < 4; ++i) {
    node.send(for_peer());
    expected.push_back(UINT32_MAX - 1ull + static_cast<unsigned>(i));
  }
  sim.run_for(100ms);
  ASSERT_EQ(peer.inbox.size(), expected.size());
  for (std::size_t i = 0; i < expected.size(); ++i) {
    EXPECT_EQ(peer.inbox[i].counter(), expected[i]);
    EXPECT_TRUE(Speaker::open(keys, peer.inbox[i]));
  }
  for (const std::uint64_t counter : {0xfffffffeull, 0xffffffffull, 0x100000000ull, 0x100000001ull, 0xffffffffull})
    peer.send_octets(peer.data(keys, counter, from_peer()));
  sim.run_for(100ms);
  EXPECT_EQ(node.inbox.size(), 4u);
  EXPECT_EQ(node.drops(Drop::kReplayed), 1u);
}

// Goal: no key is used beyond Reject-After-Messages, in either direction, and 2^60 messages ask for a new one.
// Method: the counters are put just below the limits.
// proves: P33
TEST_F(Data, KeyEndsAtRejectAfterMessagesAndIsRenewedAtRekeyAfterMessages) {
  const KeyPair keys = joined();
  session().sent.counter = kRekeyAfterMessages - 1;
  node.send(for_peer());
  sim.run_for(6s);
  EXPECT_EQ(peer.heard(MessageType::kInitiation).size(), 0u);
  node.send(for_peer());
  sim.run_for(100ms);
  EXPECT_EQ(peer.heard(MessageType::kInitiation).size(), 1u);  // although it is the responder of this session
  EXPECT_EQ(peer.heard(MessageType::kData).size(), 2u);

  session().sent.counter = kRejectAfterMessages - 2;
  for (int i = 0; i < 5; ++i) node.send(for_peer());
  sim.run_for(100ms);
  std::vector<Wire> data = peer.heard(MessageType::kData);
  EXPECT_EQ(data.size(), 4u);
  EXPECT_EQ(data.back().counter(), kRejectAfterMessages - 1);
  EXPECT_EQ(node.drops(Drop::kExpired) + node.held(), 3u);
  EXPECT_EQ(session().sent.counter, kRejectAfterMessages);
  node.send(for_peer());
  sim.run_for(100ms);
  EXPECT_EQ(peer.heard(MessageType::kData).size(), 4u);

  const std::uint64_t expired = node.drops(Drop::kExpired);
  for (const std::uint64_t counter : {kRejectAfterMessages - 1, kRejectAfterMessages, UINT64_MAX})
    peer.send_octets(peer.data(keys, counter, from_peer()));
  sim.run_for(100ms);
  EXPECT_EQ(node.inbox.size(), 1u);
  EXPECT_EQ(node.drops(Drop::kExpired), expired + 2);
}

// Goal: lengths on the wire are multiples of 16 but never beyond the MTU, and the padding is zero.
// Method: every size around the steps and around the MTU; the other end opens and looks.
// proves: P34
TEST_F(Data, PaddingIsZerosToTheNextSixteenButNotBeyondTheMtu) {
  const KeyPair keys = joined();
  std::vector<std::size_t> sizes;
  for (std::size_t n = 0; n < 40; ++n) sizes.push_back(n);
  for (std::size_t n = 1420 - 28 - 40; n <= 1420 - 28; ++n) sizes.push_back(n);
  for (const std::size_t size : sizes) {
    peer.inbox.clear();
    const Octets packet = for_peer(size);
    node.send(packet);
    sim.run_for(50ms);
    ASSERT_EQ(peer.inbox.size(), 1u) << size;
    const std::size_t expected = std::min<std::size_t>((packet.size() + 15) / 16 * 16, 1420);
    EXPECT_EQ(peer.inbox[0].octets.size(), expected + kDataOverhead) << size;
    std::optional<Octets> plain = Speaker::open(keys, peer.inbox[0]);
    ASSERT_TRUE(plain) << size;
    EXPECT_TRUE(std::equal(packet.begin(), packet.end(), plain->begin()));
    EXPECT_TRUE(std::all_of(plain->begin() + static_cast<std::ptrdiff_t>(packet.size()), plain->end(),
                            [](std::uint8_t octet) { return octet == 0; }));
  }
}

// Goal: a source address belongs to the peer with the longest prefix, on the whole device.
// Method: A has a /24, B a /32 in it; each uses the other's addresses, and somebody's who is nobody.
// proves: P36
TEST_F(Data, SourceMustBeThePeersByLongestPrefixOverTheWholeDevice) {
  Speaker b{sim, node, "198.51.100.2"};
  peer.join(true, {"10.9.0.0/24", "fd09::/64"});
  b.join(true, {"10.9.0.5/32", "fd09::5/128"});
  const KeyPair a_keys = peer.shake_and_confirm(), b_keys = b.shake_and_confirm();
  std::uint64_t a_counter = 1, b_counter = 1;
  const auto a_says = [&](const std::string& from, const std::string& to) {
    const std::size_t before = node.inbox.size();
    peer.send_octets(peer.data(a_keys, a_counter++, udp_packet(from, 1, to, 2, 5)));
    sim.run_for(50ms);
    return node.inbox.size() - before;
  };
  const auto b_says = [&](const std::string& from, const std::string& to) {
    const std::size_t before = node.inbox.size();
    b.send_octets(b.data(b_keys, b_counter++, udp_packet(from, 1, to, 2, 5)));
    sim.run_for(50ms);
    return node.inbox.size() - before;
  };
  EXPECT_EQ(a_says("10.9.0.4", node.inner_v4()), 1u);
  EXPECT_EQ(a_says("fd09::4", node.inner_v6()), 1u);
  EXPECT_EQ(b_says("10.9.0.5", node.inner_v4()), 1u);
  EXPECT_EQ(b_says("fd09::5", node.inner_v6()), 1u);
  EXPECT_EQ(node.drops(Drop::kSourceNotAllowed), 0u);
  EXPECT_EQ(a_says("10.9.0.5", node.inner_v4()), 0u);
  EXPECT_EQ(a_says("fd09::5", node.inner_v6()), 0u);
  EXPECT_EQ(b_says("10.9.0.4", node.inner_v4()), 0u);
  EXPECT_EQ(b_says("fd09::4", node.inner_v6()), 0u);
  EXPECT_EQ(a_says("10.10.0.1", node.inner_v4()), 0u);
  EXPECT_EQ(node.drops(Drop::kSourceNotAllowed), 5u);
}

// Goal: what a session remembers of its peer's source ends with every change of the routes.
// Method: the same source again and again, while its prefix goes to another peer, to nobody, and comes back; and the
// two families' addresses with the same octets. proves: P36
TEST_F(Data, ASourceIsBelievedOnlyAsLongAsTheRoutesSayThatItIsThePeers) {
  Speaker b{sim, node, "198.51.100.2"};
  peer.join(true, {"10.9.0.0/24", "fd09::/64", "a09:4::/128"});
  b.join(true, {"10.8.0.0/24"});
  const KeyPair keys = peer.shake_and_confirm();
  std::uint64_t counter = 1;
  const auto heard = [&](const std::string& from, const std::string& to) {
    const std::size_t before = node.inbox.size();
    for (int i = 0; i < 3; ++i) peer.send_octets(peer.data(keys, counter++, udp_packet(from, 1, to, 2, 5)));
    sim.run_for(50ms);
    return node.inbox.size() - before;
  };
  const auto give = [&](Speaker& to, const std::string& text) {
    PeerChange change;
    change.public_key = to.key();
    change.allowed_ips.push_back({prefix(text), false});
    node.apply(std::move(change));
  };
  EXPECT_EQ(heard("10.9.0.4", node.inner_v4()), 3u);
  EXPECT_EQ(heard("a09:4::", node.inner_v6()), 3u);  // 10.9.0.4, but for its family
  EXPECT_EQ(heard("10.9.0.4", node.inner_v4()), 3u);
  give(b, "10.9.0.4/32");
  EXPECT_EQ(heard("10.9.0.4", node.inner_v4()), 0u);
  give(peer, "10.9.0.4/32");
  EXPECT_EQ(heard("10.9.0.4", node.inner_v4()), 3u);
  give(b, "a09:4::/128");
  EXPECT_EQ(heard("a09:4::", node.inner_v6()), 0u);
  EXPECT_EQ(heard("10.9.0.4", node.inner_v4()), 3u);
  EXPECT_EQ(heard("10.9.0.5", node.inner_v4()), 3u);
  give(b, "10.9.0.0/24");
  EXPECT_EQ(heard("10.9.0.5", node.inner_v4()), 0u);
  EXPECT_EQ(heard("10.9.0.4", node.inner_v4()), 3u);
  EXPECT_EQ(node.drops(Drop::kSourceNotAllowed), 9u);
}

// Goal: what a worker remembers of recent destinations ends with every change of the routes, too.
// Method: packets to the same two addresses, one a family, again and again, while they go to another peer, to nobody,
// and come back; the two families' addresses have the same octets.
TEST_F(Data, ADestinationIsRememberedOnlyAsLongAsTheRoutesSayWhoseItIs) {
  Speaker b{sim, node, "198.51.100.2"};
  peer.join(true, {"10.9.0.4/32", "a09:4::/128"});
  b.join(true, {"10.8.0.0/24"});
  static_cast<void>(peer.shake_and_confirm());
  static_cast<void>(b.shake_and_confirm());
  const auto change = [&](Speaker& of, const std::string& text, bool remove) {
    PeerChange wish;
    wish.public_key = of.key();
    wish.allowed_ips.push_back({prefix(text), remove});
    node.apply(std::move(wish));
  };
  const auto say = [&](const std::string& from, const std::string& to) {
    peer.inbox.clear(), b.inbox.clear();
    for (int i = 0; i < 3; ++i) node.send(udp_packet(from, 1, to, 2, 5));
    sim.run_for(50ms);
    return std::pair{peer.inbox.size(), b.inbox.size()};
  };
  using Pair = std::pair<std::size_t, std::size_t>;
  EXPECT_EQ(say(node.inner_v4(), "10.9.0.4"), Pair(3, 0));
  EXPECT_EQ(say(node.inner_v6(), "a09:4::"), Pair(3, 0));
  change(b, "10.9.0.4/32", false);
  EXPECT_EQ(say(node.inner_v4(), "10.9.0.4"), Pair(0, 3));
  EXPECT_EQ(say(node.inner_v6(), "a09:4::"), Pair(3, 0));
  change(b, "10.9.0.4/32", true);
  change(b, "a09:4::/128", false);
  EXPECT_EQ(say(node.inner_v4(), "10.9.0.4"), Pair(0, 0)) << "nobody's";
  EXPECT_EQ(say(node.inner_v6(), "a09:4::"), Pair(0, 3));
  change(peer, "10.9.0.4/32", false);
  EXPECT_EQ(say(node.inner_v4(), "10.9.0.4"), Pair(3, 0));
}

// Goal: the endpoint follows authenticated packets, handshakes and data, across families, and nothing else.
// Method: forged and replayed packets from elsewhere move nothing; good data and a good handshake from elsewhere do.
// proves: P37
TEST_F(Data, EndpointFollowsAuthenticatedPacketsOnly) {
  const KeyPair keys = joined();
  const auto known = [&] { return peer.as_peer().endpoint->remote; };
  const auto from = [&](const std::string& address_text) { return endpoint(address_text, 4242); };
  const Octets first = peer.data(keys, 1, from_peer());
  peer.send_octets(first);
  sim.run_for(50ms);
  Octets forged = peer.data(keys, 2, from_peer());
  forged.back() ^= 1;
  peer.send_octets(forged, from("203.0.113.1"));
  peer.send_octets(first, from("203.0.113.2"));  // a replay is authentic, but old
  InitiationMessage bad = peer.initiation();
  bad.sealed_timestamp[0] ^= 1;
  peer.cookies.write_macs(octets_of(bad), peer.them, sim.now());
  peer.send(bad, from("203.0.113.3"));
  sim.run_for(100ms);
  EXPECT_EQ(known(), peer.at.remote);

  peer.send_octets(peer.data(keys, 5, from_peer()), from("203.0.113.4"));
  sim.run_for(100ms);
  EXPECT_EQ(known(), address("203.0.113.4"));
  EXPECT_EQ(peer.as_peer().endpoint->port, 4242);
  peer.send_octets(peer.data(keys, 4, from_peer()), peer.at);  // sent before, arrived after: no way back
  sim.run_for(100ms);
  EXPECT_EQ(known(), address("203.0.113.4"));
  sim.inject(from("2001:db8::77"), node.at_v6(), peer.keepalive(keys, 6));
  sim.run_for(100ms);
  EXPECT_EQ(known(), address("2001:db8::77"));
  node.send(for_peer());
  sim.run_for(50ms);
  EXPECT_EQ(sim.record.back().to.remote, address("2001:db8::77"));
  peer.send(peer.initiation(), from("203.0.113.8"));
  sim.run_for(100ms);
  EXPECT_EQ(known(), address("203.0.113.8"));
  EXPECT_EQ(sim.record.back().to.remote, address("203.0.113.8"));
  EXPECT_TRUE(sim.record.back().is(MessageType::kResponse));
}

// Goal: what is sent to a peer after it has moved goes to where it is now, even before control has heard of the move:
// an answer to the old address would make a peer that still hears it there move back. Method: control is held back
// until the worker has answered.
TEST_F(Data, AnswersGoToTheNewEndpointBeforeControlHasHeardOfTheMove) {
  const KeyPair keys = joined();
  peer.send_octets(peer.data(keys, 1, from_peer()));
  sim.run_for(50ms);
  const Endpoint elsewhere = endpoint("203.0.113.4", 4242);
  bool answered = false;
  node.before_control = [&] {
    if (std::exchange(answered, true)) return;
    EXPECT_EQ(peer.as_peer().endpoint->remote, peer.at.remote);
    node.send(for_peer());
    static_cast<void>(node.workers.front()->step(sim.now_of(node).engine));
  };
  const std::size_t before = sim.record.size();
  sim.inject(elsewhere, node.at(), peer.data(keys, 2, from_peer()));
  sim.run_for(50ms);
  node.before_control = nullptr;
  ASSERT_TRUE(answered);
  std::size_t answers = 0;
  for (std::size_t i = before; i < sim.record.size(); ++i) {
    if (sim.record[i].from != node.at() || !sim.record[i].is_data()) continue;
    EXPECT_EQ(sim.record[i].to.remote, elsewhere.remote);
    ++answers;
  }
  EXPECT_EQ(answers, 1u);
  EXPECT_EQ(peer.as_peer().endpoint->remote, elsewhere.remote);
}

// Goal: what we answer leaves from the address it was sent to, until nobody answers any more.
// Method: a node with two addresses; the peer speaks to the second; then the peer is silent for 15 s and 5 s more.
// proves: P37
TEST(StickySource, IsKeptForAnswersAndForgottenWhenNobodyAnswers) {
  Sim sim;
  Node& node = sim.add({.addresses = {address("192.0.2.1"), address("192.0.2.2")}});
  Speaker peer{sim, node};
  peer.join();
  InitiationMessage hello = peer.initiation();
  const auto* octets = reinterpret_cast<const std::uint8_t*>(&hello);
  sim.inject(peer.at, endpoint("192.0.2.2", 51820), {octets, octets + sizeof hello});
  sim.run_for(100ms);
  ASSERT_EQ(peer.inbox.size(), 1u);
  EXPECT_EQ(peer.inbox[0].from.remote, address("192.0.2.2"));
  const std::optional<KeyPair> keys = peer.read(peer.inbox[0]);
  ASSERT_TRUE(keys);
  sim.inject(peer.at, endpoint("192.0.2.2", 51820), peer.keepalive(*keys, 0));
  sim.run_for(100ms);
  peer.inbox.clear();
  node.send(udp_packet(node.inner_v4(), 1, peer.inner, 2, 10));
  sim.run_for(22s);
  const std::vector<Wire> initiations = peer.heard(MessageType::kInitiation);
  ASSERT_EQ(peer.heard(MessageType::kData).size(), 1u);
  EXPECT_EQ(peer.heard(MessageType::kData)[0].from.remote, address("192.0.2.2"));
  ASSERT_EQ(initiations.size(), 2u);
  EXPECT_EQ(initiations[0].from.remote, address("192.0.2.1"));
  EXPECT_EQ(initiations[1].from.remote, address("192.0.2.1"));
}

// Goal: roaming is followed in both directions even after two crossing handshakes, when each side sends on another
// session.
// Method: both begin at once; then one side moves and goes on talking.
TEST(Roaming, IsFollowedAfterCrossingHandshakes) {
  Sim sim{1, {.delay = 50ms}};
  Node &a = sim.add(), &b = sim.add();
  sim.connect(a, b);
  a.say(b);
  b.say(a);
  sim.run_for(1s);
  ASSERT_EQ(a.inbox.size() + b.inbox.size(), 2u);
  for (const std::string to : {"203.0.113.1", "203.0.113.2"}) {
    b.move_to({address(to)});
    b.say(a);
    sim.run_for(200ms);
    a.say(b);
    sim.run_for(200ms);
    EXPECT_EQ(a.peer(b).endpoint->remote, address(to));
  }
  EXPECT_EQ(b.inbox.size(), 3u);
  EXPECT_EQ(a.inbox.size(), 3u);
}

// Goal: a host that sends where no peer is, or to a peer nobody has found yet, is told.
// Method: both families; the ICMP error comes back by the inner port.
// proves: P38
TEST_F(Data, HostIsToldThatADestinationIsUnreachable) {
  peer.join(false, {"10.9.0.1/32", "fd09::1/128"});
  struct Case {
    std::string from, to;
    Drop reason;
  };
  for (const Case& c : {Case{node.inner_v4(), "10.200.0.1", Drop::kNoRoute},
                        {node.inner_v6(), "fd99::1", Drop::kNoRoute},
                        {node.inner_v4(), "10.9.0.1", Drop::kNoEndpoint},
                        {node.inner_v6(), "fd09::1", Drop::kNoEndpoint}}) {
    const std::uint64_t before = node.drops(c.reason);
    node.inbox.clear();
    const Octets packet = udp_packet(c.from, 1, c.to, 2, 100);
    node.send(packet);
    sim.run_for(1s);
    EXPECT_EQ(node.drops(c.reason), before + 1);
    ASSERT_EQ(node.inbox.size(), 1u) << c.to;
    const Octets& error = node.inbox[0].packet;
    const bool v4 = error[0] >> 4 == 4;
    const std::size_t at = v4 ? 20 : 40;
    EXPECT_EQ(v4 ? error[9] : error[6], v4 ? kProtocolIcmp : kProtocolIcmpv6);
    EXPECT_EQ(error[at], v4 ? 3 : 1);      // destination unreachable
    EXPECT_EQ(error[at + 1], v4 ? 1 : 3);  // host, address
    EXPECT_TRUE(std::equal(packet.begin(), packet.end(), error.begin() + static_cast<std::ptrdiff_t>(at + 8)));
  }
  EXPECT_TRUE(sim.record.empty());
}

// Goal: 128 packets wait for a key, the newest, and leave in order before what comes later; when the handshake is given
// up they are dropped.
// Method: 200 numbered packets before the response; more behind them; then a peer that never answers.
// proves: P39
TEST_F(Data, PacketsWaitForTheKeyInOrderAndAtMost128) {
  peer.join();
  for (std::uint16_t i = 0; i < 200; ++i) node.send(udp_packet(node.inner_v4(), i, peer.inner, 2, 10));
  sim.run_for(100ms);
  EXPECT_EQ(node.drops(Drop::kStagedOverflow), 72u);
  EXPECT_EQ(node.held(), 128u);
  const KeyPair keys = peer.answer();
  node.send(udp_packet(node.inner_v4(), 200, peer.inner, 2, 10));
  sim.run_for(100ms);
  std::uint16_t next = 72;
  for (const Wire& wire : peer.heard(MessageType::kData)) {
    const std::optional<Octets> plain = Speaker::open(keys, wire);
    ASSERT_TRUE(plain);
    EXPECT_EQ(load_be16(&(*plain)[20]), next++);
  }
  EXPECT_EQ(next, 201);

  Speaker silent{sim, node, "198.51.100.3"};
  silent.join(true, {"10.9.0.3/32"});
  for (int i = 0; i < 20; ++i) node.send(udp_packet(node.inner_v4(), 1, "10.9.0.3", 2, 10));
  sim.run_for(110s);
  EXPECT_EQ(node.drops(Drop::kStagedGivenUp), 20u);
  EXPECT_EQ(node.held(), 0u);
}

// Goal: packets of one peer keep their order through a worker, from host to peer, from peer to peer, and also when
// several workers serve one device.
// Method: bursts of numbered packets through a hub with two workers; the largest backward step at the receiver is
// measured: 0.
// proves: P41
TEST(Order, IsKeptWithinAPeer) {
  Sim sim;
  Node& hub = sim.add({.workers = 2, .inner = false, .forward = Forward::kAll});
  std::vector<Node*> leaves;
  for (int i = 0; i < 4; ++i) {
    Node& leaf = *leaves.emplace_back(&sim.add({.workers = 2}));
    hub.add_peer(leaf.key(), {.endpoint = leaf.at(), .allowed = {leaf.inner_v4() + "/32"}});
    leaf.add_peer(hub.key(), {.endpoint = hub.at(), .allowed = {"10.0.0.0/16"}});
  }
  for (Node* leaf : leaves) leaf->say(*leaves[leaf == leaves[0] ? 1 : 0]);
  sim.run_for(1s);
  for (Node* leaf : leaves) leaf->inbox.clear();
  std::uint16_t number = 0;
  for (int burst = 0; burst < 20; ++burst) {
    for (int i = 0; i < 50; ++i) {
      for (std::size_t from = 0; from < 4; ++from)
        leaves[from]->send(udp_packet(leaves[from]->inner_v4(), number, leaves[(from + 1) % 4]->inner_v4(), 2, 10), 0);
      ++number;
    }
    sim.run_for(3ms);
  }
  sim.run_for(1s);
  for (Node* leaf : leaves) {
    EXPECT_EQ(leaf->inbox.size(), 1000u) << hub.counters_text();
    int extent = 0, highest = -1;
    for (const Node::Arrival& arrival : leaf->inbox) {
      const int is = load_be16(&arrival.packet[20]);
      extent = std::max(extent, highest - is);
      highest = std::max(highest, is);
    }
    EXPECT_EQ(extent, 0);
  }
}

// Goal: a tunnel that is routed into itself does not spin.
// Method: the host's routing table sends our own datagrams to the peer's endpoint into the tunnel again.
// proves: P42
TEST_F(Data, OwnDatagramRoutedIntoTheTunnelIsCut) {
  peer.join(true, {"10.9.0.1/32", "198.51.100.1/32"});
  static_cast<void>(peer.shake_and_confirm());
  node.send(udp_packet("172.16.0.1", 51820, "198.51.100.1", 7777, 100));
  sim.run_for(100ms);
  EXPECT_EQ(node.drops(Drop::kLoop), 1u);
  EXPECT_EQ(peer.heard(MessageType::kData).size(), 0u);
  node.send(udp_packet("172.16.0.1", 51820, "198.51.100.1", 7778, 100));  // somebody else on that host
  sim.run_for(100ms);
  EXPECT_EQ(peer.heard(MessageType::kData).size(), 1u);
}

}  // namespace
}  // namespace wireplane::test
