// The simplest things first: if these fail, nothing else is worth looking at.
#include "tests/support/sim.h"

namespace wireplane::test {
namespace {

// Goal: two devices that know each other's keys and addresses exchange packets.
// Method: each says something to the other, over both families.
TEST(Smoke, TwoNodesShakeHandsAndExchangePackets) {
  Sim sim;
  Node &a = sim.add(), &b = sim.add();
  sim.connect(a, b);
  a.say(b, 100);
  sim.run_for(1s);
  ASSERT_EQ(b.inbox.size(), 1u) << a.counters_text() << '\n' << b.counters_text();
  EXPECT_EQ(b.inbox[0].packet, udp_packet(a.inner_v4(), 5000, b.inner_v4(), 6000, 100));
  b.say(a, 1392);
  b.say_v6(a, 1);
  sim.run_for(1s);
  ASSERT_EQ(a.inbox.size(), 2u) << a.counters_text() << '\n' << b.counters_text();
  EXPECT_EQ(a.inbox[0].packet, udp_packet(b.inner_v4(), 5000, a.inner_v4(), 6000, 1392));
  EXPECT_EQ(a.inbox[1].packet, udp_packet(b.inner_v6(), 5000, a.inner_v6(), 6000, 1));
  EXPECT_EQ(sim.sent_by(a, MessageType::kInitiation).size(), 1u);
  EXPECT_EQ(sim.sent_by(b, MessageType::kResponse).size(), 1u);
}

// Goal: a hub carries packets from one peer to another without its host.
// Method: a hub without inner port, Forward = all; two peers that know only the hub.
TEST(Smoke, HubRelaysBetweenTwoPeers) {
  Sim sim;
  Node& hub = sim.add({.inner = false, .forward = Forward::kAll});
  Node &a = sim.add(), &b = sim.add();
  for (Node* leaf : {&a, &b}) {
    hub.add_peer(leaf->key(), {.endpoint = leaf->at(), .allowed = {leaf->inner_v4() + "/32"}});
    leaf->add_peer(hub.key(), {.endpoint = hub.at(), .allowed = {"10.0.0.0/16"}});
  }
  for (int i = 0; i < 10; ++i) {
    a.say(b, 64);
    b.say(a, 64);
    sim.run_for(100ms);
  }
  EXPECT_EQ(a.count_from(b), 10u) << hub.counters_text();
  EXPECT_EQ(b.count_from(a), 10u) << hub.counters_text();
  EXPECT_EQ(hub.total(&Counters::relayed), 20u);
}

}  // namespace
}  // namespace wireplane::test
