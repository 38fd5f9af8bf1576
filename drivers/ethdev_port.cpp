#include "drivers/ethdev_port.h"

#include <fcntl.h>
#include <rte_ethdev.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <fstream>
#include <string>

#include "dataplane/wire/inner_ip.h"
#include "drivers/eventfd.h"
#include "drivers/received.h"

namespace wireplane {
namespace {

constexpr std::size_t kMinTailroom = 31;  // port.h: padding 15 and tag 16
constexpr std::size_t kMaxQuestions = 8;  // a burst
constexpr std::size_t kBorrowed = 1024;

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

enum class Bell : std::uint8_t { kOther, kEventfd, kEpoll };

// What is behind an interrupt's descriptor: an eventfd, which is read to be quiet again; vhost's, an epoll descriptor
// that watches one; or a tap itself, whose packets reading would take.
Bell bell_of(int fd) {
  char target[64] = {};
  const std::string path = "/proc/self/fd/" + std::to_string(fd);
  if (::readlink(path.c_str(), target, sizeof target - 1) <= 0) return Bell::kOther;
  if (std::strstr(target, "[eventpoll]") != nullptr) return Bell::kEpoll;
  if (std::strstr(target, "[eventfd]") == nullptr) return Bell::kOther;
  // vhost's would make a reader wait for the next one
  return ::fcntl(fd, F_SETFL, ::fcntl(fd, F_GETFL) | O_NONBLOCK) == 0 ? Bell::kEventfd : Bell::kOther;
}

// The descriptor that an epoll descriptor watches; -1: none. vhost's driver does not say it in the event.
int watched_by(int epoll) {
  std::ifstream info{"/proc/self/fdinfo/" + std::to_string(epoll)};
  for (std::string word; info >> word;)
    if (int fd = -1; word == "tfd:" && info >> fd) return fd;
  return -1;
}

}  // namespace

EthdevPort::EthdevPort(EthdevLink& link, unsigned worker)
    : link_{link}, worker_{worker}, borrowed_{kBorrowed}, nudge_{::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)} {}

EthdevPort::~EthdevPort() {
  rte_mbuf* frame;
  while (borrowed_.pop(frame)) rte_pktmbuf_free(frame);
  for (unsigned i = 0; i < sleep_.count; ++i) rte_pktmbuf_free(sleep_.frames[i]);
}

// ---- in

void EthdevPort::receive(Burst& burst, WorkerContext& context) {
  register_this_thread();
  const State state = link_.state.read(worker_);
  if (sleep_.armed) end_sleep(*state);
  take_frames(*state, burst, context);
  if (room_.size() != 0) send_waiting(*state, context);
  if (borrowed_.size() != 0) send_borrowed(*state, context);
  if (const std::int64_t now = now_ns(); now != looked_ns_) {
    looked_ns_ = now;
    look_after(context);
  }
}

void EthdevPort::take_frames(const EthdevState& state, Burst& burst, WorkerContext& context) {
  rte_mbuf* frames[kReceiveBurst];
  std::size_t room = receive_room(burst);
  const auto hops = link_.neighbours->read(worker_);
  const auto take_all = [&](rte_mbuf** some, std::size_t count, const Leg& leg) {
    for (std::size_t i = 0; i < count; ++i) rte_prefetch0(rte_pktmbuf_mtod(some[i], void*));
    for (std::size_t i = 0; i < count; ++i) {
      const std::size_t before = burst.size();
      const Drop verdict = take(some[i], state, leg, *hops, burst, context);
      if (burst.size() != before && burst[before].buffer == MempoolBuffers::buffer_of(some[i])) continue;
      if (verdict != Drop::kNone) context.refuse(verdict);
      rte_pktmbuf_free(some[i]);
    }
    room -= count;
  };
  if (sleep_.count != 0 && sleep_.count <= room) {
    const Leg leg = sleep_.leg < state.legs.size() ? state.legs[sleep_.leg] : Leg{};
    take_all(sleep_.frames.data(), std::exchange(sleep_.count, std::uint16_t{0}), leg);
  }
  // Own legs in turn, so that none of them has to wait for a busy one.
  const std::size_t legs = state.legs.size();
  const std::size_t own = legs > worker_ ? (legs - worker_ - 1) / link_.workers + 1 : 0;
  for (std::size_t i = 0; i < own && room > 0; ++i) {
    const Leg& leg = state.legs[worker_ + (next_leg_ + i) % own * link_.workers];
    take_all(frames, rte_eth_rx_burst(leg.port, leg.queue, frames, static_cast<std::uint16_t>(room)), leg);
  }
  ++next_leg_;
  if (worker_ == 0) ask_questions(state, *hops);
}

Drop EthdevPort::take(rte_mbuf* frame, const EthdevState& state, const Leg& leg, const NextHops& hops, Burst& burst,
                      WorkerContext& context) {
  if (frame->nb_segs != 1) return Drop::kTruncated;  // larger than a buffer
  auto* data = rte_pktmbuf_mtod(frame, std::uint8_t*);
  const std::size_t count = frame->data_len;
  EtherHeader ether;
  if (const Drop verdict = read_ether(data, count, ether); verdict != Drop::kNone) return verdict;
  if ((frame->ol_flags & RTE_MBUF_F_RX_VLAN_STRIPPED) != 0 &&
      ether.vlan == 0)  // the kernel or the NIC has taken it out
    ether.vlan = frame->vlan_tci & 0x0fff;
  if (ether.vlan != link_.vlan || (ether.destination != state.mac && !is_group(ether.destination)))
    return Drop::kOuterNotOurs;
  std::uint8_t* payload = data + ether.size;
  const std::size_t rest = count - ether.size;
  NeighbourMessage message;
  if (ether.type == kEtherArp) {
    const Drop verdict = read_arp(payload, rest, message);
    return verdict == Drop::kNone ? take_neighbour(message, ether.source, state, leg, hops) : verdict;
  }
  if (ether.type != kEtherIpv4 && ether.type != kEtherIpv6) return Drop::kOuterNotOurs;
  if (ether.type == kEtherIpv6 && rest > 6 && payload[6] == kProtocolIcmpv6) {
    const Drop verdict = read_neighbour_discovery(payload, rest, message);
    if (verdict == Drop::kNone) return take_neighbour(message, ether.source, state, leg, hops);
    if (verdict != Drop::kOuterNotOurs) return verdict;  // other ICMPv6 may be an inner packet
  }
  if (is_group(ether.destination)) return Drop::kOuterNotOurs;
  return accept(frame, ether, payload, rest, hops, burst, context);
}

Drop EthdevPort::take_neighbour(const NeighbourMessage& message, const MacAddress& from, const EthdevState& state,
                                const Leg& leg, const NextHops& hops) {
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
  send_frame(leg, frame, write_neighbour_answer(frame, to, message.target, state.mac, link_.vlan));
  return Drop::kNone;
}

// What control was told that workers miss.
void EthdevPort::ask_questions(const EthdevState& state, const NextHops& hops) {
  const Leg* leg = own_leg(state);
  if (leg == nullptr) return;
  Address target;
  for (std::size_t i = 0; i < kMaxQuestions && link_.neighbours->take_question(target); ++i) {
    const Address own = hops.own_of(target.family);
    if (own.none()) continue;
    std::uint8_t frame[kNeighbourFrameSize];
    send_frame(*leg, frame, write_neighbour_question(frame, target, own, state.mac, link_.vlan));
  }
}

// A frame of the port's own. If there is no buffer or no room, whoever waits for it asks again.
void EthdevPort::send_frame(const Leg& leg, const std::uint8_t* frame, std::size_t size) {
  rte_mbuf* mbuf = rte_pktmbuf_alloc(link_.pool->native());
  if (mbuf == nullptr) return;
  std::memcpy(rte_pktmbuf_append(mbuf, static_cast<std::uint16_t>(size)), frame, size);
  if (rte_eth_tx_burst(leg.port, leg.queue, &mbuf, 1) == 0) rte_pktmbuf_free(mbuf);
}

// ---- out

std::size_t EthdevPort::send(Burst& burst, WorkerContext& context) {
  rte_mbuf* frames[kBurst];
  std::size_t count = 0;
  const State state = link_.state.read(worker_);
  if (room_.size() != 0) send_waiting(*state, context);
  {
    const auto hops = link_.neighbours->read(worker_);
    for (Packet& packet : burst)
      if (rte_mbuf* frame = frame_to_send(packet, *state, *hops, context)) frames[count++] = frame;
  }
  burst.clear();
  return count == 0 ? 0 : transmit(*state, frames, count, context);
}

rte_mbuf* EthdevPort::frame_to_send(Packet& packet, const EthdevState& state, const NextHops& hops,
                                    WorkerContext& context) {
  rte_mbuf* frame = frame_of(packet, context);
  if (frame == nullptr) return nullptr;
  const Built built = build(packet, frame, state, hops);
  if (!built.wait.none()) {
    room_.hold(packet, built.wait, now_ns(), no_way(), context);
    return nullptr;
  }
  if (built.verdict != Drop::kNone) {
    context.drop(packet, built.verdict);
    return nullptr;
  }
  const std::size_t size = built.header + packet.length;
  frame->data_off = static_cast<std::uint16_t>(packet.headroom() - built.header);
  frame->data_len = static_cast<std::uint16_t>(size);
  frame->pkt_len = static_cast<std::uint32_t>(size);
  return frame;
}

// Those whose next hop has answered. Looked at when something was learned, and now and then for those whose time is
// over.
void EthdevPort::send_waiting(const EthdevState& state, WorkerContext& context) {
  const std::uint64_t changes = link_.neighbours->changes();
  const std::int64_t now = now_ns();
  if (changes == seen_changes_ && now == looked_ns_) return;
  seen_changes_ = changes;
  rte_mbuf* frames[WaitingRoom::kPlaces];
  std::size_t count = 0;
  const auto hops = link_.neighbours->read(worker_);
  room_.look(now, no_way(), context, [&](Packet& packet) {
    rte_mbuf* frame = MempoolBuffers::mbuf_of(packet.buffer);
    const Built built = build(packet, frame, state, *hops);
    if (!built.wait.none()) return false;
    if (built.verdict != Drop::kNone) {
      context.drop(packet, built.verdict);
      return true;
    }
    const std::size_t size = built.header + packet.length;
    frame->data_off = static_cast<std::uint16_t>(packet.headroom() - built.header);
    frame->data_len = static_cast<std::uint16_t>(size);
    frame->pkt_len = static_cast<std::uint32_t>(size);
    frames[count++] = frame;
    return true;
  });
  if (count != 0) count_sent(context, transmit(state, frames, count, context));
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

// Takes all of them; returns how many left through this port.
std::size_t EthdevPort::transmit(const EthdevState& state, rte_mbuf** frames, std::size_t count,
                                 WorkerContext& context) {
  const Leg* leg = own_leg(state);
  if (leg == nullptr && !state.legs.empty()) return lend(state, frames, count, context);
  std::uint16_t sent = 0;
  if (leg != nullptr) {
    auto wanted = static_cast<std::uint16_t>(count);
    if (state.ip_offload || state.udp_offload) wanted = rte_eth_tx_prepare(leg->port, leg->queue, frames, wanted);
    while (sent < wanted) {
      const std::uint16_t now =
          rte_eth_tx_burst(leg->port, leg->queue, frames + sent, static_cast<std::uint16_t>(wanted - sent));
      if (now == 0) break;  // its ring is full, and nothing here waits
      sent = static_cast<std::uint16_t>(sent + now);
    }
  }
  if (sent < count) {
    context.counters.drop(send_failure(), count - sent);
    rte_pktmbuf_free_bulk(frames + sent, static_cast<unsigned>(count - sent));
  }
  return sent;
}

// To the worker that has legs and shares its with us: it has them from here on, also in the counters.
std::size_t EthdevPort::lend(const EthdevState& state, rte_mbuf** frames, std::size_t count, WorkerContext& context) {
  EthdevPort& owner = *link_.ports[worker_ % state.legs.size()];
  std::size_t lent = 0;
  while (lent < count && owner.borrowed_.push(frames[lent])) ++lent;
  context.counters.handed_on.add(lent);
  if (lent < count) {
    context.counters.drop(send_failure(), count - lent);
    rte_pktmbuf_free_bulk(frames + lent, static_cast<unsigned>(count - lent));
  }
  std::atomic_thread_fence(std::memory_order_seq_cst);
  if (owner.sleep_.asleep.load(std::memory_order_seq_cst)) owner.wake();  // S2
  return 0;
}

void EthdevPort::send_borrowed(const EthdevState& state, WorkerContext& context) {
  rte_mbuf* frames[kReceiveBurst];
  std::size_t count = 0;
  while (count < kReceiveBurst && borrowed_.pop(frames[count])) ++count;
  context.counters.taken_on.add(count);
  if (count == 0) return;
  if (own_leg(state) == nullptr) {  // it was taken away in between
    context.counters.drop(send_failure(), count);
    return rte_pktmbuf_free_bulk(frames, static_cast<unsigned>(count));
  }
  count_sent(context, transmit(state, frames, count, context));
}

EtherHeader EthdevPort::ether_to(const MacAddress& source, const MacAddress& destination, std::uint16_t type) const {
  EtherHeader header;
  header.destination = destination;
  header.source = source;
  header.type = type;
  header.vlan = link_.vlan;
  return header;
}

// ---- sleeping

// An interrupt is asked for, and then the queue is looked at once more: what came in between would not interrupt.
void EthdevPort::wake_fds(std::vector<int>& fds) const {
  auto& self = const_cast<EthdevPort&>(*this);  // the worker's own thread, between its steps
  const State state = self.link_.state.read(worker_);
  const std::size_t before = fds.size();
  if (own_leg(*state) == nullptr || !nudge_ || room_.size() != 0) return;
  for (std::size_t i = worker_; i < state->legs.size(); i += link_.workers) {
    const Leg& leg = state->legs[i];
    const int fd = leg.interrupts ? rte_eth_dev_rx_intr_ctl_q_get_fd(leg.port, leg.queue) : -1;
    if (fd < 0 || rte_eth_dev_rx_intr_enable(leg.port, leg.queue) != 0) {
      fds.resize(before);  // it can only be polled
      self.end_sleep(*state);
      return;
    }
    sleep_.armed = true;
    fds.push_back(fd);
    if (sleep_.count == 0) {
      sleep_.leg = static_cast<std::uint16_t>(i);
      sleep_.count = rte_eth_rx_burst(leg.port, leg.queue, sleep_.frames.data(), kStash);
    }
  }
  fds.push_back(nudge_.get());
  sleep_.asleep.store(true, std::memory_order_seq_cst);  // S1
  if (sleep_.count != 0 || borrowed_.size() != 0) wake();
}

// What a descriptor is, the kernel is asked once: a worker may sleep thousands of times a second.
void EthdevPort::quieten(int fd) {
  auto known = std::ranges::find(bells_, fd, &std::pair<int, unsigned>::first);
  if (known == bells_.end()) known = bells_.emplace(bells_.end(), fd, static_cast<unsigned>(bell_of(fd)));
  if (known->second == static_cast<unsigned>(Bell::kEventfd)) static_cast<void>(drain_eventfd(fd));
  if (known->second != static_cast<unsigned>(Bell::kEpoll)) return;
  epoll_event event;
  if (::epoll_wait(fd, &event, 1, 0) <= 0) return;
  std::uint64_t count;
  if (watched_ >= 0 && ::read(watched_, &count, sizeof count) > 0) return;
  watched_ = watched_by(fd);  // the first time, or the other end has come anew
  if (watched_ >= 0 && bell_of(watched_) == Bell::kEventfd) static_cast<void>(drain_eventfd(watched_));
}

void EthdevPort::wake() const {
  sleep_.nudged.store(true);
  ring_eventfd(nudge_.get());
}

void EthdevPort::end_sleep(const EthdevState& state) {
  sleep_.asleep.store(false, std::memory_order_relaxed);
  if (!std::exchange(sleep_.armed, false)) return;
  if (sleep_.nudged.exchange(false)) static_cast<void>(drain_eventfd(nudge_.get()));
  for (std::size_t i = worker_; i < state.legs.size(); i += link_.workers) {
    const Leg& leg = state.legs[i];
    static_cast<void>(rte_eth_dev_rx_intr_disable(leg.port, leg.queue));
    const int fd = rte_eth_dev_rx_intr_ctl_q_get_fd(leg.port, leg.queue);
    if (fd >= 0) quieten(fd);
  }
}

// ---- outer: datagrams

Drop EthdevOuterPort::accept(rte_mbuf* frame, const EtherHeader& ether, std::uint8_t* ip, std::size_t count,
                             const NextHops& hops, Burst& burst, WorkerContext& context) {
  FoundDatagram found;
  const std::uint16_t port = link_.listen_port.load(std::memory_order_relaxed);
  Drop verdict = read_udp_ip(ip, count, seen_by_device(frame, link_.local_sender), port, found);
  if (verdict == Drop::kOuterFragment) return put_together(ether, ip, count, hops, burst, context);
  if (verdict != Drop::kNone) return verdict;
  if (!hops.is_own(found.destination)) return Drop::kOuterNotOurs;
  verdict = hand_over(frame, found.payload, found.length, Origin::kOuter, burst);
  if (verdict == Drop::kNone) fill_in(burst[burst.size() - 1], found, ether);
  return verdict;
}

// A piece is copied, and the frame ends here; the last one makes a packet.
Drop EthdevOuterPort::put_together(const EtherHeader& ether, const std::uint8_t* ip, std::size_t count,
                                   const NextHops& hops, Burst& burst, WorkerContext& context) {
  IpFragment piece;
  if (const Drop verdict = read_fragment(ip, count, piece); verdict != Drop::kNone) return verdict;
  if (!hops.is_own(piece.destination)) return Drop::kOuterNotOurs;
  const Reassembly::Whole whole = pieces().add(piece, now_ns(), context);
  if (whole.buffer == nullptr) return Drop::kNone;
  FoundDatagram found;
  const Drop verdict = read_udp_ip(whole.ip, whole.length, {.ip_good = true, .local_sender = link_.local_sender},
                                   link_.listen_port.load(std::memory_order_relaxed), found);
  if (verdict != Drop::kNone) {
    context.buffers.release(whole.buffer);
    return verdict;
  }
  Packet& packet = add_received(burst, whole.buffer, found.length, Origin::kOuter);
  packet.data = whole.buffer->memory + (found.payload - whole.buffer->memory);
  fill_in(packet, found, ether);
  return Drop::kNone;
}

void EthdevOuterPort::fill_in(Packet& packet, const FoundDatagram& found, const EtherHeader& ether) {
  packet.from.remote = found.source;
  packet.from.port = found.source_port;
  packet.from.local = found.destination;
  packet.from.interface = link_.neighbours->interface();
  packet.tos = found.tos;
  link_.neighbours->heard_from(found.source, ether.source);
}

EthdevPort::Built EthdevOuterPort::build(Packet& packet, rte_mbuf* frame, const EthdevState& state,
                                         const NextHops& hops) {
  NextHops::Hop hop;
  if (packet.to == nullptr || packet.to->remote.none()) return {Drop::kNoEndpoint};
  const bool v4 = packet.to->remote.is_v4();
  const std::size_t headers = udp_ip_size(packet.to->remote);
  const NextHops::Found way = link_.neighbours->find(hops, *packet.to, hop);
  if (way == NextHops::Found::kNoRoute) return {state.legs.empty() ? Drop::kOuterSend : Drop::kOuterUnreachable};
  if (packet.length + headers > state.mtu) return {state.legs.empty() ? Drop::kOuterSend : Drop::kOuterMessageSize};
  if (way != NextHops::Found::kReady) return {.verdict = Drop::kOuterUnreachable, .wait = hop.next};

  DatagramHeader datagram;
  datagram.source = hop.source;
  datagram.destination = packet.to->remote;
  datagram.source_port = link_.listen_port.load(std::memory_order_relaxed);
  datagram.destination_port = packet.to->port;
  datagram.tos = packet.tos;
  datagram.identification = identification_++;
  write_udp_ip(packet.data, packet.length, datagram, state.ip_offload ? ChecksumBy::kDevice : ChecksumBy::kUs,
               state.udp_offload ? ChecksumBy::kDevice : ChecksumBy::kUs);
  const std::size_t ether =
      write_ether(packet.data - headers, ether_to(state.mac, hop.mac, v4 ? kEtherIpv4 : kEtherIpv6));
  if (state.ip_offload || state.udp_offload) {
    frame->l2_len = ether & 0x7f;
    frame->l3_len = (headers - kUdpHeaderSize) & 0x1ff;
    frame->ol_flags = v4 ? RTE_MBUF_F_TX_IPV4 : RTE_MBUF_F_TX_IPV6;
    if (v4 && state.ip_offload) frame->ol_flags |= RTE_MBUF_F_TX_IP_CKSUM;
    if (state.udp_offload) frame->ol_flags |= RTE_MBUF_F_TX_UDP_CKSUM;
  }
  return {Drop::kNone, headers + ether};
}

// ---- inner: IP packets

Drop EthdevInnerPort::accept(rte_mbuf* frame, const EtherHeader& ether, std::uint8_t* ip, std::size_t count,
                             const NextHops&, Burst& burst, WorkerContext&) {
  const std::size_t length = ip_length(ip, count);
  if (length == 0) return Drop::kInnerMalformed;
  if (link_.local_sender) complete_checksum(ip, length);
  link_.neighbours->heard_from(source_of(ip), ether.source);
  return hand_over(frame, ip, length, Origin::kHost, burst);
}

EthdevPort::Built EthdevInnerPort::build(Packet& packet, rte_mbuf*, const EthdevState& state, const NextHops& hops) {
  if (ip_length(packet.data, packet.length) == 0) return {Drop::kInnerMalformed};
  if (state.legs.empty()) return {Drop::kInnerSend};
  if (packet.length > state.mtu) return {Drop::kTooBig};
  Endpoint to;
  to.remote = destination_of(packet.data);
  NextHops::Hop hop;
  const NextHops::Found way = link_.neighbours->find(hops, to, hop);
  if (way == NextHops::Found::kNoNeighbour) return {.verdict = Drop::kInnerSend, .wait = hop.next};
  if (way != NextHops::Found::kReady) return {Drop::kInnerSend};
  return {Drop::kNone,
          write_ether(packet.data, ether_to(state.mac, hop.mac, to.remote.is_v4() ? kEtherIpv4 : kEtherIpv6))};
}

}  // namespace wireplane
