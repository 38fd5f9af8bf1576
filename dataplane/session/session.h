// session.h: one keypair of one peer, and the arena all of them live in.
//
//   line 0  receive key                                   } written by control before the table entry is stored,
//   line 1  who, when, our receiver index                 } immutable until nobody can see it
//   line 2  send key                                      }
//   line 3  send counter and what was sent: any worker, at most one locked instruction a burst for each
//   line 4+ the receive side: the owner alone
//
// spec: wg §5.4.5 (transport keys), §5.4.6 (counters). The arena is pointer-free and versioned, in a locked, undumped
// memfd: no copy of a send counter exists elsewhere, so that a successor process can take it over without using one
// twice.
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
  std::uint8_t receive_key[SecretKey::kSize];
  std::uint8_t unused_[kCacheLine - SecretKey::kSize];

  PeerId peer;
  Serial serial;                       // of the peer's keypairs: the greater, the newer
  SessionSlot slot;                    // its own place
  ReceiverIndex self;                  // found by
  ReceiverIndex remote;                // sent with
  std::int64_t created;                // ns of the engine's clock
  bool initiator;                      // only the initiator rekeys by time (P44)
  std::atomic<bool> rekey_asked_late;  // the initiator asks once more at 165 s of receiving (P44)

  alignas(kCacheLine) std::uint8_t send_key[SecretKey::kSize];

  struct alignas(kCacheLine) {
    std::atomic<std::uint64_t> counter;  // the next to be used (P31: starts at 0, 64 bits)
    std::atomic<std::uint64_t> octets;   // of UDP payload
  } sent;

  struct alignas(kCacheLine) {
    std::atomic<std::uint64_t> octets;  // of UDP payload; stored by the owner, read by control
    bool confirmed;                     // a packet was accepted: the responder's session may send (P24)
    Endpoint posted;                    // last roaming candidate that control was told of,
    std::uint32_t posted_against;       // and the version of the peer's endpoint it differed from
    ReplayWindow window;
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
