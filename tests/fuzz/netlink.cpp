// Fuzz: whatever a netlink socket may say in answer to our requests and dumps, and the table of next hops made of it.
//
// The socket's functions are ours (an executable's symbols come before a library's), the parsers of messages and
// attributes, libmnl's and our own, are not. The input is a list of datagrams; the first two operands of each say how
// much of its header is made good (length, sequence number, type), so that what lies behind is reached.
// Claims: nothing crashes or reads beyond a message; an answer ends; addresses and names are bounded and whole; the
// next hops that come of any routes and neighbours agree with a linear search.
#include <dlfcn.h>
#include <libmnl/libmnl.h>
#include <linux/rtnetlink.h>

#include <cerrno>
#include <deque>
#include <memory>

#include "dataplane/base/check.h"
#include "drivers/neighbours.h"
#include "drivers/netlink.h"
#include "tests/fuzz/oracle.h"
#include "tests/fuzz/program.h"

namespace wireplane {
namespace {

enum Kind : std::uint8_t { kLink, kAddresses, kRoutes, kNeighbours, kAcknowledge, kKinds };
constexpr std::uint8_t kGrammar[kKinds] = {60, 40, 60, 48, 24};
constexpr std::uint32_t kInterface = 7;

// What the kernel is going to say.
struct Kernel {
  std::deque<std::vector<std::uint8_t>> datagrams;
  std::uint32_t sequence = 0;
};
Kernel* kernel = nullptr;

// An answer to the request of this type: its header made good as far as the operands want, the rest as it is.
std::vector<std::uint8_t> datagram_of(fuzz::Operands o, std::uint16_t type, std::uint32_t sequence) {
  const std::uint8_t how = o.u8(), flags = o.u8();
  std::vector<std::uint8_t> body(o.rest().begin(), o.rest().end());
  const bool route = type == RTM_NEWROUTE;
  if ((how & 8) == 0 && route && body.size() >= sizeof(rtmsg)) body[7] = RTN_UNICAST;
  if ((how & 16) == 0 && !route && body.size() >= 8) std::memcpy(&body[4], &kInterface, 4);  // where they have it
  nlmsghdr header{};
  header.nlmsg_len = static_cast<std::uint32_t>(sizeof header + body.size());
  header.nlmsg_type = (how & 1) != 0 ? static_cast<std::uint16_t>(flags % 4) : type;
  header.nlmsg_flags = (how & 2) != 0 ? flags : static_cast<std::uint16_t>(NLM_F_MULTI);
  header.nlmsg_seq = (how & 4) != 0 ? flags : sequence;
  if ((how & 32) != 0) header.nlmsg_len = flags;
  std::vector<std::uint8_t> datagram(sizeof header);
  std::memcpy(datagram.data(), &header, sizeof header);
  datagram.insert(datagram.end(), body.begin(), body.end());
  return datagram;
}

void check_hops(std::vector<Address> own, std::vector<KernelRoute> routes, std::vector<KernelNeighbour> neighbours) {
  const NextHops hops{{own, routes, neighbours}};
  std::vector<Address> asked = own;
  for (const KernelRoute& route : routes) asked.insert(asked.end(), {route.destination, route.gateway});
  for (const KernelNeighbour& neighbour : neighbours) asked.push_back(neighbour.address);
  for (const Address& to : asked) {
    if (to.none()) continue;
    NextHops::Hop hop;
    const NextHops::Found found = hops.find(to, own.empty() ? Address{} : own.back(), hop);
    if (found == NextHops::Found::kNoRoute) continue;
    WG_CHECK(!hop.next.none());
    const auto has_mac = [&](const KernelNeighbour& n) { return n.address == hop.next && n.mac == hop.mac; };
    if (found == NextHops::Found::kReady) WG_CHECK(std::ranges::any_of(neighbours, has_mac));
    if (!hop.source.none())
      WG_CHECK(std::ranges::find(own, hop.source) != own.end() ||
               std::ranges::any_of(routes, [&](const KernelRoute& r) { return r.source == hop.source; }));
  }
  static_cast<void>(hops.take_used());
  static_cast<void>(hops.gateways_without_mac());
}

}  // namespace
}  // namespace wireplane

// ---- the socket

struct mnl_socket {};
extern "C" {
mnl_socket* mnl_socket_open(int) { return new mnl_socket; }
mnl_socket* mnl_socket_open2(int, int) { return new mnl_socket; }
int mnl_socket_bind(mnl_socket*, unsigned, pid_t) { return 0; }
int mnl_socket_close(mnl_socket* socket) {
  delete socket;
  return 0;
}
unsigned mnl_socket_get_portid(const mnl_socket*) { return 0; }
int mnl_socket_setsockopt(const mnl_socket*, int, void*, socklen_t) { return 0; }
int mnl_socket_get_fd(const mnl_socket*) { return -1; }
ssize_t mnl_socket_sendto(const mnl_socket*, const void* request, std::size_t count) {
  wireplane::kernel->sequence = static_cast<const nlmsghdr*>(request)->nlmsg_seq;
  return static_cast<ssize_t>(count);
}
// In memory of exactly its size, so that reading behind it is seen.
int mnl_cb_run(const void* buffer, std::size_t count, unsigned sequence, unsigned port, mnl_cb_t each, void* data) {
  static const auto real = reinterpret_cast<decltype(&mnl_cb_run)>(dlsym(RTLD_NEXT, "mnl_cb_run"));
  const auto* octets = static_cast<const std::uint8_t*>(buffer);
  const std::unique_ptr<std::uint8_t[]> exact{new std::uint8_t[count]};
  std::copy_n(octets, count, exact.get());
  return real(exact.get(), count, sequence, port, each, data);
}
ssize_t mnl_socket_recvfrom(const mnl_socket*, void* buffer, std::size_t room) {
  auto& waiting = wireplane::kernel->datagrams;
  if (waiting.empty()) {  // a dump's end, which nobody has left out yet
    nlmsghdr done{};
    done.nlmsg_len = sizeof done + 4;
    done.nlmsg_type = NLMSG_DONE;
    done.nlmsg_seq = wireplane::kernel->sequence;
    std::memset(buffer, 0, sizeof done + 4);
    std::memcpy(buffer, &done, sizeof done);
    return sizeof done + 4;
  }
  const std::vector<std::uint8_t> next = std::move(waiting.front());
  waiting.pop_front();
  const std::size_t count = std::min(room, next.size());
  std::memcpy(buffer, next.data(), count);
  return static_cast<ssize_t>(count);
}
}

WIREPLANE_FUZZ_PROGRAMS(wireplane::kGrammar)

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace wireplane;
  Kernel now;
  kernel = &now;
  Result<Netlink> netlink = Netlink::open();
  WG_CHECK(static_cast<bool>(netlink));
  const fuzz::Program program = fuzz::parse({data, size}, 64);
  const auto hear = [&](Kind kind, std::uint16_t type) {  // the sequence number of the request to come is its turn's
    now.datagrams.clear();
    for (const fuzz::Operation& op : program)
      if (op.kind % kKinds == kind)
        now.datagrams.push_back(datagram_of(fuzz::Operands{op.operands}, type, now.sequence + 1));
  };
  hear(kLink, RTM_NEWLINK);
  if (const auto link = netlink->link(kInterface)) WG_CHECK(link->name.size() < 256);
  hear(kAddresses, RTM_NEWADDR);
  const auto own = netlink->addresses(kInterface);
  hear(kRoutes, RTM_NEWROUTE);
  const auto routes = netlink->routes(kInterface);
  hear(kNeighbours, RTM_NEWNEIGH);
  const auto neighbours = netlink->neighbours(kInterface);
  hear(kAcknowledge, NLMSG_ERROR);
  static_cast<void>(netlink->set_link(kInterface, true, 1420));
  if (own && routes && neighbours) check_hops(*own, *routes, *neighbours);
  return 0;
}
