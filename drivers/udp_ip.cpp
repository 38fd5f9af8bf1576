#include "drivers/udp_ip.h"

#include <cstring>

#include "dataplane/base/bytes.h"
#include "dataplane/base/fault.h"
#include "dataplane/wire/checksum.h"
#include "dataplane/wire/inner_ip.h"

namespace wireplane {
namespace {

constexpr std::uint8_t kTtl = 64;
constexpr std::uint8_t kHopByHop = 0, kRouting = 43, kFragment = 44, kDestinationOptions = 60;
constexpr unsigned kMaxExtensions = 8;  // more is nobody's honest packet

void write_ipv4(std::uint8_t* ip, std::size_t total, const DatagramHeader& header, ChecksumBy by) {
  ip[0] = 0x45;
  ip[1] = header.tos;
  store_be16(ip + 2, static_cast<std::uint16_t>(total));
  store_be16(ip + 4, header.identification);
  store_be16(ip + 6, 0);  // may be fragmented, as the kernel's WireGuard allows
  ip[8] = kTtl;
  ip[9] = kProtocolUdp;
  store_be16(ip + 10, 0);
  std::memcpy(ip + 12, header.source.octets.data(), 4);
  std::memcpy(ip + 16, header.destination.octets.data(), 4);
  if (by == ChecksumBy::kUs) store_be16(ip + 10, internet_checksum(ip, kIpv4HeaderSize));
}

void write_ipv6(std::uint8_t* ip, std::size_t payload, const DatagramHeader& header) {
  store_be32(ip, 6u << 28 | std::uint32_t{header.tos} << 20);
  store_be16(ip + 4, static_cast<std::uint16_t>(payload));
  ip[6] = kProtocolUdp;
  ip[7] = kTtl;
  std::memcpy(ip + 8, header.source.octets.data(), 16);
  std::memcpy(ip + 24, header.destination.octets.data(), 16);
}

// What read_udp_ip() needs to know of the IP header.
struct IpPayload {
  std::uint8_t protocol{};
  const std::uint8_t* data{};
  std::size_t length{};
  bool fragment = false;
  bool more = false;  // of a fragment
  std::size_t offset = 0;
  std::uint32_t identification = 0;
};

Drop read_ipv4(const std::uint8_t* ip, std::size_t count, bool checksum_good, FoundDatagram& found, IpPayload& out) {
  if (count < kIpv4HeaderSize) return Drop::kOuterMalformed;
  const std::size_t header = (ip[0] & 0x0f) * std::size_t{4};
  const std::size_t total = load_be16(ip + 2);
  if (header < kIpv4HeaderSize || total < header || total > count) return Drop::kOuterMalformed;
  if (!checksum_good && internet_checksum(ip, header) != 0) return Drop::kOuterChecksum;
  found.source = Address::v4(ip + 12);
  found.destination = Address::v4(ip + 16);
  found.tos = ip[1];
  const std::uint16_t where = load_be16(ip + 6);
  out = {.protocol = ip[9],
         .data = ip + header,
         .length = total - header,
         .fragment = (where & 0x3fff) != 0,  // MF, or an offset
         .more = (where & 0x2000) != 0,
         .offset = (where & 0x1fff) * std::size_t{8},
         .identification = load_be16(ip + 4)};
  return Drop::kNone;
}

Drop read_ipv6(const std::uint8_t* ip, std::size_t count, FoundDatagram& found, IpPayload& out) {
  if (count < kIpv6HeaderSize) return Drop::kOuterMalformed;
  const std::size_t payload = load_be16(ip + 4);
  if (payload > count - kIpv6HeaderSize) return Drop::kOuterMalformed;
  found.source = Address::v6(ip + 8);
  found.destination = Address::v6(ip + 24);
  found.tos = static_cast<std::uint8_t>(load_be16(ip) >> 4);
  out = {.protocol = ip[6], .data = ip + kIpv6HeaderSize, .length = payload};
  for (unsigned i = 0; i < kMaxExtensions; ++i) {
    if (out.protocol == kFragment) {
      if (out.length < 8) return Drop::kOuterMalformed;
      const std::uint16_t where = load_be16(out.data + 2);
      out.protocol = out.data[0];
      out.identification = load_be32(out.data + 4);
      out.data += 8;
      out.length -= 8;
      out.more = (where & 1) != 0;
      out.offset = where & 0xfff8u;
      out.fragment = out.more || out.offset != 0;
      if (out.fragment) return Drop::kNone;
      continue;
    }
    if (out.protocol != kHopByHop && out.protocol != kRouting && out.protocol != kDestinationOptions)
      return Drop::kNone;
    if (out.length < 8) return Drop::kOuterMalformed;
    const std::size_t extension = (std::size_t{out.data[1]} + 1) * 8;
    if (extension > out.length) return Drop::kOuterMalformed;
    out.protocol = out.data[0];
    out.data += extension;
    out.length -= extension;
  }
  return Drop::kOuterMalformed;
}

Drop read_udp(const std::uint8_t* ip, const IpPayload& in, ChecksumsSeen seen, std::uint16_t only_port,
              FoundDatagram& found) {
  if (in.length < kUdpHeaderSize) return Drop::kOuterMalformed;
  const std::uint8_t* udp = in.data;
  found.source_port = load_be16(udp);
  found.destination_port = load_be16(udp + 2);
  if (only_port != 0 && found.destination_port != only_port) return Drop::kOuterNotOurs;
  // P3: what UDP says counts, where IP carries at least as much; what lies behind is no datagram of ours.
  const std::size_t length = seeded_fault(3) ? in.length : load_be16(udp + 4);
  if (length < kUdpHeaderSize || length > in.length) return Drop::kOuterMalformed;
  if (load_be16(udp + 6) == 0) {  // P4: "not computed", which only IPv4 allows
    if (!is_ipv4(ip) && !seeded_fault(4)) return Drop::kOuterChecksum;
  } else if (!seen.udp_good) {
    ChecksumSum sum = pseudo_header(ip, kProtocolUdp, length);
    const bool left_to_device = seen.local_sender && load_be16(udp + 6) == sum.folded();
    sum.add(udp, length);
    if (!left_to_device && sum.finish() != 0) return Drop::kOuterChecksum;
  }
  found.payload = udp + kUdpHeaderSize;
  found.length = length - kUdpHeaderSize;
  return Drop::kNone;
}

}  // namespace

void write_udp_ip(std::uint8_t* payload, std::size_t length, const DatagramHeader& header, ChecksumBy ip_by,
                  ChecksumBy udp_by) {
  std::uint8_t* udp = payload - kUdpHeaderSize;
  std::uint8_t* ip = payload - udp_ip_size(header.destination);
  const std::size_t udp_length = kUdpHeaderSize + length;
  if (header.destination.is_v4())
    write_ipv4(ip, kIpv4HeaderSize + udp_length, header, ip_by);
  else
    write_ipv6(ip, udp_length, header);
  store_be16(udp, header.source_port);
  store_be16(udp + 2, header.destination_port);
  store_be16(udp + 4, static_cast<std::uint16_t>(udp_length));
  store_be16(udp + 6, 0);
  ChecksumSum sum = pseudo_header(ip, kProtocolUdp, udp_length);
  if (udp_by == ChecksumBy::kDevice) {
    store_be16(udp + 6, sum.folded());
    return;
  }
  sum.add(udp, udp_length);
  const std::uint16_t checksum = sum.finish();
  store_be16(udp + 6, checksum != 0 ? checksum : 0xffff);  // zero means "not computed"
}

Drop read_udp_ip(const std::uint8_t* ip, std::size_t count, ChecksumsSeen seen, std::uint16_t only_port,
                 FoundDatagram& found) {
  IpPayload payload;
  const unsigned version = count == 0 ? 0 : ip[0] >> 4;
  Drop verdict = Drop::kOuterMalformed;
  if (version == 4) verdict = read_ipv4(ip, count, seen.ip_good, found, payload);
  if (version == 6) verdict = read_ipv6(ip, count, found, payload);
  if (verdict != Drop::kNone) return verdict;
  if (payload.protocol != kProtocolUdp) return Drop::kOuterNotOurs;
  if (payload.fragment) return Drop::kOuterFragment;
  return read_udp(ip, payload, seen, only_port, found);
}

Drop read_fragment(const std::uint8_t* ip, std::size_t count, IpFragment& fragment) {
  IpPayload payload;
  FoundDatagram found;
  const bool v4 = count != 0 && ip[0] >> 4 == 4;
  const Drop verdict = v4 ? read_ipv4(ip, count, true, found, payload) : read_ipv6(ip, count, found, payload);
  if (verdict != Drop::kNone || !payload.fragment) return Drop::kOuterMalformed;
  fragment = {.source = found.source,
              .destination = found.destination,
              .identification = payload.identification,
              .protocol = payload.protocol,
              .tos = found.tos,
              .more = payload.more,
              .offset = payload.offset,
              .data = payload.data,
              .length = payload.length};
  // RFC 8200 §4.5, RFC 791 §3.2: all but the last are whole units of eight; nothing lies beyond what a length can say.
  if (payload.length == 0 || (payload.more && payload.length % 8 != 0)) return Drop::kOuterMalformed;
  return payload.offset + payload.length > 0xffff ? Drop::kOuterMalformed : Drop::kNone;
}

std::size_t ip_length(const std::uint8_t* ip, std::size_t count) {
  if (count >= kIpv4HeaderSize && ip[0] >> 4 == 4) {
    const std::size_t total = load_be16(ip + 2);
    return total >= kIpv4HeaderSize && total <= count ? total : 0;
  }
  if (count < kIpv6HeaderSize || ip[0] >> 4 != 6) return 0;
  const std::size_t total = kIpv6HeaderSize + load_be16(ip + 4);
  return total <= count ? total : 0;
}

void complete_checksum(std::uint8_t* ip, std::size_t length) {
  const Transport transport = transport_of(ip, length);
  if (transport.offset == 0 || transport.fragment) return;
  const std::size_t field = transport.protocol == kProtocolUdp ? 6 : 16;
  if ((transport.protocol != kProtocolUdp && transport.protocol != kProtocolTcp) || transport.octets < field + 2)
    return;
  std::uint8_t* start = ip + transport.offset;
  const ChecksumSum pseudo = pseudo_header(ip, transport.protocol, transport.octets);
  if (load_be16(start + field) != pseudo.folded()) return;
  ChecksumSum sum;  // the field holds the pseudo-header's share already
  sum.add(start, transport.octets);
  const std::uint16_t checksum = sum.finish();
  store_be16(start + field, checksum == 0 && transport.protocol == kProtocolUdp ? 0xffff : checksum);
}

}  // namespace wireplane
