// ether.h: Ethernet frames, and how stations on a link find each other's hardware addresses.
// spec: IEEE 802.3, 802.1Q; RFC 826 (ARP); RFC 4861 §4.3, §4.4, §7 (neighbour discovery)
//
//   | destination 6 | source 6 | [0x8100 | vlan] | type 2 | payload | padding to 60 |
//
// Pure functions on octets: no device, no state, no owner.
#pragma once
#include <array>
#include <cstddef>
#include <cstdint>

#include "dataplane/base/drops.h"
#include "dataplane/base/endpoint.h"
#include "drivers/netlink.h"

namespace wireplane {

constexpr std::uint16_t kEtherIpv4 = 0x0800, kEtherArp = 0x0806, kEtherVlan = 0x8100, kEtherIpv6 = 0x86dd;
constexpr std::size_t kEtherHeaderSize = 14, kVlanTagSize = 4;
constexpr std::size_t kMinFrameSize = 60;  // without the check sequence
constexpr MacAddress kBroadcastMac{0xff, 0xff, 0xff, 0xff, 0xff, 0xff};

[[nodiscard]] inline bool is_group(const MacAddress& mac) { return (mac[0] & 1) != 0; }
[[nodiscard]] std::string mac_text(const MacAddress& mac);  // "02:00:00:00:00:0a"

struct EtherHeader {
  MacAddress destination{}, source{};
  std::uint16_t type{};
  std::uint16_t vlan{};  // 0: none, or a mere priority tag
  std::size_t size = kEtherHeaderSize;
};

// Drop::kOuterMalformed: cut short.
[[nodiscard]] Drop read_ether(const std::uint8_t* frame, std::size_t count, EtherHeader& header);
// Before `payload`; returns how many octets.
std::size_t write_ether(std::uint8_t* payload, const EtherHeader& header);

// "Who has this address?" and "I have", of either family.
struct NeighbourMessage {
  bool question{};
  bool wants_answer_to_all{};  // IPv6: asked from the unspecified address (is it free?)
  Address target;              // whose hardware address is wanted; of an answer: whose it is
  Address asker;               // source address; none or unspecified: not known
  MacAddress mac{};            // of the asker, or of the target in an answer; zero: not said
};

[[nodiscard]] Drop read_arp(const std::uint8_t* payload, std::size_t count, NeighbourMessage& message);
// An IPv6 packet. kOuterNotOurs: something else than these two messages.
[[nodiscard]] Drop read_neighbour_discovery(const std::uint8_t* ip, std::size_t count, NeighbourMessage& message);

constexpr std::size_t kNeighbourFrameSize = kEtherHeaderSize + kVlanTagSize + 40 + 32;  // room for any of them

// Whole frames, padded; return their size. `to`: who asked (its MAC and address); the answer says `own` has `own_mac`.
std::size_t write_neighbour_answer(std::uint8_t* frame, const NeighbourMessage& to, const Address& own,
                                   const MacAddress& own_mac, std::uint16_t vlan);
std::size_t write_neighbour_question(std::uint8_t* frame, const Address& target, const Address& own,
                                     const MacAddress& own_mac, std::uint16_t vlan);

}  // namespace wireplane
