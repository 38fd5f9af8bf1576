// node_traffic.cpp: datagrams and packets, between the application's memory and the rings of its ports.
//
//   IPv6 40: ours -> theirs, next header 17, hop limit 64 | UDP 8: ports, length, checksum | payload
//
// spec: RFC 8200 §3 and §8.1, RFC 768
#include <algorithm>
#include <cerrno>
#include <cstring>

#include "control/embed/node_state.h"
#include "control/embed/octet_sum.h"
#include "dataplane/wire/inner_ip.h"
#include "dataplane/wire/messages.h"

namespace wireplane {
namespace {

constexpr std::size_t kAddressesAt = 8;  // of an IPv6 header, whose end they are: the UDP header follows
constexpr std::size_t kDatagramHeaders = kIpv6HeaderSize + kUdpHeaderSize;
constexpr std::size_t kBulk = 64;
constexpr std::size_t kWorthATrain = 8;  // datagrams: fewer do not hold a whole train's memory

Error full() { return {"the queue is full: process() or wait(), then go on", EAGAIN}; }

Error too_large(std::size_t octets, std::size_t most) {
  return {"expected at most " + std::to_string(most) + " octets, got " + std::to_string(octets), EMSGSIZE};
}

// What an inner packet becomes; P34: padded to the next multiple of 16, but never beyond the MTU. Were it wrong,
// packets would lie apart, or overlap.
std::size_t sealed_length(std::size_t length, std::size_t mtu) {
  const std::size_t padded = (length + kPaddingMultiple - 1) / kPaddingMultiple * kPaddingMultiple;
  return std::min(padded, std::max(mtu, length)) + kDataOverhead;
}

std::uint64_t sum_of(const Address& v6) {
  return halves_of_word(load_le<std::uint64_t>(v6.octets.data())) +
         halves_of_word(load_le<std::uint64_t>(v6.octets.data() + 8));
}

// What the datagrams of a burst have in common as long as they go to one place and are of one length: their headers,
// but for the checksum, and what these add to it.
class Headers {
 public:
  explicit Headers(const Address& from) : from_{from} {}
  [[nodiscard]] bool fit(const Datagram& datagram) const {
    return datagram.to.id == to_ && datagram.payload.size() == payload_ && datagram.port == port_ &&
           datagram.from_port == from_port_ && datagram.traffic_class == traffic_class_;
  }
  void make(const Datagram& datagram) {
    to_ = datagram.to.id;
    payload_ = datagram.payload.size();
    port_ = datagram.port;
    from_port_ = datagram.from_port;
    traffic_class_ = datagram.traffic_class;
    const auto length = static_cast<std::uint16_t>(kUdpHeaderSize + payload_);
    std::uint8_t* const ip = octets_.data();
    std::uint8_t* const udp = ip + kIpv6HeaderSize;
    store_be32(ip, 0x6000'0000u | std::uint32_t{traffic_class_} << 20);
    store_be16(ip + 4, length);
    ip[6] = kProtocolUdp;
    ip[7] = 64;
    std::memcpy(ip + kAddressesAt, from_.octets.data(), 16);
    std::memcpy(ip + kAddressesAt + 16, datagram.to.address.octets.data(), 16);
    store_be16(udp, from_port_);
    store_be16(udp + 2, port_);
    store_be16(udp + 4, length);
    sum_ = sum_of(from_) + sum_of(datagram.to.address) + word_in_sum(kProtocolUdp) + 2 * word_in_sum(length) +
           word_in_sum(from_port_) + word_in_sum(port_);
  }
  std::uint32_t write(std::uint8_t* ip, std::span<const std::uint8_t> payload) const {
    std::memcpy(ip, octets_.data(), kDatagramHeaders);
    const std::uint64_t sum = sum_ + copy_with_sum(ip + kDatagramHeaders, payload.data(), payload.size());
    const auto checksum = static_cast<std::uint16_t>(~folded_sum(sum));
    store_be16(ip + kDatagramHeaders - 2, checksum == 0 ? 0xffff : checksum);
    return static_cast<std::uint32_t>(kDatagramHeaders + payload.size());
  }

 private:
  const Address& from_;
  PeerId to_{};
  std::size_t payload_ = ~std::size_t{0};
  std::uint16_t port_ = 0, from_port_ = 0;
  std::uint8_t traffic_class_ = 0;
  std::uint64_t sum_ = 0;
  alignas(16) std::array<std::uint8_t, kDatagramHeaders> octets_;
};

// The worker has checked that the source is the peer's, and the length. The tag has told that the octets are those that
// the peer sealed: its checksum, of its own packet, tells no more than that (the kernel's WireGuard does not look at it
// either), but there must be one. Writes all of `out` but `from`, whose it is; false: malformed.
bool read_packet(const AppPort::Inbound& in, const Address& us, Received& out) {
  const std::uint8_t* ip = in.data;
  out.packet = {ip, in.length};
  const bool ours = !is_ipv4(ip) && ip[6] == kProtocolUdp &&
                    std::memcmp(ip + kAddressesAt, out.from.address.octets.data(), 16) == 0 &&
                    std::memcmp(ip + kAddressesAt + 16, us.octets.data(), 16) == 0;
  if (!ours) {
    out.datagram = false;
    out.octets = out.packet;
    out.port = out.from_port = 0;
    out.traffic_class = 0;
    return true;
  }
  const std::uint8_t* udp = ip + kIpv6HeaderSize;
  const std::size_t length = in.length - kIpv6HeaderSize;
  if (length < kUdpHeaderSize || load_be16(udp + 4) != length || load_be16(udp + 6) == 0) return false;
  out.datagram = true;
  out.octets = {udp + kUdpHeaderSize, length - kUdpHeaderSize};
  out.port = load_be16(udp + 2);
  out.from_port = load_be16(udp);
  out.traffic_class = ds_field(ip);
  return true;
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
    count_ = port.pop(std::span{packets_}.first(std::min(at_most, kBulk)));
    for (const AppPort::Inbound& in : packets()) {  // another core's, perhaps
      __builtin_prefetch(in.data);
      __builtin_prefetch(in.data + kCacheLine);
    }
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

// Those that go to one worker, and lie side by side in the burst: they pass its ring as one.
class Node::State::Outgoing {
 public:
  Outgoing(State& node, std::size_t wanted) : s_{node}, wanted_{wanted} {}
  ~Outgoing() {
    push();
    end_train();
    if (have_ != 0) s_.pool->give(spare_.data(), have_);
    if (taken_ != 0 && !s_.threaded()) s_.notify();
  }
  Outgoing(const Outgoing&) = delete;
  Outgoing& operator=(const Outgoing&) = delete;

  // False: no buffer, or the worker's queue is full.
  bool add(const Datagram& datagram) {
    if (!headers_.fit(datagram)) {
      headers_.make(datagram);
      sealed_ = sealed_length(kDatagramHeaders + datagram.payload.size(), s_.options.mtu);
      const unsigned worker = datagram.to.id.slot.raw() % s_.worker_count();
      if (worker != worker_ && !begin(worker)) return false;
    }
    if (count_ == room_ && !begin(worker_)) return false;
    if (std::uint8_t* const place = in_a_train(sealed_); place != nullptr) {
      ready_[count_++] = {train_, headers_.write(place, datagram.payload), place};
      return true;
    }
    if (have_ == 0) have_ = s_.pool->take(spare_.data(), room_ - count_);
    if (have_ == 0) return false;
    Buffer* buffer = spare_[--have_];
    ready_[count_++] = {buffer, headers_.write(buffer->memory + kHeadroom, datagram.payload)};
    return true;
  }
  std::size_t push() {
    if (count_ == 0) return taken_;
    AppPort& app = *s_.app_ports[worker_];
    refer_to_train();
    const std::size_t pushed = app.push(std::span{ready_}.first(count_));
    for (std::size_t i = pushed; i < count_; ++i) release(ready_[i].buffer);  // others were faster
    full_ = full_ || pushed != count_;
    taken_ += pushed;
    count_ = room_ = 0;
    if (pushed != 0) app.pushed();
    return taken_;
  }

 private:
  bool begin(unsigned worker) {
    push();
    worker_ = worker;
    const std::size_t queued = s_.app_ports[worker]->queued_out();
    room_ = full_ ? 0 : std::min({kBulk, wanted_ - taken_, s_.options.queue - std::min(s_.options.queue, queued)});
    return room_ != 0;
  }
  // Where the next datagram of a burst that may become a train lies: behind the last one, once both are sealed. Null:
  // in a buffer of its own.
  std::uint8_t* in_a_train(std::size_t sealed) {
    if (wanted_ < kWorthATrain || s_.trains_out == nullptr) return nullptr;
    if (train_ == nullptr || next_ + sealed > train_->memory + kHeadroom + TrainBuffers::kRoom) {
      end_train();
      train_ = s_.trains_out->take();
      if (train_ == nullptr) return nullptr;
      next_ = train_->memory + kHeadroom - kDataHeaderSize;
    }
    ++in_train_;
    std::uint8_t* const place = next_ + kDataHeaderSize;
    next_ += sealed;
    return place;
  }
  // Before anybody else sees its packets.
  void refer_to_train() {
    if (in_train_ != 0) train_->references.fetch_add(static_cast<std::uint32_t>(in_train_), std::memory_order_relaxed);
    in_train_ = 0;
  }
  void end_train() {
    refer_to_train();
    if (train_ != nullptr) let_go_of_some(*std::exchange(train_, nullptr), 1);
  }
  State& s_;
  const std::size_t wanted_;
  Headers headers_{s_.address};
  std::size_t sealed_ = 0;  // of a datagram with these headers
  unsigned worker_ = ~0u;
  std::size_t have_ = 0, count_ = 0, room_ = 0, taken_ = 0;
  bool full_ = false;  // what was taken is the first of the burst: nothing may follow what was not
  Buffer* train_ = nullptr;
  std::uint8_t* next_ = nullptr;  // free of it
  std::size_t in_train_ = 0;      // packets that have no reference yet
  std::array<Buffer*, kBulk> spare_;
  std::array<AppPort::Outbound, kBulk> ready_;
};

Result<std::size_t> Node::send(std::span<const Datagram> burst) try {
  State& s = *state_;
  if (s.is_closed()) return node_is_closed();
  std::size_t taken = 0;
  int why = 0;  // told in words once the buffers are given back
  {
    State::Outgoing outgoing{s, burst.size()};
    PeerId known{};
    for (const Datagram& datagram : burst) {
      const PeerId to = datagram.to.id;
      if (datagram.payload.size() > max_datagram())
        why = EMSGSIZE;
      else if (to.generation == 0 ||
               (to != known && (to.slot.raw() >= s.engine->limits().peers || s.engine->find_peer(to) == nullptr)))
        why = ENOENT;
      else if (!outgoing.add(datagram))
        why = EAGAIN;
      if (why != 0) break;
      known = to;
    }
    taken = outgoing.push();
  }
  if (taken != 0 || burst.empty()) return taken;
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
  Received received;  // the packets of one peer, which mostly come together, differ in the rest
  const unsigned first = s.next_port.fetch_add(1, std::memory_order_relaxed);
  for (unsigned i = 0; i < s.worker_count() && given < at_most; ++i) {
    AppPort& app = *s.app_ports[(first + i) % s.worker_count()];
    for (bool more = true; more && given < at_most;) {
      Borrowed borrowed;
      borrowed.take(app, at_most - given);
      if (borrowed.packets().empty()) break;
      for (const AppPort::Inbound& in : borrowed.packets()) {
        if (in.from != received.from.id || in.from.generation == 0) {
          const std::optional<NodePeer> from = s.find(in.from);
          received.from = from.value_or(NodePeer{});
          if (!from) {  // removed while its packet waited here
            s.from_nobody.fetch_add(1, std::memory_order_relaxed);
            continue;
          }
        }
        if (!read_packet(in, s.address, received)) {
          s.malformed.fetch_add(1, std::memory_order_relaxed);
          continue;
        }
        take(received);
        ++given;
      }
      more = borrowed.packets().size() == kBulk;
    }
  }
  return given;
}

}  // namespace wireplane
