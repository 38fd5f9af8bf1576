// node_traffic.cpp: datagrams and packets, between the application's memory and the rings of its ports.
//
//   IPv6 40: ours -> theirs, next header 17, hop limit 64 | UDP 8: ports, length, checksum | payload
//
// spec: RFC 8200 §3 and §8.1, RFC 768
#include <algorithm>
#include <cerrno>
#include <cstring>

#include "control/embed/node_state.h"
#include "dataplane/wire/inner_ip.h"

namespace wireplane {
namespace {

constexpr std::size_t kDatagramHeaders = kIpv6HeaderSize + kUdpHeaderSize;
constexpr std::size_t kBulk = 64;

Error full() { return {"the queue is full: process() or wait(), then go on", EAGAIN}; }

Error too_large(std::size_t octets, std::size_t most) {
  return {"expected at most " + std::to_string(most) + " octets, got " + std::to_string(octets), EMSGSIZE};
}

std::uint32_t write_datagram(std::uint8_t* ip, const Address& from, const Datagram& datagram) {
  const std::size_t length = kUdpHeaderSize + datagram.payload.size();
  std::uint8_t* udp = ip + kIpv6HeaderSize;
  store_be32(ip, 0x6000'0000u | std::uint32_t{datagram.traffic_class} << 20);
  store_be16(ip + 4, static_cast<std::uint16_t>(length));
  ip[6] = kProtocolUdp;
  ip[7] = 64;
  std::ranges::copy(from.octets, ip + 8);
  std::ranges::copy(datagram.to.address.octets, ip + 24);
  store_be16(udp, datagram.from_port);
  store_be16(udp + 2, datagram.port);
  store_be16(udp + 4, static_cast<std::uint16_t>(length));
  store_be16(udp + 6, 0);
  std::copy_n(datagram.payload.data(), datagram.payload.size(), udp + kUdpHeaderSize);  // ranges::copy: octet by octet
  ChecksumSum sum = pseudo_header(ip, kProtocolUdp, length);
  sum.add(udp, length);
  const std::uint16_t checksum = sum.finish();
  store_be16(udp + 6, checksum == 0 ? 0xffff : checksum);
  return static_cast<std::uint32_t>(kIpv6HeaderSize + length);
}

enum class Reading { kDatagram, kPacket, kMalformed };

// The worker has checked that the source is the peer's, and the length.
Reading read_packet(const AppPort::Inbound& in, const NodePeer& from, const Address& us, Received& out) {
  out.from = from;
  out.octets = out.packet = {in.data, in.length};
  const std::uint8_t* ip = in.data;
  const bool ours = !is_ipv4(ip) && ip[6] == kProtocolUdp && destination_of(ip) == us && source_of(ip) == from.address;
  if (!ours) return Reading::kPacket;
  const std::uint8_t* udp = ip + kIpv6HeaderSize;
  const std::size_t length = in.length - kIpv6HeaderSize;
  if (length < kUdpHeaderSize || load_be16(udp + 4) != length || load_be16(udp + 6) == 0) return Reading::kMalformed;
  ChecksumSum sum = pseudo_header(ip, kProtocolUdp, length);
  sum.add(udp, length);
  if (sum.finish() != 0) return Reading::kMalformed;
  out.datagram = true;
  out.traffic_class = ds_field(ip);
  out.octets = {udp + kUdpHeaderSize, length - kUdpHeaderSize};
  out.from_port = load_be16(udp);
  out.port = load_be16(udp + 2);
  return Reading::kDatagram;
}

class Borrowed {  // packets out of a ring, until the application has seen them
 public:
  ~Borrowed() {
    std::array<Buffer*, kBulk> buffers;
    for (std::size_t i = 0; i < count_; ++i) buffers[i] = packets_[i].buffer;
    release(buffers.data(), count_);
  }
  Borrowed() = default;
  Borrowed(const Borrowed&) = delete;
  Borrowed& operator=(const Borrowed&) = delete;
  void take(AppPort& port, std::size_t at_most) {
    while (count_ < std::min(at_most, kBulk) && port.pop(packets_[count_])) ++count_;
  }
  [[nodiscard]] std::span<const AppPort::Inbound> packets() const { return {packets_.data(), count_}; }

 private:
  std::size_t count_ = 0;
  std::array<AppPort::Inbound, kBulk> packets_;
};

}  // namespace

std::size_t Node::max_datagram() const { return state_->options.mtu - kDatagramHeaders; }

std::size_t Node::State::waiting() const {
  std::size_t count = 0;
  for (const auto& app : app_ports) count += app->queued_in();
  return count;
}

Result<std::size_t> Node::send(std::span<const Datagram> burst) try {
  State& s = *state_;
  if (s.is_closed()) return node_is_closed();
  std::array<Buffer*, kBulk> spare;
  std::size_t have = 0, taken = 0;
  std::uint64_t rung = 0;  // ports that got something
  int why = 0;             // told in words once the buffers are given back
  for (const Datagram& datagram : burst) {
    if (datagram.payload.size() > max_datagram()) {
      why = EMSGSIZE;
    } else if (datagram.to.id.slot.raw() >= s.engine->limits().peers || datagram.to.id.generation == 0 ||
               s.engine->find_peer(datagram.to.id) == nullptr) {
      why = ENOENT;
    } else if (have == 0 && (have = s.pool->take(spare.data(), std::min(kBulk, burst.size() - taken))) == 0) {
      why = EAGAIN;
    } else {
      Buffer* buffer = spare[have - 1];
      const std::uint32_t length = write_datagram(buffer->memory + kHeadroom, s.address, datagram);
      const unsigned worker = datagram.to.id.slot.raw() % s.worker_count();
      if (s.app_ports[worker]->push({buffer, length})) {
        rung |= std::uint64_t{1} << worker;
        --have;
        ++taken;
        continue;
      }
      why = EAGAIN;
    }
    break;
  }
  if (have != 0) s.pool->give(spare.data(), have);
  for (unsigned i = 0; i < s.worker_count(); ++i)
    if ((rung >> i & 1) != 0) s.app_ports[i]->pushed();
  if (taken != 0 && !s.threaded()) s.notify();
  if (taken != 0 || why == 0) return taken;
  if (why == EMSGSIZE) return too_large(burst.front().payload.size(), max_datagram());
  return why == ENOENT ? Error{"no such peer", ENOENT} : full();
} catch (const std::bad_alloc&) {
  return node_lacks_memory();
}

Status Node::send(const NodePeer& to, std::span<const std::uint8_t> payload, std::uint16_t port) {
  const Datagram one{to, payload, port, kDatagramPort};
  const Result<std::size_t> sent = send(std::span{&one, 1});
  return sent ? Status{Nothing{}} : Status{sent.error()};
}

Status Node::send_packet(std::span<const std::uint8_t> packet) try {
  State& s = *state_;
  if (s.is_closed()) return node_is_closed();
  if (packet.size() > s.options.mtu) return too_large(packet.size(), s.options.mtu);
  if (packet.empty() || inner_length(packet.data(), packet.size()) != packet.size())
    return Error{"expected a whole IPv4 or IPv6 packet, and nothing behind it", EINVAL};
  Buffer* buffer;
  if (s.pool->take(&buffer, 1) == 0) return full();
  std::copy_n(packet.data(), packet.size(), buffer->memory + kHeadroom);
  // A flow keeps to one worker, so that its packets keep their order.
  AppPort& app = *s.app_ports[flow_hash(flow_of(packet.data(), packet.size())) % s.worker_count()];
  if (!app.push({buffer, static_cast<std::uint32_t>(packet.size())})) {
    s.pool->give(&buffer, 1);
    return full();
  }
  app.pushed();
  if (!s.threaded()) s.notify();
  return Nothing{};
} catch (const std::bad_alloc&) {
  return node_lacks_memory();
}

std::size_t Node::receive(const Take& take, std::size_t at_most) {
  State& s = *state_;
  if (s.forked()) return 0;
  std::size_t given = 0;
  const unsigned first = s.next_port.fetch_add(1, std::memory_order_relaxed);
  for (unsigned i = 0; i < s.worker_count() && given < at_most; ++i) {
    AppPort& app = *s.app_ports[(first + i) % s.worker_count()];
    for (bool more = true; more && given < at_most;) {
      Borrowed borrowed;
      borrowed.take(app, at_most - given);
      if (borrowed.packets().empty()) break;
      std::array<Received, kBulk> received;
      std::size_t count = 0;
      {
        const std::lock_guard lock{s.peers_mutex};
        for (const AppPort::Inbound& in : borrowed.packets()) {
          const std::size_t slot = in.from.slot.raw();
          const bool there = slot < s.known.size() && s.known[slot] && s.known[slot]->peer.id == in.from;
          if (!there) {  // removed while its packet waited here
            s.from_nobody.fetch_add(1, std::memory_order_relaxed);
            continue;
          }
          if (read_packet(in, s.known[slot]->peer, s.address, received[count]) == Reading::kMalformed)
            s.malformed.fetch_add(1, std::memory_order_relaxed);  // nothing but its octets was written: overwritten
          else
            ++count;
        }
      }
      for (std::size_t k = 0; k < count; ++k) take(received[k]);
      given += count;
      more = borrowed.packets().size() == kBulk;
    }
  }
  return given;
}

}  // namespace wireplane
