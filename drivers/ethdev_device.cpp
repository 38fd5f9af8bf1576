// The devices, and the module's door.
#include <linux/filter.h>
#include <netinet/in.h>
#include <rte_bus.h>
#include <rte_dev.h>
#include <rte_errno.h>
#include <rte_ethdev.h>
#include <sys/random.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <new>

#include "drivers/ethdev.h"
#include "drivers/ethdev_port.h"
#include "drivers/steering.h"

namespace wireplane {
namespace {

constexpr std::uint16_t kDescriptors = 1024;
constexpr std::uint16_t kFirstEphemeralPort = 49152;  // RFC 6335 §6

Error failed(const std::string& what, int code) {
  return Error{what + ": " + rte_strerror(code < 0 ? -code : code), code < 0 ? -code : code};
}

bool is_pci(const std::string& device) { return device.size() >= 7 && (device[2] == ':' || device[4] == ':'); }

std::uint64_t random_number() {
  std::uint64_t number = 0;
  static_cast<void>(::getrandom(&number, sizeof number, 0));
  return number;
}

// ---- a DPDK port's life

class DpdkPort {
 public:
  [[nodiscard]] static Result<std::unique_ptr<DpdkPort>> open(const EthdevOptions& options, MempoolBuffers& pool);
  ~DpdkPort() {
    rte_eth_dev_stop(id_);
    rte_eth_dev_info info;
    const bool known = rte_eth_dev_info_get(id_, &info) == 0;
    rte_eth_dev_close(id_);
    if (known && info.device != nullptr) rte_dev_remove(info.device);
  }
  DpdkPort(const DpdkPort&) = delete;
  DpdkPort& operator=(const DpdkPort&) = delete;

  [[nodiscard]] std::uint16_t id() const { return id_; }
  [[nodiscard]] const rte_eth_conf& configuration() const { return configuration_; }

 private:
  DpdkPort(std::uint16_t id, std::string name) : id_{id}, name_{std::move(name)} {}
  Status configure(const EthdevOptions& options, MempoolBuffers& pool);
  Status set_queues(unsigned queues, MempoolBuffers& pool, const rte_eth_dev_info& info);

  std::uint16_t id_;
  std::string name_;
  rte_eth_conf configuration_{};
};

Result<std::unique_ptr<DpdkPort>> DpdkPort::open(const EthdevOptions& options, MempoolBuffers& pool) {
  const std::string name = options.device.substr(0, options.device.find(','));
  std::uint16_t id;
  if (rte_eth_dev_get_port_by_name(name.c_str(), &id) != 0) {  // a PCI device may have been found when EAL started
    const int outcome = rte_dev_probe(options.device.c_str());
    if (outcome != 0) return failed("opening DPDK device \"" + options.device + "\"", outcome);
    if (rte_eth_dev_get_port_by_name(name.c_str(), &id) != 0)
      return Error{"DPDK device \"" + options.device + "\" is no network device", ENODEV};
  }
  std::unique_ptr<DpdkPort> port{new DpdkPort{id, name}};
  const Status configured = port->configure(options, pool);
  if (!configured) return configured.error();
  return port;
}

Status DpdkPort::configure(const EthdevOptions& options, MempoolBuffers& pool) {
  rte_eth_dev_info info;
  if (const int outcome = rte_eth_dev_info_get(id_, &info); outcome != 0) return failed("asking " + name_, outcome);
  const unsigned most = std::min(info.max_rx_queues, info.max_tx_queues);
  if (options.queues == 0 || options.queues > most)
    return Error{name_ + ": expected 1 to " + std::to_string(most) + " queues, got " + std::to_string(options.queues),
                 EINVAL};
  configuration_.rxmode.offloads =
      info.rx_offload_capa & (RTE_ETH_RX_OFFLOAD_IPV4_CKSUM | RTE_ETH_RX_OFFLOAD_UDP_CKSUM);
  configuration_.txmode.offloads =
      info.tx_offload_capa & (RTE_ETH_TX_OFFLOAD_IPV4_CKSUM | RTE_ETH_TX_OFFLOAD_UDP_CKSUM);
  const std::uint64_t hashes = info.flow_type_rss_offloads & (RTE_ETH_RSS_IP | RTE_ETH_RSS_UDP);
  if (options.queues > 1 && hashes != 0) {
    configuration_.rxmode.mq_mode = RTE_ETH_MQ_RX_RSS;
    configuration_.rx_adv_conf.rss_conf.rss_hf = hashes;
  }
  const auto queues = static_cast<std::uint16_t>(options.queues);
  if (const int outcome = rte_eth_dev_configure(id_, queues, queues, &configuration_); outcome != 0)
    return failed("configuring " + name_, outcome);
  if (options.mtu != 0)
    if (const int outcome = rte_eth_dev_set_mtu(id_, static_cast<std::uint16_t>(options.mtu)); outcome != 0)
      return failed("setting MTU " + std::to_string(options.mtu) + " on " + name_, outcome);
  if (const Status set = set_queues(options.queues, pool, info); !set) return set.error();
  if (const int outcome = rte_eth_dev_start(id_); outcome != 0) return failed("starting " + name_, outcome);
  // Wishes: virtual devices take every frame anyway, and what is not ours is counted and left.
  static_cast<void>(rte_eth_allmulticast_enable(id_));
  if (options.mac) static_cast<void>(rte_eth_promiscuous_enable(id_));
  return Nothing{};
}

Status DpdkPort::set_queues(unsigned queues, MempoolBuffers& pool, const rte_eth_dev_info& info) {
  std::uint16_t receive = kDescriptors, send = kDescriptors;
  rte_eth_dev_adjust_nb_rx_tx_desc(id_, &receive, &send);
  const int socket = rte_eth_dev_socket_id(id_);
  rte_eth_rxconf rx = info.default_rxconf;
  rx.offloads = configuration_.rxmode.offloads;
  rte_eth_txconf tx = info.default_txconf;
  tx.offloads = configuration_.txmode.offloads;
  for (std::uint16_t queue = 0; queue < queues; ++queue) {
    int outcome = rte_eth_rx_queue_setup(id_, queue, receive, static_cast<unsigned>(socket), &rx, pool.native());
    if (outcome == 0) outcome = rte_eth_tx_queue_setup(id_, queue, send, static_cast<unsigned>(socket), &tx);
    if (outcome != 0) return failed("setting up queue " + std::to_string(queue) + " of " + name_, outcome);
  }
  return Nothing{};
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

  EthdevOptions options;
  EthdevLink link;
  std::unique_ptr<DpdkPort> port;
  std::optional<HeldPort> held;

  template <class QueuePort>
  void make_queues() {
    for (unsigned i = 0; i < options.queues; ++i) queues.push_back(std::make_unique<QueuePort>(link, i));
  }
  [[nodiscard]] std::string describe() const {
    std::string text = "ethdev " + options.device + " x" + std::to_string(options.queues) + ", " + mac_text(link.mac) +
                       ", MTU " + std::to_string(link.mtu) + ", UDP checksums by " +
                       (link.udp_offload ? "the device" : "us");
    if (link.neighbours->uses_kernel()) text += ", next hops of the kernel's " + options.kernel_interface;
    return text + (eal_has_huge_pages() ? "" : ", without huge pages");
  }
  Status set_listen_port(std::uint16_t wanted);

  std::vector<std::unique_ptr<EthdevPort>> queues;
};

Result<std::unique_ptr<EthdevBody>> EthdevBody::open(const EthdevOptions& asked, MempoolBuffers& pool) {
  auto body = std::make_unique<EthdevBody>();
  EthdevOptions& options = body->options = asked;
  const std::string shared = shared_interface_of(options.device);
  if (options.kernel_interface.empty()) options.kernel_interface = shared;
  if (options.kernel_interface == "none") options.kernel_interface.clear();

  auto neighbours = Neighbours::open({.kernel_interface = options.kernel_interface,
                                      .own = options.addresses,
                                      .gateway_v4 = options.gateway_v4,
                                      .gateway_v6 = options.gateway_v6,
                                      .gateway_mac = options.gateway_mac,
                                      .secret = random_number()},
                                     options.queues);
  if (!neighbours) return neighbours.error();
  auto port = DpdkPort::open(options, pool);
  if (!port) return port.error();
  body->port = std::move(*port);

  EthdevLink& link = body->link;
  link.port = body->port->id();
  link.neighbours = std::move(*neighbours);
  link.vlan = options.vlan;
  link.pool = &pool;
  link.local_sender = !shared.empty();
  link.ip_offload = (body->port->configuration().txmode.offloads & RTE_ETH_TX_OFFLOAD_IPV4_CKSUM) != 0;
  link.udp_offload = (body->port->configuration().txmode.offloads & RTE_ETH_TX_OFFLOAD_UDP_CKSUM) != 0;
  rte_ether_addr mac;
  if (const int outcome = rte_eth_macaddr_get(link.port, &mac); outcome != 0)
    return failed("reading the MAC address of " + options.device, outcome);
  std::memcpy(link.mac.data(), mac.addr_bytes, link.mac.size());
  if (options.mac) link.mac = *options.mac;
  std::uint16_t mtu = 0;
  link.mtu = rte_eth_dev_get_mtu(link.port, &mtu) == 0 && mtu != 0 ? mtu : 1500;
  return body;
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
  link.listen_port.store(wanted);
  return Nothing{};
}

class EthdevOuterDevice final : public OuterDevice {
 public:
  explicit EthdevOuterDevice(std::unique_ptr<EthdevBody> body) : body_{std::move(body)} {}
  [[nodiscard]] unsigned queues() const override { return static_cast<unsigned>(body_->queues.size()); }
  [[nodiscard]] Port& queue(unsigned worker) override { return *body_->queues.at(worker); }
  [[nodiscard]] std::string describe() const override { return body_->describe(); }
  Status set_listen_port(std::uint16_t port) override { return body_->set_listen_port(port); }
  [[nodiscard]] std::uint16_t listen_port() const override { return body_->link.listen_port.load(); }
  Status set_fwmark(std::uint32_t) override { return Nothing{}; }  // marks are for the kernel's routing; this is not it

 private:
  std::unique_ptr<EthdevBody> body_;
};

class EthdevInnerDevice final : public InnerDevice {
 public:
  explicit EthdevInnerDevice(std::unique_ptr<EthdevBody> body) : body_{std::move(body)} {}
  [[nodiscard]] unsigned queues() const override { return static_cast<unsigned>(body_->queues.size()); }
  [[nodiscard]] Port& queue(unsigned worker) override { return *body_->queues.at(worker); }
  [[nodiscard]] std::string describe() const override { return body_->describe(); }

 private:
  std::unique_ptr<EthdevBody> body_;
};

// ---- the set

class EthdevSetOfModule final : public EthdevSet {
 public:
  [[nodiscard]] static Result<EthdevSet*> open(const EthdevSetOptions& options);
  [[nodiscard]] BufferPool& pool() override { return *pool_; }
  [[nodiscard]] std::unique_ptr<OuterDevice> take_outer() override { return std::move(outer_); }
  [[nodiscard]] std::unique_ptr<InnerDevice> take_inner() override { return std::move(inner_); }
  Status poll(Instant now) override {
    for (const auto& neighbours : neighbours_)
      if (const Status polled = neighbours->poll(now); !polled) return polled.error();
    return Nothing{};
  }

 private:
  std::unique_ptr<MempoolBuffers> pool_;  // goes last
  std::vector<std::shared_ptr<Neighbours>> neighbours_;
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
  const std::size_t buffers = options.buffers + queues * (2 * kDescriptors + 512);
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
    set->neighbours_.push_back((*body)->link.neighbours);
    set->outer_ = std::make_unique<EthdevOuterDevice>(std::move(*body));
  }
  if (options.inner) {
    auto body = EthdevBody::open(*options.inner, *set->pool_);
    if (!body) return body.error();
    (*body)->make_queues<EthdevInnerPort>();
    set->neighbours_.push_back((*body)->link.neighbours);
    set->inner_ = std::make_unique<EthdevInnerDevice>(std::move(*body));
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
