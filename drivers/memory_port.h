// memory_port.h: ports whose other end is in the same process: for simulations, tests, and applications that embed us.
//
//   device A (10.0.0.1:51820)  --send()-->  carry() --deliver()-->  queue of device B  --receive()-->  burst of B's
//   worker
//        own pool                  a MemoryNetwork                   copies of payloads                  B's own pool
//
// Payloads are copied, as two engines have two pools. A network has no time of its own: carry() delivers at once, and a
// simulation overrides it to delay, lose or translate (NAT), calling deliver() when the time has come.
// Any number of threads may use a network; what is in flight is bounded per queue. Cost: two copies and four atomic
// operations a datagram; after a slot's first use nothing is allocated.
#pragma once
#include <map>
#include <memory>
#include <shared_mutex>
#include <utility>
#include <vector>

#include "dataplane/base/ring.h"
#include "dataplane/port.h"

namespace wireplane {

// A datagram or inner packet that lies outside of every engine's pool.
struct MemoryDatagram {
  Endpoint from;  // as the receiver will see it: remote, port, and where it was sent to in `local`
  std::uint8_t tos = 0;
  std::vector<std::uint8_t> octets;
};

// Bounded, between any threads. Slots keep the memory of their octets.
class MemoryQueue {
 public:
  explicit MemoryQueue(std::size_t capacity);  // a power of two

  [[nodiscard]] bool push(const Endpoint& from, std::uint8_t tos, std::span<const std::uint8_t> octets);  // false: full
  // Moves the oldest into `out`, and out's memory into the slot; false: empty.
  [[nodiscard]] bool pop(MemoryDatagram& out);
  [[nodiscard]] std::size_t size() const { return filled_.size(); }

  // Appends to the burst while there is room, and buffers; what is too large for a buffer is refused, counted.
  void receive(Burst& burst, Origin origin, WorkerContext& context);

 private:
  std::unique_ptr<MemoryDatagram[]> slots_;
  MpmcRing<MemoryDatagram*> free_, filled_;
};

class MemoryOuterDevice;

class MemoryNetwork {
 public:
  explicit MemoryNetwork(std::size_t queue_capacity = 256) : queue_capacity_{queue_capacity} {}
  virtual ~MemoryNetwork() = default;
  MemoryNetwork(const MemoryNetwork&) = delete;
  MemoryNetwork& operator=(const MemoryNetwork&) = delete;

  // A host with these addresses, listening on `port` (0: any free one). The network outlives its devices.
  [[nodiscard]] std::unique_ptr<MemoryOuterDevice> attach(std::vector<Address> addresses, std::uint16_t port = 0,
                                                          unsigned queues = 1);

  // What becomes of a datagram that `from` sends to `to`. kNone: it is on its way (perhaps lost, as on any network).
  [[nodiscard]] virtual Drop carry(const Endpoint& from, const Endpoint& to, std::uint8_t tos,
                                   std::span<const std::uint8_t> octets);
  // Puts it into the queue of whoever is bound to to.remote:to.port; kOuterUnreachable: nobody; kOuterSend: queue full.
  [[nodiscard]] Drop deliver(const Endpoint& from, const Endpoint& to, std::uint8_t tos,
                             std::span<const std::uint8_t> octets);

 private:
  friend class MemoryOuterDevice;
  using Name = std::pair<Address, std::uint16_t>;
  [[nodiscard]] Status bind(MemoryOuterDevice& device, const std::vector<Address>& addresses, std::uint16_t port);
  void forget(const MemoryOuterDevice& device);

  const std::size_t queue_capacity_;
  std::shared_mutex mutex_;  // protects bound_ and every device's addresses and port; sending only reads
  std::map<Name, MemoryOuterDevice*> bound_;
};

class MemoryOuterDevice final : public OuterDevice {
 public:
  ~MemoryOuterDevice() override;

  [[nodiscard]] unsigned queues() const override { return static_cast<unsigned>(ports_.size()); }
  [[nodiscard]] Port& queue(unsigned worker) override;
  [[nodiscard]] std::string describe() const override;
  Status set_listen_port(std::uint16_t port) override;
  [[nodiscard]] std::uint16_t listen_port() const override;
  Status set_fwmark(std::uint32_t) override { return Nothing{}; }  // there is no routing here that could look at it

  // The host moves to other addresses (roaming); its old ones are unreachable from now on.
  Status set_addresses(std::vector<Address> addresses);
  // The source a datagram to `to` leaves with: the sticky one while it is ours, else the first of the family. None: no
  // way.
  [[nodiscard]] Endpoint source_for(const Endpoint& to) const;

 private:
  friend class MemoryNetwork;
  class QueuePort;
  MemoryOuterDevice(MemoryNetwork& network, unsigned queues);

  MemoryNetwork& network_;
  std::vector<Address> addresses_;  // guarded by network_.mutex_
  std::uint16_t port_ = 0;          // guarded by network_.mutex_
  std::vector<std::unique_ptr<QueuePort>> ports_;
};

// The inner side: an application (or a test) is the host.
class MemoryInnerDevice final : public InnerDevice {
 public:
  explicit MemoryInnerDevice(unsigned queues = 1, std::size_t queue_capacity = 256);
  ~MemoryInnerDevice() override;

  [[nodiscard]] unsigned queues() const override { return static_cast<unsigned>(ports_.size()); }
  [[nodiscard]] Port& queue(unsigned worker) override;
  [[nodiscard]] std::string describe() const override;

  // The host's end. push: an IP packet for the tunnel, false: the queue is full. pop: one that came out, false: none.
  [[nodiscard]] bool push(std::span<const std::uint8_t> packet, unsigned worker = 0);
  [[nodiscard]] bool pop(std::vector<std::uint8_t>& packet, unsigned worker = 0);

 private:
  class QueuePort;
  std::vector<std::unique_ptr<QueuePort>> ports_;
};

}  // namespace wireplane
