// Who is answered, how often, and what a handshake may change.
#include "control/noise/x25519.h"
#include "tests/support/speaker.h"

namespace wireplane::test {
namespace {

Octets junk_initiation() {
  Octets message(sizeof(InitiationMessage), 0xaa);
  store_le(&message[0], 1u);
  return message;
}

// Goal: mac2 is nobody's business while we are not under load.
// Method: an initiation whose mac2 is noise.
// proves: P7
TEST(HandshakeProtocol, WrongMac2IsIgnoredWithoutLoad) {
  Sim sim;
  Node& node = sim.add();
  Speaker peer{sim, node};
  peer.join();
  InitiationMessage message = peer.initiation();
  message.macs.mac2.fill(0x77);
  peer.send(message);
  sim.run_for(1s);
  EXPECT_EQ(peer.heard(MessageType::kResponse).size(), 1u);
  EXPECT_EQ(peer.heard(MessageType::kCookieReply).size(), 0u);
}

// Goal: load is an eighth of the ring, and it is believed for one second more.
// Method: 7 messages at once are no load, 8 are; a stranger to cookies is then refused for a second and served after.
// proves: P9
TEST(HandshakeProtocol, LoadIsRememberedForOneSecond) {
  Sim sim;
  Node& node = sim.add();  // its ring has 64 places
  Speaker peer{sim, node};
  peer.join();
  for (int i = 0; i < 7; ++i) peer.send_octets(junk_initiation());
  sim.run_for(50ms);
  EXPECT_FALSE(node.device->under_load());
  for (int i = 0; i < 8; ++i) peer.send_octets(junk_initiation());
  sim.run_for(10ms);
  EXPECT_TRUE(node.device->under_load()) << node.counters_text();
  sim.run_for(980ms);  // the message arrives 10 ms later
  peer.send(peer.initiation());
  sim.run_for(100ms);
  EXPECT_EQ(peer.heard(MessageType::kResponse).size(), 0u);
  ASSERT_EQ(peer.heard(MessageType::kCookieReply).size(), 1u);
  peer.send(peer.initiation());
  sim.run_for(100ms);
  EXPECT_FALSE(node.device->under_load());
  EXPECT_EQ(peer.heard(MessageType::kResponse).size(), 1u);
}

// Goal: under load a cookie buys the handshake.
// Method: the cookie reply is read by a stock jar, whose next initiation carries mac2.
TEST(HandshakeProtocol, CookieOpensTheDoorUnderLoad) {
  Sim sim;
  Node& node = sim.add();
  Speaker peer{sim, node};
  peer.join();
  for (int i = 0; i < 8; ++i) peer.send_octets(junk_initiation());
  peer.send(peer.initiation());
  sim.run_for(100ms);
  const std::vector<Wire> replies = peer.heard(MessageType::kCookieReply);
  ASSERT_EQ(replies.size(), 1u);
  CookieReplyMessage reply;
  std::memcpy(&reply, replies[0].octets.data(), sizeof reply);
  ASSERT_TRUE(peer.cookies.accept(reply, peer.them, sim.now()));
  peer.send(peer.initiation());
  sim.run_for(100ms);
  EXPECT_EQ(peer.heard(MessageType::kResponse).size(), 1u);
}

// Goal: many peers behind one address come back in bounded time after a restart, although cookies are rate-limited by
// address.
// Method: 200 peers ask at the same instant, learn their cookies, and ask again as stock peers do: after 5 s + jitter.
// proves: P14
TEST(HandshakeProtocol, TwoHundredPeersBehindOneAddressRecover) {
  Sim sim;
  Limits limits = small_limits();
  limits.peers = 256;
  Node& node = sim.add({.limits = limits});
  constexpr unsigned kPeers = 200;
  std::vector<std::unique_ptr<Speaker>> peers;
  for (unsigned i = 0; i < kPeers; ++i) {
    peers.push_back(std::make_unique<Speaker>(sim, node, "198.51.100.9", static_cast<std::uint16_t>(1000 + i)));
    peers[i]->join(false, {"10.9.0." + std::to_string(i) + "/32"});
  }
  unsigned answered = 0;
  std::function<void(Speaker&)> ask = [&](Speaker& peer) {
    if (!peer.heard(MessageType::kResponse).empty()) return;
    for (const Wire& wire : peer.heard(MessageType::kCookieReply)) {
      CookieReplyMessage reply;
      std::memcpy(&reply, wire.octets.data(), sizeof reply);
      static_cast<void>(peer.cookies.accept(reply, peer.them, sim.now()));
    }
    peer.send(peer.initiation());
    sim.after(5s + Duration{static_cast<std::int64_t>(sim.dice().below(333'000'000))}, [&] { ask(peer); });
  };
  for (const auto& peer : peers) ask(*peer);
  sim.run_for(12s);
  for (const auto& peer : peers) answered += peer->heard(MessageType::kResponse).empty() ? 0 : 1;
  EXPECT_EQ(answered, kPeers) << node.counters_text();
  EXPECT_GT(node.drops(Drop::kCookieSent), 0u);  // it was under load
}

// Goal: who is not configured learns nothing, not even that we are there.
// Method: a perfect initiation by an unknown static key.
// proves: P15
TEST(HandshakeProtocol, UnknownStaticKeyIsMetWithSilence) {
  Sim sim;
  Node& node = sim.add();
  Speaker stranger{sim, node};
  stranger.send(stranger.initiation());
  sim.run_for(10s);
  EXPECT_EQ(node.drops(Drop::kUnknownPeer), 1u);
  EXPECT_TRUE(stranger.inbox.empty());
  EXPECT_EQ(node.device->live_sessions(), 0u);
}

// Goal: an initiation is answered once, and never again, not even when all keys are long gone.
// Method: the recorded message again at once, with the same timestamp in a fresh message, and after 600 s.
// proves: P16
TEST(HandshakeProtocol, TimestampMustBeGreaterThanTheLastForEver) {
  Sim sim;
  Node& node = sim.add();
  Speaker peer{sim, node};
  peer.join();
  const Timestamp first = timestamp_at(1'700'000'000s);
  const InitiationMessage recorded = peer.initiation(first);
  peer.send(recorded);
  sim.run_for(1s);
  ASSERT_EQ(peer.heard(MessageType::kResponse).size(), 1u);
  peer.send(recorded);
  sim.run_for(1s);
  peer.send(peer.initiation(first));
  sim.run_for(1s);
  peer.send(peer.initiation(timestamp_at(1'699'999'999s)));
  sim.run_for(600s);
  EXPECT_EQ(node.device->live_sessions(), 0u);
  peer.send(recorded);
  sim.run_for(1s);
  EXPECT_EQ(peer.heard(MessageType::kResponse).size(), 1u);
  EXPECT_EQ(node.drops(Drop::kOldTimestamp), 4u);
  peer.send(peer.initiation());
  sim.run_for(1s);
  EXPECT_EQ(peer.heard(MessageType::kResponse).size(), 2u);
}

// Goal: one peer cannot make us compute more than 50 handshakes a second.
// Method: good initiations with growing timestamps, 1 ms apart, then 20 ms apart.
// proves: P18
TEST(HandshakeProtocol, InitiationsOfOnePeerAreSpaced) {
  Sim sim;
  Node& node = sim.add();
  Speaker peer{sim, node};
  peer.join();
  for (int i = 0; i < 60; ++i) {
    peer.send(peer.initiation(timestamp_at(1'700'000'000s + i * 20ms)));
    sim.run_for(1ms);
  }
  sim.run_for(100ms);
  EXPECT_EQ(peer.heard(MessageType::kResponse).size(), 3u);  // at 0, 20 and 40 ms
  EXPECT_EQ(node.drops(Drop::kInitiationFlood), 57u);
  for (int i = 0; i < 5; ++i) {
    peer.send(peer.initiation(timestamp_at(1'700'000'010s + i * 20ms)));
    sim.run_for(20ms);
  }
  sim.run_for(100ms);
  EXPECT_EQ(peer.heard(MessageType::kResponse).size(), 8u);
}

// Goal: an initiation that fails at its last field has changed nothing.
// Method: the right static key, a greater timestamp, its tag broken, good macs; then an honest one with a lesser
// timestamp, and traffic on the session that was there.
TEST(HandshakeProtocol, FailedInitiationLeavesThePeerAsItWas) {
  Sim sim;
  Node& node = sim.add();
  Speaker peer{sim, node};
  peer.join();
  const KeyPair keys = peer.shake_and_confirm();
  InitiationMessage broken = peer.initiation(timestamp_at(1'800'000'000s));
  broken.sealed_timestamp[27] ^= 1;
  peer.cookies.write_macs(octets_of(broken), peer.them, sim.now());
  peer.send(broken, endpoint("203.0.113.99", 1));
  sim.run_for(1s);
  EXPECT_EQ(node.drops(Drop::kBadHandshake), 1u);
  EXPECT_EQ(peer.as_peer().endpoint->remote, peer.at.remote);
  peer.send_octets(peer.data(keys, 1, peer.data_packet(node.inner_v4())));
  peer.send(peer.initiation());
  sim.run_for(1s);
  EXPECT_EQ(node.inbox.size(), 1u);
  EXPECT_EQ(peer.heard(MessageType::kResponse).size(), 2u);
}

// Goal: a peer whose key makes every shared secret zero can be configured, and is never spoken to.
// Method: the key of all zeros as a peer; a packet and a persistent keepalive for it.
// proves: P20
TEST(HandshakeProtocol, LowOrderPeerIsNeverSpokenTo) {
  Sim sim;
  Node& node = sim.add();
  node.add_peer(PublicKey{}, {.endpoint = endpoint("198.51.100.1", 1), .keepalive_s = 5, .allowed = {"10.9.0.1/32"}});
  EXPECT_EQ(node.device->peer_count(), 1u);
  node.send(udp_packet(node.inner_v4(), 1, "10.9.0.1", 2, 10));
  sim.run_for(60s);
  EXPECT_TRUE(sim.record.empty());
}

// Goal: when both ends begin at the same moment, both have a working session after one round trip.
// Method: two nodes, each with a packet for the other at t = 0, at round trips from 0 to 200 ms; further packets
// follow, and all arrive long before the first retry.
// proves: P21
TEST(HandshakeProtocol, SimultaneousOpenNeverDeadlocks) {
  for (const Duration rtt : {0ms, 1ms, 5ms, 20ms, 50ms, 100ms, 150ms, 200ms})
    for (const Duration skew : {0ms, 1ms, 30ms, 100ms}) {
      Sim sim{static_cast<std::uint64_t>(rtt.count() + skew.count()), {.delay = rtt / 2}};
      Node &a = sim.add(), &b = sim.add();
      sim.connect(a, b);
      a.say(b);
      sim.run_for(skew);
      b.say(a);
      sim.run_for(1s);
      EXPECT_EQ(b.count_from(a), 1u) << "rtt " << rtt.count() << " skew " << skew.count();
      EXPECT_EQ(a.count_from(b), 1u) << "rtt " << rtt.count() << " skew " << skew.count();
      for (int i = 0; i < 5; ++i) {
        a.say(b);
        b.say(a);
        sim.run_for(500ms);
      }
      EXPECT_EQ(b.count_from(a), 6u);
      EXPECT_EQ(a.count_from(b), 6u);
      EXPECT_LE(sim.sent_by(a, MessageType::kInitiation).size(), 1u);
    }
}

// Goal: the same against a peer that forgets its own initiation as soon as another's arrives, as the Linux module does.
// Method: b is such a peer: the first response that is sent to it is never understood.
TEST(HandshakeProtocol, SimultaneousOpenWithAKernelNeverDeadlocks) {
  for (const Duration rtt : {0ms, 1ms, 20ms, 100ms, 200ms}) {
    Sim sim{7, {.delay = rtt / 2}};
    Node &a = sim.add(), &b = sim.add();
    sim.connect(a, b);
    unsigned responses = 0;
    sim.pass = [&](const Wire& wire) {
      return !(wire.is(MessageType::kResponse) && wire.to.remote == b.at().remote && responses++ == 0);
    };
    a.say(b);
    b.say(a);
    sim.run_for(1s);
    EXPECT_EQ(responses, 1u);
    EXPECT_EQ(b.count_from(a), 1u) << "rtt " << rtt.count();
    EXPECT_EQ(a.count_from(b), 1u) << "rtt " << rtt.count();
  }
}

// Goal: two kernels' trouble, where both responses are lost, is over with the first retry and never for ever.
// Method: the first response of each side is lost.
TEST(HandshakeProtocol, BothResponsesLostIsOverWithTheFirstRetry) {
  for (std::uint64_t seed = 1; seed <= 20; ++seed) {
    Sim sim{seed, {.delay = 50ms}};
    Node &a = sim.add(), &b = sim.add();
    sim.connect(a, b);
    unsigned responses = 0;
    sim.pass = [&](const Wire& wire) { return !(wire.is(MessageType::kResponse) && responses++ < 2); };
    a.say(b);
    b.say(a);
    sim.run_for(6s);
    EXPECT_EQ(b.count_from(a), 1u) << "seed " << seed;
    EXPECT_EQ(a.count_from(b), 1u) << "seed " << seed;
  }
}

// Goal: a response is taken once, for the initiation it answers, and only while that is outstanding.
// Method: a response to an index nobody asked under, the true one twice, and once more after a while.
// proves: P22
TEST(HandshakeProtocol, ResponseIsTakenOnceAndOnlyForItsInitiation) {
  Sim sim;
  Node& node = sim.add();
  Speaker peer{sim, node};
  peer.join();
  node.send(udp_packet(node.inner_v4(), 1, peer.inner, 2, 10));
  sim.run_for(100ms);
  ASSERT_EQ(peer.heard(MessageType::kInitiation).size(), 1u);
  ResponseMessage response;
  const std::optional<KeyPair> keys = peer.respond(peer.heard(MessageType::kInitiation)[0], response);
  ASSERT_TRUE(keys);
  ResponseMessage astray = response;
  astray.receiver[1] ^= 1;
  peer.cookies.write_macs(octets_of(astray), peer.them, sim.now());
  peer.send(astray);
  sim.run_for(100ms);
  EXPECT_EQ(node.drops(Drop::kUnexpectedResponse), 1u);
  EXPECT_EQ(node.device->live_sessions(), 0u);
  peer.send(response);
  peer.send(response);
  sim.run_for(100ms);
  peer.send(response);
  sim.run_for(100ms);
  EXPECT_EQ(node.drops(Drop::kUnexpectedResponse), 3u);
  EXPECT_EQ(node.device->live_sessions(), 1u);
  EXPECT_FALSE(peer.as_peer().keypairs.previous.has_value());
}

// Goal: we never send more to an address that has proved nothing than it sent to us.
// Method: forged, replayed, unknown and good handshake messages from addresses that never answer, with and without
// load; octets are added up by address.
TEST(HandshakeProtocol, NoAmplificationTowardsUnprovenAddresses) {
  Sim sim;
  Node& node = sim.add();
  Speaker peer{sim, node}, stranger{sim, node, "198.51.100.2"};
  peer.join(false);
  std::map<Address, std::int64_t> balance;
  unsigned host = 1;
  const auto spoof = [&](const auto& message) {
    const Endpoint from = endpoint("203.0.113." + std::to_string(host++ % 250 + 1), 999);
    balance[from.remote] += static_cast<std::int64_t>(sizeof message);
    peer.send(message, from);
  };
  for (int round = 0; round < 300; ++round) {
    spoof(peer.initiation(timestamp_at(1'700'000'000s + round * 50ms)));
    spoof(stranger.initiation());
    if (round % 50 == 0)
      for (int i = 0; i < 9; ++i) peer.send_octets(junk_initiation(), endpoint("192.0.2.1", 1));
    ResponseMessage response{};
    store_le(response.type.data(), 2u);
    peer.cookies.write_macs(octets_of(response), peer.them, sim.now());
    spoof(response);
    sim.run_for(50ms);
  }
  sim.run_for(200s);
  EXPECT_GT(node.drops(Drop::kCookieSent), 0u);
  std::uint64_t answered = 0;
  for (const Wire& wire : sim.sent_by(node)) {
    const auto asked = balance.find(wire.to.remote);
    ASSERT_NE(asked, balance.end());
    asked->second -= static_cast<std::int64_t>(wire.octets.size());
    ++answered;
  }
  EXPECT_GT(answered, 100u);
  for (const auto& [address, left] : balance) EXPECT_GE(left, 0);
}

}  // namespace
}  // namespace wireplane::test
