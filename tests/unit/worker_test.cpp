// A worker between its neighbours: control's orders, other workers, sleep.
#include "tests/support/speaker.h"

namespace wireplane::test {
namespace {

// Goal: a worker does not go to sleep on work, and whoever brings work wakes it.
TEST(Worker, IsWokenByOrdersAndDoesNotSleepOnThem) {
  Sim sim;
  Node& node = sim.add();
  Speaker peer{sim, node};
  peer.join();
  sim.run_for(1s);
  unsigned rung = 0;
  node.engine.link(0).doorbell.set_ringer([&] { ++rung; });
  Worker& worker = *node.workers[0];
  ASSERT_TRUE(worker.sleep_begin());
  EXPECT_EQ(rung, 0u);
  PeerChange change;
  change.public_key = peer.key();
  change.persistent_keepalive_s = 25;
  node.apply(std::move(change));
  EXPECT_EQ(rung, 1u);
  worker.sleep_end();
  EXPECT_FALSE(worker.sleep_begin());  // the order is still there
  EXPECT_EQ(worker.step(sim.now()), Work::kDone);
  EXPECT_TRUE(worker.sleep_begin());
  worker.sleep_end();
  EXPECT_EQ(worker.step(sim.now()), Work::kIdle);
}

// Goal: control is woken when a worker has something for it, once it sleeps.
TEST(Worker, WakesControl) {
  Sim sim;
  Node& node = sim.add();
  Speaker peer{sim, node};
  peer.join();
  sim.run_for(1s);
  unsigned rung = 0;
  node.engine.control_doorbell().set_ringer([&] { ++rung; });
  node.engine.control_doorbell().sleep_begin();
  peer.send(peer.initiation());
  sim.run_for(sim.faults.delay);
  EXPECT_EQ(rung, 1u);
  node.engine.control_doorbell().sleep_end();
}

// Goal: more orders than the ring holds are late, not lost.
// Method: 100 peers ask at once for 100 handshakes over a ring of 64.
TEST(Worker, OrdersBeyondTheRingComeLateButCome) {
  Sim sim;
  Limits limits = small_limits();
  limits.peers = 200;
  Node& node = sim.add({.limits = limits});
  std::vector<std::unique_ptr<Speaker>> peers;
  for (unsigned i = 0; i < 150; ++i) {
    peers.push_back(std::make_unique<Speaker>(sim, node, "198.51.100.1", static_cast<std::uint16_t>(100 + i)));
    peers.back()->join(true, {"10.9.0." + std::to_string(i) + "/32"});
  }
  for (unsigned i = 0; i < 150; ++i) node.send(udp_packet(node.inner_v4(), 1, "10.9.0." + std::to_string(i), 2, 5));
  sim.run_for(1s);
  for (const auto& peer : peers) EXPECT_EQ(peer->heard(MessageType::kInitiation).size(), 1u);
}

// Goal: what waits for a peer that is removed is dropped under its own reason.
TEST(Worker, DropsWhatWaitedForARemovedPeer) {
  Sim sim;
  Node& node = sim.add();
  Speaker peer{sim, node};
  peer.join();
  for (int i = 0; i < 5; ++i) node.send(udp_packet(node.inner_v4(), 1, peer.inner, 2, 5));
  sim.run_for(1s);
  EXPECT_EQ(node.held(), 5u);
  node.remove_peer(peer.key());
  sim.run_for(1s);
  EXPECT_EQ(node.held(), 0u);
  EXPECT_EQ(node.drops(Drop::kPeerGone), 5u);
}

// Goal: of several workers, one that numbers packets in advance owes their session octets for a moment: as long as it
// does, nothing that it points to is freed, and it does not sleep; once it is idle every octet is counted.
TEST(Worker, PaysItsSessionsBeforeItRests) {
  Sim sim;
  Node& hub = sim.add({.workers = 2});
  Node& leaf = sim.add();
  sim.connect(hub, leaf);
  hub.say(leaf);
  sim.run_for(1s);
  const auto counted = [&] { return hub.view_of(leaf.key()).sent_octets; };
  const auto left = [&] { return hub.total(&Counters::outer_out_octets); };
  const std::uint64_t counted_before = counted(), left_before = left();
  Worker& worker = *hub.workers[1];
  for (int burst = 0; burst < 3; ++burst) {  // the first two find out how many are needed
    for (int i = 0; i < 20; ++i) hub.say(leaf, 100, 1);
    EXPECT_EQ(worker.step(sim.now()), Work::kDone);
  }
  const std::uint64_t freed_after = hub.engine.grace().begin();
  EXPECT_LT(counted() - counted_before, left() - left_before);
  EXPECT_FALSE(hub.engine.grace().passed(freed_after));
  EXPECT_FALSE(worker.sleep_begin());

  EXPECT_EQ(worker.step(sim.now()), Work::kIdle);
  EXPECT_EQ(left() - left_before, 60u * (20 + 8 + 100 + kDataOverhead));
  EXPECT_EQ(counted() - counted_before, left() - left_before);
  EXPECT_TRUE(hub.engine.grace().passed(freed_after));
  EXPECT_TRUE(worker.sleep_begin());
  worker.sleep_end();
}

// Goal: a worker that is never idle pays all the same, every few tens of milliseconds.
TEST(Worker, PaysItsSessionsUnderLoad) {
  Sim sim;
  Node& hub = sim.add({.workers = 2});
  Node& leaf = sim.add();
  sim.connect(hub, leaf);
  hub.say(leaf);
  sim.run_for(1s);
  Worker& worker = *hub.workers[1];
  const auto busy_step = [&](Duration later) {
    for (int i = 0; i < 20; ++i) hub.say(leaf, 100, 1);
    EXPECT_EQ(worker.step(sim.now() + later), Work::kDone);
  };
  busy_step(0ms);
  const std::uint64_t freed_after = hub.engine.grace().begin();
  unsigned steps = 1;
  for (; steps < 100 && !hub.engine.grace().passed(freed_after); ++steps) busy_step(steps * 1ms);
  EXPECT_GE(steps, 3u) << "it held nothing";
  EXPECT_LE(steps, Reservations::kManyValid + 2u);
}

}  // namespace
}  // namespace wireplane::test
