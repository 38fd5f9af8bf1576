// tun_port.h: the kernel's TUN device as an inner port: the host's IP packets in, ours out.
//
// One descriptor a worker (IFF_MULTI_QUEUE where there are several): the kernel keeps a flow on its queue.
// One system call a packet: no packet info, no offload header. Lives in the network namespace that opened it; the
// interface disappears with the device. While it is down, what we deliver is dropped, counted.
#pragma once
#include <memory>
#include <string>
#include <vector>

#include "dataplane/port.h"

namespace wireplane {

struct TunOptions {
  std::string name;  // empty: the kernel chooses ("tun0")
  unsigned queues = 1;
  std::uint32_t mtu = 1420;  // 1500 - 40 (IPv6) - 8 (UDP) - 32 (ours)
  bool up = true;
};

class TunPort;

// The engine's buffer pool must outlive it: ports keep a buffer ready for the next packet.
class TunDevice final : public InnerDevice {
 public:
  [[nodiscard]] static Result<std::unique_ptr<TunDevice>> open(const TunOptions& options);
  ~TunDevice() override;

  [[nodiscard]] unsigned queues() const override { return static_cast<unsigned>(ports_.size()); }
  [[nodiscard]] Port& queue(unsigned worker) override;
  [[nodiscard]] std::string describe() const override;

  [[nodiscard]] const std::string& name() const { return name_; }
  [[nodiscard]] std::uint32_t interface() const { return interface_; }  // ifindex, for netlink.h

 private:
  TunDevice();
  std::string name_;
  std::uint32_t interface_ = 0;
  std::vector<std::unique_ptr<TunPort>> ports_;
};

}  // namespace wireplane
