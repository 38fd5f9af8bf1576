#include "drivers/ethdev_dpdk.h"

#include <linux/ethtool.h>
#include <linux/sockios.h>
#include <net/if.h>
#include <rte_dev.h>
#include <rte_errno.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

namespace wireplane {
namespace {

constexpr std::uint16_t kDescriptors = 1024;
constexpr std::uint32_t kFrameOverhead = 18;  // Ethernet's header and check sequence

// How many receive queues the kernel's interface has; 1 if it does not say.
unsigned queues_of_interface(const std::string& interface) {
  const FileDescriptor fd{::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0)};
  ethtool_channels channels{};
  channels.cmd = ETHTOOL_GCHANNELS;
  ifreq request{};
  std::strncpy(request.ifr_name, interface.c_str(), IFNAMSIZ - 1);
  request.ifr_data = reinterpret_cast<char*>(&channels);
  if (!fd || ::ioctl(fd.get(), SIOCETHTOOL, &request) != 0) return 1;
  return std::max(1u, channels.rx_count + channels.combined_count);
}

}  // namespace

Error dpdk_failed(const std::string& what, int code) {
  return Error{what + ": " + rte_strerror(code < 0 ? -code : code), code < 0 ? -code : code};
}

std::vector<std::string> legs_of(const std::string& device) {
  if (!device.starts_with("net_af_xdp") || device.find("start_queue=") != device.npos ||
      device.find("queue_count=") != device.npos)
    return {device};
  const std::size_t comma = std::min(device.find(','), device.size());
  const unsigned queues = queues_of_interface(shared_interface_of(device));
  std::vector<std::string> legs;
  for (unsigned queue = 0; queue < queues; ++queue)
    legs.push_back(device.substr(0, comma) + "_q" + std::to_string(queue) + device.substr(comma) +
                   ",start_queue=" + std::to_string(queue));
  return legs;
}

Result<std::unique_ptr<DpdkPort>> DpdkPort::open(const std::string& device, const EthdevOptions& options,
                                                 MempoolBuffers& pool) {
  const std::string name = device.substr(0, device.find(','));
  std::uint16_t id;
  if (rte_eth_dev_get_port_by_name(name.c_str(), &id) != 0) {  // a PCI device may have been found when EAL started
    const int outcome = rte_dev_probe(device.c_str());
    if (outcome != 0) return dpdk_failed("opening DPDK device \"" + device + "\"", outcome);
    if (rte_eth_dev_get_port_by_name(name.c_str(), &id) != 0)
      return Error{"DPDK device \"" + device + "\" is no network device", ENODEV};
  }
  std::unique_ptr<DpdkPort> port{new DpdkPort{id, name, pool}};
  const Status configured = port->configure(options, pool);
  if (!configured) return configured.error();
  return port;
}

DpdkPort::~DpdkPort() {
  rte_mbuf* frames[64];  // what is there already is lost with the device; its buffers are not
  while (ring_)
    if (const std::uint16_t count = rte_eth_rx_burst(id_, 0, frames, std::size(frames)); count != 0)
      rte_pktmbuf_free_bulk(frames, count);
    else
      break;
  rte_eth_dev_stop(id_);
  rte_eth_dev_info info;
  const bool known = rte_eth_dev_info_get(id_, &info) == 0;
  rte_eth_dev_close(id_);
  if (known && info.device != nullptr) rte_dev_remove(info.device);
  if (ring_) pool_.give_back_lost(ring_->addresses());
}

Status DpdkPort::configure(const EthdevOptions& options, MempoolBuffers& pool) {
  rte_eth_dev_info info;
  if (const int outcome = rte_eth_dev_info_get(id_, &info); outcome != 0)
    return dpdk_failed("asking " + name_, outcome);
  const unsigned most = std::min(info.max_rx_queues, info.max_tx_queues);
  if (most == 0) return Error{name_ + " has no queues for packets", ENODEV};
  queues_ = static_cast<std::uint16_t>(std::min(options.queues, most));
  configuration_.rxmode.offloads =
      info.rx_offload_capa & (RTE_ETH_RX_OFFLOAD_IPV4_CKSUM | RTE_ETH_RX_OFFLOAD_UDP_CKSUM);
  configuration_.txmode.offloads =
      info.tx_offload_capa & (RTE_ETH_TX_OFFLOAD_IPV4_CKSUM | RTE_ETH_TX_OFFLOAD_UDP_CKSUM);
  hashes_ = info.flow_type_rss_offloads & (RTE_ETH_RSS_IP | RTE_ETH_RSS_UDP);
  if (queues_ > 1 && hashes_ != 0) {
    configuration_.rxmode.mq_mode = RTE_ETH_MQ_RX_RSS;
    configuration_.rx_adv_conf.rss_conf.rss_hf = hashes_;
  }
  if (options.mtu != 0 && options.mtu <= info.max_mtu && options.mtu + kFrameOverhead <= info.max_rx_pktlen)
    configuration_.rxmode.mtu = options.mtu;
  configuration_.intr_conf.rxq = 1;  // not every driver can, and some say so only here
  if (const Status started = start(options, pool, info); started) {
    interrupts_ = can_interrupt();
    return started;
  }
  rte_eth_dev_stop(id_);
  configuration_.intr_conf.rxq = 0;
  return start(options, pool, info);
}

// DPDK writes a line about every driver that cannot; ours is that such a worker takes naps.
bool DpdkPort::can_interrupt() const {
  const int level = rte_log_get_level(rte_eth_dev_logtype);
  static_cast<void>(rte_log_set_level(rte_eth_dev_logtype, RTE_LOG_CRIT));
  const bool can = rte_eth_dev_rx_intr_ctl_q_get_fd(id_, 0) >= 0 && rte_eth_dev_rx_intr_enable(id_, 0) == 0 &&
                   rte_eth_dev_rx_intr_disable(id_, 0) == 0;
  static_cast<void>(rte_log_set_level(rte_eth_dev_logtype, static_cast<unsigned>(level)));
  return can;
}

Status DpdkPort::start(const EthdevOptions& options, MempoolBuffers& pool, const rte_eth_dev_info& info) {
  if (const int outcome = rte_eth_dev_configure(id_, queues_, queues_, &configuration_); outcome != 0)
    return dpdk_failed("configuring " + name_, outcome);
  if (options.mtu != 0)  // where the driver has no word for it, it carries what fits its buffers
    if (const int outcome = rte_eth_dev_set_mtu(id_, static_cast<std::uint16_t>(options.mtu));
        outcome != 0 && outcome != -ENOTSUP)
      return dpdk_failed("setting MTU " + std::to_string(options.mtu) + " on " + name_, outcome);
  if (const Status set = set_queues(pool, info); !set) return set;
  if (const int outcome = rte_eth_dev_start(id_); outcome != 0) return dpdk_failed("starting " + name_, outcome);
  // Wishes: virtual devices take every frame anyway, and what is not ours is counted and left.
  static_cast<void>(rte_eth_allmulticast_enable(id_));
  if (options.mac) static_cast<void>(rte_eth_promiscuous_enable(id_));
  return Nothing{};
}

Status DpdkPort::set_queues(MempoolBuffers& pool, const rte_eth_dev_info& info) {
  std::uint16_t receive = kDescriptors, send = kDescriptors;
  rte_eth_dev_adjust_nb_rx_tx_desc(id_, &receive, &send);
  const int socket = rte_eth_dev_socket_id(id_);
  rte_eth_rxconf rx = info.default_rxconf;
  rx.offloads = configuration_.rxmode.offloads;
  rte_eth_txconf tx = info.default_txconf;
  tx.offloads = configuration_.txmode.offloads;
  for (std::uint16_t queue = 0; queue < queues_; ++queue) {
    int outcome = rte_eth_rx_queue_setup(id_, queue, receive, static_cast<unsigned>(socket), &rx, pool.native());
    if (outcome == 0) outcome = rte_eth_tx_queue_setup(id_, queue, send, static_cast<unsigned>(socket), &tx);
    if (outcome != 0) return dpdk_failed("setting up queue " + std::to_string(queue) + " of " + name_, outcome);
  }
  return Nothing{};
}

}  // namespace wireplane
