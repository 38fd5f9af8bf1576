// packet.h: what came in and was made = what went out, ended as intended, was dropped, or is still inside.
#include "drivers/fault_port.h"
#include "tests/support/speaker.h"

namespace wireplane::test {
namespace {

// Goal: the law holds also where ports themselves lose, double, damage and hold back packets, after every single step.
// Method: a node whose ports are wrapped in fault ports; a peer that says good and bad things; the sums of its workers
// and the ports' held packets are compared all the time.
TEST(Conservation, HoldsBehindFaultyPortsAfterEveryStep) {
  for (std::uint64_t seed = 1; seed <= 30; ++seed) {
    Sim sim{seed};
    Node& node = sim.add({.forward = Forward::kAll, .mtu = 600, .router = true});
    Speaker peer{sim, node}, other{sim, node, "198.51.100.2"};
    peer.join();
    other.join(true, {"10.9.0.2/32"});
    const KeyPair keys = peer.shake_and_confirm();
    static_cast<void>(other.shake_and_confirm());
    const Faults bad{.loss = 0.1, .duplicate = 0.2, .reorder = 0.3, .corrupt = 0.05};
    node.workers.clear();
    FaultPort outer{node.outer->queue(0), bad, bad, seed}, inner{node.inner->queue(0), bad, bad, seed + 1};
    node.workers.push_back(std::make_unique<Worker>(node.engine, 0, outer, &inner));
    std::uint64_t counter = 0;
    SeededEntropy dice{seed};
    for (int round = 0; round < 300; ++round) {
      for (std::uint64_t i = dice.below(5); i > 0; --i) {
        const std::size_t size = dice.below(1000);
        const std::string to = dice.happens(0.5) ? "10.9.0.2" : dice.happens(0.5) ? node.inner_v4() : "10.77.0.1";
        peer.send_octets(
            peer.data(keys, ++counter, udp_packet(peer.inner, 1, to, 2, size, dice.happens(0.1) ? 1 : 64)));
        if (dice.happens(0.3)) peer.send_octets(Octets(dice.below(200), static_cast<std::uint8_t>(dice.below(5))));
        if (dice.happens(0.3))
          node.send(udp_packet(node.inner_v4(), 1, dice.happens(0.5) ? peer.inner : "10.9.0.77", 2, size));
      }
      sim.run_for(20ms);
      EXPECT_EQ(node.imbalance(), static_cast<std::int64_t>(outer.held() + inner.held())) << "seed " << seed;
    }
    EXPECT_GT(node.drops(Drop::kFaultInjected), 0u);
    EXPECT_GT(node.total(&Counters::relayed), 0u);
    outer.set_faults({}, {});
    inner.set_faults({}, {});
    for (int i = 0; i < 200 && outer.held() + inner.held() != 0; ++i) {  // what is held passes behind others
      node.send(udp_packet(node.inner_v4(), 1, peer.inner, 2, 10));
      peer.send_octets(peer.data(keys, ++counter, peer.data_packet(node.inner_v4())));
      sim.run_for(20ms);
    }
    EXPECT_EQ(outer.held() + inner.held(), 0u);
    node.workers.clear();
    node.workers.push_back(std::make_unique<Worker>(node.engine, 0, node.outer->queue(0), &node.inner->queue(0)));
  }
}

}  // namespace
}  // namespace wireplane::test
