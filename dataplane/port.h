// port.h: what a port promises. One Port object is one queue, used by one worker; a Device is the ports of all workers.
//
//   outer: bursts of UDP payloads. receive() fills data, length, tos, from. send() honours to, tos (never fragments).
//   inner: bursts of IP packets.   receive() fills data, length.            send() writes data, length.
//
// Every packet that receive() appends has headroom >= 96 before `data` and tailroom >= 31 behind it, and is contiguous.
// Nothing blocks. Wrappers (fault, pcap) wrap any port. A port counts what it drops and what passes in
// context.counters: outer_in/outer_out or inner_in/inner_out are counted by the worker, drops by the port.
#pragma once
#include <memory>
#include <string>
#include <vector>

#include "dataplane/base/result.h"
#include "dataplane/packet.h"

namespace wireplane {

class Port {
 public:
  virtual ~Port() = default;
  // Appends at most min(kReceiveBurst, burst.room()) packets.
  virtual void receive(Burst& burst, WorkerContext& context) = 0;
  // Takes every packet of the burst, which is empty afterwards; returns how many left. The others were dropped,
  // counted.
  virtual std::size_t send(Burst& burst, WorkerContext& context) = 0;
  // File descriptors that become readable when receive() has something; none: the worker polls with short sleeps.
  virtual void wake_fds(std::vector<int>& fds) const { static_cast<void>(fds); }
  // Packets that send() took and that neither left nor were dropped yet (they wait for a next hop). When one leaves,
  // the port counts it itself.
  [[nodiscard]] virtual std::size_t waiting() const { return 0; }
};

// All queues of one kind of port. Owned by whoever put the engine together; outlives the workers.
// Called by control only, while workers run.
class PortDevice {
 public:
  virtual ~PortDevice() = default;
  [[nodiscard]] virtual unsigned queues() const = 0;
  [[nodiscard]] virtual Port& queue(unsigned worker) = 0;
  [[nodiscard]] virtual std::string describe() const = 0;  // for logs and `show`: "udp 0.0.0.0:51820 x2"
};

class OuterDevice : public PortDevice {
 public:
  // Rebinds all queues; 0: any free port. On failure the old port goes on. The new one is listen_port().
  virtual Status set_listen_port(std::uint16_t port) = 0;
  [[nodiscard]] virtual std::uint16_t listen_port() const = 0;
  virtual Status set_fwmark(std::uint32_t mark) = 0;
};

using InnerDevice = PortDevice;

}  // namespace wireplane
