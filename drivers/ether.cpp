#include "drivers/ether.h"

#include <algorithm>
#include <cstdio>
#include <cstring>

#include "dataplane/base/bytes.h"
#include "dataplane/wire/checksum.h"
#include "dataplane/wire/inner_ip.h"

namespace wireplane {
namespace {

constexpr std::uint16_t kVlanMask = 0x0fff;
constexpr std::size_t kArpSize = 28;
constexpr std::uint16_t kArpRequest = 1, kArpReply = 2;
constexpr std::uint8_t kSolicitation = 135, kAdvertisement = 136;       // ICMPv6 types
constexpr std::uint8_t kSourceLinkLayer = 1, kTargetLinkLayer = 2;      // options
constexpr std::size_t kDiscoverySize = 24, kDiscoveryWithMac = 24 + 8;  // of the ICMPv6 message
constexpr std::uint8_t kDiscoveryHopLimit = 255;                        // nobody off the link can make that
constexpr std::uint32_t kSolicited = 1u << 30, kOverride = 1u << 29;

bool unspecified(const Address& a) {
  return std::ranges::all_of(a.octets, [](std::uint8_t octet) { return octet == 0; });
}

// ---- ARP

std::size_t write_arp(std::uint8_t* payload, std::uint16_t operation, const MacAddress& own_mac, const Address& own,
                      const MacAddress& target_mac, const Address& target) {
  store_be16(payload, 1);  // Ethernet
  store_be16(payload + 2, kEtherIpv4);
  payload[4] = 6;
  payload[5] = 4;
  store_be16(payload + 6, operation);
  std::memcpy(payload + 8, own_mac.data(), 6);
  std::memcpy(payload + 14, own.octets.data(), 4);
  std::memcpy(payload + 18, target_mac.data(), 6);
  std::memcpy(payload + 24, target.octets.data(), 4);
  return kArpSize;
}

// ---- neighbour discovery

Address solicited_node(const Address& target) {  // RFC 4291 §2.7.1
  std::uint8_t octets[16] = {0xff, 0x02, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff};
  std::memcpy(octets + 13, target.octets.data() + 13, 3);
  return Address::v6(octets);
}

Address all_nodes() {
  const std::uint8_t octets[16] = {0xff, 0x02, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1};
  return Address::v6(octets);
}

MacAddress multicast_mac(const Address& group) {  // RFC 2464 §7
  return {0x33, 0x33, group.octets[12], group.octets[13], group.octets[14], group.octets[15]};
}

std::size_t write_discovery(std::uint8_t* ip, std::uint8_t type, std::uint32_t flags, const Address& source,
                            const Address& destination, const Address& target, const MacAddress& own_mac) {
  store_be32(ip, 6u << 28);
  store_be16(ip + 4, kDiscoveryWithMac);
  ip[6] = kProtocolIcmpv6;
  ip[7] = kDiscoveryHopLimit;
  std::memcpy(ip + 8, source.octets.data(), 16);
  std::memcpy(ip + 24, destination.octets.data(), 16);
  std::uint8_t* icmp = ip + kIpv6HeaderSize;
  icmp[0] = type;
  icmp[1] = 0;
  store_be16(icmp + 2, 0);
  store_be32(icmp + 4, flags);
  std::memcpy(icmp + 8, target.octets.data(), 16);
  icmp[24] = type == kSolicitation ? kSourceLinkLayer : kTargetLinkLayer;
  icmp[25] = 1;  // in units of 8 octets
  std::memcpy(icmp + 26, own_mac.data(), 6);
  ChecksumSum sum = pseudo_header(ip, kProtocolIcmpv6, kDiscoveryWithMac);
  sum.add(icmp, kDiscoveryWithMac);
  store_be16(icmp + 2, sum.finish());
  return kIpv6HeaderSize + kDiscoveryWithMac;
}

std::uint8_t* start_frame(std::uint8_t* frame, const MacAddress& destination, const MacAddress& source,
                          std::uint16_t type, std::uint16_t vlan) {
  std::memset(frame, 0, kNeighbourFrameSize);
  std::uint8_t* payload = frame + kEtherHeaderSize + (vlan != 0 ? kVlanTagSize : 0);
  EtherHeader header;
  header.destination = destination;
  header.source = source;
  header.type = type;
  header.vlan = vlan;
  write_ether(payload, header);
  return payload;
}

std::size_t frame_size(const std::uint8_t* frame, const std::uint8_t* payload, std::size_t length) {
  return std::max(static_cast<std::size_t>(payload - frame) + length, kMinFrameSize);
}

}  // namespace

std::string mac_text(const MacAddress& mac) {
  char text[18];
  std::snprintf(text, sizeof text, "%02x:%02x:%02x:%02x:%02x:%02x", mac[0], mac[1], mac[2], mac[3], mac[4], mac[5]);
  return text;
}

Drop read_ether(const std::uint8_t* frame, std::size_t count, EtherHeader& header) {
  if (count < kEtherHeaderSize) return Drop::kOuterMalformed;
  std::memcpy(header.destination.data(), frame, 6);
  std::memcpy(header.source.data(), frame + 6, 6);
  header.type = load_be16(frame + 12);
  header.vlan = 0;
  header.size = kEtherHeaderSize;
  if (header.type != kEtherVlan) return Drop::kNone;
  if (count < kEtherHeaderSize + kVlanTagSize) return Drop::kOuterMalformed;
  header.vlan = load_be16(frame + 14) & kVlanMask;
  header.type = load_be16(frame + 16);
  header.size += kVlanTagSize;
  return Drop::kNone;
}

std::size_t write_ether(std::uint8_t* payload, const EtherHeader& header) {
  const std::size_t size = kEtherHeaderSize + (header.vlan != 0 ? kVlanTagSize : 0);
  std::uint8_t* frame = payload - size;
  std::memcpy(frame, header.destination.data(), 6);
  std::memcpy(frame + 6, header.source.data(), 6);
  if (header.vlan != 0) {
    store_be16(frame + 12, kEtherVlan);
    store_be16(frame + 14, header.vlan);
  }
  store_be16(payload - 2, header.type);
  return size;
}

Drop read_arp(const std::uint8_t* payload, std::size_t count, NeighbourMessage& message) {
  if (count < kArpSize) return Drop::kOuterMalformed;
  if (load_be16(payload) != 1 || load_be16(payload + 2) != kEtherIpv4 || payload[4] != 6 || payload[5] != 4)
    return Drop::kOuterNotOurs;
  const std::uint16_t operation = load_be16(payload + 6);
  if (operation != kArpRequest && operation != kArpReply) return Drop::kOuterNotOurs;
  message = {};
  message.question = operation == kArpRequest;
  std::memcpy(message.mac.data(), payload + 8, 6);
  message.asker = Address::v4(payload + 14);
  message.target = message.question ? Address::v4(payload + 24) : message.asker;
  return is_group(message.mac) ? Drop::kOuterMalformed : Drop::kNone;
}

Drop read_neighbour_discovery(const std::uint8_t* ip, std::size_t count, NeighbourMessage& message) {
  if (count < kIpv6HeaderSize || ip[0] >> 4 != 6) return Drop::kOuterMalformed;
  const std::size_t length = load_be16(ip + 4);
  if (length > count - kIpv6HeaderSize) return Drop::kOuterMalformed;
  const std::uint8_t* icmp = ip + kIpv6HeaderSize;
  if (ip[6] != kProtocolIcmpv6 || length < kDiscoverySize || (icmp[0] != kSolicitation && icmp[0] != kAdvertisement))
    return Drop::kOuterNotOurs;
  if (ip[7] != kDiscoveryHopLimit || icmp[1] != 0) return Drop::kOuterMalformed;  // RFC 4861 §7.1: silently discarded
  ChecksumSum sum = pseudo_header(ip, kProtocolIcmpv6, length);
  sum.add(icmp, length);
  if (sum.finish() != 0) return Drop::kOuterChecksum;
  message = {};
  message.question = icmp[0] == kSolicitation;
  message.asker = Address::v6(ip + 8);
  message.target = Address::v6(icmp + 8);
  message.wants_answer_to_all = message.question && unspecified(message.asker);
  const std::uint8_t wanted = message.question ? kSourceLinkLayer : kTargetLinkLayer;
  for (std::size_t at = kDiscoverySize; at < length;) {
    const std::size_t size = at + 1 < length ? icmp[at + 1] * std::size_t{8} : 0;
    if (size == 0 || at + size > length) return Drop::kOuterMalformed;
    if (icmp[at] == wanted) std::memcpy(message.mac.data(), icmp + at + 2, 6);
    at += size;
  }
  return is_group(message.mac) ? Drop::kOuterMalformed : Drop::kNone;
}

std::size_t write_neighbour_answer(std::uint8_t* frame, const NeighbourMessage& to, const Address& own,
                                   const MacAddress& own_mac, std::uint16_t vlan) {
  if (own.is_v4()) {
    std::uint8_t* payload = start_frame(frame, to.mac, own_mac, kEtherArp, vlan);
    return frame_size(frame, payload, write_arp(payload, kArpReply, own_mac, own, to.mac, to.asker));
  }
  const Address destination = to.wants_answer_to_all ? all_nodes() : to.asker;
  const MacAddress mac = to.wants_answer_to_all ? multicast_mac(destination) : to.mac;
  const std::uint32_t flags = kOverride | (to.wants_answer_to_all ? 0 : kSolicited);
  std::uint8_t* payload = start_frame(frame, mac, own_mac, kEtherIpv6, vlan);
  return frame_size(frame, payload, write_discovery(payload, kAdvertisement, flags, own, destination, own, own_mac));
}

std::size_t write_neighbour_question(std::uint8_t* frame, const Address& target, const Address& own,
                                     const MacAddress& own_mac, std::uint16_t vlan) {
  if (target.is_v4()) {
    std::uint8_t* payload = start_frame(frame, kBroadcastMac, own_mac, kEtherArp, vlan);
    return frame_size(frame, payload, write_arp(payload, kArpRequest, own_mac, own, {}, target));
  }
  const Address group = solicited_node(target);
  std::uint8_t* payload = start_frame(frame, multicast_mac(group), own_mac, kEtherIpv6, vlan);
  return frame_size(frame, payload, write_discovery(payload, kSolicitation, 0, own, group, target, own_mac));
}

}  // namespace wireplane
