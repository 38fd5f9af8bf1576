// When what happens, to the nanosecond of a simulated clock. spec: wg §6, the Linux module's timers.c
#include <algorithm>

#include "tests/support/speaker.h"

namespace wireplane::test {
namespace {

struct Timers : testing::Test {
  Sim sim;
  Node& node = sim.add();
  Speaker peer{sim, node};
  const Duration there = sim.faults.delay;  // one way
  Octets for_peer() { return udp_packet(node.inner_v4(), 1, peer.inner, 2, 10); }
  Octets from_peer() { return peer.data_packet(node.inner_v4(), 10); }
  KeyPair node_initiates() {
    node.send(for_peer());
    sim.run_for(2 * there);
    return peer.answer();
  }
  std::vector<Instant> times(MessageType type) {
    std::vector<Instant> at;
    for (const Wire& wire : peer.heard(type)) at.push_back(wire.at);
    return at;
  }
};

// Goal: nobody answers: an initiation every 5 s and up to 333 ms, 20 of them, then silence; what waits is dropped, keys
// go 540 s later.
// Method: a peer that hears and does not answer, over ten seeds.
// proves: P43
TEST(Retry, TwentyInitiationsFiveSecondsApartThenGiveUp) {
  std::vector<Duration> jitters;
  for (std::uint64_t seed = 1; seed <= 10; ++seed) {
    Sim sim{seed};
    Node& node = sim.add();
    Speaker peer{sim, node};
    peer.join();
    node.send(udp_packet(node.inner_v4(), 1, peer.inner, 2, 10));
    const Instant began = sim.now();
    sim.run_for(400s);
    const std::vector<Wire> sent = peer.heard(MessageType::kInitiation);
    ASSERT_EQ(sent.size(), 20u) << "seed " << seed;
    EXPECT_EQ(sent[0].at, began);
    for (std::size_t i = 1; i < sent.size(); ++i) {
      const Duration gap = sent[i].at - sent[i - 1].at;
      EXPECT_GE(gap, kRekeyTimeout);
      EXPECT_LE(gap, kRekeyTimeout + kRekeyTimeoutJitterMax);
      jitters.push_back(gap - kRekeyTimeout);
    }
    EXPECT_EQ(node.drops(Drop::kStagedGivenUp), 1u);
    EXPECT_EQ(node.held(), 0u);
    node.send(udp_packet(node.inner_v4(), 1, peer.inner, 2, 10));  // the next packet begins again
    sim.run_for(10ms);
    EXPECT_EQ(peer.heard(MessageType::kInitiation).size(), 21u);
  }
  EXPECT_LT(*std::ranges::min_element(jitters), 33ms);  // of 190 uniform ones
  EXPECT_GT(*std::ranges::max_element(jitters), 300ms);
}

// Goal: giving up arms the wipe of all keys, and leaves persistent keepalive able to begin again.
// Method: an established session whose peer falls silent; with and without persistent keepalive.
// proves: P43
TEST_F(Timers, GivingUpLeavesPersistentKeepaliveAlive) {
  peer.join(true, {"10.9.0.1/32"}, 25);
  sim.run_for(400s);
  const std::vector<Instant> sent = times(MessageType::kInitiation);
  ASSERT_GT(sent.size(), 40u);
  const Duration pause = sent[20] - sent[19];
  EXPECT_GE(pause, 25s);
  EXPECT_LE(pause, 26s);
  EXPECT_EQ(node.held(), 1u);  // one keepalive waits, not one for each time
}

// Goal: an initiator that sends renews its key after 120 s; a responder does not.
// Method: one packet a second, as initiator and as responder.
// proves: P44
TEST_F(Timers, OnlyTheInitiatorRekeysAfter120SecondsOfSending) {
  peer.join();
  KeyPair keys = node_initiates();
  const Instant born = peer.heard(MessageType::kInitiation)[0].at + 2 * there + there;  // when the response came
  peer.inbox.clear();
  std::uint64_t counter = 0;
  const auto talk = [&](int seconds) {
    for (int i = 0; i < seconds; ++i) {
      node.send(for_peer());
      peer.send_octets(peer.data(keys, counter++, from_peer()));
      sim.run_for(1s);
    }
  };
  talk(119);
  EXPECT_EQ(peer.heard(MessageType::kInitiation).size(), 0u);
  sim.run_until(born + kRekeyAfterTime - 1ns);
  node.send(for_peer());
  sim.run_for(0ns);
  EXPECT_EQ(sim.sent_by(node, MessageType::kInitiation).size(), 1u);
  sim.run_until(born + kRekeyAfterTime);
  node.send(for_peer());
  sim.run_for(0ns);
  EXPECT_EQ(sim.sent_by(node, MessageType::kInitiation).size(), 2u);

  sim.run_for(1s);
  keys = peer.shake_and_confirm();  // now the node is the responder
  counter = 1;
  sim.run_for(10s);
  peer.inbox.clear();
  talk(178 - 10);
  EXPECT_EQ(peer.heard(MessageType::kInitiation).size(), 0u);
}

// Goal: an initiator that only receives renews its key after 165 s, and asks once; a responder does not.
// Method: data from the peer every second from 150 s on, and no answer to the initiation.
// proves: P44
TEST_F(Timers, InitiatorThatOnlyReceivesRekeysOnceAt165Seconds) {
  peer.join();
  KeyPair keys = node_initiates();
  const Instant born = sim.now() - there;
  peer.send_octets(peer.keepalive(keys, 100));  // an answer to its packet
  sim.run_until(born + 165s - 1ns - there);
  peer.send_octets(peer.data(keys, 0, from_peer()));
  sim.run_for(there);
  EXPECT_EQ(sim.sent_by(node, MessageType::kInitiation).size(), 1u);
  peer.send_octets(peer.data(keys, 1, from_peer()));
  sim.run_for(there);
  EXPECT_EQ(sim.sent_by(node, MessageType::kInitiation).size(), 2u);
  for (std::uint64_t i = 2; i < 6; ++i) {
    peer.send_octets(peer.data(keys, i, from_peer()));
    sim.run_for(1s);
  }
  EXPECT_EQ(sim.sent_by(node, MessageType::kInitiation).size(), 2u);

  keys = peer.shake_and_confirm();
  sim.run_for(30s);
  const std::size_t before = sim.sent_by(node, MessageType::kInitiation).size();
  sim.run_for(136s);
  for (std::uint64_t i = 1; i < 10; ++i) {
    peer.send_octets(peer.data(keys, i, from_peer()));
    sim.run_for(1s);
  }
  EXPECT_EQ(sim.sent_by(node, MessageType::kInitiation).size(), before);
}

// Goal: a key is dead at 180 s, for receiving and for sending.
// Method: just before and just at 180 s, as responder (who does not rekey before).
// proves: P45
TEST_F(Timers, KeyIsUnusableAt180SecondsInBothDirections) {
  peer.join();
  peer.send(peer.initiation());
  sim.run_for(there);
  const Instant born = sim.now();
  sim.run_for(there);
  const std::optional<KeyPair> keys = peer.read(peer.heard(MessageType::kResponse).back());
  ASSERT_TRUE(keys);
  peer.send_octets(peer.keepalive(*keys, 0));
  sim.run_until(born + kRejectAfterTime - 1ns - there);
  peer.send_octets(peer.data(*keys, 1, from_peer()));
  sim.run_for(there);
  EXPECT_EQ(node.inbox.size(), 1u);
  node.send(for_peer());
  sim.run_for(0ns);
  EXPECT_EQ(sim.sent_by(node, MessageType::kData).size(), 1u);
  peer.send_octets(peer.data(*keys, 2, from_peer()));
  sim.run_until(born + kRejectAfterTime);
  node.send(for_peer());
  sim.run_for(there);
  EXPECT_EQ(node.inbox.size(), 1u);
  EXPECT_EQ(node.drops(Drop::kExpired), 1u);
  EXPECT_EQ(sim.sent_by(node, MessageType::kData).size(), 1u);
  EXPECT_EQ(sim.sent_by(node, MessageType::kInitiation).size(), 1u);
  EXPECT_EQ(node.held(), 1u);
}

// Goal: data without any answer for 15 s makes us doubt the session; anything authentic makes us stop doubting.
// Method: data and silence; data and a keepalive back after 14 s.
// proves: P46
TEST_F(Timers, NoAnswerForFifteenSecondsBeginsAHandshake) {
  peer.join();
  const KeyPair keys = peer.shake_and_confirm();
  sim.run_for(30s);
  const Instant said = sim.now();
  node.send(for_peer());
  sim.run_for(5s);
  node.send(for_peer());  // the first one counts
  sim.run_for(12s);
  const std::vector<Instant> initiations = times(MessageType::kInitiation);
  ASSERT_EQ(initiations.size(), 1u);
  EXPECT_GE(initiations[0] - said, kKeepaliveTimeout + kRekeyTimeout);
  EXPECT_LE(initiations[0] - said, kKeepaliveTimeout + kRekeyTimeout + kRekeyTimeoutJitterMax);

  const KeyPair fresh = peer.answer();
  sim.run_for(30s);
  peer.inbox.clear();
  node.send(for_peer());
  sim.run_for(14s);
  peer.send_octets(peer.keepalive(fresh, 0));
  sim.run_for(60s);
  EXPECT_EQ(peer.heard(MessageType::kInitiation).size(), 0u);
  node.send(for_peer());
  sim.run_for(16s);
  EXPECT_EQ(peer.heard(MessageType::kInitiation).size(), 1u);
}

// Goal: data received and nothing sent: a keepalive after exactly 10 s; a second one if data came meanwhile; none for
// keepalives, none if something was sent.
// Method: a peer that says data, keepalives, and nothing.
// proves: P47
TEST_F(Timers, PassiveKeepaliveTenSecondsAfterDataAndNoPingPong) {
  peer.join();
  const KeyPair keys = peer.shake_and_confirm();
  std::uint64_t counter = 1;
  sim.run_for(60s);
  EXPECT_EQ(peer.heard(MessageType::kData).size(), 0u);  // the confirmation was a keepalive: it is not answered

  peer.send_octets(peer.data(keys, counter++, from_peer()));
  const Instant heard = sim.now() + there;
  sim.run_for(60s);
  EXPECT_EQ(times(MessageType::kData), std::vector<Instant>{heard + kKeepaliveTimeout});
  EXPECT_TRUE(peer.inbox.back().is_keepalive());

  peer.inbox.clear();
  peer.send_octets(peer.data(keys, counter++, from_peer()));
  const Instant again = sim.now() + there;
  sim.run_for(5s);
  peer.send_octets(peer.data(keys, counter++, from_peer()));
  sim.run_for(50s);
  EXPECT_EQ(times(MessageType::kData),
            (std::vector<Instant>{again + kKeepaliveTimeout, again + 2 * kKeepaliveTimeout}));

  const KeyPair fresh = peer.shake_and_confirm();
  peer.inbox.clear();
  peer.send_octets(peer.data(fresh, 1, from_peer()));
  sim.run_for(9s);
  node.send(for_peer());
  sim.run_for(14s);
  EXPECT_EQ(peer.heard(MessageType::kData).size(), 1u);  // the packet itself was the answer
  peer.send_octets(peer.keepalive(fresh, 2));
  sim.run_for(30s);
  EXPECT_EQ(peer.heard(MessageType::kData).size(), 1u);
}

// Goal: two silent applications: after one packet each the tunnel is quiet.
TEST(PassiveKeepalive, PingPongDiesOut) {
  Sim sim;
  Node &a = sim.add(), &b = sim.add();
  sim.connect(a, b);
  a.say(b);
  sim.run_for(1s);
  b.say(a);
  sim.run_for(60s);
  const std::size_t before = sim.record.size();
  sim.run_for(600s);
  EXPECT_EQ(sim.record.size(), before);
}

// Goal: persistent keepalive counts from the last authenticated packet in either direction.
// Method: nothing but keepalives: exactly every 25 s; then something received, then something sent, moves the next one.
// proves: P48
TEST_F(Timers, PersistentKeepaliveRestartsOnTrafficInEitherDirection) {
  peer.join(false, {"10.9.0.1/32"}, 25);
  const KeyPair keys = peer.shake_and_confirm();
  sim.run_for(30s);
  ASSERT_GE(peer.heard(MessageType::kData).size(), 1u);
  Instant last = times(MessageType::kData).back();
  peer.inbox.clear();
  sim.run_until(last + 51s);
  EXPECT_EQ(times(MessageType::kData), (std::vector<Instant>{last + 25s, last + 50s}));

  peer.inbox.clear();
  sim.run_until(last + 65s);
  peer.send_octets(peer.keepalive(keys, 1));
  const Instant heard = sim.now() + there;
  sim.run_for(26s);
  EXPECT_EQ(times(MessageType::kData), std::vector<Instant>{heard + 25s});

  peer.inbox.clear();
  sim.run_for(10s);
  const Instant said = sim.now();
  node.send(for_peer());
  sim.run_for(1s);
  peer.send_octets(peer.keepalive(keys, 2));
  const Instant answered = sim.now() + there;
  sim.run_for(26s);
  EXPECT_EQ(times(MessageType::kData), (std::vector<Instant>{said, answered + 25s}));
}

}  // namespace
}  // namespace wireplane::test
