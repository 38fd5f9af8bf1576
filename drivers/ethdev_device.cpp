// The devices, and the module's door.
#include <linux/filter.h>
#include <net/if.h>
#include <netinet/in.h>
#include <rte_ethdev.h>
#include <sys/random.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <new>

#include "drivers/ethdev.h"
#include "drivers/ethdev_port.h"
#include "drivers/ethdev_xdp.h"
#include "drivers/spreading.h"
#include "drivers/steering.h"

namespace wireplane {
namespace {

constexpr std::size_t kBuffersOfQueue = 2 * 1024 + 512;  // receive ring full, send ring perhaps, caches
constexpr Duration kPlugAgainAfter = 1s;
constexpr std::uint16_t kFirstEphemeralPort = 49152;  // RFC 6335 §6

bool is_pci(const std::string& device) { return device.size() >= 7 && (device[2] == ':' || device[4] == ':'); }

std::uint64_t random_number() {
  std::uint64_t number = 0;
  static_cast<void>(::getrandom(&number, sizeof number, 0));
  return number;
}

// ---- holding a port of the kernel's

// Where the kernel sees the same frames, it would answer our datagrams with "port unreachable", and let another program
// take the port: these sockets hold it, and their filter throws everything away.
class HeldPort {
 public:
  [[nodiscard]] static Result<HeldPort> hold(std::uint16_t port) {
    HeldPort held;
    held.port_ = port;
    for (const int family : {AF_INET, AF_INET6}) {
      FileDescriptor fd{::socket(family, SOCK_DGRAM | SOCK_CLOEXEC, 0)};
      if (!fd && errno == EAFNOSUPPORT) continue;
      sock_filter nothing{BPF_RET | BPF_K, 0, 0, 0};
      const sock_fprog program{1, &nothing};
      const int one = 1;
      if (!fd || ::setsockopt(fd.get(), SOL_SOCKET, SO_ATTACH_FILTER, &program, sizeof program) != 0 ||
          (family == AF_INET6 && ::setsockopt(fd.get(), IPPROTO_IPV6, IPV6_V6ONLY, &one, sizeof one) != 0) ||
          !held.bind(fd.get(), family))
        return Error{"holding UDP port " + std::to_string(held.port_) + ": " + std::strerror(errno), errno};
      (family == AF_INET ? held.v4_ : held.v6_) = std::move(fd);
    }
    return held;
  }
  [[nodiscard]] std::uint16_t port() const { return port_; }

 private:
  bool bind(int fd, int family) {
    sockaddr_in6 address{};
    address.sin6_family = static_cast<sa_family_t>(family);
    address.sin6_port = htons(port_);  // at the same place in sockaddr_in
    socklen_t length = family == AF_INET ? sizeof(sockaddr_in) : sizeof address;
    if (::bind(fd, reinterpret_cast<sockaddr*>(&address), length) != 0) return false;
    if (port_ == 0 && ::getsockname(fd, reinterpret_cast<sockaddr*>(&address), &length) == 0)
      port_ = ntohs(address.sin6_port);
    return true;
  }
  std::uint16_t port_ = 0;
  FileDescriptor v4_, v6_;
};

// ---- devices

// What outer and inner devices have in common.
class EthdevBody {
 public:
  [[nodiscard]] static Result<std::unique_ptr<EthdevBody>> open(const EthdevOptions& options, MempoolBuffers& pool);
  EthdevBody(const EthdevOptions& asked, std::shared_ptr<Neighbours> neighbours)
      : options{asked}, link{asked.queues, std::move(neighbours)} {}

  template <class QueuePort>
  void make_queues() {
    for (unsigned i = 0; i < options.queues; ++i) {
      queues.push_back(std::make_unique<QueuePort>(link, i));
      link.ports.push_back(queues.back().get());
    }
  }
  [[nodiscard]] std::string describe() const;
  Status set_listen_port(std::uint16_t wanted);
  Status poll(Instant now);

  EthdevOptions options;
  std::string shared;  // the kernel's interface behind the device; empty: none
  EthdevLink link;
  std::optional<HeldPort> held;
  std::vector<std::unique_ptr<EthdevPort>> queues;
  std::vector<std::string> news;

 private:
  Status plug_in();
  void unplug();

  std::uint32_t plugged_ = 0;  // ifindex behind what is plugged in
  Instant plug_again_{};
  std::string told_;  // so that trying again does not fill the log
  XdpFilter filter_;
};

Result<std::unique_ptr<EthdevBody>> EthdevBody::open(const EthdevOptions& asked, MempoolBuffers& pool) {
  EthdevOptions options = asked;
  const std::string shared = shared_interface_of(options.device);
  if (options.kernel_interface.empty() && options.vlan == 0) options.kernel_interface = shared;
  if (options.kernel_interface == "none") options.kernel_interface.clear();
  auto neighbours = Neighbours::open({.kernel_interface = options.kernel_interface,
                                      .own = options.addresses,
                                      .gateway_v4 = options.gateway_v4,
                                      .gateway_v6 = options.gateway_v6,
                                      .gateway_mac = options.gateway_mac,
                                      .secret = random_number()},
                                     options.queues);
  if (!neighbours) return neighbours.error();
  auto body = std::make_unique<EthdevBody>(options, std::move(*neighbours));
  body->shared = shared;
  body->link.vlan = options.vlan;
  body->link.pool = &pool;
  body->link.local_sender = !shared.empty() || options.device.starts_with("net_tap");
  if (const Status plugged = body->plug_in(); !plugged) return plugged.error();
  if (const auto& legs = body->link.state.latest().legs; legs.size() != options.queues)
    body->news.push_back(options.device + ": " + std::to_string(legs.size()) + " queues for " +
                         std::to_string(options.queues) + " workers: " +
                         (legs.size() < options.queues
                              ? "some workers receive nothing here and send through others; fewer "
                                "Workers would do as well"
                              : "some workers serve several"));
  return body;
}

// Opens the device; its state is what workers see next.
Status EthdevBody::plug_in() {
  auto state = std::make_unique<EthdevState>();
  std::vector<int> before = XdpFilter::sockets(), sockets;
  const bool filtered = options.device.starts_with("net_af_xdp");
  for (const std::string& device : legs_of(options.device)) {
    auto port = DpdkPort::open(device, options, *link.pool);
    if (!port) return port.error();
    for (std::uint16_t queue = 0; queue < (*port)->queues(); ++queue)
      state->legs.push_back({(*port)->id(), queue, (*port)->interrupts()});
    state->ports.push_back(std::move(*port));
    if (!filtered) continue;
    for (const int fd : XdpFilter::sockets())
      if (std::ranges::find(before, fd) == before.end()) {
        sockets.push_back(fd);
        state->ports.back()->watch(XdpFillRing::map(fd));
      }
    before = XdpFilter::sockets();
  }
  const DpdkPort& first = *state->ports.front();
  rte_ether_addr mac;
  if (const int outcome = rte_eth_macaddr_get(first.id(), &mac); outcome != 0)
    return dpdk_failed("reading the MAC address of " + options.device, outcome);
  std::memcpy(state->mac.data(), mac.addr_bytes, state->mac.size());
  if (options.mac) state->mac = *options.mac;
  std::uint16_t mtu = 0;
  state->mtu = rte_eth_dev_get_mtu(first.id(), &mtu) == 0 && mtu != 0 ? mtu : 1500;
  if (shared.empty() && options.mtu != 0) state->mtu = options.mtu;  // some drivers do not keep what they are told
  state->ip_offload = first.sends(RTE_ETH_TX_OFFLOAD_IPV4_CKSUM);
  state->udp_offload = first.sends(RTE_ETH_TX_OFFLOAD_UDP_CKSUM);
  if (filtered && sockets.size() == state->ports.size() && state->ports.size() == state->legs.size()) {
    auto filter = XdpFilter::open(shared, link.vlan, sockets);
    if (!filter) return filter.error();
    filter_ = std::move(*filter);
    if (const Status taken = filter_.take(link.listen_port.load()); !taken) return taken;
  }
  if (const std::string warning =
          spreading_warning(options.device, static_cast<unsigned>(state->legs.size()),
                            (first.hashes() & RTE_ETH_RSS_IP) != 0, (first.hashes() & RTE_ETH_RSS_UDP) != 0);
      !warning.empty())
    news.push_back(warning);
  plugged_ = shared.empty() ? 0 : ::if_nametoindex(shared.c_str());
  link.state.publish(std::move(state));
  return Nothing{};
}

void EthdevBody::unplug() {
  plugged_ = 0;
  filter_ = {};
  link.state.publish(std::make_unique<const EthdevState>());
}

// Follows the kernel's interface: when it goes, so does the device behind it; when one of that name is there again, the
// device is opened anew. What is sent meanwhile is dropped, counted.
Status EthdevBody::poll(Instant now) {
  link.now_ns.store(now.time_since_epoch().count(), std::memory_order_relaxed);
  if (const Status polled = link.neighbours->poll(now); !polled) return polled;
  const bool closed = link.state.collect();
  if (shared.empty()) return Nothing{};
  const std::uint32_t there =
      link.neighbours->uses_kernel() ? link.neighbours->interface() : ::if_nametoindex(shared.c_str());
  if (there == plugged_) return Nothing{};
  if (plugged_ != 0) {
    unplug();
    news.push_back(told_ = "interface " + shared + " is gone: packets are dropped until it is there again");
    return Nothing{};
  }
  if (!closed || now < plug_again_) return Nothing{};  // a worker still looks at the old one
  plug_again_ = now + kPlugAgainAfter;
  const Status plugged = plug_in();
  std::string outcome = "interface " + shared + " is there again, ";
  outcome += plugged ? "and in use" : "but not usable yet: " + plugged.error().what;
  if (outcome != told_) news.push_back(told_ = outcome);
  return Nothing{};
}

std::string EthdevBody::describe() const {
  const EthdevState& state = link.state.latest();
  std::string text = "ethdev " + options.device + " x" + std::to_string(state.legs.size());
  if (state.legs.empty())
    text += ", unplugged";
  else
    text += ", " + mac_text(state.mac) + ", MTU " + std::to_string(state.mtu) + ", UDP checksums by " +
            (state.udp_offload ? "the device" : "us");
  if (link.vlan != 0) text += ", VLAN " + std::to_string(link.vlan);
  if (link.neighbours->uses_kernel()) text += ", next hops of the kernel's " + options.kernel_interface;
  return text + (eal_has_huge_pages() ? "" : ", without huge pages");
}

Status EthdevBody::set_listen_port(std::uint16_t wanted) {
  if (wanted != 0 && wanted == link.listen_port.load()) return Nothing{};
  if (link.neighbours->uses_kernel()) {
    auto next = HeldPort::hold(wanted);
    for (int i = 0; i < 64 && !next && wanted == 0; ++i) next = HeldPort::hold(wanted);  // free in one family only
    if (!next) return next.error();
    held = std::move(*next);
    wanted = held->port();
  } else if (wanted == 0) {
    wanted = static_cast<std::uint16_t>(kFirstEphemeralPort + random_number() % (65536 - kFirstEphemeralPort));
  }
  if (filter_)
    if (const Status taken = filter_.take(wanted); !taken) return taken;
  link.listen_port.store(wanted);
  return Nothing{};
}

class EthdevOuterDevice final : public OuterDevice {
 public:
  explicit EthdevOuterDevice(std::shared_ptr<EthdevBody> body) : body_{std::move(body)} {}
  [[nodiscard]] unsigned queues() const override { return static_cast<unsigned>(body_->queues.size()); }
  [[nodiscard]] Port& queue(unsigned worker) override { return *body_->queues.at(worker); }
  [[nodiscard]] std::string describe() const override { return body_->describe(); }
  Status set_listen_port(std::uint16_t port) override { return body_->set_listen_port(port); }
  [[nodiscard]] std::uint16_t listen_port() const override { return body_->link.listen_port.load(); }
  Status set_fwmark(std::uint32_t) override { return Nothing{}; }  // marks are for the kernel's routing; this is not it

 private:
  std::shared_ptr<EthdevBody> body_;
};

class EthdevInnerDevice final : public InnerDevice {
 public:
  explicit EthdevInnerDevice(std::shared_ptr<EthdevBody> body) : body_{std::move(body)} {}
  [[nodiscard]] unsigned queues() const override { return static_cast<unsigned>(body_->queues.size()); }
  [[nodiscard]] Port& queue(unsigned worker) override { return *body_->queues.at(worker); }
  [[nodiscard]] std::string describe() const override { return body_->describe(); }

 private:
  std::shared_ptr<EthdevBody> body_;
};

// ---- the set

class EthdevSetOfModule final : public EthdevSet {
 public:
  [[nodiscard]] static Result<EthdevSet*> open(const EthdevSetOptions& options);
  [[nodiscard]] BufferPool& pool() override { return *pool_; }
  [[nodiscard]] std::unique_ptr<OuterDevice> take_outer() override { return std::move(outer_); }
  [[nodiscard]] std::unique_ptr<InnerDevice> take_inner() override { return std::move(inner_); }
  Status poll(Instant now) override {
    Status first = Nothing{};
    for (const auto& one : bodies_)
      if (const auto body = one.lock())
        if (Status polled = body->poll(now); !polled && first) first = std::move(polled);
    return first;
  }
  [[nodiscard]] std::vector<std::string> take_news() override {
    std::vector<std::string> all;
    for (const auto& weak : bodies_)
      if (const auto body = weak.lock())
        for (std::string& one : std::exchange(body->news, {})) all.push_back(std::move(one));
    return all;
  }

 private:
  std::unique_ptr<MempoolBuffers> pool_;           // goes last
  std::vector<std::weak_ptr<EthdevBody>> bodies_;  // their devices own them
  std::unique_ptr<OuterDevice> outer_;
  std::unique_ptr<InnerDevice> inner_;
};

Result<EthdevSet*> EthdevSetOfModule::open(const EthdevSetOptions& options) {
  std::vector<std::string> pci;
  std::size_t queues = 0;
  for (const auto& one : {options.outer, options.inner}) {
    if (!one) continue;
    if (one->queues == 0 || one->queues > kSteeringBuckets)
      return Error{one->device + ": expected 1 to " + std::to_string(kSteeringBuckets) + " queues, got " +
                       std::to_string(one->queues),
                   EINVAL};
    queues += one->queues;
    if (is_pci(one->device)) pci.push_back(one->device);
  }
  // Beside the engine's: receive rings are full of buffers, send rings may be, and threads keep some.
  const std::size_t buffers = options.buffers + queues * kBuffersOfQueue;
  const Status started =
      start_eal(pci, options.eal_arguments, MempoolBuffers::memory_octets(buffers, options.data_room));
  if (!started) return started.error();
  auto set = std::make_unique<EthdevSetOfModule>();
  auto pool = MempoolBuffers::create(buffers, options.data_room);
  if (!pool) return pool.error();
  set->pool_ = std::move(*pool);
  if (options.outer) {
    auto body = EthdevBody::open(*options.outer, *set->pool_);
    if (!body) return body.error();
    (*body)->make_queues<EthdevOuterPort>();
    if (const Status bound = (*body)->set_listen_port(options.outer->listen_port); !bound) return bound.error();
    std::shared_ptr<EthdevBody> shared = std::move(*body);
    set->bodies_.push_back(shared);
    set->outer_ = std::make_unique<EthdevOuterDevice>(std::move(shared));
  }
  if (options.inner) {
    auto body = EthdevBody::open(*options.inner, *set->pool_);
    if (!body) return body.error();
    (*body)->make_queues<EthdevInnerPort>();
    std::shared_ptr<EthdevBody> shared = std::move(*body);
    set->bodies_.push_back(shared);
    set->inner_ = std::make_unique<EthdevInnerDevice>(std::move(shared));
  }
  return static_cast<EthdevSet*>(set.release());
}

}  // namespace
}  // namespace wireplane

extern "C" __attribute__((visibility("default"))) wireplane::EthdevSet* wireplane_open_ethdev(
    const wireplane::EthdevSetOptions& options, const char* version, wireplane::Error& error) {
  if (std::strcmp(version, wireplane::kEthdevModuleVersion) != 0) {
    error = {std::string{"the ethdev module is of another build: "} + wireplane::kEthdevModuleVersion +
                 ", and the program of " + version,
             ENOEXEC};
    return nullptr;
  }
  auto set = wireplane::EthdevSetOfModule::open(options);
  if (set) return *set;
  error = set.error();
  return nullptr;
}
