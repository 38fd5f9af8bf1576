// netlink.h: what we tell the kernel about our interface, and what we ask it about the way to a peer (rtnetlink,
// libmnl).
//
// For control, outside of the packet path: every call is one request and its answer, some tens of microseconds.
// It speaks for the network namespace in which open() was called.
#pragma once
#include <array>
#include <memory>
#include <string>
#include <vector>

#include "dataplane/base/endpoint.h"
#include "dataplane/base/result.h"
#include "drivers/file_descriptor.h"

struct mnl_socket;
struct nlmsghdr;

namespace wireplane {

using MacAddress = std::array<std::uint8_t, 6>;

constexpr std::uint32_t kMainTable = 254;  // RT_TABLE_MAIN

struct KernelRoute {
  Address destination{};         // host bits zero; the family says which table of routes
  std::uint8_t prefix_length{};  // 0: the default route
  std::uint32_t interface {};    // ifindex
  Address gateway{};             // none: on the link
  Address source{};              // preferred; none: the kernel's choice
  std::uint32_t table = kMainTable;
  std::uint32_t priority = 0;  // metric; lower wins
};

// `ip rule add [not fwmark M] table T [suppress_prefixlength P]`: what wg-quick puts before a tunnelled default route.
struct KernelRule {
  Address::Family family{};
  std::uint32_t not_fwmark = 0;  // 0: for every packet
  std::uint32_t table = kMainTable;
  int suppress_prefix_length = -1;  // -1: no
};

struct KernelNeighbour {
  Address address;
  std::uint32_t interface {};
  MacAddress mac{};
};

struct KernelLink {
  std::string name;
  std::uint32_t mtu{};
  MacAddress mac{};
  bool up{};
};

class Netlink {
 public:
  [[nodiscard]] static Result<Netlink> open();
  Netlink(Netlink&&) noexcept;
  Netlink& operator=(Netlink&&) noexcept;
  ~Netlink();

  Status set_link(std::uint32_t interface, bool up, std::uint32_t mtu = 0);  // mtu 0: as it is
  Status add_address(std::uint32_t interface, const Address& address, std::uint8_t prefix_length);
  Status add_route(const KernelRoute& route);     // EEXIST if it is there
  Status remove_route(const KernelRoute& route);  // routes also go with their interface
  Status add_rule(const KernelRule& rule);
  Status remove_rule(const KernelRule& rule);  // rules stay until they are removed

  Status resolve(std::uint32_t interface,
                 const Address& neighbour);  // the kernel asks the link, or confirms what it knows

  [[nodiscard]] Result<KernelLink> link(std::uint32_t interface);
  [[nodiscard]] Result<std::vector<Address>> addresses(std::uint32_t interface);
  [[nodiscard]] Result<std::vector<KernelRoute>> routes(std::uint32_t interface);  // unicast, any table but `local`
  [[nodiscard]] Result<std::vector<KernelNeighbour>> neighbours(std::uint32_t interface);  // those with a MAC

 private:
  struct Closer {
    void operator()(mnl_socket* socket) const;
  };
  explicit Netlink(mnl_socket* socket) : socket_{socket} {}
  Status change_route(const KernelRoute& route, std::uint16_t type, std::uint16_t flags, const char* what);
  Status change_rule(const KernelRule& rule, std::uint16_t type, std::uint16_t flags, const char* what);
  // Sends one request; every message of the answer goes to `each`, if any.
  Status ask(nlmsghdr* request, const std::string& what, int (*each)(const nlmsghdr*, void*) = nullptr,
             void* data = nullptr);

  std::unique_ptr<mnl_socket, Closer> socket_;
  std::uint32_t sequence_ = 0;
};

// Hears of every change of links, addresses, routes and neighbours.
class NetlinkMonitor {
 public:
  [[nodiscard]] static Result<NetlinkMonitor> open();
  [[nodiscard]] bool changed();  // since the last call; what it was, a dump tells
  [[nodiscard]] int fd() const { return fd_.get(); }

 private:
  explicit NetlinkMonitor(FileDescriptor fd) : fd_{std::move(fd)} {}
  FileDescriptor fd_;
};

[[nodiscard]] std::string address_text(const Address& address);  // as inet_ntop writes it; "none"

}  // namespace wireplane
