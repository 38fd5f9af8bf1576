#include "drivers/ethdev_port.h"

#include <rte_ethdev.h>

#include <cstring>

#include "dataplane/wire/inner_ip.h"
#include "drivers/received.h"

namespace wireplane {
namespace {

constexpr std::size_t kMinTailroom = 31;  // port.h: padding 15 and tag 16
constexpr std::size_t kMaxQuestions = 8;  // a burst

// The integrity of a NONE checksum is known: a virtual device carries it unfinished.
bool is_good(std::uint64_t flags, std::uint64_t mask, std::uint64_t good, std::uint64_t none) {
  return (flags & mask) == good || (flags & mask) == none;
}

ChecksumsSeen seen_by_device(const rte_mbuf* frame, bool local_sender) {
  const std::uint64_t flags = frame->ol_flags;
  return {
      .ip_good = is_good(flags, RTE_MBUF_F_RX_IP_CKSUM_MASK, RTE_MBUF_F_RX_IP_CKSUM_GOOD, RTE_MBUF_F_RX_IP_CKSUM_NONE),
      .udp_good = is_good(flags, RTE_MBUF_F_RX_L4_CKSUM_MASK, RTE_MBUF_F_RX_L4_CKSUM_GOOD, RTE_MBUF_F_RX_L4_CKSUM_NONE),
      .local_sender = local_sender};
}

// Hands over the frame's mbuf as a packet that begins at `data`.
Drop hand_over(rte_mbuf* frame, const std::uint8_t* data, std::size_t length, Origin origin, Burst& burst) {
  Buffer* buffer = MempoolBuffers::buffer_of(frame);
  const auto offset = static_cast<std::size_t>(data - buffer->memory);
  if (offset + length + kMinTailroom > buffer->size) return Drop::kTruncated;  // the device used the tailroom
  Packet& packet = add_received(burst, buffer, length, origin);
  packet.data = buffer->memory + offset;
  return Drop::kNone;
}

}  // namespace

// ---- in

void EthdevPort::receive(Burst& burst, WorkerContext& context) {
  register_this_thread();
  rte_mbuf* frames[kReceiveBurst];
  const std::uint16_t count =
      rte_eth_rx_burst(link_.port, queue_, frames, static_cast<std::uint16_t>(receive_room(burst)));
  if (count == 0 && queue_ != 0) return;
  const auto hops = link_.neighbours->read(queue_);
  for (unsigned i = 0; i < count; ++i) rte_prefetch0(rte_pktmbuf_mtod(frames[i], void*));
  for (unsigned i = 0; i < count; ++i) {
    const std::size_t before = burst.size();
    const Drop verdict = take(frames[i], *hops, burst);
    if (burst.size() != before) continue;
    if (verdict != Drop::kNone) context.refuse(verdict);
    rte_pktmbuf_free(frames[i]);
  }
  if (queue_ == 0) ask_questions(*hops);
}

Drop EthdevPort::take(rte_mbuf* frame, const NextHops& hops, Burst& burst) {
  if (frame->nb_segs != 1) return Drop::kTruncated;  // larger than a buffer
  auto* data = rte_pktmbuf_mtod(frame, std::uint8_t*);
  const std::size_t count = frame->data_len;
  EtherHeader ether;
  if (const Drop verdict = read_ether(data, count, ether); verdict != Drop::kNone) return verdict;
  if (ether.vlan != link_.vlan || (ether.destination != link_.mac && !is_group(ether.destination)))
    return Drop::kOuterNotOurs;
  std::uint8_t* payload = data + ether.size;
  const std::size_t rest = count - ether.size;
  NeighbourMessage message;
  if (ether.type == kEtherArp) {
    const Drop verdict = read_arp(payload, rest, message);
    return verdict == Drop::kNone ? take_neighbour(message, ether.source, hops) : verdict;
  }
  if (ether.type != kEtherIpv4 && ether.type != kEtherIpv6) return Drop::kOuterNotOurs;
  if (ether.type == kEtherIpv6 && rest > 6 && payload[6] == kProtocolIcmpv6) {
    const Drop verdict = read_neighbour_discovery(payload, rest, message);
    if (verdict == Drop::kNone) return take_neighbour(message, ether.source, hops);
    if (verdict != Drop::kOuterNotOurs) return verdict;  // other ICMPv6 may be an inner packet
  }
  if (is_group(ether.destination)) return Drop::kOuterNotOurs;
  return accept(frame, ether, payload, rest, hops, burst);
}

Drop EthdevPort::take_neighbour(const NeighbourMessage& message, const MacAddress& from, const NextHops& hops) {
  Neighbours& neighbours = *link_.neighbours;
  if (neighbours.uses_kernel()) return Drop::kOuterNotOurs;  // the kernel answers for itself
  const MacAddress& mac = message.mac == MacAddress{} ? from : message.mac;
  if (!message.question) {
    neighbours.is_at(message.target, mac);
    return Drop::kNone;
  }
  if (!hops.is_own(message.target)) return Drop::kOuterNotOurs;
  if (!message.wants_answer_to_all) neighbours.is_at(message.asker, mac);
  NeighbourMessage to = message;
  to.mac = mac;
  std::uint8_t frame[kNeighbourFrameSize];
  send_frame(frame, write_neighbour_answer(frame, to, message.target, link_.mac, link_.vlan));
  return Drop::kNone;
}

// What control was told that workers miss.
void EthdevPort::ask_questions(const NextHops& hops) {
  Address target;
  for (std::size_t i = 0; i < kMaxQuestions && link_.neighbours->take_question(target); ++i) {
    const Address own = hops.own_of(target.family);
    if (own.none()) continue;
    std::uint8_t frame[kNeighbourFrameSize];
    send_frame(frame, write_neighbour_question(frame, target, own, link_.mac, link_.vlan));
  }
}

// A frame of the port's own. If there is no buffer or no room, whoever waits for it asks again.
void EthdevPort::send_frame(const std::uint8_t* frame, std::size_t size) {
  rte_mbuf* mbuf = rte_pktmbuf_alloc(link_.pool->native());
  if (mbuf == nullptr) return;
  std::memcpy(rte_pktmbuf_append(mbuf, static_cast<std::uint16_t>(size)), frame, size);
  if (rte_eth_tx_burst(link_.port, queue_, &mbuf, 1) == 0) rte_pktmbuf_free(mbuf);
}

// ---- out

std::size_t EthdevPort::send(Burst& burst, WorkerContext& context) {
  rte_mbuf* frames[kBurst];
  std::size_t count = 0;
  {
    const auto hops = link_.neighbours->read(queue_);
    for (Packet& packet : burst) {
      rte_mbuf* frame = frame_of(packet, context);
      if (frame == nullptr) continue;
      const Built built = build(packet, frame, *hops);
      if (built.verdict != Drop::kNone) {
        context.drop(packet, built.verdict);
        continue;
      }
      const std::size_t size = built.header + packet.length;
      frame->data_off = static_cast<std::uint16_t>(packet.headroom() - built.header);
      frame->data_len = static_cast<std::uint16_t>(size);
      frame->pkt_len = static_cast<std::uint32_t>(size);
      frames[count++] = frame;
    }
  }
  burst.clear();
  return count == 0 ? 0 : transmit(frames, count, context);
}

// The packet's own mbuf, ready to be filled in; or a copy, where others still hold the buffer. Null: dropped.
rte_mbuf* EthdevPort::frame_of(Packet& packet, WorkerContext& context) {
  if (packet.buffer->pool == link_.pool && packet.buffer->references.load(std::memory_order_acquire) == 1) {
    rte_mbuf* frame = MempoolBuffers::mbuf_of(packet.buffer);
    rte_pktmbuf_reset(frame);
    return frame;
  }
  rte_mbuf* copy = rte_pktmbuf_alloc(link_.pool->native());
  if (copy == nullptr || packet.length > link_.pool->data_room()) {
    if (copy != nullptr) rte_pktmbuf_free(copy);
    context.drop(packet, copy == nullptr ? Drop::kNoBuffer : Drop::kTooBig);
    return nullptr;
  }
  Buffer* buffer = MempoolBuffers::buffer_of(copy);
  std::memcpy(buffer->memory + kHeadroom, packet.data, packet.length);
  context.release(packet);
  packet.buffer = buffer;
  packet.data = buffer->memory + kHeadroom;
  return copy;
}

std::size_t EthdevPort::transmit(rte_mbuf** frames, std::size_t count, WorkerContext& context) {
  auto wanted = static_cast<std::uint16_t>(count);
  if (link_.ip_offload || link_.udp_offload) wanted = rte_eth_tx_prepare(link_.port, queue_, frames, wanted);
  std::uint16_t sent = 0;
  while (sent < wanted) {
    const std::uint16_t now =
        rte_eth_tx_burst(link_.port, queue_, frames + sent, static_cast<std::uint16_t>(wanted - sent));
    if (now == 0) break;  // its ring is full, and nothing here waits
    sent = static_cast<std::uint16_t>(sent + now);
  }
  if (sent < count) {
    context.counters.drop(send_failure(), count - sent);
    rte_pktmbuf_free_bulk(frames + sent, static_cast<unsigned>(count - sent));
  }
  return sent;
}

EtherHeader EthdevPort::ether_to(const MacAddress& destination, std::uint16_t type) const {
  EtherHeader header;
  header.destination = destination;
  header.source = link_.mac;
  header.type = type;
  header.vlan = link_.vlan;
  return header;
}

// ---- outer: datagrams

Drop EthdevOuterPort::accept(rte_mbuf* frame, const EtherHeader& ether, std::uint8_t* ip, std::size_t count,
                             const NextHops& hops, Burst& burst) {
  FoundDatagram found;
  const std::uint16_t port = link_.listen_port.load(std::memory_order_relaxed);
  Drop verdict = read_udp_ip(ip, count, seen_by_device(frame, link_.local_sender), port, found);
  if (verdict != Drop::kNone) return verdict;
  if (!hops.is_own(found.destination)) return Drop::kOuterNotOurs;
  verdict = hand_over(frame, found.payload, found.length, Origin::kOuter, burst);
  if (verdict != Drop::kNone) return verdict;
  Packet& packet = burst[burst.size() - 1];
  packet.from.remote = found.source;
  packet.from.port = found.source_port;
  packet.from.local = found.destination;
  packet.from.interface = link_.neighbours->interface();
  packet.tos = found.tos;
  link_.neighbours->heard_from(found.source, ether.source);
  return Drop::kNone;
}

EthdevPort::Built EthdevOuterPort::build(Packet& packet, rte_mbuf* frame, const NextHops& hops) {
  NextHops::Hop hop;
  if (packet.to == nullptr || packet.to->remote.none()) return {Drop::kNoEndpoint, 0};
  if (!link_.neighbours->find(hops, *packet.to, hop)) return {Drop::kOuterUnreachable, 0};
  const bool v4 = packet.to->remote.is_v4();
  const std::size_t headers = udp_ip_size(packet.to->remote);
  if (packet.length + headers > link_.mtu) return {Drop::kOuterMessageSize, 0};

  DatagramHeader datagram;
  datagram.source = hop.source;
  datagram.destination = packet.to->remote;
  datagram.source_port = link_.listen_port.load(std::memory_order_relaxed);
  datagram.destination_port = packet.to->port;
  datagram.tos = packet.tos;
  datagram.identification = identification_++;
  write_udp_ip(packet.data, packet.length, datagram, link_.ip_offload ? ChecksumBy::kDevice : ChecksumBy::kUs,
               link_.udp_offload ? ChecksumBy::kDevice : ChecksumBy::kUs);
  const std::size_t ether = write_ether(packet.data - headers, ether_to(hop.mac, v4 ? kEtherIpv4 : kEtherIpv6));
  if (link_.ip_offload || link_.udp_offload) {
    frame->l2_len = ether & 0x7f;
    frame->l3_len = (headers - kUdpHeaderSize) & 0x1ff;
    frame->ol_flags = v4 ? RTE_MBUF_F_TX_IPV4 : RTE_MBUF_F_TX_IPV6;
    if (v4 && link_.ip_offload) frame->ol_flags |= RTE_MBUF_F_TX_IP_CKSUM;
    if (link_.udp_offload) frame->ol_flags |= RTE_MBUF_F_TX_UDP_CKSUM;
  }
  return {Drop::kNone, headers + ether};
}

// ---- inner: IP packets

Drop EthdevInnerPort::accept(rte_mbuf* frame, const EtherHeader& ether, std::uint8_t* ip, std::size_t count,
                             const NextHops&, Burst& burst) {
  const std::size_t length = ip_length(ip, count);
  if (length == 0) return Drop::kInnerMalformed;
  if (link_.local_sender) complete_checksum(ip, length);
  link_.neighbours->heard_from(source_of(ip), ether.source);
  return hand_over(frame, ip, length, Origin::kHost, burst);
}

EthdevPort::Built EthdevInnerPort::build(Packet& packet, rte_mbuf*, const NextHops& hops) {
  if (ip_length(packet.data, packet.length) == 0) return {Drop::kInnerMalformed, 0};
  if (packet.length > link_.mtu) return {Drop::kTooBig, 0};
  Endpoint to;
  to.remote = destination_of(packet.data);
  NextHops::Hop hop;
  if (!link_.neighbours->find(hops, to, hop)) return {Drop::kInnerSend, 0};
  return {Drop::kNone, write_ether(packet.data, ether_to(hop.mac, to.remote.is_v4() ? kEtherIpv4 : kEtherIpv6))};
}

}  // namespace wireplane
