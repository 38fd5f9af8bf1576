// engine.h: everything that control and the workers share, sized once at start.
//
//                 orders, keys, peers, routes, settings
//        control ----------------------------------------> worker 0..n-1     each with its own table, rings, counters
//                <----------------------------------------
//                 handshake packets, events                worker i --handover--> worker j   (not my session: yours)
//
// Control writes configuration and reads counters; a worker writes its own counters, the receive side of the sessions
// it owns, and rings. Pointers that workers follow are freed after a grace period; what waits in a ring is named by id.
#pragma once
#include <array>
#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "dataplane/aead/aead.h"
#include "dataplane/base/buffer_pool.h"
#include "dataplane/base/forward.h"
#include "dataplane/base/grace.h"
#include "dataplane/base/ring.h"
#include "dataplane/base/zero_pages.h"
#include "dataplane/packet.h"
#include "dataplane/route/allowed_ips.h"
#include "dataplane/session/peer_state.h"
#include "dataplane/session/session.h"
#include "dataplane/session/session_table.h"
#include "dataplane/spread.h"
#include "dataplane/wire/messages.h"

namespace wireplane {

// What the workers obey; immutable once published.
struct Settings {
  Forward forward = Forward::kNone;
  bool has_inner = false;               // an inner port exists: what is for no peer goes to the host
  std::uint16_t mtu = 1420;             // of inner packets, octets
  std::uint16_t listen_port = 0;        // to recognise our own datagrams (P42)
  Address router_v4, router_v6;         // source of our ICMP errors; none: that family's errors are not sent
  std::vector<Address> host_addresses;  // inner addresses that are the host's, whatever peers' allowed IPs say
};

// Named terms of the engine's memory.
struct Limits {
  unsigned workers = 1;  // at most kBuckets
  std::size_t peers = 1 << 14;
  std::size_t sessions = 0;      // 0: three a peer (previous, current, next), rounded up
  std::size_t buffers = 8192;    // of the pool
  std::size_t data_room = 2048;  // octets of the largest datagram
  std::size_t handshake_ring = 1024;
  std::size_t event_ring = 4096;
  std::size_t order_ring = 1024;
  std::size_t handover_ring = 512;         // packets, a pair of workers
  [[nodiscard]] std::string text() const;  // one line a term, with its octets, for the log
};

// worker -> control
struct HandshakePacket {
  std::array<std::uint8_t, kMaxHandshakeSize> message;
  std::uint16_t length;
  Endpoint from;
};
struct Event {
  enum class Kind : std::uint8_t {
    kConfirmed,      // first packet accepted on session `serial`: next becomes current
    kRoamed,         // authenticated packet number `counter` of session `serial` came from `endpoint`
    kWantHandshake,  // nothing to send with, or the key is due
    kActive,         // traffic on a peer whose timers were idle
  };
  Kind kind;
  PeerId peer;
  Serial serial;
  std::uint64_t counter;
  Endpoint endpoint;
};
// control -> worker
struct Order {
  enum class Kind : std::uint8_t {
    kSend,       // a handshake message, to `to`
    kKeyReady,   // send what waits for this peer; if nothing waits, a keepalive (P26)
    kFlush,      // send what waits for this peer
    kPurge,      // drop what waits for this peer
    kKeepalive,  // an empty packet
  };
  Kind kind;
  PeerId peer;
  std::uint16_t length;
  Endpoint to;
  std::array<std::uint8_t, kMaxHandshakeSize> message;
};

// Wakes one sleeper (a worker, or control). The sleeper: sleep_begin(), looks once more for work, sleeps, sleep_end().
class Doorbell {
 public:
  void set_ringer(std::function<void()> ringer) { ringer_ = std::move(ringer); }  // before threads start
  void sleep_begin() {
    asleep_.store(true, std::memory_order_relaxed);
    // D1 seq_cst, pairs with D2: either the sleeper sees the work that was pushed, or the pusher sees it asleep.
    std::atomic_thread_fence(std::memory_order_seq_cst);
  }
  void sleep_end() { asleep_.store(false, std::memory_order_relaxed); }
  [[nodiscard]] bool asleep() const { return asleep_.load(std::memory_order_relaxed); }  // a guess
  void ring_if_asleep() {                                                                // after the push
    std::atomic_thread_fence(std::memory_order_seq_cst);                                 // D2
    if (asleep_.load(std::memory_order_relaxed) && ringer_) ringer_();
  }

 private:
  std::atomic<bool> asleep_{false};
  std::function<void()> ringer_;
};

// One worker's shared half.
struct WorkerLink {
  WorkerLink(const Limits& limits, std::size_t table_capacity)
      : sessions{table_capacity},
        handshakes{limits.handshake_ring},
        urgent{limits.event_ring},
        events{limits.event_ring},
        orders{limits.order_ring} {}
  SessionTable sessions;                 // written by control
  SpscRing<HandshakePacket> handshakes;  // worker -> control
  SpscRing<Event> urgent;                // worker -> control, served first: confirmed, roamed
  SpscRing<Event> events;                // worker -> control
  SpscRing<Order> orders;                // control -> worker
  Counters counters;                     // the worker's
  Doorbell doorbell;                     // wakes the worker
  Spread spread;                         // the worker's; others compute parts of it
};

class Engine {
 public:
  // `pool`: null for anonymous memory of our own; else owned by the caller, and it outlives the engine.
  explicit Engine(const Limits& limits, BufferPool* pool = nullptr, const Aead& aead = Aead::chosen());
  ~Engine();
  Engine(const Engine&) = delete;
  Engine& operator=(const Engine&) = delete;

  [[nodiscard]] const Limits& limits() const { return limits_; }
  [[nodiscard]] unsigned workers() const { return limits_.workers; }
  [[nodiscard]] BufferPool& pool() const { return *pool_; }
  [[nodiscard]] const Aead& aead() const { return aead_; }
  [[nodiscard]] Grace& grace() { return grace_; }
  [[nodiscard]] SessionArena& sessions() { return sessions_; }
  [[nodiscard]] AllowedIps& routes() { return routes_; }
  [[nodiscard]] WorkerLink& link(unsigned worker) { return *links_[worker]; }
  [[nodiscard]] Doorbell& control_doorbell() { return control_doorbell_; }
  [[nodiscard]] SpscRing<Packet>& handover(unsigned from, unsigned to) { return *handover_[from * workers() + to]; }
  // Workers whose AEAD work others may take parts of (spread.h), a bit each.
  [[nodiscard]] std::uint64_t lenders() const { return lenders_.load(std::memory_order_relaxed); }
  void lend(unsigned worker, bool lending);  // that worker; wakes those who may help
  [[nodiscard]] unsigned owner(ReceiverIndex index) const { return owner_of_bucket_[bucket(index)]; }

  [[nodiscard]] PeerState& peer(PeerSlot slot) const { return peers_[slot.raw()]; }
  // The peer if that generation still lives there. E1 acquire, pairs with E2 in control's creation of a peer.
  [[nodiscard]] PeerState* find_peer(PeerId id) const {
    PeerState& peer = peers_[id.slot.raw()];
    return peer.live.load(std::memory_order_acquire) == id.generation ? &peer : nullptr;
  }

  // Workers read once a burst. R3 acquire pairs with R4 in publish().
  [[nodiscard]] const Settings& settings() const { return *settings_.load(std::memory_order_acquire); }
  void publish(Settings settings);  // control

 private:
  Limits limits_;
  std::array<std::uint8_t, kBuckets> owner_of_bucket_;  // bucket mod workers, without dividing a packet
  std::unique_ptr<BufferPool> own_pool_;
  BufferPool* pool_;
  Aead aead_;
  Grace grace_;
  SessionArena sessions_;
  AllowedIps routes_;
  ZeroPages peer_pages_;  // touched when a peer is first put there
  PeerState* peers_;
  std::vector<std::unique_ptr<WorkerLink>> links_;
  std::vector<std::unique_ptr<SpscRing<Packet>>> handover_;
  Doorbell control_doorbell_;
  std::atomic<const Settings*> settings_;
  alignas(kCacheLine) std::atomic<std::uint64_t> lenders_{0};  // read by every worker that is idle, seldom written
};

}  // namespace wireplane
