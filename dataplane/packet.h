// packet.h: a packet on its way through a worker, and the burst it travels in.
//
// A Packet is a view: pointer and length into a Buffer, and what has been found out so far. Whoever takes a packet out
// of a burst passes it on or releases its buffer under a counted reason; nothing else ends a packet.
#pragma once
#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <utility>

#include "dataplane/base/buffer_pool.h"
#include "dataplane/base/check.h"
#include "dataplane/base/drops.h"
#include "dataplane/base/endpoint.h"
#include "dataplane/base/types.h"

namespace wireplane {

struct Session;
struct PeerState;

enum class Origin : std::uint8_t { kOuter, kHost, kSelf };  // came from a peer, from the inner port, or we made it

struct Packet {
  Buffer* buffer{};      // one reference, owned
  std::uint8_t* data{};  // first octet of what the current layer sees
  std::uint32_t length{};
  Origin origin{};
  std::uint8_t tos{};       // outer DS field: as received, or to be sent
  bool keepalive{};         // empty transport message
  bool to_host{};           // leaves by the inner port
  PeerState* from_peer{};   // whose session opened it; null for the host's
  PeerState* peer{};        // whom it goes to
  Session* session{};       // receiving: found by index. Sending: chosen by peer
  std::uint64_t counter{};  // of the transport message
  const Endpoint* to{};     // sending: the peer's endpoint, valid until the worker's next quiescent state
  Endpoint from{};          // receiving: where the datagram came from and to
  bool key_is_old{};        // received with a session that ends soon (P44)
  bool source_is_known{};   // the inner source needs no look-up (P36)
  std::uint8_t padding{};   // sending: zeros behind the inner packet (P34)

  [[nodiscard]] std::span<std::uint8_t> octets() const { return {data, length}; }
  [[nodiscard]] std::size_t headroom() const { return static_cast<std::size_t>(data - buffer->memory); }
  [[nodiscard]] std::size_t tailroom() const { return buffer->size - headroom() - length; }
};

// What one worker did, written by that worker alone (relaxed stores, no locked instruction), read by anyone.
struct Tally {
  std::atomic<std::uint64_t> value{0};
  void add(std::uint64_t n) { value.store(value.load(std::memory_order_relaxed) + n, std::memory_order_relaxed); }
  [[nodiscard]] std::uint64_t get() const { return value.load(std::memory_order_relaxed); }
};
struct alignas(kCacheLine) Counters {
  std::array<Tally, kDropCount> drops;
  // The conservation law, of every worker: outer_in + inner_in + made + refused + taken_on ==
  // outer_out + inner_out + consumed + handed_on + sum(drops) + held. Of all: handed_on - taken_on waits in the rings.
  Tally outer_in, outer_in_octets, outer_out, outer_out_octets;  // datagrams, and octets of UDP payload
  Tally inner_in, inner_in_octets, inner_out, inner_out_octets;  // packets to and from the inner port
  Tally made;      // packets of our own: keepalives, handshakes, ICMP errors, fragments
  Tally refused;   // dropped inside a port's receive(), before they became a packet (each is in drops too)
  Tally consumed;  // packets that ended as intended: keepalives heard, handshakes given to control, ICMP causes
  Tally relayed;   // from peer to peer
  Tally handed_on, taken_on;  // to and from other workers, who own the packets' sessions
  Tally parts_spread;         // parts of bursts that were put where other workers could take them (spread.h)
  Tally parts_helped;         // such parts of others that this worker computed
  Tally bursts, idle_steps, sleeps;
  void drop(Drop reason, std::uint64_t n = 1) { drops[static_cast<std::size_t>(reason)].add(n); }
  // Packets that have begun here and not ended: what the law calls held. For when the worker does not step.
  [[nodiscard]] std::int64_t inside() const {
    std::uint64_t begun = 0, ended = 0;
    for (const Tally* tally : {&outer_in, &inner_in, &made, &refused, &taken_on}) begun += tally->get();
    for (const Tally* tally : {&outer_out, &inner_out, &consumed, &handed_on}) ended += tally->get();
    for (const Tally& tally : drops) ended += tally.get();
    return static_cast<std::int64_t>(begun - ended);
  }
};

// What a stage or a port needs of its worker: where buffers come from and go to, and where it counts.
struct WorkerContext {
  BufferCache& buffers;
  Counters& counters;

  void drop(Packet& packet, Drop reason) {
    counters.drop(reason);
    release(packet);
  }
  void refuse(Drop reason, std::uint64_t n = 1) {  // for ports: ended inside receive()
    counters.refused.add(n);
    counters.drop(reason, n);
  }
  void release(Packet& packet) {
    buffers.release(packet.buffer);
    packet.buffer = nullptr;
  }
  // A packet of our own with `headroom` octets before its data; false: the pool is empty (counted).
  [[nodiscard]] bool make(Packet& packet, std::size_t length = 0) {
    Buffer* buffer = buffers.take();
    if (buffer == nullptr) {
      counters.drop(Drop::kNoBuffer);
      counters.made.add(1);  // made and dropped: the law holds
      return false;
    }
    counters.made.add(1);
    packet = Packet{};
    packet.buffer = buffer;
    packet.data = buffer->memory + kHeadroom;
    packet.length = static_cast<std::uint32_t>(length);
    packet.origin = Origin::kSelf;
    return true;
  }
};

constexpr std::size_t kReceiveBurst = 64;  // a port hands over at most this many at once
constexpr std::size_t kBurst =
    2 * kReceiveBurst + 64;  // outer's, and inner's joined to them, and what others handed over

class Burst {
 public:
  [[nodiscard]] std::size_t size() const { return count_; }
  [[nodiscard]] bool empty() const { return count_ == 0; }
  [[nodiscard]] std::size_t room() const { return kBurst - count_; }
  [[nodiscard]] Packet& operator[](std::size_t i) { return packets_[i]; }
  [[nodiscard]] Packet* begin() { return packets_.data(); }
  [[nodiscard]] Packet* end() { return packets_.data() + count_; }

  Packet& add() {  // an empty one, to fill in; the caller has looked at room()
    WG_DCHECK(count_ < kBurst);
    return packets_[count_++] = Packet{};
  }
  void add(const Packet& packet) {
    WG_DCHECK(count_ < kBurst);
    packets_[count_++] = packet;
  }
  void clear() { count_ = 0; }    // the packets have gone elsewhere
  void take_from(Burst& other) {  // what was here has gone; the other is empty afterwards
    std::copy_n(other.packets_.begin(), other.count_, packets_.begin());
    count_ = std::exchange(other.count_, 0);
  }

  // Runs `stage` over all packets in order; keeps those for which it returns Drop::kNone, drops the others, counted.
  // A stage that has moved a packet elsewhere sets its buffer to null and returns kNone: it leaves without a count.
  template <class Stage>
  [[gnu::always_inline]] void filter(WorkerContext& context, Stage stage) {
    filter(
        context, [](const Packet&) {}, stage);
  }
  // The same, for a stage that touches memory beyond the nearest cache: `prefetch` sees each packet some packets before
  // the stage does (and the last one more than once).
  template <class Prefetch, class Stage>
  [[gnu::always_inline]] void filter(WorkerContext& context, Prefetch prefetch, Stage stage) {
    constexpr std::size_t kAhead = 8;
    if (count_ == 0) return;
    Packet *const last = end() - 1, *const far = count_ > kAhead ? end() - kAhead : begin(), *kept = begin();
    for (std::size_t i = 0; i < kAhead && i < count_; ++i) prefetch(packets_[i]);
    for (Packet* packet = begin(); packet <= last; ++packet) {
      prefetch(packet < far ? packet[kAhead] : *last);
      const Drop verdict = stage(*packet);
      if (verdict != Drop::kNone) [[unlikely]] {
        context.drop(*packet, verdict);
        continue;
      }
      if (packet->buffer == nullptr) continue;
      if (kept != packet) *kept = *packet;
      ++kept;
    }
    count_ = static_cast<std::size_t>(kept - begin());
  }

 private:
  std::size_t count_ = 0;
  std::array<Packet, kBurst> packets_;
};

}  // namespace wireplane
