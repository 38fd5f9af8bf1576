// peer.h: all that control knows of one peer. Its other half, what workers see, is PeerState.
#pragma once
#include <memory>
#include <optional>

#include "control/configuration.h"
#include "control/keypairs.h"
#include "control/noise/cookie.h"
#include "control/noise/handshake.h"
#include "control/noise/identity.h"
#include "control/noise/initiation_history.h"
#include "control/noise/tai64n.h"
#include "dataplane/session/peer_state.h"

namespace wireplane {

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
  std::optional<Instant> last_handshake_sent;
  CookieJar cookies;
  TimestampClock clock;
  InitiationHistory history;
  Duration last_handshake{};  // wall clock; 0: never
  Serial last_serial;
  Keypairs keypairs;

  // Timers that are not derived from what workers note. none: not armed.
  std::optional<Instant> retry_at;            // of the handshake (P43)
  std::optional<Instant> wipe_at;             // of all keys (P30)
  std::optional<Instant> ask_again_at;        // until then workers need not ask for a handshake
  std::optional<Instant> keepalive_again_at;  // need_another_keepalive (P47)
  std::optional<Instant> persistent_since;    // when persistent keepalive was switched on (P48)
  Duration answer_jitter{};                   // of the next "no answer" timer (P46)
  std::optional<Instant> scheduled;           // its earliest entry in the timer queue

  std::vector<SessionSlot> retiring;  // sessions that nobody finds any more, until their grace period is over
  // What sessions that are gone, and handshakes, have moved. Octets of UDP payload.
  std::uint64_t received_octets = 0, sent_octets = 0;
};

}  // namespace wireplane
