// The whole system on bad networks: it may lose packets and time, never truth.
//
// WG_SEED=n repeats one seed, WG_SEEDS=n runs that many of each test.
#include <algorithm>
#include <cstdlib>
#include <unordered_map>

#include "control/noise/x25519.h"
#include "dataplane/wire/inner_ip.h"
#include "tests/support/sim.h"

namespace wireplane::test {
namespace {

std::vector<std::uint64_t> seeds_or(std::uint64_t usual) {
  if (const char* one = std::getenv("WG_SEED")) return {std::strtoull(one, nullptr, 0)};
  if (const char* many = std::getenv("WG_SEEDS")) usual = std::strtoull(many, nullptr, 0);
  std::vector<std::uint64_t> seeds(usual);
  for (std::uint64_t i = 0; i < usual; ++i) seeds[i] = i + 1;
  return seeds;
}

// Numbered packets whose content follows from their number; says what arrived twice, altered, or at the wrong place.
class Ledger {
 public:
  explicit Ledger(Sim& sim) : sim_{sim} {}

  void say(Node& from, Node& to) {
    const std::uint64_t id = sent_.size();
    const bool v6 = sim_.dice().happens(0.3);
    const std::size_t room = 1420 - (v6 ? 48 : 28);
    const std::size_t octets = 8 + sim_.dice().below(sim_.dice().happens(0.1) ? room - 7 : 64);
    sent_.push_back(
        {&to, sim_.now(), v6 ? from.inner_v6() : from.inner_v4(), v6 ? to.inner_v6() : to.inner_v4(), octets, false});
    from.send(packet(id, 64), static_cast<unsigned>(sim_.dice().below(from.engine.workers())));
  }

  // Takes what has arrived out of the inboxes.
  void audit() {
    for (const auto& node : sim_.nodes()) {
      for (const Node::Arrival& arrival : node->inbox) judge(*node, arrival.packet);
      node->inbox.clear();
    }
  }

  [[nodiscard]] std::size_t missing_since(Instant instant) const {
    return static_cast<std::size_t>(
        std::ranges::count_if(sent_, [&](const Sent& sent) { return sent.at >= instant && !sent.arrived; }));
  }

  const Node* default_route = nullptr;  // the host of this one gets what is for no peer
  std::uint64_t delivered = 0, twice = 0, altered = 0, astray = 0;

 private:
  struct Sent {
    Node* to;
    Instant at;
    std::string source, destination;
    std::size_t octets;
    bool arrived;
  };

  [[nodiscard]] Octets packet(std::uint64_t id, std::uint8_t ttl) const {
    const Sent& sent = sent_[id];
    Octets payload(8 + sent.octets);  // as a UDP datagram without checksum: the id, and noise that follows from it
    store_be16(&payload[0], 7);
    store_be16(&payload[2], 9);
    store_be16(&payload[4], static_cast<std::uint16_t>(payload.size()));
    store_le(&payload[8], id);
    for (std::size_t i = 16; i < payload.size(); ++i)
      payload[i] = static_cast<std::uint8_t>((id * 0x9e3779b97f4a7c15u + i * 0xbf58476d1ce4e5b9u) >> 56);
    return ip_packet(sent.source, sent.destination, 17, payload, ttl);
  }

  void judge(const Node& node, const Octets& arrived) {
    const std::size_t header = arrived.empty() ? 0 : ip_header_length(arrived.data());
    if (arrived.size() < header + 16) {
      ++altered;
      return;
    }
    const auto id = load_le<std::uint64_t>(&arrived[header + 8]);
    if (id >= sent_.size() || (arrived != packet(id, 64) && arrived != packet(id, 63))) {
      ++altered;
      return;
    }
    Sent& sent = sent_[id];
    if (&node == default_route) return;
    if (sent.to != &node) ++astray;
    if (sent.arrived) ++twice;
    sent.arrived = true;
    ++delivered;
  }

  Sim& sim_;
  std::vector<Sent> sent_;
};

LinkFaults bad_weather(SeededEntropy& dice) {
  return {.delay = Duration{1ms} * static_cast<int>(1 + dice.below(100)),
          .jitter = Duration{1ms} * static_cast<int>(dice.below(50)),
          .loss = dice.unit() * 0.3,
          .duplicate = dice.unit() * 0.2,
          .corrupt = dice.unit() * 0.02,
          .reorder = dice.unit() * 0.3};
}

// Nothing arrived twice, altered or at the wrong place; and when the weather is good again, everything arrives.
void expect_truth_and_recovery(Sim& sim, Ledger& ledger, const std::vector<std::pair<Node*, Node*>>& pairs) {
  sim.faults = {.delay = 5ms};
  Instant settled = sim.now() + 45s;
  while (sim.now() < settled + 5s) {
    for (const auto& [from, to] : pairs) ledger.say(*from, *to);
    sim.run_for(1s);
    ledger.audit();
  }
  sim.run_for(1s);
  ledger.audit();
  EXPECT_EQ(ledger.twice, 0u) << "WG_SEED=" << sim.seed();
  EXPECT_EQ(ledger.altered, 0u) << "WG_SEED=" << sim.seed();
  EXPECT_EQ(ledger.astray, 0u) << "WG_SEED=" << sim.seed();
  EXPECT_GT(ledger.delivered, 0u) << "WG_SEED=" << sim.seed();
  EXPECT_EQ(ledger.missing_since(settled), 0u) << "WG_SEED=" << sim.seed();
}

// Goal: a lossy, reordering, duplicating, damaging wire costs time, never correctness, through rekeys and idle times.
// Method: two devices of one to three workers, everything drawn from one seed, ten simulated minutes; then good
// weather, in which everything said after 45 s arrives.
TEST(Network, NoPacketArrivesTwiceOrAlteredBetweenTwo) {
  for (const std::uint64_t seed : seeds_or(1000)) {
    Sim sim{seed};
    sim.recording = false;
    sim.faults = bad_weather(sim.dice());
    Node& a = sim.add({.workers = static_cast<unsigned>(1 + sim.dice().below(3))});
    Node& b = sim.add({.workers = static_cast<unsigned>(1 + sim.dice().below(3))});
    sim.connect(a, b);
    Ledger ledger{sim};
    const Instant end = sim.now() + 600s;
    while (sim.now() < end) {
      for (std::uint64_t n = sim.dice().below(6); n > 0; --n) ledger.say(a, b);
      for (std::uint64_t n = sim.dice().below(6); n > 0; --n) ledger.say(b, a);
      sim.run_for(sim.dice().happens(0.1) ? Duration{1s} * static_cast<int>(sim.dice().below(200))
                                          : Duration{1ms} * static_cast<int>(sim.dice().below(20000)));
      ledger.audit();
    }
    expect_truth_and_recovery(sim, ledger, {{&a, &b}, {&b, &a}});
    if (testing::Test::HasFailure()) return;
  }
}

// Goal: the same for a hub and its leaves, which roam, sit behind a NAT that forgets, lose their keys, change them, and
// are removed and added again while packets are under way.
// Method: everything drawn from one seed; leaves reach each other through the hub only.
TEST(Network, NoPacketArrivesTwiceOrAlteredThroughAHub) {
  for (const std::uint64_t seed : seeds_or(500)) {
    Sim sim{seed};
    sim.recording = false;
    SeededEntropy& dice = sim.dice();
    sim.faults = bad_weather(dice);
    Node& hub = sim.add({.workers = static_cast<unsigned>(1 + dice.below(3)),
                         .inner = dice.happens(0.5),
                         .forward = Forward::kAll,
                         .router = false});
    std::vector<Node*> leaves;
    std::vector<std::pair<Node*, Node*>> pairs;
    const auto know = [&](Node& leaf) {
      hub.add_peer(leaf.key(), {.allowed = {leaf.inner_v4() + "/32", leaf.inner_v6() + "/128"}});
    };
    for (std::uint64_t i = 0, n = 2 + dice.below(4); i < n; ++i) {
      Node& leaf = *leaves.emplace_back(&sim.add());
      know(leaf);
      leaf.add_peer(hub.key(), {.endpoint = hub.at(),
                                .keepalive_s = static_cast<std::uint16_t>(dice.happens(0.7) ? 25 : 0),
                                .allowed = {"10.0.0.0/16", "fd00::/64"}});
      if (dice.happens(0.3)) sim.put_behind_nat(leaf, "203.0.113." + std::to_string(i + 1));
    }
    for (std::size_t i = 0; i < leaves.size(); ++i) pairs.emplace_back(leaves[i], leaves[(i + 1) % leaves.size()]);
    Ledger ledger{sim};
    ledger.default_route = &hub;
    unsigned moves = 0;
    const Instant end = sim.now() + 300s;
    while (sim.now() < end) {
      for (std::uint64_t n = dice.below(10); n > 0; --n) {
        const auto from = dice.below(leaves.size());
        const auto to = (from + 1 + dice.below(leaves.size() - 1)) % leaves.size();
        ledger.say(*leaves[from], *leaves[to]);
      }
      Node& victim = *leaves[dice.below(leaves.size())];
      if (dice.happens(0.05)) {
        ++moves;
        victim.move_to({address("198.18." + std::to_string(moves) + ".1")});
      }
      if (dice.happens(0.05)) sim.forget_nat_mappings();
      if (dice.happens(0.02)) victim.device->forget_keys(), sim.touch(victim);
      if (dice.happens(0.02)) {
        hub.remove_peer(victim.key());
        sim.run_for(Duration{1ms} * static_cast<int>(dice.below(2000)));
        know(victim);
      }
      if (dice.happens(0.02)) {
        SecretKey psk;
        dice.fill(psk.fill());
        for (const auto& [node, other] : {std::pair{&hub, victim.key()}, std::pair{&victim, hub.key()}}) {
          PeerChange change;
          change.public_key = other;
          change.preshared_key = psk.duplicate();
          node->apply(std::move(change));
        }
      }
      sim.run_for(Duration{1ms} * static_cast<int>(dice.below(10000)));
      ledger.audit();
    }
    // A peer that was removed has lost its preshared key: both ends agree again.
    for (Node* leaf : leaves)
      for (const auto& [node, other] : {std::pair{&hub, leaf->key()}, std::pair{leaf, hub.key()}}) {
        PeerChange change;
        change.public_key = other;
        change.preshared_key.emplace();
        node->apply(std::move(change));
      }
    expect_truth_and_recovery(sim, ledger, pairs);
    if (testing::Test::HasFailure()) return;
  }
}

}  // namespace
}  // namespace wireplane::test
