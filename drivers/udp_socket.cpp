#include "drivers/udp_socket.h"

#include <cerrno>
#include <cstring>
#include <utility>

#include "drivers/udp_message.h"
#include "drivers/udp_port.h"

namespace wireplane {

using Family = Address::Family;

Error udp_failed(std::string what) {
  const int code = errno;
  return Error{"udp: " + std::move(what) + ": " + std::strerror(code), code};
}

bool set_option(int fd, int level, int name, int value) {
  return ::setsockopt(fd, level, name, &value, sizeof value) == 0;
}

bool knows_udp_option(int fd, int option) {
  int value;
  socklen_t length = sizeof value;
  return fd >= 0 && ::getsockopt(fd, IPPROTO_UDP, option, &value, &length) == 0;
}

namespace {

// Room for a burst that arrives while the worker is away; beyond the system's limit only with privilege.
void enlarge_buffers(int fd, const UdpOptions& options) {
  if (!set_option(fd, SOL_SOCKET, SO_RCVBUFFORCE, options.receive_buffer_octets))
    set_option(fd, SOL_SOCKET, SO_RCVBUF, options.receive_buffer_octets);
  if (!set_option(fd, SOL_SOCKET, SO_SNDBUFFORCE, options.send_buffer_octets))
    set_option(fd, SOL_SOCKET, SO_SNDBUF, options.send_buffer_octets);
}

bool set_family_options(int fd, Family family) {
  if (!ask_for_own_address(fd, family, true)) return false;
  if (family == Family::kV4)
    return set_option(fd, IPPROTO_IP, IP_RECVTOS, 1) && set_option(fd, IPPROTO_IP, IP_MTU_DISCOVER, IP_PMTUDISC_DONT);
  return set_option(fd, IPPROTO_IPV6, IPV6_V6ONLY, 1) && set_option(fd, IPPROTO_IPV6, IPV6_RECVTCLASS, 1) &&
         set_option(fd, IPPROTO_IPV6, IPV6_MTU_DISCOVER, IPV6_PMTUDISC_DONT);
}

}  // namespace

bool ask_for_own_address(int fd, Family family, bool wanted) {
  return family == Family::kV4 ? set_option(fd, IPPROTO_IP, IP_PKTINFO, wanted)
                               : set_option(fd, IPPROTO_IPV6, IPV6_RECVPKTINFO, wanted);
}

Result<FileDescriptor> make_udp_socket(const UdpOptions& options, Family family) {
  const int domain = family == Family::kV4 ? AF_INET : AF_INET6;
  FileDescriptor fd{::socket(domain, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, IPPROTO_UDP)};
  if (!fd) return udp_failed(family == Family::kV4 ? "opening an IPv4 socket" : "opening an IPv6 socket");
  if (!set_family_options(fd.get(), family)) return udp_failed("setting socket options");
  enlarge_buffers(fd.get(), options);
  return fd;
}

bool bind_udp_socket(int fd, Family family, const Address& local, std::uint16_t port) {
  SocketAddress address{};
  socklen_t length;
  if (family == Family::kV4) {
    address.v4.sin_family = AF_INET;
    address.v4.sin_port = htons(port);
    if (local.is_v4()) std::memcpy(&address.v4.sin_addr, local.octets.data(), 4);
    length = sizeof address.v4;
  } else {
    address.v6.sin6_family = AF_INET6;
    address.v6.sin6_port = htons(port);
    if (local.is_v6()) std::memcpy(&address.v6.sin6_addr, local.octets.data(), 16);
    length = sizeof address.v6;
  }
  return ::bind(fd, &address.any, length) == 0;
}

std::uint16_t bound_udp_port(int fd) {
  SocketAddress address{};
  socklen_t length = sizeof address;
  if (::getsockname(fd, &address.any, &length) != 0) return 0;
  return ntohs(address.any.sa_family == AF_INET ? address.v4.sin_port : address.v6.sin6_port);
}

}  // namespace wireplane
