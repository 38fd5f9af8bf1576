// peer_state.h: a peer as workers see it. Control owns the slot; a (slot, generation) pair never comes back.
//
//   line 0  written by control, read by every worker once a burst and peer
//   line 1  what timers need to know of sending and receiving: written by whoever sends and whoever receives, and only
//           when it changes
//
// Timestamps are ns of the engine's clock in whole milliseconds, 0 for never: so that a thousand packets a millisecond,
// and workers that share a peer, write the line once. They are relaxed: a timer that reads a stale one is late by a
// burst.
#pragma once
#include <atomic>
#include <cstdint>

#include "dataplane/base/endpoint.h"
#include "dataplane/base/ring.h"
#include "dataplane/base/time.h"
#include "dataplane/base/types.h"

namespace wireplane {

// {serial, slot + 1}: which session sends for a peer. The greater serial is the newer keypair, so that a late
// confirmation never takes the word back (compare-and-swap to the maximum).
struct SendingWord {
  static std::uint64_t pack(Serial serial, SessionSlot slot) {
    return (std::uint64_t{serial.raw()} << 32) | (std::uint64_t{slot.raw()} + 1);
  }
  static bool has_session(std::uint64_t word) { return static_cast<std::uint32_t>(word) != 0; }
  static Serial serial(std::uint64_t word) { return Serial{static_cast<std::uint32_t>(word >> 32)}; }
  static SessionSlot slot(std::uint64_t word) { return SessionSlot{static_cast<std::uint32_t>(word) - 1}; }
};

struct alignas(kCacheLine) PeerState {
  std::atomic<std::uint64_t> sending{0};           // SendingWord; 0: no key
  std::atomic<const Endpoint*> endpoint{nullptr};  // immutable once published; freed after a grace period
  std::atomic<std::uint32_t> endpoint_version{0};  // grows with every endpoint published
  PeerId id;
  std::atomic<std::uint32_t> group{0};        // Forward = groups
  std::atomic<bool> handshake_wanted{false};  // a worker asks once; control clears it when it has heard
  std::atomic<bool> timers_armed{false};      // idle to active is one event; control clears it
  std::atomic<std::uint32_t> live{0};         // 0: the slot is free

  alignas(kCacheLine) struct {
    std::atomic<std::int64_t> last_sent{0};         // anything authenticated
    std::atomic<std::int64_t> last_data_sent{0};    // not a keepalive
    std::atomic<std::int64_t> unanswered_since{0};  // first data sent since anything was received
  } send;
  struct {
    std::atomic<std::int64_t> last_received{0};         // anything authenticated
    std::atomic<std::int64_t> last_data_received{0};    // not a keepalive
    std::atomic<std::int64_t> keepalive_owed_since{0};  // first data received since anything was sent
  } receive;

  // The slot's new tenant, but for `live`, which control sets last. Stores, not construction: a worker that holds an
  // order to a former tenant may be looking at `live` right now.
  void move_in(PeerId tenant) {
    constexpr auto relaxed = std::memory_order_relaxed;
    id = tenant;  // read by nobody before `live` says so
    sending.store(0, relaxed);
    endpoint.store(nullptr, relaxed);
    endpoint_version.store(0, relaxed);
    group.store(0, relaxed);
    handshake_wanted.store(false, relaxed);
    timers_armed.store(false, relaxed);
    for (auto* time : {&send.last_sent, &send.last_data_sent, &send.unanswered_since, &receive.last_received,
                       &receive.last_data_received, &receive.keepalive_owed_since})
      time->store(0, relaxed);
  }

  // Makes {serial, slot} the sending session unless a newer one is. S1 acq_rel pairs with S2: whoever loads the word
  // sees the session's keys behind it.
  bool offer_sending(Serial serial, SessionSlot slot) {
    const std::uint64_t offered = SendingWord::pack(serial, slot);
    std::uint64_t now = sending.load(std::memory_order_relaxed);
    while (offered > now)
      if (sending.compare_exchange_weak(now, offered, std::memory_order_acq_rel, std::memory_order_relaxed))
        return true;
    return false;
  }
};

static_assert(sizeof(PeerState) == 2 * kCacheLine);

inline std::int64_t ns(Instant instant) { return instant.time_since_epoch().count(); }

// Notes a time, or 0 for never, without making the line dirty for what it says already.
inline void note(std::atomic<std::int64_t>& time, std::int64_t at) {
  if (time.load(std::memory_order_relaxed) != at) time.store(at, std::memory_order_relaxed);
}

}  // namespace wireplane
