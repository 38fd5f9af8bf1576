// udp_port.h: the kernel's UDP sockets as an outer port.
//
//   worker 0   socket v4 \            / socket v6
//   worker 1   socket v4  } one port {  socket v6      SO_REUSEPORT groups, one a family; a classic BPF program sends
//   worker 2   socket v4 /            \ socket v6      what carries a receiver index to that index's owner
//
// The first socket of a family binds without SO_REUSEPORT and turns it on afterwards: a second engine on the same port
// is refused, as it would be by the kernel's WireGuard, instead of taking half of our datagrams. Replies leave from the
// address the peer reached us at (P37); a source that is gone is forgotten for that datagram. Outer packets may be
// fragmented (no DF), as the kernel's WireGuard allows. Sending is udp_sender.h's business, receiving udp_receiver.h's.
// Cost: one recvmmsg a family and burst, one sendmmsg likewise; nothing is allocated for a packet.
#pragma once
#include <memory>
#include <string>
#include <vector>

#include "dataplane/port.h"
#include "drivers/steering.h"

namespace wireplane {

class TrainBuffers;

struct UdpOptions {
  unsigned workers = 1;           // at most kSteeringBuckets
  std::uint16_t listen_port = 0;  // 0: any that is free in both families
  std::uint32_t fwmark = 0;       // SO_MARK; 0: none
  bool ipv4 = true, ipv6 = true;  // a family that the host does not have is left out, unless it is the only one
  bool trains = true;             // UDP_SEGMENT and UDP_GRO, where the kernel has them and they pay
  unsigned connections = 8;       // sockets for peers that much passes to and from, with one worker (udp_connections.h)
  std::uint32_t much = 1024;      // messages, in so many ms:
  int period_ms = 1000;
  TrainBuffers* whole_trains = nullptr;  // none: packets of trains may grow, as port.h says. Outlives the packets
  int receive_buffer_octets = 16 << 20, send_buffer_octets = 16 << 20;  // a burst must survive our absence of a few ms
};

struct UdpTrains {                         // what passed the kernel as one (udp_message.h), since the device was opened
  std::uint64_t sent = 0, refused = 0;     // refused: and taken apart
  std::uint64_t received = 0, copied = 0;  // copied: datagrams that did not lie where they were expected
};

class UdpPort;

// The engine's buffer pool must outlive it: ports keep buffers ready for the next datagrams.
class UdpDevice final : public OuterDevice {
 public:
  [[nodiscard]] static Result<std::unique_ptr<UdpDevice>> open(const UdpOptions& options);
  ~UdpDevice() override;

  [[nodiscard]] unsigned queues() const override { return static_cast<unsigned>(ports_.size()); }
  [[nodiscard]] Port& queue(unsigned worker) override;
  [[nodiscard]] std::string describe() const override;
  [[nodiscard]] UdpTrains trains() const;  // any thread
  // Its worker's thread. False: the last receive() found its sockets empty, or left them alone; what comes makes their
  // descriptors readable. Who does not come again at once then says so: a socket that was just empty is left alone.
  [[nodiscard]] bool may_have_more(unsigned worker) const;
  void time_passes(unsigned worker);
  // Any thread. How many peers have a socket of their own now, and how many ever had: who keeps an epoll set over
  // wake_fds() adds to it when that changes.
  [[nodiscard]] unsigned connections() const;
  [[nodiscard]] std::uint64_t connections_opened() const;
  // The new sockets take the old ones' descriptor numbers: a worker in the middle of a call is not disturbed. Whoever
  // keeps an epoll set over wake_fds() must build it anew.
  Status set_listen_port(std::uint16_t port) override;
  [[nodiscard]] std::uint16_t listen_port() const override { return port_; }
  Status set_fwmark(std::uint32_t mark) override;
  [[nodiscard]] std::uint32_t fwmark() const { return options_.fwmark; }

 private:
  struct Sockets;  // of all workers and families, bound to one port
  explicit UdpDevice(const UdpOptions& options);
  static Result<Sockets> bind_all(const UdpOptions& options, std::uint16_t port);
  static Result<Sockets> bind_any(const UdpOptions& options);
  void replace(unsigned worker, const Sockets& by);

  UdpOptions options_;
  std::uint16_t port_ = 0;
  std::vector<std::unique_ptr<UdpPort>> ports_;
};

}  // namespace wireplane
