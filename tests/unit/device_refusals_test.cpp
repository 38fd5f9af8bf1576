// What a device refuses, and that a refusal changes nothing.
#include "control/device.h"
#include "dataplane/base/drops.h"
#include "tests/support/sim.h"

namespace wireplane::test {
namespace {

// An outer device whose host allows it nothing.
class Stubborn final : public OuterDevice {
 public:
  [[nodiscard]] unsigned queues() const override { return 1; }
  [[nodiscard]] Port& queue(unsigned) override { std::abort(); }
  [[nodiscard]] std::string describe() const override { return "stubborn"; }
  Status set_listen_port(std::uint16_t) override { return Error{"port taken", EADDRINUSE}; }
  [[nodiscard]] std::uint16_t listen_port() const override { return 7; }
  Status set_fwmark(std::uint32_t) override { return Error{"not allowed", EPERM}; }
};

PeerChange peer(std::uint8_t number) {
  PeerChange change;
  change.public_key.octets[0] = number;
  return change;
}
DeviceChange with(PeerChange change) {
  DeviceChange all;
  all.peers.push_back(std::move(change));
  return all;
}

class DeviceRefusals : public testing::Test {
 protected:
  DeviceRefusals()
      : engine{[] {
          Limits limits = small_limits();
          limits.peers = 2;
          return limits;
        }()} {}
  SeededEntropy entropy{1};
  Engine engine;
  Stubborn outer;
  Device device{engine, &outer, entropy, Now{Instant{1h}, 1'700'000'000s}};
};

// Goal: what the host refuses comes back with its errno; peers of the same change are not touched.
TEST_F(DeviceRefusals, WhatTheHostRefusesChangesNothing) {
  for (const bool port : {true, false}) {
    DeviceChange change = with(peer(1));
    if (port)
      change.listen_port = 8;
    else
      change.fwmark = 9;
    const Status done = device.apply(std::move(change));
    ASSERT_FALSE(done);
    EXPECT_EQ(done.error().code, port ? EADDRINUSE : EPERM);
    EXPECT_EQ(device.peer_count(), 0u);
    EXPECT_EQ(device.view().listen_port, 7);
    EXPECT_EQ(device.view().fwmark, 0u);
  }
  DeviceChange same;
  same.listen_port = 7;
  same.fwmark = 0;
  EXPECT_TRUE(device.apply(std::move(same))) << "it is so already: nobody is asked";
}

// Goal: impossible prefixes and more peers than there is room for are refused as a whole; a peer that makes room
// counts.
TEST_F(DeviceRefusals, ImpossiblePrefixesAndTooManyPeers) {
  PeerChange impossible = peer(1);
  impossible.allowed_ips.push_back({.prefix = {address("10.0.0.0"), 33}});
  EXPECT_EQ(device.apply(with(std::move(impossible))).error().code, EINVAL);
  EXPECT_TRUE(device.apply(with(peer(1))));
  EXPECT_TRUE(device.apply(with(peer(2))));
  EXPECT_EQ(device.apply(with(peer(3))).error().code, ENOSPC);
  EXPECT_EQ(device.peer_count(), 2u);
  DeviceChange others = with(peer(3));
  others.peers.push_back(peer(4));
  others.replace_peers = true;
  EXPECT_TRUE(device.apply(std::move(others)));
  EXPECT_EQ(device.peer_count(), 2u);
}

// Goal: endpoints that are none and keys that are none are passed over; saying them twice changes nothing.
TEST_F(DeviceRefusals, EndpointsAndKeysThatAreNone) {
  PeerChange change = peer(1);
  change.endpoint = Endpoint{};
  EXPECT_TRUE(device.apply(with(std::move(change))));
  device.for_each_peer([](const PeerView& view) { EXPECT_FALSE(view.endpoint); });
  for (int i = 0; i < 2; ++i) {
    DeviceChange none;
    none.private_key = SecretKey{};
    EXPECT_TRUE(device.apply(std::move(none)));
    EXPECT_TRUE(device.view().private_key.is_zero());
  }
  PeerChange unknown = peer(9);
  unknown.update_only = true;
  EXPECT_TRUE(device.apply(with(std::move(unknown))));
  PeerChange gone = peer(9);
  gone.remove = true;
  EXPECT_TRUE(device.apply(with(std::move(gone))));
  EXPECT_EQ(device.peer_count(), 1u);
}

// Goal: a device without an outer port (a test's, or one that is not put together yet) can be configured and looked at.
TEST_F(DeviceRefusals, WithoutAnOuterPort) {
  Device bare{engine, nullptr, entropy, Now{Instant{1h}, 1'700'000'000s}};
  DeviceChange change = with(peer(1));
  change.listen_port = 99;
  change.fwmark = 3;
  EXPECT_TRUE(bare.apply(std::move(change)));
  EXPECT_EQ(bare.view().listen_port, 0);
}

// Goal: every reason to drop has a name and a sentence, all different.
TEST(Drops, EveryReasonHasANameAndASentence) {
  std::map<std::string_view, Drop> names, sentences;
  for (std::size_t i = 1; i < kDropCount; ++i) {
    const Drop reason = static_cast<Drop>(i);
    EXPECT_FALSE(metric(reason).empty());
    EXPECT_FALSE(explanation(reason).empty());
    EXPECT_TRUE(names.emplace(metric(reason), reason).second) << metric(reason);
    EXPECT_TRUE(sentences.emplace(explanation(reason), reason).second) << metric(reason);
  }
  for (const Drop none : {Drop::kNone, Drop::kCount}) {
    static_cast<void>(metric(none));
    static_cast<void>(explanation(none));
  }
}

}  // namespace
}  // namespace wireplane::test
