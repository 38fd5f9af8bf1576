// peer.h: all that control knows of one peer. Its other half, what workers see, is PeerState.
#pragma once
#include <algorithm>
#include <array>
#include <memory>
#include <optional>

#include "control/configuration.h"
#include "control/keypairs.h"
#include "control/maybe_instant.h"
#include "control/noise/cookie.h"
#include "control/noise/handshake.h"
#include "control/noise/identity.h"
#include "control/noise/initiation_history.h"
#include "control/noise/tai64n.h"
#include "dataplane/session/peer_state.h"

namespace wireplane {

// A peer's sessions that nobody finds any more, until their grace period is over: of more than these, what they have
// moved is not shown for that long.
class RetiringSessions {
 public:
  void add(SessionSlot slot) {
    if (count_ < slots_.size()) slots_[count_++] = slot;
  }
  void remove(SessionSlot slot) { count_ = static_cast<std::uint32_t>(std::remove(begin(), end(), slot) - begin()); }
  [[nodiscard]] SessionSlot* begin() { return slots_.data(); }
  [[nodiscard]] SessionSlot* end() { return slots_.data() + count_; }
  [[nodiscard]] const SessionSlot* begin() const { return slots_.data(); }
  [[nodiscard]] const SessionSlot* end() const { return slots_.data() + count_; }

 private:
  std::array<SessionSlot, 8> slots_;
  std::uint32_t count_ = 0;
};

struct Peer {
  PeerId id;
  PeerState* state = nullptr;
  PublicKey public_key;
  SecretKey psk;  // all zero: none

  // Made for the first handshake (Device::identity_of()): a million peers are configured in seconds, and most never
  // speak.
  std::unique_ptr<RemoteIdentity> identity;

  // Configuration.
  std::optional<Endpoint> endpoint;  // the published one, and what `show` shows
  std::uint16_t persistent_keepalive_s = 0;
  std::uint32_t group = 0;

  // Where the peer was last heard: the greatest {serial, counter} wins (P37). A handshake counts as its serial's
  // zero, transport message n as n + 1.
  Serial heard_serial;
  std::uint64_t heard_counter = 0;

  // Handshake (wg §5.4, §6.4).
  unsigned worker = 0;                   // whose port its handshakes leave through
  std::unique_ptr<InitiationSent> sent;  // while one waits for its answer: few of a million do
  unsigned attempts = 0;                 // initiations of this handshake so far
  MaybeInstant last_handshake_sent;
  CookieJar cookies;
  TimestampClock clock;
  InitiationHistory history;
  Duration last_handshake{};  // wall clock; 0: never
  Serial last_serial;
  Keypairs keypairs;

  // Timers that are not derived from what workers note. none: not armed.
  MaybeInstant retry_at;            // of the handshake (P43)
  MaybeInstant wipe_at;             // of all keys (P30)
  MaybeInstant ask_again_at;        // until then workers need not ask for a handshake
  MaybeInstant keepalive_again_at;  // need_another_keepalive (P47)
  MaybeInstant persistent_since;    // when persistent keepalive was switched on (P48)
  Duration answer_jitter{};         // of the next "no answer" timer (P46)
  MaybeInstant scheduled;           // its earliest entry in the timer queue

  RetiringSessions retiring;
  // What sessions that are gone, and handshakes, have moved. Octets of UDP payload.
  std::uint64_t received_octets = 0, sent_octets = 0;
};

}  // namespace wireplane
