// peer_state.h: a peer as workers see it, in one line. Control owns the slot; a (slot, generation) pair never comes
// back.
//
//   where to send          written by control, read by every worker once a burst and peer
//   what timers need       of sending and receiving: written by whoever sends and whoever receives when it changes, but
//                          a busy peer's a few times in kBusy
//
// All of it in one line, because who relays a packet wants both: a second line would come from memory, or from another
// core, for every packet as well. Times are relaxed: a timer that reads a stale one is late by a burst.
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

// When something happened, as a peer's line keeps it: whole milliseconds of the engine's clock, modulo 2^32; 0: never.
using Stamp = std::uint32_t;
inline Stamp stamp_of(Instant at) {
  const auto ms = static_cast<Stamp>(static_cast<std::uint64_t>(at.time_since_epoch().count()) / 1'000'000);
  return ms == 0 ? 1 : ms;
}
// The instant that a stamp, not 0, means at `now`: at most 24 days before or after it. (Nobody asks of older ones but
// whether they are older than minutes; every 49 days a silent peer may look for seconds as if it had just spoken.)
inline Instant instant_of(Stamp stamp, Instant now) {
  const std::int64_t ms = now.time_since_epoch().count() / 1'000'000;
  const auto ago = static_cast<std::int32_t>(static_cast<Stamp>(ms) - stamp);
  return Instant{std::chrono::milliseconds{ms - ago}};
}

struct alignas(kCacheLine) PeerState {
  std::atomic<std::uint64_t> sending{0};           // SendingWord; 0: no key
  std::atomic<const Endpoint*> endpoint{nullptr};  // immutable once published; freed after a grace period
  PeerId id;
  std::atomic<std::uint32_t> endpoint_version{0};  // grows with every endpoint published
  std::atomic<std::uint32_t> group{0};             // Forward = groups
  std::atomic<std::uint32_t> live{0};              // 0: the slot is free
  std::atomic<bool> handshake_wanted{false};       // a worker asks once; control clears it when it has heard
  std::atomic<bool> timers_armed{false};           // idle to active is one event; control clears it
  std::atomic<std::uint8_t> notes{0};              // of the times below, lately: note()

  struct {
    std::atomic<Stamp> last_sent{0};         // anything authenticated
    std::atomic<Stamp> last_data_sent{0};    // not a keepalive
    std::atomic<Stamp> unanswered_since{0};  // first data sent since anything was received
  } send;
  struct {
    std::atomic<Stamp> last_received{0};         // anything authenticated
    std::atomic<Stamp> last_data_received{0};    // not a keepalive
    std::atomic<Stamp> keepalive_owed_since{0};  // first data received since anything was sent
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
    notes.store(0, relaxed);
  }

  // What the timers of wg §6 want to know; control reads it when one is due. The line is not made dirty for what it
  // says already. And who spoke last changes with every second packet: a line that two workers wrote so often would
  // travel between them all the time. So a busy peer's times are noted kMostNotes times in kBusy, and err on the safe
  // side beyond that: what came is said to be owed an answer even if it has had one, and to have answered all before.
  static constexpr Stamp kBusy = 64;  // ms; by so much `last...` of a busy peer may be too early
  static constexpr std::uint8_t kMostNotes = 8;
  void note_received(Stamp now, bool data) {
    constexpr auto relaxed = std::memory_order_relaxed;
    if (note(receive.last_received, send.unanswered_since, receive.last_data_received, receive.keepalive_owed_since,
             now, data))
      return;
    if (send.unanswered_since.load(relaxed) != 0) send.unanswered_since.store(0, relaxed);
    if (receive.keepalive_owed_since.load(relaxed) == 0) receive.keepalive_owed_since.store(now, relaxed);
  }
  void note_sent(Stamp now, bool data) {
    note(send.last_sent, receive.keepalive_owed_since, send.last_data_sent, send.unanswered_since, now, data);
  }

  [[nodiscard]] bool timers_are_idle() const { return !timers_armed.load(std::memory_order_relaxed); }

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

 private:
  // Anything at `now` ends what is `settled`; data opens its own `since`. False: the peer is too busy.
  using Time = std::atomic<Stamp>;
  bool note(Time& last, Time& settled, Time& last_data, Time& since, Stamp now, bool data) {
    constexpr auto relaxed = std::memory_order_relaxed;
    const std::uint8_t noted = notes.load(relaxed);
    const Stamp data_was = last_data.load(relaxed), last_was = last.load(relaxed);
    const bool lately = now - (data ? data_was : last_was) + kBusy < 2 * kBusy;  // workers' clocks differ by a step
    if (lately && noted >= kMostNotes) return false;
    const Stamp since_was = since.load(relaxed);
    const Stamp data_is = data ? now : data_was, since_is = data && since_was == 0 ? now : since_was;
    if (((last_was ^ now) | settled.load(relaxed) | (data_was ^ data_is) | (since_was ^ since_is)) == 0) return true;
    last.store(now, relaxed);
    settled.store(0, relaxed);
    last_data.store(data_is, relaxed);
    since.store(since_is, relaxed);
    notes.store(lately ? noted + 1 : 1, relaxed);
    return true;
  }
};

static_assert(sizeof(PeerState) == kCacheLine);

inline std::int64_t ns(Instant instant) { return instant.time_since_epoch().count(); }

}  // namespace wireplane
