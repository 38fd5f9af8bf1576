// Clocks that jump, and randomness that does not come. tests/FAULTS.md
#include "control/noise/tai64n.h"
#include "tests/support/speaker.h"

namespace wireplane::test {
namespace {

// The timestamp inside an initiation that the node has sent to this speaker.
Timestamp timestamp_in(const Speaker& peer, const Wire& wire) {
  InitiationMessage message;
  std::memcpy(&message, wire.octets.data(), sizeof message);
  auto read = read_initiation(message, peer.us);
  WG_CHECK(static_cast<bool>(read));
  const auto timestamp = read_initiation_timestamp(*read, message, peer.them);
  WG_CHECK(static_cast<bool>(timestamp));
  return *timestamp;
}

// Goal: whatever is done to the wall clock, the timestamps of our initiations only grow, so that the peer always
// believes us. Method: retries of one handshake, the wall clock set back an hour, forth ten years, back again between
// them; the speaker reads each timestamp.
TEST(FaultsClock, TheWallClockMayJumpAndTimestampsOnlyGrow) {
  Sim sim;
  Node& node = sim.add();
  Speaker peer{sim, node};
  peer.join();
  node.send(udp_packet(node.inner_v4(), 1, peer.inner, 2, 10));
  sim.run_for(1s);
  for (const Duration jump :
       {Duration{-1h}, Duration{24h * 3650}, Duration{-24h * 3650}, Duration{-24h * 19000}, Duration{24h * 19000}}) {
    node.wall_jump += jump;
    sim.run_for(11s);
  }
  const std::vector<Wire> initiations = peer.heard(MessageType::kInitiation);
  ASSERT_GE(initiations.size(), 6u);
  Timestamp last{};
  for (const Wire& wire : initiations) {
    const Timestamp next = timestamp_in(peer, wire);
    EXPECT_GT(next, last);
    last = next;
  }
  static_cast<void>(peer.answer());
  sim.run_for(1s);
  EXPECT_EQ(peer.heard(MessageType::kData).size(), 1u);
}

// Goal: two devices whose wall clocks are set by hand all the time go on talking, through rekeys.
TEST(FaultsClock, RekeysGoOnWhileWallClocksAreSet) {
  Sim sim;
  Node& a = sim.add();
  Node& b = sim.add();
  sim.connect(a, b);
  for (int i = 0; i < 600; ++i) {
    if (i % 7 == 0) (i % 2 == 0 ? a : b).wall_jump += std::chrono::seconds{(i * 7919) % 7200 - 3600};
    a.say(b);
    b.say(a);
    sim.run_for(1s);
  }
  EXPECT_EQ(b.count_from(a), 600u);
  EXPECT_EQ(a.count_from(b), 600u);
}

// Goal: a host that slept (the engine's clock jumps forth) comes back with dead keys, makes new ones, and talks.
TEST(FaultsClock, AHostThatSleptMakesNewKeys) {
  for (const Duration slept : {Duration{121s}, Duration{200s}, Duration{1h}, Duration{24h * 365}}) {
    Sim sim;
    Node& a = sim.add();
    Node& b = sim.add();
    sim.connect(a, b);
    a.say(b);
    b.say(a);
    sim.run_for(2s);
    a.engine_jump += slept;
    a.wall_jump += slept;
    sim.touch(a);
    for (int i = 0; i < 10; ++i) {
      a.say(b);
      b.say(a);
      sim.run_for(1s);
    }
    EXPECT_EQ(b.count_from(a), 11u) << slept.count();
    EXPECT_GE(a.count_from(b), slept < kRejectAfterTime ? 11u : 8u) << slept.count() << "\n" << a.counters_text();
  }
}

// Goal: an engine clock that goes backwards (it must not, and a broken hypervisor's does) neither stops the device nor
// lets a dead key live: what was expired may be young again, but nothing crashes and traffic goes on.
TEST(FaultsClock, AnEngineClockThatGoesBackDoesNotStopTheDevice) {
  for (const Duration back : {Duration{1ns}, Duration{1s}, Duration{100s}}) {
    Sim sim;
    Node& a = sim.add();
    Node& b = sim.add();
    sim.connect(a, b);
    for (int i = 0; i < 150; ++i) {
      if (i == 130) a.engine_jump -= back;
      a.say(b);
      b.say(a);
      sim.run_for(1s);
    }
    EXPECT_EQ(b.count_from(a), 150u) << back.count();
    EXPECT_EQ(a.count_from(b), 150u) << back.count();
    sim.run_for(400s);  // and its timers come to rest again: later, by as much as it went back
    a.say(b);
    sim.run_for(10s);
    EXPECT_EQ(b.count_from(a), 151u) << back.count();
  }
}

// Goal: randomness that is slow (a young virtual machine's) holds up handshakes alone: workers ask for none.
// Method: while control cannot step at all, data of an existing session flows both ways.
TEST(FaultsClock, WithoutRandomnessSessionsGoOn) {
  Sim sim;
  Node& node = sim.add();
  Speaker peer{sim, node};
  peer.join();
  const KeyPair keys = peer.shake_and_confirm();
  for (std::uint64_t i = 1; i <= 50; ++i) {  // workers only, and time that passes
    node.inner->push(udp_packet(node.inner_v4(), 1, peer.inner, 2, 10)) ? void() : ADD_FAILURE();
    ASSERT_EQ(sim.deliver(peer.at, node.at(), 0, peer.data(keys, i, peer.data_packet(node.inner_v4()))), Drop::kNone);
    while (node.workers[0]->step(sim.now() + i * 1s) == Work::kDone) {
    }
  }
  EXPECT_EQ(node.total(&Counters::inner_out), 50u);
  EXPECT_EQ(node.total(&Counters::outer_out), 1u + 50u) << "the response, and what the host said";
  sim.run_for(1s);
}

}  // namespace
}  // namespace wireplane::test
