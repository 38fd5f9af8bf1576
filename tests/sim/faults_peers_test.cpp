// Peers that are not what they were: another key, another's addresses. tests/FAULTS.md
#include "tests/support/speaker.h"

namespace wireplane::test {
namespace {

// Goal: a host that was set up anew has another key: under its old name it is refused, counted, whatever it sends; with
// the new key configured in the old one's place (addresses and endpoint the same) it is served at once.
TEST(FaultsPeers, APeerThatChangedItsKeyIsRefusedUntilItIsConfigured) {
  Sim sim;
  Node& node = sim.add();
  Speaker old{sim, node};
  old.join();
  const KeyPair keys = old.shake_and_confirm();

  Speaker fresh{sim, node, "198.51.100.1", 7778};  // the same host
  fresh.inner = old.inner;
  for (int i = 0; i < 3; ++i) {
    fresh.send(fresh.initiation());
    sim.run_for(5s);
  }
  EXPECT_EQ(fresh.heard(MessageType::kResponse).size(), 0u);
  EXPECT_EQ(node.drops(Drop::kUnknownPeer), 3u);
  const std::optional<Endpoint> before = old.as_peer().endpoint;
  EXPECT_EQ(before->port, old.at.port) << "and it moved nothing";

  PeerChange gone;
  gone.public_key = old.key();
  gone.remove = true;
  PeerChange come;
  come.public_key = fresh.key();
  come.endpoint = fresh.at;
  come.allowed_ips.push_back({.prefix = prefix("10.9.0.1/32")});
  DeviceChange both;
  both.peers.push_back(std::move(gone));
  both.peers.push_back(std::move(come));
  node.apply(std::move(both));
  const KeyPair now = fresh.shake_and_confirm();
  fresh.send_octets(fresh.data(now, 1, fresh.data_packet(node.inner_v4())));
  fresh.send_octets(old.data(keys, 9, old.data_packet(node.inner_v4())));  // the old key is dead
  sim.run_for(1s);
  EXPECT_EQ(node.inbox.size(), 1u);
  EXPECT_EQ(node.drops(Drop::kUnknownIndex), 1u);
  node.send(udp_packet(node.inner_v4(), 1, fresh.inner, 2, 10));
  sim.run_for(1s);
  ASSERT_EQ(fresh.heard(MessageType::kData).size(), 1u);
  EXPECT_TRUE(Speaker::open(now, fresh.heard(MessageType::kData)[0]));
}

// Goal: an allowed IP has one owner, the last one it was given to (wg §2, the kernel): packets to it go there from the
// very next one, packets from the one before are refused, and neither peer's session is lost.
TEST(FaultsPeers, AnAllowedIpGivenToASecondPeerMovesThere) {
  Sim sim;
  Node& node = sim.add();
  Speaker first{sim, node}, second{sim, node, "198.51.100.2"};
  first.join();
  second.join(true, {"10.9.0.2/32"});
  const KeyPair one = first.shake_and_confirm(), two = second.shake_and_confirm();
  const auto to_the_address = [&] {
    node.send(udp_packet(node.inner_v4(), 1, "10.9.0.1", 2, 10));
    sim.run_for(1s);
  };
  to_the_address();
  EXPECT_EQ(first.heard(MessageType::kData).size(), 1u);

  PeerChange change;
  change.public_key = second.key();
  change.allowed_ips.push_back({.prefix = prefix("10.9.0.1/32")});
  node.apply(std::move(change));
  EXPECT_TRUE(node.view_of(first.key()).allowed_ips.empty());
  EXPECT_EQ(node.view_of(second.key()).allowed_ips.size(), 2u);
  to_the_address();
  EXPECT_EQ(first.heard(MessageType::kData).size(), 1u);
  EXPECT_EQ(second.heard(MessageType::kData).size(), 1u);
  first.send_octets(first.data(one, 5, udp_packet("10.9.0.1", 1, node.inner_v4(), 2, 10)));
  sim.run_for(1s);
  EXPECT_EQ(node.drops(Drop::kSourceNotAllowed), 1u);
  second.send_octets(second.data(two, 5, udp_packet("10.9.0.1", 1, node.inner_v4(), 2, 10)));
  sim.run_for(1s);
  EXPECT_EQ(node.inbox.size(), 1u);

  PeerChange back;
  back.public_key = first.key();
  back.allowed_ips.push_back({.prefix = prefix("10.9.0.1/32")});
  node.apply(std::move(back));
  to_the_address();
  EXPECT_EQ(first.heard(MessageType::kData).size(), 2u) << "its session is still there";
}

// Goal: two hosts with one and the same key (a cloned machine) take the peer from each other and harm nobody else.
// Method: both say in turn what is valid; the endpoint follows the latest, and another peer's traffic is undisturbed.
TEST(FaultsPeers, TwoHostsWithOneKeyOnlyHarmThemselves) {
  Sim sim;
  Node& node = sim.add();
  Speaker clone{sim, node}, other{sim, node, "198.51.100.2"};
  clone.join();
  other.join(true, {"10.9.0.2/32"});
  const KeyPair keys = other.shake_and_confirm();
  const Endpoint elsewhere = endpoint("198.51.100.9", 9);
  std::uint64_t sent = 0;
  for (int round = 0; round < 20; ++round) {
    clone.send(clone.initiation(), round % 2 == 0 ? clone.at : elsewhere);
    sim.run_for(6s);
    if (round % 2 == 0) {
      const auto own = clone.read(clone.heard(MessageType::kResponse).back());
      ASSERT_TRUE(own);
      clone.send_octets(clone.keepalive(*own, 0));
    }
    if (round < 10) other.send_octets(other.data(keys, ++sent, udp_packet("10.9.0.2", 1, node.inner_v4(), 2, 10)));
    sim.run_for(1s);
    EXPECT_EQ(clone.as_peer().endpoint->remote, round % 2 == 0 ? clone.at.remote : elsewhere.remote);
  }
  EXPECT_EQ(node.inbox.size(), sent);
  EXPECT_LE(node.device->live_sessions(), 4u);
}

}  // namespace
}  // namespace wireplane::test
