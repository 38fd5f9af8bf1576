// handshake.h: Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s, as WireGuard speaks it. Pure: no clock, no socket, no peer table.
// spec: wg §5.4.2, §5.4.3, §5.4.5; Noise §7.5 (IK), §9 (psk2)
//
//   <- s                              the responder's static key is known beforehand
//   -> e, es, s, ss, {t}              148 octets; {t} is a timestamp
//   <- e, ee, se, psk, {}             92 octets
//
//   Idle --write_initiation--> InitiationSent --read_response--> KeyPair                              (initiator)
//   Idle --read_initiation---> InitiationRead --read_initiation_timestamp, write_response--> KeyPair  (responder)
//
// States are types. A reader works on a copy and commits last: a forged message leaves a handshake as it was. Between
// read_initiation and read_initiation_timestamp the caller finds the peer by its static key; before the first it checks
// mac1 (admission.h), behind the second it asks the InitiationHistory. The index fields stand outside the transcript:
// only mac1 covers them. Cost: writing 1 + 1, reading 1 + 0 multiplications for message one; 3 and 2 for message two.
#pragma once
#include <cstdint>
#include <span>

#include "control/noise/identity.h"
#include "control/noise/tai64n.h"
#include "control/noise/transcript.h"
#include "dataplane/base/drops.h"
#include "dataplane/base/entropy.h"
#include "dataplane/base/result.h"
#include "dataplane/base/types.h"
#include "dataplane/wire/messages.h"

namespace wireplane {

enum class Refusal : std::uint8_t {
  kBadTag,         // forged, damaged, or sealed for somebody else
  kLowOrderPoint,  // a point that makes the shared secret zero (P20)
  kUnusablePeer,   // the peer's static key is such a point
  kWrongIndex,     // a response to another initiation
};
[[nodiscard]] Drop drop_of(Refusal refusal);

struct EphemeralKeys {
  SecretKey secret;
  PublicKey public_key;
};

struct InitiationSent {
  ReceiverIndex self;
  EphemeralKeys ephemeral;
  Transcript transcript;
};

struct InitiationRead {
  ReceiverIndex remote;
  PublicKey ephemeral;
  PublicKey remote_static;  // claimed until the timestamp has been read: only {t} proves that they hold its secret
  Transcript transcript;
  bool timestamp_read = false;
};

struct KeyPair {  // wg §5.4.5: the two directions are two keys
  SecretKey send, receive;
  ReceiverIndex self, remote;
  bool initiator = false;
  SecretKey exporter;
};

// The message's type and indices are written too; its macs are left zero, for CookieJar::write_macs.
[[nodiscard]] Result<InitiationSent, Refusal> write_initiation(InitiationMessage& msg, ReceiverIndex self,
                                                               const LocalIdentity& us, const RemoteIdentity& them,
                                                               const Timestamp& timestamp, Entropy& entropy);
[[nodiscard]] Result<InitiationRead, Refusal> read_initiation(const InitiationMessage& msg, const LocalIdentity& us);
[[nodiscard]] Result<Timestamp, Refusal> read_initiation_timestamp(InitiationRead& read, const InitiationMessage& msg,
                                                                   const RemoteIdentity& them);
[[nodiscard]] Result<KeyPair, Refusal> write_response(ResponseMessage& msg, InitiationRead read, ReceiverIndex self,
                                                      const LocalIdentity& us, const RemoteIdentity& them,
                                                      Entropy& entropy);
[[nodiscard]] Result<KeyPair, Refusal> read_response(const InitiationSent& sent, const ResponseMessage& msg,
                                                     const LocalIdentity& us, const RemoteIdentity& them);

// The pattern itself, with any prologue and any payload, over wherever a message's fields lie. The functions above are
// these with WireGuard's prologue and payloads; Noise's own vectors are run through these.
namespace pattern {

template <class Octet>
struct First {
  std::span<Octet, 32> ephemeral;
  std::span<Octet, 32 + 16> sealed_static;
  std::span<Octet> sealed_payload;
};
template <class Octet>
struct Second {
  std::span<Octet, 32> ephemeral;
  std::span<Octet> sealed_payload;
};

Result<InitiationSent, Refusal> write_first(First<std::uint8_t> msg, Octets prologue, Octets payload,
                                            ReceiverIndex self, const LocalIdentity& us, const RemoteIdentity& them,
                                            Entropy& entropy);
Result<InitiationRead, Refusal> read_first(First<const std::uint8_t> msg, Octets prologue, const LocalIdentity& us);
Result<Nothing, Refusal> read_first_payload(std::span<std::uint8_t> payload, InitiationRead& read,
                                            First<const std::uint8_t> msg, const RemoteIdentity& them);
Result<Transcript, Refusal> write_second(Second<std::uint8_t> msg, const InitiationRead& read, Octets payload,
                                         const RemoteIdentity& them, Entropy& entropy);
Result<Transcript, Refusal> read_second(std::span<std::uint8_t> payload, const InitiationSent& sent,
                                        Second<const std::uint8_t> msg, const LocalIdentity& us,
                                        const RemoteIdentity& them);

}  // namespace pattern
}  // namespace wireplane
