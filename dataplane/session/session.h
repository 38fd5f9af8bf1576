// session.h: one keypair of one peer, and the arena all of them live in.
//
//   line 0  receive key, who, when        written by control before the table entry is stored, then immutable
//   line 1  send key, who, when, and the  keys likewise; counters: any worker, once for many packets (reservations.h)
//           counters of what was sent
//   line 2+ the receive side              the owner alone
//
// A packet received touches line 0, line 2 and the window's word, a packet sent line 1: a relay with many sessions
// waits for little else. What line 2 remembers of the last packet (whence it came, whose source it had) spares the
// next one the peer's endpoint and the routes.
//
// spec: wg §5.4.5 (transport keys), §5.4.6 (counters). The arena is pointer-free and versioned, in a locked, undumped
// memfd: what a worker has reserved of a send counter lies behind it, so that a successor process can take it over
// without using a number twice.
#pragma once
#include <atomic>
#include <cstddef>
#include <cstdint>

#include "dataplane/base/endpoint.h"
#include "dataplane/base/ring.h"
#include "dataplane/base/secret.h"
#include "dataplane/base/time.h"
#include "dataplane/base/types.h"
#include "dataplane/session/replay_window.h"

namespace wireplane {

struct alignas(kCacheLine) Session {
  // line 0: who receives
  std::uint8_t receive_key[SecretKey::kSize];
  std::int64_t created;  // ns of the engine's clock
  PeerId peer;
  Serial serial;                       // of the peer's keypairs: the greater, the newer
  SessionSlot slot;                    // its own place
  ReceiverIndex self;                  // found by
  bool initiator;                      // only the initiator rekeys by time (P44)
  std::atomic<bool> rekey_asked_late;  // the initiator asks once more at 165 s of receiving (P44)

  // line 1: who sends
  struct alignas(kCacheLine) Sent {
    std::uint8_t key[SecretKey::kSize];
    std::atomic<std::uint64_t> counter;  // the next to be used (P31: starts at 0, 64 bits)
    std::atomic<std::uint64_t> octets;   // of UDP payload
    std::int64_t created;                // as above: a packet on its way out touches this line alone
    ReceiverIndex remote;                // of the peer's session
    bool initiator;                      // as above
    [[nodiscard]] Duration age(Instant now) const { return Duration{ns_of(now) - created}; }
  } sent;

  // line 2 and on: what the owner has received
  struct alignas(kCacheLine) Received {
    std::atomic<std::uint64_t> octets;  // of UDP payload; stored by the owner, read by control
    std::uint64_t from, posted;         // fingerprints: of what was the peer's endpoint at version from_version,
    std::uint32_t from_version, posted_against;  // and of where it moved, as control was told, against that one
    std::uint32_t source_version;                // of the routes, when `source` was found to be this peer's (P36)
    Address::Family source_family;               // kNone: nothing is known of any source
    bool confirmed;                              // a packet was accepted: the responder's session may send (P24)
    std::uint8_t source[16];
    ReplayWindow window;  // its newest counter is the last word of line 2
  } received;

  [[nodiscard]] Duration age(Instant now) const { return Duration{ns_of(now) - created}; }
  static std::int64_t ns_of(Instant instant) { return instant.time_since_epoch().count(); }
};

// A fixed number of session slots. Control takes and gives them; workers only look.
class SessionArena {
 public:
  static constexpr std::uint32_t kVersion = 1;  // of the layout above

  explicit SessionArena(std::size_t slots);  // memory is touched, and locked, when a slot is first used
  ~SessionArena();                           // wipes what was used
  SessionArena(const SessionArena&) = delete;
  SessionArena& operator=(const SessionArena&) = delete;

  [[nodiscard]] Session& at(SessionSlot slot) const { return sessions_[slot.raw()]; }
  [[nodiscard]] std::size_t slots() const { return slots_; }
  [[nodiscard]] bool locked() const { return locked_; }  // false: the host's limit did not allow it; say so
  void wipe_slot(SessionSlot slot) const;                // control, when nobody can see it

 private:
  std::size_t slots_, mapped_;
  Session* sessions_;
  bool locked_ = false;
  int memfd_ = -1;
};

}  // namespace wireplane
