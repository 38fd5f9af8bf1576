// What is not exactly one of the four messages, or not exactly an IP packet, ends before it is looked into.
#include "tests/support/speaker.h"

namespace wireplane::test {
namespace {

// Goal: the type is a 32-bit word: a reserved octet that is set makes a message unknown.
// Method: a good packet of a live session, and good handshake messages, with each reserved octet set in turn.
// proves: P1
TEST(Parsing, MessageWithAReservedOctetSetIsUnknown) {
  Sim sim;
  Node& node = sim.add();
  Speaker peer{sim, node};
  peer.join();
  const KeyPair keys = peer.shake_and_confirm();
  std::uint64_t counter = 1, unknown = 0;
  for (std::size_t octet = 1; octet <= 3; ++octet)
    for (const unsigned value : {0x01, 0x80, 0xff}) {
      Octets data = peer.data(keys, counter++, peer.data_packet(node.inner_v4()));
      data[octet] = static_cast<std::uint8_t>(value);
      peer.send_octets(data);
      InitiationMessage initiation = peer.initiation();
      initiation.type[octet] = static_cast<std::uint8_t>(value);
      peer.cookies.write_macs(octets_of(initiation), peer.them, sim.now());
      peer.send(initiation);
      sim.run_for(100ms);
      unknown += 2;
      EXPECT_EQ(node.drops(Drop::kUnknownType), unknown);
    }
  EXPECT_TRUE(node.inbox.empty());
  EXPECT_EQ(peer.heard(MessageType::kResponse).size(), 1u);
  peer.send_octets(peer.data(keys, counter, peer.data_packet(node.inner_v4())));
  sim.run_for(100ms);
  EXPECT_EQ(node.inbox.size(), 1u);
}

// Goal: handshake messages have one length each, transport messages at least 32 octets.
// Method: every type at every length from 0 to 200; all wrong ones are counted, none is answered.
// proves: P2
TEST(Parsing, OnlyExactLengthsPass) {
  Sim sim;
  Node& node = sim.add();
  Speaker peer{sim, node};
  peer.join();
  std::uint64_t wrong = 0, to_control = 0;
  for (unsigned type = 1; type <= 4; ++type)
    for (std::size_t length = 0; length <= 200; ++length) {
      Octets message(length);
      if (length > 0) message[0] = static_cast<std::uint8_t>(type);
      peer.send_octets(message);
      const bool right = (type == 1 && length == 148) || (type == 2 && length == 92) || (type == 3 && length == 64) ||
                         (type == 4 && length >= 32);
      wrong += right ? 0 : 1;
      to_control += right && type != 4 ? 1 : 0;
      sim.run_for(2s);
    }
  EXPECT_EQ(node.drops(Drop::kBadLength), wrong);
  EXPECT_EQ(node.total(&Counters::consumed), to_control);
  EXPECT_EQ(node.drops(Drop::kUnknownIndex), 201u - 32);
  EXPECT_TRUE(peer.inbox.empty());

  const InitiationMessage good = peer.initiation();  // good but for an octet too many or too few
  Octets message(reinterpret_cast<const std::uint8_t*>(&good), reinterpret_cast<const std::uint8_t*>(&good + 1));
  message.push_back(0);
  peer.send_octets(message);
  message.resize(147);
  peer.send_octets(message);
  sim.run_for(1s);
  EXPECT_EQ(node.drops(Drop::kBadLength), wrong + 2);
  EXPECT_TRUE(peer.inbox.empty());
}

// Goal: what comes out of the tunnel is a whole IP packet and nothing behind it; an empty packet is a keepalive.
// Method: an authentic peer seals every version, and lengths too short, too long and shorter than the plaintext.
// proves: P35
TEST(Parsing, AuthenticPlaintextMustBeAnIpPacketAndIsTrimmedToIt) {
  Sim sim;
  Node& node = sim.add();
  Speaker peer{sim, node};
  peer.join(true, {"10.9.0.1/32", "fd09::1/128"});
  const KeyPair keys = peer.shake_and_confirm();
  std::uint64_t counter = 1, malformed = 0;
  const auto refused = [&](Octets plaintext) {
    peer.send_octets(peer.data(keys, counter++, plaintext));
    sim.run_for(100ms);
    EXPECT_EQ(node.drops(Drop::kInnerMalformed), ++malformed);
    EXPECT_TRUE(node.inbox.empty());
  };
  const Octets v4 = peer.data_packet(node.inner_v4(), 40);
  const Octets v6 = udp_packet("fd09::1", 1, node.inner_v6(), 2, 40);
  for (unsigned version = 0; version < 16; ++version) {
    if (version == 4 || version == 6) continue;
    Octets other = v4;
    other[0] = static_cast<std::uint8_t>(version << 4 | 5);
    refused(other);
  }
  for (const Octets& packet : {v4, v6})
    for (const std::size_t cut : {std::size_t{1}, packet.size() - 1, packet.size() - 19})
      refused({packet.begin(), packet.end() - static_cast<std::ptrdiff_t>(cut)});
  for (const unsigned length : {0u, 19u}) {
    Octets lying = v4;
    store_be16(&lying[2], static_cast<std::uint16_t>(length));
    refused(lying);
  }
  Octets options = v4;
  options[0] = 0x4f;  // a header of 60 octets in a packet of 68: fits; in one of 59 it does not
  options.resize(59);
  store_be16(&options[2], 59);
  refused(options);

  const std::uint64_t consumed = node.total(&Counters::consumed);
  peer.send_octets(peer.keepalive(keys, counter++));
  sim.run_for(100ms);
  EXPECT_EQ(node.total(&Counters::consumed), consumed + 1);
  EXPECT_EQ(node.drops(Drop::kInnerMalformed), malformed);

  for (const Octets& packet : {v4, v6}) {
    Octets padded = packet;
    padded.resize(packet.size() + 15);
    peer.send_octets(peer.data(keys, counter++, padded));
    sim.run_for(100ms);
    ASSERT_EQ(node.inbox.size(), 1u);
    EXPECT_EQ(node.inbox[0].packet, packet);
    node.inbox.clear();
  }
}

// Goal: a damaged packet is refused by its tag and changes nothing, above all not the window.
// Method: a counter far ahead with a wrong tag; packets with small counters go on passing.
// proves: P32
TEST(Parsing, ForgedCounterDoesNotMoveTheWindow) {
  Sim sim;
  Node& node = sim.add();
  Speaker peer{sim, node};
  peer.join();
  const KeyPair keys = peer.shake_and_confirm();
  Octets forged = peer.data(keys, 1'000'000, peer.data_packet(node.inner_v4()));
  forged.back() ^= 1;
  peer.send_octets(forged);
  sim.run_for(100ms);
  EXPECT_EQ(node.drops(Drop::kBadTag), 1u);
  for (const std::uint64_t counter : {1, 2, 2, 1})
    peer.send_octets(peer.data(keys, counter, peer.data_packet(node.inner_v4())));
  sim.run_for(100ms);
  EXPECT_EQ(node.inbox.size(), 2u);
  EXPECT_EQ(node.drops(Drop::kReplayed), 2u);
}

}  // namespace
}  // namespace wireplane::test
