// ethdev_port.h: one queue of a DPDK device, as an outer or an inner port. Inside of the ethdev module.
//
//   outer in:   frame -> MAC, VLAN -> IP, UDP, checksums -> our address and port -> the datagram, in the same mbuf
//   outer out:  next hop -> UDP, IP, Ethernet before the datagram, in the same mbuf -> device (checksums by it, if it
//   can) inner:      the same with plain IP packets both:       ARP and neighbour discovery for our own addresses are
//   answered; what others say of theirs is remembered
//
// Cost: no copy, no allocation; a checksum pass over the datagram where the device does not verify or compute.
#pragma once
#include <rte_mbuf.h>

#include <atomic>
#include <memory>

#include "dataplane/port.h"
#include "drivers/eal.h"
#include "drivers/ether.h"
#include "drivers/neighbours.h"
#include "drivers/udp_ip.h"

namespace wireplane {

// What all queues of a device share.
struct EthdevLink {
  std::uint16_t port{};  // DPDK's number
  MacAddress mac{};
  std::uint16_t vlan{};
  std::size_t mtu{};
  bool local_sender = false;                     // the frames' checksums may be left to a device
  bool ip_offload = false, udp_offload = false;  // the device computes
  MempoolBuffers* pool{};
  std::shared_ptr<Neighbours> neighbours;
  std::atomic<std::uint16_t> listen_port{0};
};

class EthdevPort : public Port {
 public:
  EthdevPort(EthdevLink& link, unsigned queue) : link_{link}, queue_{static_cast<std::uint16_t>(queue)} {}

  void receive(Burst& burst, WorkerContext& context) override;
  std::size_t send(Burst& burst, WorkerContext& context) override;

 protected:
  // The frame's IP packet; true: it has become a packet of the burst. False, kNone: it was for the port itself.
  virtual Drop accept(rte_mbuf* frame, const EtherHeader& ether, std::uint8_t* ip, std::size_t count,
                      const NextHops& hops, Burst& burst) = 0;
  // Headers before the packet; the frame then begins at the returned place.
  struct Built {
    Drop verdict;
    std::size_t header;  // octets before the packet's data
  };
  virtual Built build(Packet& packet, rte_mbuf* frame, const NextHops& hops) = 0;

  EthdevLink& link_;
  const std::uint16_t queue_;

  EtherHeader ether_to(const MacAddress& destination, std::uint16_t type) const;

 private:
  Drop take(rte_mbuf* frame, const NextHops& hops, Burst& burst);
  Drop take_neighbour(const NeighbourMessage& message, const MacAddress& from, const NextHops& hops);
  void ask_questions(const NextHops& hops);
  void send_frame(const std::uint8_t* frame, std::size_t size);
  rte_mbuf* frame_of(Packet& packet, WorkerContext& context);
  std::size_t transmit(rte_mbuf** frames, std::size_t count, WorkerContext& context);

  virtual Drop send_failure() const = 0;
};

class EthdevOuterPort final : public EthdevPort {
 public:
  using EthdevPort::EthdevPort;

 private:
  Drop accept(rte_mbuf* frame, const EtherHeader& ether, std::uint8_t* ip, std::size_t count, const NextHops& hops,
              Burst& burst) override;
  Built build(Packet& packet, rte_mbuf* frame, const NextHops& hops) override;
  Drop send_failure() const override { return Drop::kOuterSend; }
  std::uint16_t identification_ = 0;
};

class EthdevInnerPort final : public EthdevPort {
 public:
  using EthdevPort::EthdevPort;

 private:
  Drop accept(rte_mbuf* frame, const EtherHeader& ether, std::uint8_t* ip, std::size_t count, const NextHops& hops,
              Burst& burst) override;
  Built build(Packet& packet, rte_mbuf* frame, const NextHops& hops) override;
  Drop send_failure() const override { return Drop::kInnerSend; }
};

}  // namespace wireplane
