// ethdev_port.h: one worker's queues of a DPDK device, as an outer or an inner port. Inside of the ethdev module.
//
//   outer in:   frame -> MAC, VLAN -> IP, UDP, checksums -> our address and port -> the datagram, in the same mbuf
//   outer out:  next hop -> UDP, IP, Ethernet before the datagram, in the same mbuf -> device (checksums by it, if it
//   can) inner:      the same with plain IP packets both:       ARP and neighbour discovery for our own addresses are
//   answered; what others say of theirs is remembered
//
// Inside may be: pieces of datagrams (Reassembly), packets whose next hop has been asked for (WaitingRoom), frames that
// came while the worker was about to sleep, and frames of workers without a leg of their own (ethdev_dpdk.h).
// Cost: no copy, no allocation; a checksum pass over the datagram where the device does not verify or compute.
#pragma once
#include <rte_mbuf.h>

#include <array>
#include <atomic>
#include <memory>

#include "dataplane/port.h"
#include "drivers/ethdev_dpdk.h"
#include "drivers/ether.h"
#include "drivers/file_descriptor.h"
#include "drivers/reassembly.h"
#include "drivers/udp_ip.h"
#include "drivers/waiting_room.h"

namespace wireplane {

class EthdevPort : public Port {
 public:
  EthdevPort(EthdevLink& link, unsigned worker);
  ~EthdevPort() override;

  void receive(Burst& burst, WorkerContext& context) override;
  std::size_t send(Burst& burst, WorkerContext& context) override;
  // Only before sleeping: asks the device for an interrupt, if every leg of the worker can give one.
  void wake_fds(std::vector<int>& fds) const override;
  [[nodiscard]] std::size_t waiting() const override { return room_.size(); }

 protected:
  // The frame's IP packet; burst.size() tells whether it has become a packet. kNone without: for the port itself.
  virtual Drop accept(rte_mbuf* frame, const EtherHeader& ether, std::uint8_t* ip, std::size_t count,
                      const NextHops& hops, Burst& burst, WorkerContext& context) = 0;
  // Headers before the packet; the frame then begins at the returned place.
  struct Built {
    Drop verdict;
    std::size_t header = 0;  // octets before the packet's data
    Address wait{};          // not none: the next hop that was asked for
  };
  virtual Built build(Packet& packet, rte_mbuf* frame, const EthdevState& state, const NextHops& hops) = 0;
  virtual Drop send_failure() const = 0;
  virtual Drop no_way() const = 0;
  virtual void count_sent(WorkerContext& context, std::size_t packets) const = 0;
  virtual void look_after(WorkerContext& context) { static_cast<void>(context); }

  [[nodiscard]] std::int64_t now_ns() const { return link_.now_ns.load(std::memory_order_relaxed); }
  EtherHeader ether_to(const MacAddress& source, const MacAddress& destination, std::uint16_t type) const;

  EthdevLink& link_;
  const unsigned worker_;

 private:
  using Leg = EthdevState::Leg;
  using State = Published<EthdevState>::Guard;
  static constexpr std::size_t kStash = 32;  // frames that came while an interrupt was being asked for

  void take_frames(const EthdevState& state, Burst& burst, WorkerContext& context);
  Drop take(rte_mbuf* frame, const EthdevState& state, const Leg& leg, const NextHops& hops, Burst& burst,
            WorkerContext& context);
  Drop take_neighbour(const NeighbourMessage& message, const MacAddress& from, const EthdevState& state, const Leg& leg,
                      const NextHops& hops);
  void ask_questions(const EthdevState& state, const NextHops& hops);
  void send_frame(const Leg& leg, const std::uint8_t* frame, std::size_t size);

  [[nodiscard]] const Leg* own_leg(const EthdevState& state) const {
    return worker_ < state.legs.size() ? &state.legs[worker_] : nullptr;
  }
  rte_mbuf* frame_of(Packet& packet, WorkerContext& context);
  // Null: it was dropped, or waits (then packet.buffer is null, too).
  rte_mbuf* frame_to_send(Packet& packet, const EthdevState& state, const NextHops& hops, WorkerContext& context);
  void send_waiting(const EthdevState& state, WorkerContext& context);
  void send_borrowed(const EthdevState& state, WorkerContext& context);
  std::size_t transmit(const EthdevState& state, rte_mbuf** frames, std::size_t count, WorkerContext& context);
  std::size_t lend(const EthdevState& state, rte_mbuf** frames, std::size_t count, WorkerContext& context);
  void wake() const;
  void end_sleep(const EthdevState& state);
  void quieten(int fd);

  Reassembly pieces_;
  WaitingRoom room_;
  std::uint64_t seen_changes_ = 0;  // of neighbours, when the room was last looked at
  std::int64_t looked_ns_ = 0;
  std::size_t next_leg_ = 0;  // whose turn it is to be first

  MpmcRing<rte_mbuf*> borrowed_;  // frames of workers without legs, to send
  FileDescriptor nudge_;          // readable: look again

  // Sleeping; wake_fds() is const to the worker, but asks the device for something.
  struct Sleep {
    std::atomic<bool> asleep{
        false};  // S1 seq_cst, pairs with S2 in lend(): either we see the frame, or the lender this
    std::atomic<bool> nudged{false};
    bool armed = false;
    std::uint16_t count = 0, leg = 0;  // of frames; the leg they came from
    std::array<rte_mbuf*, kStash> frames{};
  };
  mutable Sleep sleep_;
  std::vector<std::pair<int, unsigned>> bells_;  // what kind each interrupt's descriptor is
  int watched_ = -1;                             // what vhost's epoll descriptor watches

 protected:
  Reassembly& pieces() { return pieces_; }
};

class EthdevOuterPort final : public EthdevPort {
 public:
  using EthdevPort::EthdevPort;

 private:
  Drop accept(rte_mbuf* frame, const EtherHeader& ether, std::uint8_t* ip, std::size_t count, const NextHops& hops,
              Burst& burst, WorkerContext& context) override;
  Drop put_together(const EtherHeader& ether, const std::uint8_t* ip, std::size_t count, const NextHops& hops,
                    Burst& burst, WorkerContext& context);
  void fill_in(Packet& packet, const FoundDatagram& found, const EtherHeader& ether);
  Built build(Packet& packet, rte_mbuf* frame, const EthdevState& state, const NextHops& hops) override;
  Drop send_failure() const override { return Drop::kOuterSend; }
  Drop no_way() const override { return Drop::kOuterUnreachable; }
  void count_sent(WorkerContext& context, std::size_t n) const override { context.counters.outer_out.add(n); }
  void look_after(WorkerContext& context) override { pieces().expire(now_ns(), context); }
  std::uint16_t identification_ = 0;
};

class EthdevInnerPort final : public EthdevPort {
 public:
  using EthdevPort::EthdevPort;

 private:
  Drop accept(rte_mbuf* frame, const EtherHeader& ether, std::uint8_t* ip, std::size_t count, const NextHops& hops,
              Burst& burst, WorkerContext& context) override;
  Built build(Packet& packet, rte_mbuf* frame, const EthdevState& state, const NextHops& hops) override;
  Drop send_failure() const override { return Drop::kInnerSend; }
  Drop no_way() const override { return Drop::kInnerSend; }
  void count_sent(WorkerContext& context, std::size_t n) const override { context.counters.inner_out.add(n); }
};

}  // namespace wireplane
