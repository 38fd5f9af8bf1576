#include "dataplane/wire/inner_ip.h"

#include "dataplane/base/fault.h"

namespace wireplane {
namespace {

constexpr std::uint8_t kHopByHop = 0, kRouting = 43, kFragment = 44, kAuthentication = 51, kDestinationOptions = 60,
                       kMobility = 135, kEncapsulatedSecurity = 50, kNoNextHeader = 59;
constexpr int kMaxExtensions = 8;  // more is nobody's honest packet

// spec: RFC 8200 §4 (extension headers), RFC 4302 §2.2 (authentication header counts in words of four octets)
Transport transport_of_v6(const std::uint8_t* ip, std::size_t length) {
  Transport t{.protocol = ip[6]};
  std::size_t at = kIpv6HeaderSize;
  for (int i = 0; i < kMaxExtensions; ++i) {
    const bool extension = t.protocol == kHopByHop || t.protocol == kRouting || t.protocol == kFragment ||
                           t.protocol == kAuthentication || t.protocol == kDestinationOptions ||
                           t.protocol == kMobility;
    if (!extension) {
      if (t.protocol == kNoNextHeader || t.protocol == kEncapsulatedSecurity || at >= length) return t;
      t.offset = at;
      t.octets = length - at;
      return t;
    }
    if (at + 8 > length) return t;
    std::size_t size = (ip[at + 1] + std::size_t{1}) * 8;
    if (t.protocol == kAuthentication) size = (ip[at + 1] + std::size_t{2}) * 4;
    if (t.protocol == kFragment) {
      size = 8;
      const std::uint16_t where = load_be16(ip + at + 2);
      t.fragment = (where & 0xfff9) != 0;
      t.first = (where & 0xfff8) == 0;
    }
    t.protocol = ip[at];
    if (!t.first) return t;  // what follows is the middle of something
    at += size;
  }
  return t;
}

}  // namespace

Transport transport_of(const std::uint8_t* ip, std::size_t length) {
  if (!is_ipv4(ip)) return transport_of_v6(ip, length);
  const std::uint16_t where = load_be16(ip + 6);
  Transport t{.protocol = ip[9], .fragment = (where & 0x3fff) != 0, .first = (where & 0x1fff) == 0};
  const std::size_t header = ip_header_length(ip);
  if (t.first && header < length) {
    t.offset = header;
    t.octets = length - header;
  }
  return t;
}

Flow flow_of(const std::uint8_t* ip, std::size_t length) {
  constexpr std::uint8_t kDccp = 33, kSctp = 132, kUdpLite = 136;
  const Transport t = transport_of(ip, length);
  Flow flow{.source = source_of(ip), .destination = destination_of(ip), .protocol = t.protocol};
  const bool has_ports = t.protocol == kProtocolTcp || t.protocol == kProtocolUdp || t.protocol == kDccp ||
                         t.protocol == kSctp || t.protocol == kUdpLite;
  if (!has_ports || t.fragment || t.octets < 4) return flow;  // all fragments of a packet go one way
  flow.source_port = load_be16(ip + t.offset);
  flow.destination_port = load_be16(ip + t.offset + 2);
  return flow;
}

std::uint32_t flow_hash(const Flow& flow) {
  std::uint64_t hash =
      std::uint64_t{flow.source_port} << 24 | std::uint64_t{flow.destination_port} << 8 | flow.protocol;
  for (const Address* a : {&flow.source, &flow.destination}) {  // in this order: the way back hashes differently
    for (std::size_t i = 0; i < 16; i += 8) {
      hash = (hash ^ load_le<std::uint64_t>(a->octets.data() + i)) * 0x9e3779b97f4a7c15u;
      hash ^= hash >> 32;
    }
  }
  return static_cast<std::uint32_t>(hash);
}

bool is_udp_between(const std::uint8_t* ip, std::size_t length, std::uint16_t from, std::uint16_t to) {
  const Transport t = transport_of(ip, length);
  return t.protocol == kProtocolUdp && t.octets >= kUdpHeaderSize && load_be16(ip + t.offset) == from &&
         load_be16(ip + t.offset + 2) == to;
}

}  // namespace wireplane
