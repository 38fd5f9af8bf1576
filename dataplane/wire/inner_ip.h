// inner_ip.h: the IP packet inside a transport message: how long, from whom, to whom, and what a router does to it.
// spec: RFC 791, RFC 8200 (formats); RFC 1812 §5.3.1 (TTL); RFC 1624 (checksum by difference);
//       RFC 6890, RFC 1812 §5.3.7 (martians)
//
//   v4  ver,ihl|ds,ecn|total length | id | flags,offset | ttl|protocol|checksum | from 4  | to 4  | options
//   v6  ver,ds,ecn,label | payload length | next header|hop limit               | from 16 | to 16 | extensions
//
// Everything here but inner_length() takes a packet that inner_length() has measured: it is never shorter than its
// header. No state, no owner; nothing reads beyond `length`.
#pragma once
#include <cstddef>
#include <cstdint>

#include "dataplane/base/bytes.h"
#include "dataplane/base/drops.h"
#include "dataplane/base/endpoint.h"
#include "dataplane/base/fault.h"
#include "dataplane/wire/checksum.h"

namespace wireplane {

constexpr std::size_t kIpv4HeaderSize = 20;  // without options
constexpr std::size_t kIpv6HeaderSize = 40;
constexpr std::size_t kUdpHeaderSize = 8;
constexpr std::uint8_t kProtocolIcmp = 1, kProtocolTcp = 6, kProtocolUdp = 17, kProtocolIcmpv6 = 58;

// Octets of the inner packet at the start of a plaintext of `count` octets; the rest is padding (P34, P35). 0 if it is
// neither IPv4 nor IPv6, or its length is less than its header or more than the plaintext: Drop::kInnerMalformed. An
// empty plaintext is a keepalive and the caller's business. An IPv6 jumbogram says length 0, and counts as its header
// alone.
[[nodiscard]] inline std::size_t inner_length(const std::uint8_t* plaintext, std::size_t count) {
  if (count == 0) return 0;
  const unsigned version = plaintext[0] >> 4;
  if (version == 4 && count >= kIpv4HeaderSize) {
    const std::size_t header = (plaintext[0] & 0x0f) * std::size_t{4};
    const std::size_t length = load_be16(plaintext + 2);
    const bool fits = header >= kIpv4HeaderSize && header <= length && (length <= count || seeded_fault(35));
    return fits ? length : 0;
  }
  if (version == 6 && count >= kIpv6HeaderSize) {
    const std::size_t length = kIpv6HeaderSize + load_be16(plaintext + 4);
    return length <= count || seeded_fault(35) ? length : 0;
  }
  return 0;
}

[[nodiscard]] inline bool is_ipv4(const std::uint8_t* ip) { return ip[0] >> 4 == 4; }
[[nodiscard]] inline std::size_t ip_header_length(const std::uint8_t* ip) {  // IPv6 extensions not counted
  return is_ipv4(ip) ? (ip[0] & 0x0f) * std::size_t{4} : kIpv6HeaderSize;
}
[[nodiscard]] inline const std::uint8_t* source_octets(const std::uint8_t* ip) { return ip + (is_ipv4(ip) ? 12 : 8); }
[[nodiscard]] inline const std::uint8_t* destination_octets(const std::uint8_t* ip) {
  return ip + (is_ipv4(ip) ? 16 : 24);
}
[[nodiscard]] inline Address source_of(const std::uint8_t* ip) {
  return is_ipv4(ip) ? Address::v4(ip + 12) : Address::v6(ip + 8);
}
[[nodiscard]] inline Address destination_of(const std::uint8_t* ip) {
  return is_ipv4(ip) ? Address::v4(ip + 16) : Address::v6(ip + 24);
}

// Differentiated services and ECN, eight bits: IPv4's TOS, IPv6's traffic class.
[[nodiscard]] inline std::uint8_t ds_field(const std::uint8_t* ip) {
  return is_ipv4(ip) ? ip[1] : static_cast<std::uint8_t>(load_be16(ip) >> 4);
}
inline void set_ds_field(std::uint8_t* ip, std::uint8_t value) {
  const std::uint16_t before = load_be16(ip);
  if (is_ipv4(ip)) {
    ip[1] = value;
    update_checksum(ip + 10, before, load_be16(ip));
  } else {
    store_be16(ip, static_cast<std::uint16_t>((before & 0xf00f) | value << 4));
  }
}

[[nodiscard]] inline std::uint8_t ttl_of(const std::uint8_t* ip) { return is_ipv4(ip) ? ip[8] : ip[7]; }
// What a router does before it passes a packet on. False, and nothing changed, if the packet's life ends here
// (Drop::kTtlExpired): a router must not send what would leave with zero.
[[nodiscard]] inline bool decrement_ttl(std::uint8_t* ip) {
  if (ttl_of(ip) <= 1) return false;
  if (is_ipv4(ip)) {
    const std::uint16_t before = load_be16(ip + 8);  // TTL and protocol
    const auto after = static_cast<std::uint16_t>(before - 0x100);
    store_be16(ip + 8, after);  // not read again: a wide load behind a narrow store waits
    update_checksum(ip + 10, before, after);
  } else {
    --ip[7];
  }
  return true;
}

[[nodiscard]] inline bool dont_fragment(const std::uint8_t* ip) { return !is_ipv4(ip) || (ip[6] & 0x40) != 0; }

// What lies behind the IP header and, over IPv6, behind its extensions.
struct Transport {
  std::uint8_t protocol{};  // of the last header that could be read
  bool fragment{};          // any fragment of a larger packet
  bool first{true};         // the part with the transport header: offset zero, or no fragment
  std::size_t offset{};  // of the transport header; 0: not in this packet (a later fragment, ESP, a header cut short)
  std::size_t octets{};  // from there to the end of the packet
};
[[nodiscard]] Transport transport_of(const std::uint8_t* ip, std::size_t length);

// Addresses that are never on a wire, or not of one host.
[[nodiscard]] inline bool is_local_v4(const std::uint8_t* address) {
  return address[0] == 0 || address[0] == 127 || address[0] >= 224;  // 224/4 multicast, 240/4 reserved and broadcast
}
[[nodiscard]] inline bool is_local_v6(const std::uint8_t* address) {
  if (address[0] == 0xff) return true;
  if (load_be64(address) != 0) return false;
  const std::uint32_t third = load_be32(address + 8);
  return third == 0 || third == 0x0000ffff;  // ::/96 (unspecified, loopback, "compatible"), ::ffff:0:0/96 (mapped)
}

// A source that no router may pass on (Drop::kMartian). IPv4: 0/8, 127/8, 224/4, 240/4 with 255.255.255.255 (RFC 1812
// §5.3.7, RFC 6890). IPv6: ::, ::1 and all of ::/96, ff00::/8 (RFC 4291 §2.5, §2.7), ::ffff:0:0/96 (mapped IPv4 is
// never on a wire, RFC 6890).
[[nodiscard]] inline bool is_martian_source(const std::uint8_t* ip) {
  return is_ipv4(ip) ? is_local_v4(ip + 12) : is_local_v6(ip + 8);
}

// A destination that does not leave a link, or a host (Drop::kMulticast). IPv4: 0/8, 127/8, 169.254/16 (RFC 3927 §2.7),
// 224/4, 240/4 with broadcast. IPv6: ::/96 with :: and ::1, ::ffff:0:0/96, fe80::/10 (RFC 4291 §2.5.6), ff00::/8.
[[nodiscard]] inline bool is_local_destination(const std::uint8_t* ip) {
  const std::uint8_t* to = destination_octets(ip);
  if (is_ipv4(ip)) return is_local_v4(to) || (to[0] == 169 && to[1] == 254);
  return is_local_v6(to) || (to[0] == 0xfe && (to[1] & 0xc0) == 0x80);
}

// What tells one conversation from another. Ports are zero for a fragment and for protocols without ports.
struct Flow {
  Address source;
  Address destination;
  std::uint16_t source_port{};
  std::uint16_t destination_port{};
  std::uint8_t protocol{};
  friend bool operator==(const Flow&, const Flow&) = default;
};
[[nodiscard]] Flow flow_of(const std::uint8_t* ip, std::size_t length);
[[nodiscard]] std::uint32_t flow_hash(const Flow& flow);  // for spreading; an adversary can make flows collide

[[nodiscard]] inline bool goes_to(const std::uint8_t* ip, const Address& address) {
  const std::uint8_t *to = destination_octets(ip), *other = address.octets.data();
  if (is_ipv4(ip)) return address.is_v4() && load_le<std::uint32_t>(to) == load_le<std::uint32_t>(other);
  return address.is_v6() && load_le<std::uint64_t>(to) == load_le<std::uint64_t>(other) &&
         load_le<std::uint64_t>(to + 8) == load_le<std::uint64_t>(other + 8);
}
// Is it a UDP datagram between these ports? Of a datagram in fragments, the first is recognised.
[[nodiscard]] bool is_udp_between(const std::uint8_t* ip, std::size_t length, std::uint16_t from, std::uint16_t to);

// P42: is this inner packet a datagram that we ourselves sent, from our outer port to this peer's endpoint? Then the
// tunnel was routed into itself, and each turn would make the packet longer. (Drop::kLoop.) Asked of every packet that
// the host sends: the address alone says no to nearly all.
[[nodiscard]] inline bool is_own_datagram(const std::uint8_t* ip, std::size_t length, std::uint16_t our_port,
                                          const Endpoint& peer) {
  return !seeded_fault(42) && goes_to(ip, peer.remote) && peer.valid() &&
         is_udp_between(ip, length, our_port, peer.port);
}

}  // namespace wireplane
