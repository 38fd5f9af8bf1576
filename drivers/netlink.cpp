#include "drivers/netlink.h"

#include <arpa/inet.h>
#include <libmnl/libmnl.h>
#include <linux/fib_rules.h>
#include <linux/if_link.h>
#include <linux/rtnetlink.h>
#include <net/if.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <new>

namespace wireplane {
namespace {

constexpr std::size_t kAnswerOctets = 32 * 1024;  // the kernel fills dumps up to this

Error failed(const std::string& what) {
  const int code = errno;
  return Error{what + ": " + std::strerror(code), code};
}

std::uint8_t family_of(const Address& address) { return address.is_v4() ? AF_INET : AF_INET6; }
std::size_t octets_of(const Address& address) { return address.is_v4() ? 4 : 16; }

// One request, built in place.
template <class Header>
struct Request {
  Request(std::uint16_t type, std::uint16_t flags) : message{mnl_nlmsg_put_header(memory)} {
    message->nlmsg_type = type;
    message->nlmsg_flags = static_cast<std::uint16_t>(NLM_F_REQUEST | flags);
    header = static_cast<Header*>(mnl_nlmsg_put_extra_header(message, sizeof(Header)));
    new (header) Header{};
  }
  void put(std::uint16_t type, std::uint32_t value) { mnl_attr_put_u32(message, type, value); }
  void put(std::uint16_t type, const Address& address) {
    mnl_attr_put(message, type, octets_of(address), address.octets.data());
  }

  alignas(nlmsghdr) char memory[1024] = {};
  nlmsghdr* message;
  Header* header;
};

std::string name_of(std::uint32_t interface) {
  char name[IF_NAMESIZE];
  return ::if_indextoname(interface, name) != nullptr ? name : "interface " + std::to_string(interface);
}

std::string with_length(const Address& address, std::uint8_t length) {
  return address_text(address) + "/" + std::to_string(length);
}

// ---- reading answers

Address read_address(std::uint8_t family, const nlattr* attribute) {
  const auto* octets = static_cast<const std::uint8_t*>(mnl_attr_get_payload(attribute));
  const std::size_t length = mnl_attr_get_payload_len(attribute);
  if (family == AF_INET && length == 4) return Address::v4(octets);
  if (family == AF_INET6 && length == 16) return Address::v6(octets);
  return {};
}

MacAddress read_mac(const nlattr* attribute) {
  MacAddress mac{};
  if (mnl_attr_get_payload_len(attribute) == mac.size())
    std::memcpy(mac.data(), mnl_attr_get_payload(attribute), mac.size());
  return mac;
}

std::uint32_t read_u32(const nlattr* attribute) {
  return mnl_attr_get_payload_len(attribute) == sizeof(std::uint32_t) ? mnl_attr_get_u32(attribute) : 0;
}

std::string read_text(const nlattr* attribute) {
  const auto* text = static_cast<const char*>(mnl_attr_get_payload(attribute));
  return {text, ::strnlen(text, mnl_attr_get_payload_len(attribute))};
}

// The message's own header, or null if it is too short to have one: its callback says malformed().
template <class Header>
const Header* header_of(const nlmsghdr* message) {
  if (mnl_nlmsg_get_payload_len(message) < sizeof(Header)) return nullptr;
  return static_cast<const Header*>(mnl_nlmsg_get_payload(message));
}
int malformed() {
  errno = EBADMSG;
  return MNL_CB_ERROR;
}

template <class Each>
void for_each_attribute(const nlmsghdr* message, std::size_t header_size, Each each) {
  // mnl_attr_for_each, which is not C++
  const auto* attribute = static_cast<const nlattr*>(mnl_nlmsg_get_payload_offset(message, header_size));
  const auto* end = reinterpret_cast<const char*>(message) + message->nlmsg_len;  // libmnl's tail is rounded up
  for (; mnl_attr_ok(attribute, static_cast<int>(end - reinterpret_cast<const char*>(attribute)));
       attribute = mnl_attr_next(attribute))
    each(int{mnl_attr_get_type(attribute)}, attribute);
}

template <class T>
struct Collected {
  std::uint32_t interface;
  std::vector<T> items;
};

int collect_address(const nlmsghdr* message, void* data) {
  auto& collected = *static_cast<Collected<Address>*>(data);
  const auto* header = header_of<ifaddrmsg>(message);
  if (header == nullptr) return malformed();
  if (header->ifa_index != collected.interface) return MNL_CB_OK;
  Address address, local;
  for_each_attribute(message, sizeof *header, [&](int type, const nlattr* attribute) {
    if (type == IFA_ADDRESS) address = read_address(header->ifa_family, attribute);
    if (type == IFA_LOCAL) local = read_address(header->ifa_family, attribute);  // on point-to-point links the own end
  });
  if (const Address own = local.none() ? address : local; !own.none()) collected.items.push_back(own);
  return MNL_CB_OK;
}

int collect_route(const nlmsghdr* message, void* data) {
  auto& collected = *static_cast<Collected<KernelRoute>*>(data);
  const auto* header = header_of<rtmsg>(message);
  if (header == nullptr) return malformed();
  if (header->rtm_type != RTN_UNICAST || (header->rtm_flags & RTM_F_CLONED) != 0) return MNL_CB_OK;
  KernelRoute route;
  route.prefix_length = header->rtm_dst_len;
  route.table = header->rtm_table;
  route.destination.family = header->rtm_family == AF_INET ? Address::Family::kV4 : Address::Family::kV6;
  for_each_attribute(message, sizeof *header, [&](int type, const nlattr* attribute) {
    switch (type) {
      case RTA_DST:
        route.destination = read_address(header->rtm_family, attribute);
        break;
      case RTA_GATEWAY:
        route.gateway = read_address(header->rtm_family, attribute);
        break;
      case RTA_PREFSRC:
        route.source = read_address(header->rtm_family, attribute);
        break;
      case RTA_OIF:
        route.interface = read_u32(attribute);
        break;
      case RTA_TABLE:
        route.table = read_u32(attribute);
        break;
      case RTA_PRIORITY:
        route.priority = read_u32(attribute);
        break;
      default:
        break;
    }
  });
  if (route.interface == collected.interface && route.table != RT_TABLE_LOCAL) collected.items.push_back(route);
  return MNL_CB_OK;
}

int collect_neighbour(const nlmsghdr* message, void* data) {
  auto& collected = *static_cast<Collected<KernelNeighbour>*>(data);
  const auto* header = header_of<ndmsg>(message);
  if (header == nullptr) return malformed();
  // A stale entry still says where its owner was last seen; only what the kernel has given up on is left out.
  if (header->ndm_ifindex != static_cast<int>(collected.interface) ||
      (header->ndm_state & (NUD_FAILED | NUD_INCOMPLETE)) != 0)
    return MNL_CB_OK;
  KernelNeighbour neighbour;
  neighbour.interface = collected.interface;
  bool has_mac = false;
  for_each_attribute(message, sizeof *header, [&](int type, const nlattr* attribute) {
    if (type == NDA_DST) neighbour.address = read_address(header->ndm_family, attribute);
    if (type == NDA_LLADDR) {
      neighbour.mac = read_mac(attribute);
      has_mac = mnl_attr_get_payload_len(attribute) == neighbour.mac.size();
    }
  });
  if (has_mac && !neighbour.address.none()) collected.items.push_back(neighbour);
  return MNL_CB_OK;
}

int read_link(const nlmsghdr* message, void* data) {
  auto& link = *static_cast<KernelLink*>(data);
  const auto* header = header_of<ifinfomsg>(message);
  if (header == nullptr) return malformed();
  link.up = (header->ifi_flags & IFF_UP) != 0;
  for_each_attribute(message, sizeof *header, [&](int type, const nlattr* attribute) {
    if (type == IFLA_IFNAME) link.name = read_text(attribute);
    if (type == IFLA_MTU) link.mtu = read_u32(attribute);
    if (type == IFLA_ADDRESS) link.mac = read_mac(attribute);
  });
  return MNL_CB_OK;
}

// libmnl reads a length as a signed number, and one beyond 2 GiB as a short one. The kernel writes none; still, what
// was read from a socket decides no more than whether it is used.
bool lengths_hold(const char* answer, std::size_t length) {
  while (length >= sizeof(nlmsghdr)) {
    nlmsghdr header;
    std::memcpy(&header, answer, sizeof header);
    if (header.nlmsg_len < sizeof header || header.nlmsg_len > length) return false;
    const std::size_t taken = std::min<std::size_t>(NLMSG_ALIGN(header.nlmsg_len), length);
    answer += taken;
    length -= taken;
  }
  return true;
}

}  // namespace

std::string address_text(const Address& address) {
  char text[INET6_ADDRSTRLEN];
  if (address.none() || ::inet_ntop(family_of(address), address.octets.data(), text, sizeof text) == nullptr)
    return "none";
  return text;
}

// ---- the socket

void Netlink::Closer::operator()(mnl_socket* socket) const { mnl_socket_close(socket); }
Netlink::Netlink(Netlink&&) noexcept = default;
Netlink& Netlink::operator=(Netlink&&) noexcept = default;
Netlink::~Netlink() = default;

Result<Netlink> Netlink::open() {
  mnl_socket* socket = mnl_socket_open2(NETLINK_ROUTE, SOCK_CLOEXEC);
  if (socket == nullptr) return failed("opening a netlink socket");
  Netlink netlink{socket};
  if (mnl_socket_bind(socket, 0, MNL_SOCKET_AUTOPID) < 0) return failed("binding a netlink socket");
  return netlink;
}

Status Netlink::ask(nlmsghdr* request, const std::string& what, int (*each)(const nlmsghdr*, void*), void* data) {
  request->nlmsg_seq = ++sequence_;
  if (mnl_socket_sendto(socket_.get(), request, request->nlmsg_len) < 0) return failed(what);
  const unsigned port = mnl_socket_get_portid(socket_.get());
  alignas(nlmsghdr) char answer[kAnswerOctets];
  for (;;) {
    const ssize_t length = mnl_socket_recvfrom(socket_.get(), answer, sizeof answer);
    if (length < 0) return failed(what);
    if (!lengths_hold(answer, static_cast<std::size_t>(length))) {
      static_cast<void>(malformed());
      return failed(what);
    }
    const int verdict = mnl_cb_run(answer, static_cast<std::size_t>(length), sequence_, port, each, data);
    if (verdict < 0) return failed(what);
    if (verdict == MNL_CB_STOP) return Nothing{};  // the acknowledgement, or the dump's end
  }
}

// ---- what we tell

Status Netlink::set_link(std::uint32_t interface, bool up, std::uint32_t mtu) {
  Request<ifinfomsg> request{RTM_NEWLINK, NLM_F_ACK};
  request.header->ifi_index = static_cast<int>(interface);
  request.header->ifi_change = IFF_UP;
  request.header->ifi_flags = up ? IFF_UP : 0;
  if (mtu != 0) request.put(IFLA_MTU, mtu);
  return ask(request.message, "setting " + name_of(interface) + (up ? " up" : " down") +
                                  (mtu != 0 ? " with MTU " + std::to_string(mtu) : ""));
}

Status Netlink::add_address(std::uint32_t interface, const Address& address, std::uint8_t prefix_length) {
  Request<ifaddrmsg> request{RTM_NEWADDR, NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL};
  request.header->ifa_family = family_of(address);
  request.header->ifa_prefixlen = prefix_length;
  request.header->ifa_index = interface;
  request.put(IFA_LOCAL, address);
  request.put(IFA_ADDRESS, address);
  return ask(request.message, "adding address " + with_length(address, prefix_length) + " to " + name_of(interface));
}

Status Netlink::add_route(const KernelRoute& route) {
  return change_route(route, RTM_NEWROUTE, NLM_F_CREATE | NLM_F_EXCL, "adding");
}
Status Netlink::remove_route(const KernelRoute& route) { return change_route(route, RTM_DELROUTE, 0, "removing"); }

Status Netlink::change_route(const KernelRoute& route, std::uint16_t type, std::uint16_t flags, const char* what) {
  Request<rtmsg> request{type, static_cast<std::uint16_t>(NLM_F_ACK | flags)};
  request.header->rtm_family = family_of(route.destination);
  request.header->rtm_dst_len = route.prefix_length;
  request.header->rtm_table = RT_TABLE_UNSPEC;  // the attribute has room for the large ones
  request.header->rtm_protocol = RTPROT_BOOT;   // as `ip route add` does
  request.header->rtm_scope = route.gateway.none() && route.destination.is_v4() ? RT_SCOPE_LINK : RT_SCOPE_UNIVERSE;
  request.header->rtm_type = RTN_UNICAST;
  request.put(RTA_TABLE, route.table);
  if (route.prefix_length != 0) request.put(RTA_DST, route.destination);
  if (!route.gateway.none()) request.put(RTA_GATEWAY, route.gateway);
  if (!route.source.none()) request.put(RTA_PREFSRC, route.source);
  if (route.priority != 0) request.put(RTA_PRIORITY, route.priority);
  if (route.interface != 0) request.put(RTA_OIF, route.interface);
  return ask(request.message, std::string{what} + " route " + with_length(route.destination, route.prefix_length) +
                                  " by " + name_of(route.interface) + " in table " + std::to_string(route.table));
}

Status Netlink::add_rule(const KernelRule& rule) {
  return change_rule(rule, RTM_NEWRULE, NLM_F_CREATE | NLM_F_EXCL, "adding");
}
Status Netlink::remove_rule(const KernelRule& rule) { return change_rule(rule, RTM_DELRULE, 0, "removing"); }

Status Netlink::change_rule(const KernelRule& rule, std::uint16_t type, std::uint16_t flags, const char* what) {
  Request<fib_rule_hdr> request{type, static_cast<std::uint16_t>(NLM_F_ACK | flags)};
  request.header->family = rule.family == Address::Family::kV4 ? AF_INET : AF_INET6;
  request.header->action = FR_ACT_TO_TBL;
  request.header->table = RT_TABLE_UNSPEC;
  request.put(FRA_TABLE, rule.table);
  if (rule.not_fwmark != 0) {
    request.header->flags |= FIB_RULE_INVERT;
    request.put(FRA_FWMARK, rule.not_fwmark);
  }
  if (rule.suppress_prefix_length >= 0)
    request.put(FRA_SUPPRESS_PREFIXLEN, static_cast<std::uint32_t>(rule.suppress_prefix_length));
  return ask(request.message, std::string{what} + " the rule for table " + std::to_string(rule.table));
}

Status Netlink::resolve(std::uint32_t interface, const Address& neighbour) {
  Request<ndmsg> request{RTM_NEWNEIGH, NLM_F_ACK | NLM_F_CREATE};
  request.header->ndm_family = family_of(neighbour);
  request.header->ndm_ifindex = static_cast<int>(interface);
  request.header->ndm_state = NUD_NONE;
  request.header->ndm_flags = NTF_USE;  // as if a packet of the kernel's own had wanted it
  request.put(NDA_DST, neighbour);
  return ask(request.message, "resolving " + address_text(neighbour) + " on " + name_of(interface));
}

// ---- what we ask

Result<KernelLink> Netlink::link(std::uint32_t interface) {
  Request<ifinfomsg> request{RTM_GETLINK, NLM_F_ACK};
  request.header->ifi_index = static_cast<int>(interface);
  KernelLink link;
  const Status asked = ask(request.message, "reading interface " + std::to_string(interface), read_link, &link);
  if (!asked) return asked.error();
  return link;
}

Result<std::vector<Address>> Netlink::addresses(std::uint32_t interface) {
  Request<ifaddrmsg> request{RTM_GETADDR, NLM_F_DUMP};
  Collected<Address> collected{interface, {}};
  const Status asked = ask(request.message, "reading addresses", collect_address, &collected);
  if (!asked) return asked.error();
  return std::move(collected.items);
}

Result<std::vector<KernelRoute>> Netlink::routes(std::uint32_t interface) {
  Request<rtmsg> request{RTM_GETROUTE, NLM_F_DUMP};
  Collected<KernelRoute> collected{interface, {}};
  const Status asked = ask(request.message, "reading routes", collect_route, &collected);
  if (!asked) return asked.error();
  return std::move(collected.items);
}

Result<std::vector<KernelNeighbour>> Netlink::neighbours(std::uint32_t interface) {
  Request<ndmsg> request{RTM_GETNEIGH, NLM_F_DUMP};
  Collected<KernelNeighbour> collected{interface, {}};
  const Status asked = ask(request.message, "reading neighbours", collect_neighbour, &collected);
  if (!asked) return asked.error();
  return std::move(collected.items);
}

// ---- what we hear

Result<NetlinkMonitor> NetlinkMonitor::open() {
  FileDescriptor fd{::socket(AF_NETLINK, SOCK_RAW | SOCK_NONBLOCK | SOCK_CLOEXEC, NETLINK_ROUTE)};
  if (!fd) return failed("opening a netlink socket");
  sockaddr_nl address{};
  address.nl_family = AF_NETLINK;
  address.nl_groups =
      RTMGRP_LINK | RTMGRP_NEIGH | RTMGRP_IPV4_IFADDR | RTMGRP_IPV6_IFADDR | RTMGRP_IPV4_ROUTE | RTMGRP_IPV6_ROUTE;
  if (::bind(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0)
    return failed("subscribing to netlink");
  return NetlinkMonitor{std::move(fd)};
}

bool NetlinkMonitor::changed() {
  char message[8192];
  bool any = false;
  for (;;) {
    if (::recv(fd_.get(), message, sizeof message, 0) >= 0 || errno == EINTR) {
      any = true;
    } else if (errno == ENOBUFS) {  // more changes than the socket could hold: all the more
      any = true;
    } else {
      return any;
    }
  }
}

}  // namespace wireplane
