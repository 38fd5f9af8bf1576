#include "drivers/udp_message.h"

#include <cstring>

namespace wireplane {
namespace {

bool is_link_local(const Address& a) { return a.is_v6() && a.octets[0] == 0xfe && (a.octets[1] & 0xc0) == 0x80; }

template <class T>
T value_of(cmsghdr* c) {
  T value;
  std::memcpy(&value, CMSG_DATA(c), sizeof value);
  return value;
}

void read_source(const SocketAddress& source, Endpoint& from) {
  if (source.any.sa_family == AF_INET) {
    from.remote = Address::v4(reinterpret_cast<const std::uint8_t*>(&source.v4.sin_addr));
    from.port = ntohs(source.v4.sin_port);
  } else {
    from.remote = Address::v6(source.v6.sin6_addr.s6_addr);
    from.port = ntohs(source.v6.sin6_port);
  }
}

template <class T>
std::size_t put_control(std::uint8_t* at, int level, int type, const T& value) {
  cmsghdr header{};
  header.cmsg_len = CMSG_LEN(sizeof value);
  header.cmsg_level = level;
  header.cmsg_type = type;
  std::memcpy(at, &header, sizeof header);
  std::memcpy(at + CMSG_LEN(0), &value, sizeof value);
  return CMSG_SPACE(sizeof value);
}

}  // namespace

std::size_t read_message(msghdr& header, const SocketAddress& source, Endpoint& from, std::uint8_t& tos) {
  if (header.msg_name != nullptr) read_source(source, from);
  std::size_t segment = 0;
  for (cmsghdr* c = CMSG_FIRSTHDR(&header); c != nullptr; c = CMSG_NXTHDR(&header, c)) {
    if (c->cmsg_level == IPPROTO_IP && c->cmsg_type == IP_PKTINFO) {
      const auto info = value_of<in_pktinfo>(c);
      // spec_dst, not addr: for a broadcast it is the address we can answer from
      from.local = Address::v4(reinterpret_cast<const std::uint8_t*>(&info.ipi_spec_dst));
      from.interface = static_cast<std::uint32_t>(info.ipi_ifindex);
    } else if (c->cmsg_level == IPPROTO_IPV6 && c->cmsg_type == IPV6_PKTINFO) {
      const auto info = value_of<in6_pktinfo>(c);
      from.local = Address::v6(info.ipi6_addr.s6_addr);
      from.interface = info.ipi6_ifindex;
    } else if (c->cmsg_level == IPPROTO_IP && c->cmsg_type == IP_TOS) {
      tos = *CMSG_DATA(c);
    } else if (c->cmsg_level == IPPROTO_IPV6 && c->cmsg_type == IPV6_TCLASS) {
      tos = static_cast<std::uint8_t>(value_of<int>(c));
    } else if (c->cmsg_level == IPPROTO_UDP && c->cmsg_type == kUdpGro) {
      segment = static_cast<std::size_t>(value_of<int>(c));
    }
  }
  return segment;
}

socklen_t write_destination(const Endpoint& to, SocketAddress& out) {
  if (to.remote.is_v4()) {
    out.v4 = {};
    out.v4.sin_family = AF_INET;
    out.v4.sin_port = htons(to.port);
    std::memcpy(&out.v4.sin_addr, to.remote.octets.data(), 4);
    return sizeof out.v4;
  }
  out.v6 = {};
  out.v6.sin6_family = AF_INET6;
  out.v6.sin6_port = htons(to.port);
  std::memcpy(&out.v6.sin6_addr, to.remote.octets.data(), 16);
  if (is_link_local(to.remote)) out.v6.sin6_scope_id = to.interface;
  return sizeof out.v6;
}

// The interface of a sticky source is not asked for, except as the scope of a link-local address: with one, Linux would
// take every destination without a route there for a neighbour; the kernel's WireGuard does not ask either, so that a
// reply follows the routing table.
std::size_t write_control(const Endpoint& to, std::uint8_t tos, bool sticky, std::uint16_t segment, std::uint8_t* at) {
  std::size_t used = 0;
  const int ds_field = tos;
  if (to.remote.is_v4()) {
    if (tos != 0) used += put_control(at, IPPROTO_IP, IP_TOS, ds_field);
    if (sticky) {
      in_pktinfo info{};
      std::memcpy(&info.ipi_spec_dst, to.local.octets.data(), 4);
      used += put_control(at + used, IPPROTO_IP, IP_PKTINFO, info);
    }
  } else {
    if (tos != 0) used += put_control(at, IPPROTO_IPV6, IPV6_TCLASS, ds_field);
    if (sticky) {
      in6_pktinfo info{};
      std::memcpy(&info.ipi6_addr, to.local.octets.data(), 16);
      if (is_link_local(to.local) || is_link_local(to.remote)) info.ipi6_ifindex = to.interface;
      used += put_control(at + used, IPPROTO_IPV6, IPV6_PKTINFO, info);
    }
  }
  if (segment != 0) used += put_control(at + used, IPPROTO_UDP, kUdpSegment, segment);
  return used;
}

}  // namespace wireplane
