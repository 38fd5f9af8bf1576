// Configuration of a running device: what changes, what must not.
#include <set>

#include "control/noise/x25519.h"
#include "tests/support/speaker.h"

namespace wireplane::test {
namespace {

PublicKey some_key(std::uint64_t seed) {
  SeededEntropy entropy{seed};
  return public_key(generate_secret_key(entropy));
}

PeerChange change_of(const PublicKey& key) {
  PeerChange change;
  change.public_key = key;
  return change;
}

// Goal: saying again what is so loses no session.
// Method: the same configuration is applied to a live device; packets go on with the same key.
TEST(Device, SameConfigurationAgainLosesNothing) {
  Sim sim;
  Node &a = sim.add(), &b = sim.add();
  sim.connect(a, b);
  a.say(b);
  sim.run_for(1s);
  const SessionRef before = *a.peer(b).keypairs.current;
  a.start();
  sim.connect(a, b);
  sim.run_for(1s);
  EXPECT_EQ(a.peer(b).keypairs.current, before);
  a.say(b);
  sim.run_for(1s);
  EXPECT_EQ(b.count_from(a), 2u);
  EXPECT_EQ(sim.sent_by(a, MessageType::kInitiation).size(), 1u);
}

// Goal: peers are configured, and our key is changed, without a multiplication for each: a million are loaded in
// seconds. Whoever shakes hands pays once.
TEST(Device, PeersAreConfiguredWithoutMultiplications) {
  Sim sim;
  Node &a = sim.add(), &b = sim.add();
  std::vector<PublicKey> keys;
  for (std::uint64_t i = 0; i < 6; ++i) keys.push_back(some_key(1000 + i));
  const std::uint64_t before = x25519_calls();
  for (const PublicKey& key : keys) a.add_peer(key, {});
  EXPECT_EQ(x25519_calls(), before);
  DeviceChange change;
  change.private_key.emplace(std::array<std::uint8_t, 32>{1, 2, 3});
  a.apply(std::move(change));
  EXPECT_EQ(x25519_calls(), before + 1);  // our public key
  a.start();                              // its own again
  const std::uint64_t configured = x25519_calls();
  sim.connect(a, b);
  a.say(b);
  sim.run_for(1s);
  EXPECT_EQ(b.count_from(a), 1u);
  const std::uint64_t once = x25519_calls();
  sim.run_for(200s);  // the session is over
  a.say(b);
  sim.run_for(1s);
  EXPECT_EQ(b.count_from(a), 2u);
  EXPECT_EQ(x25519_calls() - once, once - configured - 2);  // both sides' static-static is there already
}

// Goal: an allowed IP belongs to one peer; it moves, leaves and is replaced as wg(8) says.
TEST(Device, AllowedIpsMoveLeaveAndAreReplaced) {
  Sim sim;
  Node& node = sim.add();
  const PublicKey first = some_key(1), second = some_key(2);
  node.add_peer(first, {.allowed = {"10.1.0.0/16", "10.2.0.0/16", "fd01::/64"}});
  node.add_peer(second, {.allowed = {"10.2.0.0/16"}});
  const auto ips = [&](const PublicKey& key) {
    const PeerView view = node.view_of(key);
    return std::set<Prefix>(view.allowed_ips.begin(), view.allowed_ips.end());
  };
  EXPECT_EQ(ips(first), (std::set<Prefix>{prefix("10.1.0.0/16"), prefix("fd01::/64")}));
  EXPECT_EQ(ips(second), (std::set<Prefix>{prefix("10.2.0.0/16")}));
  PeerChange change = change_of(first);
  change.allowed_ips.push_back({.prefix = prefix("10.1.0.0/16"), .remove = true});
  change.allowed_ips.push_back({.prefix = prefix("10.2.0.0/16"), .remove = true});  // another's: stays there
  node.apply(std::move(change));
  EXPECT_EQ(ips(first), (std::set<Prefix>{prefix("fd01::/64")}));
  EXPECT_EQ(ips(second), (std::set<Prefix>{prefix("10.2.0.0/16")}));
  change = change_of(second);
  change.replace_allowed_ips = true;
  change.allowed_ips.push_back({.prefix = prefix("10.3.0.0/16")});
  node.apply(std::move(change));
  EXPECT_EQ(ips(second), (std::set<Prefix>{prefix("10.3.0.0/16")}));
}

// Goal: update_only makes nobody; remove and replace_peers take all with them; limits are said, not hit.
TEST(Device, PeersComeAndGoAsAsked) {
  Sim sim;
  Node& node = sim.add();  // at most 8
  PeerChange change = change_of(some_key(1));
  change.update_only = true;
  node.apply(std::move(change));
  EXPECT_EQ(node.device->peer_count(), 0u);
  for (std::uint64_t i = 1; i <= 8; ++i)
    node.add_peer(some_key(i), {.allowed = {"10.1.0." + std::to_string(i) + "/32"}});
  DeviceChange ninth;
  ninth.peers.push_back(change_of(some_key(9)));
  const Status refused = node.device->apply(std::move(ninth));
  ASSERT_FALSE(refused);
  EXPECT_NE(refused.error().what.find("8"), std::string::npos);
  EXPECT_EQ(node.device->peer_count(), 8u);
  node.remove_peer(some_key(3));
  EXPECT_EQ(node.device->peer_count(), 7u);
  EXPECT_FALSE(node.engine.routes().lookup(address("10.1.0.3")));
  sim.run_for(1s);
  node.add_peer(some_key(9), {});  // the slot is free again
  EXPECT_EQ(node.device->peer_count(), 8u);
  DeviceChange all;
  all.replace_peers = true;
  all.peers.push_back(change_of(some_key(5)));
  node.apply(std::move(all));
  EXPECT_EQ(node.device->peer_count(), 1u);
  EXPECT_EQ(node.engine.routes().count(), 0u);
}

// Goal: peers that come and go for ever leak no slot, session, index or endpoint.
// Method: a thousand times a peer with a live session is removed and added again; all limits stay small.
TEST(Device, ChurnLeaksNothing) {
  Sim sim;
  sim.recording = false;
  Node &a = sim.add(), &b = sim.add();
  for (int i = 0; i < 1000; ++i) {
    sim.connect(a, b);
    a.say(b);
    sim.run_for(1s);
    ASSERT_EQ(b.inbox.size(), 1u) << i;
    b.inbox.clear();
    a.remove_peer(b.key());
    b.remove_peer(a.key());
  }
  sim.run_for(20s);
  EXPECT_EQ(a.device->live_sessions(), 0u);
  EXPECT_EQ(a.engine.grace().waiting(), 0u);
}

// Goal: a dump in pieces shows every peer once.
TEST(Device, DumpInPiecesShowsEveryPeerOnce) {
  Sim sim;
  Limits limits = small_limits();
  limits.peers = 100;
  Node& node = sim.add({.limits = limits});
  for (std::uint64_t i = 0; i < 100; ++i) node.add_peer(some_key(i + 1), {});
  for (std::uint64_t i = 0; i < 100; i += 3) node.remove_peer(some_key(i + 1));
  std::set<PublicKey> seen;
  std::size_t cursor = 0, pieces = 0;
  while (cursor != Configurable::kEnd) {
    std::size_t visited = 0;
    cursor = node.device->dump_some(cursor, 7, [&](const PeerView& view) {
      EXPECT_TRUE(seen.insert(view.public_key).second);
      ++visited;
    });
    EXPECT_LE(visited, 7u);
    ++pieces;
  }
  EXPECT_EQ(seen.size(), node.device->peer_count());
  EXPECT_GE(pieces, 9u);
}

// Goal: the view says what a person wants to know: traffic, last handshake, endpoint.
TEST(Device, ViewCountsOctetsAndHandshakes) {
  Sim sim;
  Node &a = sim.add(), &b = sim.add();
  sim.connect(a, b);
  EXPECT_EQ(a.view_of(b.key()).last_handshake, Duration{0});
  for (int i = 0; i < 10; ++i) a.say(b, 100);
  sim.run_for(1s);
  const PeerView of_b = a.view_of(b.key()), of_a = b.view_of(a.key());
  EXPECT_EQ(of_b.sent_octets, 148 + 10 * (128 + 32u));
  EXPECT_EQ(of_b.received_octets, 92u);
  EXPECT_EQ(of_a.sent_octets, of_b.received_octets);
  EXPECT_EQ(of_a.received_octets, of_b.sent_octets);
  EXPECT_NEAR(std::chrono::duration<double>(of_b.last_handshake - 1'700'000'000s).count(), 0.02, 0.02);
  EXPECT_NEAR(std::chrono::duration<double>(of_a.last_handshake - 1'700'000'000s).count(), 0.03, 0.02);
  EXPECT_EQ(of_a.endpoint->remote, a.at().remote);
  sim.run_for(600s);  // the session is gone, what it moved is not
  EXPECT_EQ(a.view_of(b.key()).sent_octets, of_b.sent_octets);
}

// Goal: without a private key a device is silent and deaf; with one again it works.
TEST(Device, WithoutPrivateKeyThereIsSilence) {
  Sim sim;
  Node& a = sim.add({.started = false});
  Node& b = sim.add();
  a.add_peer(b.key(), {.endpoint = b.at(), .allowed = {b.inner_v4() + "/32"}});
  b.add_peer(a.key(), {.endpoint = a.at(), .allowed = {a.inner_v4() + "/32"}});
  a.say(b);
  b.say(a);
  sim.run_for(3s);
  EXPECT_TRUE(sim.sent_by(a).empty());
  EXPECT_TRUE(a.inbox.empty());
  a.start();
  sim.run_for(10s);
  EXPECT_EQ(a.inbox.size(), 1u);
  EXPECT_EQ(b.inbox.size(), 1u);
  DeviceChange change;
  change.private_key.emplace();
  a.apply(std::move(change));
  const std::size_t before = sim.sent_by(a).size();
  a.say(b);
  sim.run_for(3s);
  EXPECT_EQ(sim.sent_by(a).size(), before);
  EXPECT_EQ(a.device->live_sessions(), 0u);
}

// Goal: the port can be changed while traffic flows; the other end follows.
TEST(Device, ListenPortChangesUnderTraffic) {
  Sim sim;
  Node &a = sim.add(), &b = sim.add();
  sim.connect(a, b);
  a.say(b);
  sim.run_for(1s);
  DeviceChange change;
  change.listen_port = 12345;
  a.apply(std::move(change));
  EXPECT_EQ(a.device->view().listen_port, 12345);
  a.say(b);
  sim.run_for(1s);
  EXPECT_EQ(b.inbox.size(), 2u);
  EXPECT_EQ(b.peer(a).endpoint->port, 12345);
  b.say(a);
  sim.run_for(1s);
  EXPECT_EQ(a.inbox.size(), 1u);
}

// Goal: a keylog is written when, and only when, it was asked for, with the secrets that open the capture.
TEST(Device, KeylogHoldsTheEphemeralsOfBothRoles) {
  Sim sim;
  std::vector<std::pair<PublicKey, PublicKey>> logged;  // remote, the ephemeral's public key
  const auto keylog = [&](const KeylogEntry& entry) {
    logged.emplace_back(entry.remote, public_key(entry.local_ephemeral));
  };
  Node& a = sim.add({.device = {.keylog = keylog, .on_event = {}}});
  Node& b = sim.add({.device = {.keylog = keylog, .on_event = {}}});
  sim.connect(a, b);
  a.say(b);
  sim.run_for(1s);
  ASSERT_EQ(logged.size(), 2u);
  const auto ephemeral_of = [&](const Wire& wire) {
    PublicKey key;
    std::copy_n(wire.octets.begin() + (wire.is(MessageType::kInitiation) ? 8 : 12), 32, key.octets.begin());
    return key;
  };
  EXPECT_EQ(logged[0], (std::pair{a.key(), ephemeral_of(sim.record[1])}));
  EXPECT_EQ(logged[1], (std::pair{b.key(), ephemeral_of(sim.record[0])}));
}

// Goal: control's step stays short: a flood of handshakes is served in pieces, confirmations first.
TEST(Device, FloodOfHandshakesIsServedInPieces) {
  Sim sim;
  Node& node = sim.add();
  Speaker peer{sim, node};
  peer.join();
  const KeyPair keys = peer.shake();
  Octets junk(sizeof(InitiationMessage));
  junk[0] = 1;
  for (int i = 0; i < 64; ++i) peer.send_octets(junk);
  peer.send_octets(peer.keepalive(keys, 0));
  sim.run_for(sim.faults.delay);
  EXPECT_FALSE(peer.as_peer().keypairs.next) << "the confirmation waits for nobody";
  EXPECT_EQ(node.drops(Drop::kBadMac1), 8u);
  sim.run_for(20ms);
  EXPECT_EQ(node.drops(Drop::kBadMac1), 64u);
}

}  // namespace
}  // namespace wireplane::test
