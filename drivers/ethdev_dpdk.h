// ethdev_dpdk.h: one DPDK port from its probing to its removal, and what the queues of a device share. Inside of the
// ethdev module.
//
//   device string --legs_of()--> one DPDK port, or one a kernel queue (af_xdp) --open()--> DpdkPort, with its queues
//
// A *leg* is one receive queue of one DPDK port with its send queue. Leg i is worked by worker i mod workers: a worker
// may have several, or none; one without a leg sends through another's (EthdevPort::lend).
// Which legs there are is published: control takes them away when the kernel's interface is gone, and workers go on
// without. The DPDK port is closed when no worker holds the old state any more: by control, in Published::collect().
#pragma once
#include <rte_ethdev.h>

#include <atomic>
#include <memory>
#include <string>
#include <vector>

#include "dataplane/base/ring.h"
#include "drivers/eal.h"
#include "drivers/ethdev.h"
#include "drivers/ethdev_xdp.h"
#include "drivers/neighbours.h"
#include "drivers/published.h"

namespace wireplane {

class EthdevPort;

class DpdkPort {
 public:
  // `device` as DPDK writes it; the number of queues is what the device has, at most options.queues.
  [[nodiscard]] static Result<std::unique_ptr<DpdkPort>> open(const std::string& device, const EthdevOptions& options,
                                                              MempoolBuffers& pool);
  ~DpdkPort();
  DpdkPort(const DpdkPort&) = delete;
  DpdkPort& operator=(const DpdkPort&) = delete;

  void watch(XdpFillRing ring) { ring_.emplace(std::move(ring)); }  // of an af_xdp device: whose buffers it would lose

  [[nodiscard]] std::uint16_t id() const { return id_; }
  [[nodiscard]] std::uint16_t queues() const { return queues_; }
  [[nodiscard]] bool sends(std::uint64_t offload) const { return (configuration_.txmode.offloads & offload) != 0; }
  [[nodiscard]] bool interrupts() const { return interrupts_; }   // a worker may sleep until a frame comes
  [[nodiscard]] std::uint64_t hashes() const { return hashes_; }  // RTE_ETH_RSS_*; 0: the device does not spread

 private:
  DpdkPort(std::uint16_t id, std::string name, MempoolBuffers& pool) : id_{id}, name_{std::move(name)}, pool_{pool} {}
  Status configure(const EthdevOptions& options, MempoolBuffers& pool);
  Status start(const EthdevOptions& options, MempoolBuffers& pool, const rte_eth_dev_info& info);
  [[nodiscard]] bool can_interrupt() const;
  Status set_queues(MempoolBuffers& pool, const rte_eth_dev_info& info);

  std::uint16_t id_, queues_ = 0;
  bool interrupts_ = false;
  std::uint64_t hashes_ = 0;
  std::string name_;
  MempoolBuffers& pool_;
  std::optional<XdpFillRing> ring_;
  rte_eth_conf configuration_{};
};

// What is plugged in now: immutable.
struct EthdevState {
  struct Leg {
    std::uint16_t port, queue;
    bool interrupts;
  };
  std::vector<Leg> legs;  // none: unplugged
  MacAddress mac{};
  std::size_t mtu{};
  bool ip_offload = false, udp_offload = false;  // the device computes
  std::vector<std::unique_ptr<DpdkPort>> ports;
};

// What all queues of a device share.
struct EthdevLink {
  EthdevLink(unsigned worker_count, std::shared_ptr<Neighbours> next_hops)
      : workers{worker_count},
        neighbours{std::move(next_hops)},
        state{worker_count, std::make_unique<const EthdevState>()} {}
  const unsigned workers;
  std::uint16_t vlan{};
  bool local_sender = false;  // the frames' checksums may be left to a device
  MempoolBuffers* pool{};
  std::shared_ptr<Neighbours> neighbours;
  std::vector<EthdevPort*> ports;  // by worker
  Published<EthdevState> state;
  std::atomic<std::uint16_t> listen_port{0};
  std::atomic<std::int64_t> now_ns{0};  // control's clock, when it last polled
};

// The device strings that one configured string stands for. DPDK's af_xdp drives queues that the kernel knows as
// "combined" only; veth has none, and every device works with one port a queue: so that is what we always do, unless
// the string says start_queue or queue_count itself.
[[nodiscard]] std::vector<std::string> legs_of(const std::string& device);

[[nodiscard]] Error dpdk_failed(const std::string& what, int code);

}  // namespace wireplane
