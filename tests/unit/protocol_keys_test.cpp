// When a key may be used, by whom, and how it ends.
#include <algorithm>
#include <cstring>

#include "control/noise/x25519.h"
#include "tests/support/speaker.h"

namespace wireplane::test {
namespace {

bool all_zero(const Session& session) {
  const auto* octets = reinterpret_cast<const std::uint8_t*>(&session);
  return std::all_of(octets, octets + sizeof session, [](std::uint8_t octet) { return octet == 0; });
}

// A node with a packet for a peer that the test speaks for.
struct Keys : testing::Test {
  Sim sim;
  Node& node = sim.add();
  Speaker peer{sim, node};
  Octets for_peer(std::size_t octets = 10) { return udp_packet(node.inner_v4(), 1, peer.inner, 2, octets); }
  std::size_t readable(const KeyPair& keys) {
    return static_cast<std::size_t>(
        std::ranges::count_if(peer.inbox, [&](const Wire& wire) { return Speaker::open(keys, wire).has_value(); }));
  }
  KeyPair node_initiates() {  // a session whose initiator is the node, and one packet gone through it
    node.send(for_peer());
    sim.run_for(2 * sim.faults.delay);
    return peer.answer();
  }
};

// Goal: the responder keeps silent on a new key until it has received on it; then what waited leaves.
// Method: the node responds, its application has packets; no transport message leaves before the confirmation.
// proves: P24
TEST_F(Keys, ResponderSendsNothingBeforeTheConfirmation) {
  peer.join(false);
  const KeyPair keys = peer.shake();
  for (int i = 0; i < 3; ++i) {
    node.send(for_peer());
    sim.run_for(1s);
  }
  EXPECT_EQ(peer.heard(MessageType::kData).size(), 0u);
  EXPECT_TRUE(peer.as_peer().keypairs.next);
  peer.send_octets(peer.keepalive(keys, 0));
  sim.run_for(100ms);
  EXPECT_FALSE(peer.as_peer().keypairs.next);
  EXPECT_EQ(readable(keys), 3u);
}

// Goal: a forged packet with the right index confirms nothing.
// Method: the index of the unconfirmed session with a wrong tag; then the true first packet.
// proves: P25
TEST_F(Keys, ForgedPacketDoesNotPromoteTheNextKey) {
  peer.join(false);
  const KeyPair keys = peer.shake();
  node.send(for_peer());
  Octets forged = peer.keepalive(keys, 0);
  forged[20] ^= 1;
  peer.send_octets(forged);
  sim.run_for(1s);
  EXPECT_EQ(node.drops(Drop::kBadTag), 1u);
  EXPECT_TRUE(peer.as_peer().keypairs.next);
  EXPECT_EQ(peer.heard(MessageType::kData).size(), 0u);
  peer.send_octets(peer.keepalive(keys, 0));
  sim.run_for(1s);
  EXPECT_FALSE(peer.as_peer().keypairs.next);
  EXPECT_EQ(readable(keys), 1u);
}

// Goal: the initiator speaks at once when its key is there, even if its application is silent: the responder waits for
// it.
// Method: the node only receives; at 165 s it asks for a new key; nothing is staged when the response comes.
// proves: P26
TEST_F(Keys, InitiatorConfirmsAtOnceWithAKeepalive) {
  peer.join();
  const KeyPair first = node_initiates();
  sim.run_for(166s);
  peer.inbox.clear();
  peer.send_octets(peer.data(first, 0, peer.data_packet(node.inner_v4())));
  sim.run_for(100ms);
  ASSERT_EQ(peer.heard(MessageType::kInitiation).size(), 1u);
  const KeyPair second = peer.answer();
  sim.run_for(10ms);
  const std::vector<Wire> data = peer.heard(MessageType::kData);
  ASSERT_EQ(data.size(), 1u);
  EXPECT_TRUE(data[0].is_keepalive());
  EXPECT_TRUE(Speaker::open(second, data[0]));
}

// Goal: packets of the old key that come late are still read, until that key is 180 s old or two generations back.
// Method: the node rekeys; packets of the first key arrive after the second is in use; then a third comes.
// proves: P27
TEST_F(Keys, PreviousKeyStillReadsUntilItIsTooOld) {
  peer.join();
  const KeyPair first = node_initiates();
  sim.run_for(121s);
  peer.inbox.clear();
  const KeyPair second = node_initiates();
  EXPECT_EQ(readable(second), 1u);  // a keepalive: the packet itself left with the first key
  std::uint64_t counter = 0;
  peer.send_octets(peer.data(second, 0, peer.data_packet(node.inner_v4())));
  peer.send_octets(peer.data(first, counter++, peer.data_packet(node.inner_v4())));
  sim.run_for(50ms);
  EXPECT_EQ(node.inbox.size(), 2u);
  sim.run_until(sim.now() + 58s);  // the first key is 179 s old
  peer.send_octets(peer.data(first, counter++, peer.data_packet(node.inner_v4())));
  sim.run_for(50ms);
  EXPECT_EQ(node.inbox.size(), 3u);
  sim.run_for(2s);
  peer.send_octets(peer.data(first, counter++, peer.data_packet(node.inner_v4())));
  sim.run_for(50ms);
  EXPECT_EQ(node.inbox.size(), 3u);
  EXPECT_EQ(node.drops(Drop::kExpired), 1u);
  sim.run_for(61s);
  const KeyPair third = node_initiates();
  const std::uint64_t unknown = node.drops(Drop::kUnknownIndex);
  peer.send_octets(peer.data(first, counter++, peer.data_packet(node.inner_v4())));
  sim.run_for(50ms);
  EXPECT_EQ(node.drops(Drop::kUnknownIndex), unknown + 1);
}

// Goal: a changed preshared key ends what was agreed without it, and a new handshake uses it.
// Method: two nodes; first one of them learns the key, then the other.
TEST(KeyChanges, NewPresharedKeyEndsTheSessions) {
  Sim sim;
  Node &a = sim.add(), &b = sim.add();
  sim.connect(a, b);
  a.say(b);
  sim.run_for(1s);
  ASSERT_EQ(b.inbox.size(), 1u);
  const auto set_psk = [](Node& node, const Node& other) {
    PeerChange change;
    change.public_key = other.key();
    change.preshared_key.emplace();
    std::ranges::fill(change.preshared_key->fill(), std::uint8_t{7});
    node.apply(std::move(change));
  };
  set_psk(a, b);
  EXPECT_FALSE(a.peer(b).keypairs.current);
  a.say(b);
  sim.run_for(4s);
  EXPECT_EQ(b.inbox.size(), 1u);
  set_psk(b, a);
  sim.run_for(10s);
  EXPECT_EQ(b.inbox.size(), 2u);
  set_psk(b, a);  // the same again: nothing is lost
  EXPECT_TRUE(b.peer(a).keypairs.current);
}

// Goal: a new private key: clamped, sessions are over, nobody is his own peer, and the peer's next handshake is with
// the new key.
// Method: the device's key is changed to that of one of its peers, unclamped; the other peer learns of it.
// proves: P29
TEST(KeyChanges, NewPrivateKeyEndsTheSessionsAndRemovesOurselves) {
  Sim sim;
  Node &a = sim.add(), &b = sim.add();
  sim.connect(a, b);
  a.say(b);
  sim.run_for(1s);
  ASSERT_EQ(b.inbox.size(), 1u);

  SecretKey wanted = generate_secret_key(sim.dice());
  const PublicKey new_public = public_key(wanted);
  a.add_peer(new_public, {.allowed = {"10.7.0.0/16"}});
  EXPECT_EQ(a.device->peer_count(), 2u);
  DeviceChange change;
  change.private_key = wanted.duplicate();
  change.private_key->fill()[0] |= 7;     // bits that clamping clears
  change.private_key->fill()[31] |= 128;  // and
  a.apply(std::move(change));
  EXPECT_EQ(a.device->public_key(), new_public);
  EXPECT_TRUE(std::ranges::equal(a.device->view().private_key.expose(), wanted.expose()));
  EXPECT_EQ(a.device->peer_count(), 1u);
  EXPECT_FALSE(a.peer(b).keypairs.current);
  sim.run_for(10ms);
  EXPECT_EQ(a.device->live_sessions(), 0u);
  a.add_peer(new_public, {});
  EXPECT_EQ(a.device->peer_count(), 1u);

  b.remove_peer(a.key());
  b.add_peer(new_public, {.endpoint = a.at(), .allowed = {a.inner_v4() + "/32"}});
  a.say(b);
  b.say(a);
  sim.run_for(10s);
  EXPECT_EQ(b.inbox.size(), 2u);
  EXPECT_EQ(a.inbox.size(), 1u);
}

// Goal: no transport key outlives its use: 540 s after the last handshake, when the peer goes, and at the end, its slot
// in the arena is zero.
// Method: the arena is read before and after.
// proves: P30
TEST(KeyChanges, KeysAreWipedAfterSilenceAndRemoval) {
  Sim sim;
  Node &a = sim.add(), &b = sim.add();
  sim.connect(a, b);
  a.say(b);
  sim.run_for(1s);
  Session* session = a.session(a.peer(b).keypairs.current);
  ASSERT_NE(session, nullptr);
  ASSERT_FALSE(all_zero(*session));
  sim.run_for(kWipeAfterTime - 2s);
  EXPECT_FALSE(all_zero(*session));
  EXPECT_EQ(a.device->live_sessions(), 1u);
  sim.run_for(2s);
  EXPECT_EQ(a.device->live_sessions(), 0u);
  EXPECT_TRUE(all_zero(*session));

  a.say(b);
  sim.run_for(1s);
  session = a.session(a.peer(b).keypairs.current);
  ASSERT_NE(session, nullptr);
  a.remove_peer(b.key());
  sim.run_for(10ms);
  EXPECT_TRUE(all_zero(*session));

  Session* of_b = b.session(b.peer(a).keypairs.current);
  ASSERT_NE(of_b, nullptr);
  b.device->forget_keys();
  sim.touch(b);
  sim.run_for(10ms);
  EXPECT_TRUE(all_zero(*of_b));
}

}  // namespace
}  // namespace wireplane::test
