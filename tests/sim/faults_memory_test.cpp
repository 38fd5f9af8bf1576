// Without memory: the pool of buffers, the arena of sessions, and control's own operator new. tests/FAULTS.md
#include "control/uapi.h"
#include "tests/support/failing_new.h"
#include "tests/support/speaker.h"

namespace wireplane::test {
namespace {

// Until traffic passes both ways again; what was said in vain meanwhile is lost.
bool talk_again(Sim& sim, Node& a, Node& b) {
  const std::size_t at_a = a.count_from(b), at_b = b.count_from(a);
  for (int i = 0; i < 60 && (a.count_from(b) == at_a || b.count_from(a) == at_b); ++i) {
    a.say(b);
    b.say(a);
    sim.run_for(500ms);
  }
  return a.count_from(b) > at_a && b.count_from(a) > at_b;
}

// Goal: an empty pool costs packets, handshakes included, and nothing for longer than it is empty.
// Method: somebody takes all buffers away for some seconds, in the middle of traffic; keepalives fall due meanwhile.
TEST(FaultsMemory, AnEmptyBufferPoolCostsPacketsAndNothingElse) {
  Sim sim;
  Node& a = sim.add();
  Node& b = sim.add();
  sim.connect(a, b);
  ASSERT_TRUE(talk_again(sim, a, b));
  a.say(b);
  a.workers.clear();  // its cache goes home
  std::vector<Buffer*> taken(a.engine.pool().capacity());
  ASSERT_EQ(a.engine.pool().take(taken.data(), taken.size()), taken.size());
  a.workers.push_back(std::make_unique<Worker>(a.engine, 0, a.outer->queue(0), &a.inner->queue(0)));
  const std::size_t before = a.count_from(b);
  for (int i = 0; i < 200; ++i) {
    a.say(b);
    b.say(a);
    sim.run_for(100ms);
  }
  PeerChange change;  // a message of its own: it needs a buffer
  change.public_key = b.key();
  change.persistent_keepalive_s = 1;
  a.apply(std::move(change));
  sim.run_for(20s);
  EXPECT_GT(a.drops(Drop::kNoBuffer), 5u) << a.counters_text();
  EXPECT_EQ(a.count_from(b), before) << "what arrives waits in the ports, which have bounds of their own";
  a.engine.pool().give(taken.data(), taken.size());
  sim.touch(a);
  sim.run_for(100ms);
  EXPECT_EQ(a.count_from(b), before + 200) << "and comes in as soon as there are buffers";
  EXPECT_TRUE(talk_again(sim, a, b)) << a.counters_text() << '\n' << b.counters_text();
}

// Goal: a full arena refuses handshakes, counted; who has a session keeps it, and who comes later gets the first place
// that comes free. Method: six places, ten peers who shake hands; then the first six leave.
TEST(FaultsMemory, AFullSessionArenaRefusesNewcomersAndKeepsTheOthers) {
  Sim sim;
  Limits limits = small_limits();
  limits.peers = 16;
  limits.sessions = 6;
  Node& node = sim.add({.limits = limits});
  std::vector<std::unique_ptr<Speaker>> peers;
  std::vector<KeyPair> keys;
  for (unsigned i = 0; i < 10; ++i) {
    peers.push_back(std::make_unique<Speaker>(sim, node, "198.51.100.1", static_cast<std::uint16_t>(100 + i)));
    peers.back()->join(true, {"10.9.0." + std::to_string(i + 1) + "/32"});
  }
  for (unsigned i = 0; i < 10; ++i) {
    peers[i]->send(peers[i]->initiation());
    sim.run_for(100ms);
    const std::vector<Wire> answers = peers[i]->heard(MessageType::kResponse);
    EXPECT_EQ(answers.size(), i < 6 ? 1u : 0u) << i;
    if (!answers.empty()) keys.push_back(std::move(*peers[i]->read(answers.back())));
  }
  EXPECT_EQ(node.drops(Drop::kHandshakeQueueFull), 4u);
  EXPECT_EQ(node.device->live_sessions(), 6u);
  for (unsigned i = 0; i < 6; ++i) {
    peers[i]->send_octets(peers[i]->data(keys[i], 0, peers[i]->data_packet(node.inner_v4())));
    sim.run_for(100ms);
  }
  EXPECT_EQ(node.inbox.size(), 6u) << "those who were there first are not disturbed";
  // A peer of the full house that wants a new key gets none, and goes on with the old one.
  peers[0]->send(peers[0]->initiation());
  sim.run_for(100ms);
  EXPECT_EQ(peers[0]->heard(MessageType::kResponse).size(), 1u);
  peers[0]->send_octets(peers[0]->data(keys[0], 1, peers[0]->data_packet(node.inner_v4())));
  sim.run_for(100ms);
  EXPECT_EQ(node.inbox.size(), 7u);

  for (unsigned i = 0; i < 6; ++i) node.remove_peer(peers[i]->key());
  sim.run_for(kIndexRestTime + 1s);  // freed indices rest, and so do those of handshakes that came to nothing
  EXPECT_EQ(node.device->live_sessions(), 0u);
  for (unsigned i = 6; i < 10; ++i) static_cast<void>(peers[i]->shake_and_confirm());
}

// Goal: our own handshakes in a full arena are given up and tried again; packets wait, then go.
TEST(FaultsMemory, AnInitiatorWithAFullArenaTriesAgain) {
  Sim sim;
  Limits limits = small_limits();
  limits.sessions = 1;
  Node& node = sim.add({.limits = limits});
  Speaker first{sim, node}, second{sim, node, "198.51.100.2"};
  first.join();
  second.join(true, {"10.9.0.2/32"});
  static_cast<void>(first.shake_and_confirm());
  node.send(udp_packet(node.inner_v4(), 1, "10.9.0.2", 2, 10));
  sim.run_for(1s);
  ResponseMessage response;
  ASSERT_TRUE(second.respond(second.heard(MessageType::kInitiation).back(), response));
  second.send(response);
  sim.run_for(1s);
  EXPECT_EQ(node.drops(Drop::kHandshakeQueueFull), 1u);
  node.remove_peer(first.key());
  sim.run_for(10s);
  ASSERT_GE(second.heard(MessageType::kInitiation).size(), 2u) << "it tries again";
  const KeyPair keys = second.answer();
  sim.run_for(1s);
  ASSERT_EQ(second.heard(MessageType::kData).size(), 1u) << "what waited has come";
  EXPECT_TRUE(Speaker::open(keys, second.heard(MessageType::kData)[0]));
}

// One change of what can change of a peer. Not its allowed IPs: the trie's writer does not survive a failed allocation
// (tests/FAULTS.md), so whoever gives control no memory there gets a broken invariant.
DeviceChange whole_change(const PublicKey& key, unsigned turn) {
  DeviceChange change;
  PeerChange& peer = change.peers.emplace_back();
  peer.public_key = key;
  peer.endpoint = endpoint("192.0.2.77", static_cast<std::uint16_t>(1000 + turn));
  peer.persistent_keepalive_s = static_cast<std::uint16_t>(10 + turn % 2);
  peer.preshared_key.emplace();
  std::ranges::fill(peer.preshared_key->fill(), static_cast<std::uint8_t>(turn % 200 + 1));
  return change;
}

// Goal: a configuration change that finds no memory is refused; nobody else notices; it can be made afterwards.
// Method: the same change again and again, with one allocation more each time, until it succeeds: adding, changing and
// removing a peer. Two others talk all the time. At the end everything works and nothing is missing.
TEST(FaultsMemory, AChangeWithoutMemoryIsRefusedAndCanBeRepeated) {
  for (const std::string what : {"add", "change", "remove"}) {
    Sim sim;
    Node& a = sim.add();
    Node& b = sim.add();
    Node& third = sim.add();
    sim.connect(a, b);
    if (what != "add") a.apply(whole_change(third.key(), 0));
    ASSERT_TRUE(talk_again(sim, a, b));
    const auto change = [&](unsigned turn) {
      DeviceChange made = whole_change(third.key(), turn);
      if (what == "remove") made.peers[0].remove = true;
      return made;
    };
    long refused = 0;
    for (bool done = false; !done; ++refused) {
      ASSERT_LT(refused, 1000);
      DeviceChange made = change(static_cast<unsigned>(refused) + 1);
      try {
        const FailingNew fail{refused};
        done = static_cast<bool>(a.device->apply(std::move(made)));
      } catch (const std::bad_alloc&) {
      }
      sim.touch(a);
      sim.run_for(50ms);
    }
    EXPECT_GT(refused, what == "remove" ? 0 : 1) << what << ": it needs memory, or this test shows nothing";
    EXPECT_EQ(a.device->find(third.key()) == nullptr, what == "remove");
    EXPECT_TRUE(talk_again(sim, a, b)) << what;
    // And the peer itself is whole: it comes, shakes hands, talks, and goes.
    a.remove_peer(third.key());
    sim.run_for(1s);
    sim.connect(a, third);
    EXPECT_TRUE(talk_again(sim, a, third)) << what << ' ' << a.counters_text();
    a.remove_peer(third.key());
    a.remove_peer(b.key());
    sim.run_for(1s);
    EXPECT_EQ(a.device->live_sessions(), 0u) << what;
    EXPECT_EQ(a.engine.routes().count(), 0u) << what;
    EXPECT_EQ(a.engine.grace().waiting(), 0u) << what;
  }
}

// Goal: control's step without memory postpones or loses the one thing that needed it: no handshake, rekey, roaming or
// timer is stuck for ever, no session leaks. Method: for n = 0, 1, 2 ... twenty steps of control in a row have no
// memory from their n-th allocation on, during a handshake, a rekey and roaming; afterwards they talk, and all is given
// back.
TEST(FaultsMemory, AStepWithoutMemoryIsMadeUpFor) {
  bool ran_out = false;
  for (long allowed = 0; allowed < 30; ++allowed) {
    Sim sim{static_cast<std::uint64_t>(allowed) + 1};
    Node& a = sim.add();
    Node& b = sim.add();
    sim.connect(a, b);
    unsigned starved_steps = 20;
    for (Node* node : {&a, &b}) {
      node->before_control = [&] { allocations_left = starved_steps != 0 ? --starved_steps, allowed : -1; };
      node->after_control = [&] {
        ran_out = ran_out || FailingNew::ran_out();
        allocations_left = -1;
      };
    }
    a.say(b);
    sim.run_for(1s);
    ASSERT_TRUE(talk_again(sim, a, b)) << allowed << ": after the first handshake";
    sim.run_for(kRekeyAfterTime);
    starved_steps = 20;
    a.say(b);
    sim.run_for(1s);
    ASSERT_TRUE(talk_again(sim, a, b)) << allowed << ": after the rekey";
    b.move_to({address("172.16.9." + std::to_string(allowed + 1)), address("2001:db8:9::1")});
    starved_steps = 20;
    b.say(a);
    sim.run_for(1s);
    ASSERT_TRUE(talk_again(sim, a, b)) << allowed << ": after roaming";
    sim.run_for(kWipeAfterTime);  // every timer has had its turn
    starved_steps = 0;
    for (Node* node : {&a, &b}) node->remove_peer(node == &a ? b.key() : a.key());
    sim.run_for(2s);
    EXPECT_EQ(a.device->live_sessions() + b.device->live_sessions(), 0u) << allowed;
    EXPECT_EQ(a.engine.grace().waiting() + b.engine.grace().waiting(), 0u) << allowed;
  }
  EXPECT_TRUE(ran_out);
}

}  // namespace
}  // namespace wireplane::test
