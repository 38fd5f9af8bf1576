// Full rings, in every direction. tests/FAULTS.md
#include "tests/support/speaker.h"

namespace wireplane::test {
namespace {

// Goal: more handshakes than control's ring holds are lost, counted by the worker, and those in the ring are served.
// Method: control does not step while 200 peers knock at a ring of 64; then it does.
TEST(FaultsRings, AFullHandshakeRingIsCountedAndServedLater) {
  Sim sim;
  Limits limits = small_limits();
  limits.peers = 256;
  Node& node = sim.add({.limits = limits});
  std::vector<std::unique_ptr<Speaker>> peers;
  for (unsigned i = 0; i < 200; ++i) {
    peers.push_back(std::make_unique<Speaker>(sim, node, "198.51.100." + std::to_string(i / 100 + 1),
                                              static_cast<std::uint16_t>(100 + i)));
    peers.back()->join(false, {"10.9.0." + std::to_string(i) + "/32"});
  }
  for (const auto& peer : peers) {
    const InitiationMessage message = peer->initiation();
    std::vector<std::uint8_t> octets(sizeof message);
    std::memcpy(octets.data(), &message, sizeof message);
    ASSERT_EQ(sim.deliver(peer->at, node.at(), 0, octets), Drop::kNone);
  }
  while (node.workers[0]->step(sim.now()) == Work::kDone) {
  }
  EXPECT_EQ(node.drops(Drop::kHandshakeQueueFull), 200u - limits.handshake_ring);
  sim.touch(node);
  sim.run_for(1s);
  std::size_t answered = 0, cookies = 0;
  for (const auto& peer : peers) {
    answered += peer->heard(MessageType::kResponse).size();
    cookies += peer->heard(MessageType::kCookieReply).size();
  }
  EXPECT_EQ(answered + cookies, limits.handshake_ring) << "the ring was full: under load, so most get a cookie";
  EXPECT_GT(cookies, 0u);
}

// Goal: a full ring of events loses no wish: who could not be told of is told of with a later packet.
// Method: rings of one event, two of orders; twenty peers at once; they all get their handshakes, keys and packets.
TEST(FaultsRings, FullEventAndOrderRingsOnlyCostTime) {
  Sim sim;
  Limits limits = small_limits();
  limits.peers = 32;
  limits.event_ring = 1;
  limits.order_ring = 2;
  Node& hub = sim.add({.limits = limits});
  std::vector<Node*> others;
  for (unsigned i = 0; i < 20; ++i) {
    others.push_back(&sim.add());
    sim.connect(hub, *others.back());
  }
  for (int round = 0; round < 30; ++round) {
    for (Node* other : others) {
      hub.say(*other);
      other->say(hub);
    }
    sim.run_for(500ms);
  }
  for (Node* other : others) {
    EXPECT_GE(other->count_from(hub), 25u);
    EXPECT_GE(hub.count_from(*other), 25u);
  }
}

// Goal: a confirmation or a move that did not fit into the urgent ring is said again with the next packet.
// Method: the ring of one is kept full by hand while the peer's first packet comes; its second finds room.
TEST(FaultsRings, AConfirmationWithoutRoomComesWithTheNextPacket) {
  Sim sim;
  Limits limits = small_limits();
  limits.event_ring = 1;
  Node& node = sim.add({.limits = limits});
  Speaker peer{sim, node};
  peer.join(false);
  const KeyPair keys = peer.shake();
  auto& ring = node.engine.link(0).urgent;
  ASSERT_TRUE(ring.push(Event{}));
  const Octets first = peer.data(keys, 0, peer.data_packet(node.inner_v4()));
  ASSERT_EQ(sim.deliver(peer.at, node.at(), 0, first), Drop::kNone);
  static_cast<void>(node.workers[0]->step(sim.now()));  // control is not asked meanwhile
  EXPECT_FALSE(peer.as_peer().keypairs.current) << "control has not heard of it";
  EXPECT_EQ(node.total(&Counters::inner_out), 1u) << "the packet itself passed";
  sim.touch(node);
  sim.run_for(100ms);
  EXPECT_FALSE(peer.as_peer().keypairs.current);
  peer.send_octets(peer.data(keys, 1, peer.data_packet(node.inner_v4())));
  sim.run_for(100ms);
  EXPECT_TRUE(peer.as_peer().keypairs.current);
  node.send(udp_packet(node.inner_v4(), 1, peer.inner, 2, 10));
  sim.run_for(100ms);
  EXPECT_EQ(peer.heard(MessageType::kData).size(), 1u);
}

// Goal: an application that does not read, and a network whose queues are full, cost packets under their reasons.
// Method: an inner queue of 16 that nobody empties while the peer sends 100; an outer queue of 16 on the other side.
TEST(FaultsRings, FullPortsAreCounted) {
  Sim sim{1, {}, 16};
  Node& node = sim.add({.inner_queue = 16});
  Speaker peer{sim, node};
  peer.join();
  const KeyPair keys = peer.shake_and_confirm();
  std::uint64_t refused_by_queue = 0;
  for (std::uint64_t i = 1; i <= 100; ++i) {
    if (sim.deliver(peer.at, node.at(), 0, peer.data(keys, i, peer.data_packet(node.inner_v4()))) == Drop::kOuterSend)
      ++refused_by_queue;
    if (i % 10 == 0) static_cast<void>(node.workers[0]->step(sim.now()));
  }
  EXPECT_EQ(refused_by_queue, 0u);
  EXPECT_EQ(node.drops(Drop::kInnerSend), 84u);
  for (std::uint64_t i = 101; i <= 140; ++i)
    if (sim.deliver(peer.at, node.at(), 0, peer.data(keys, i, peer.data_packet(node.inner_v4()))) == Drop::kOuterSend)
      ++refused_by_queue;
  EXPECT_EQ(refused_by_queue, 24u) << "whoever sends counts what the receiver's queue refuses";
  sim.touch(node);
  sim.run_for(100ms);
  EXPECT_EQ(node.inbox.size(), 16u + 0u) << node.counters_text();
}

}  // namespace
}  // namespace wireplane::test
