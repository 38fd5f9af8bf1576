#include "control/noise/handshake.h"

#include <algorithm>
#include <string_view>
#include <utility>

#include "control/noise/stack_scrub.h"
#include "control/noise/x25519.h"
#include "dataplane/base/bytes.h"
#include "dataplane/base/check.h"
#include "dataplane/base/fault.h"

namespace wireplane {
namespace {

constexpr std::string_view kIdentifier = "WireGuard v1 zx2c4 Jason@zx2c4.com";
const Octets kPrologue{reinterpret_cast<const std::uint8_t*>(kIdentifier.data()), kIdentifier.size()};

EphemeralKeys generate_ephemeral(Entropy& entropy) {
  SecretKey secret = generate_secret_key(entropy);
  const PublicKey ours = public_key(secret);
  return {std::move(secret), ours};
}

PublicKey key_at(std::span<const std::uint8_t, 32> octets) {
  PublicKey key;
  std::copy(octets.begin(), octets.end(), key.octets.begin());
  return key;
}

ReceiverIndex index_at(const std::array<std::uint8_t, 4>& field) {
  return ReceiverIndex{load_le<std::uint32_t>(field.data())};
}

template <class Message>
void begin(Message& msg, MessageType type, ReceiverIndex sender) {
  msg = Message{};
  store_le(msg.type.data(), static_cast<std::uint32_t>(type));
  store_le(msg.sender.data(), sender.raw());
}

template <class Octet, class Message>
pattern::First<Octet> first(Message& msg) {
  return {std::span{msg.ephemeral}, std::span{msg.sealed_static}, std::span{msg.sealed_timestamp}};
}

template <class Octet, class Message>
pattern::Second<Octet> second(Message& msg) {
  return {std::span{msg.ephemeral}, std::span{msg.sealed_nothing}};
}

// spec: wg §5.4.5
KeyPair split(const Transcript& t, ReceiverIndex self, ReceiverIndex remote, bool initiator) {
  KeyPair keys{{}, {}, self, remote, initiator, t.exporter()};
  if (initiator) {
    t.split(keys.send, keys.receive);
  } else {
    t.split(keys.receive, keys.send);
  }
  return keys;
}

}  // namespace

Result<InitiationSent, Refusal> write_initiation(InitiationMessage& msg, ReceiverIndex self, const LocalIdentity& us,
                                                 const RemoteIdentity& them, const Timestamp& timestamp,
                                                 Entropy& entropy) {
  const StackScrub scrub;
  begin(msg, MessageType::kInitiation, self);
  return pattern::write_first(first<std::uint8_t>(msg), kPrologue, timestamp.octets, self, us, them, entropy);
}

Result<InitiationRead, Refusal> read_initiation(const InitiationMessage& msg, const LocalIdentity& us) {
  const StackScrub scrub;
  auto read = pattern::read_first(first<const std::uint8_t>(msg), kPrologue, us);
  if (read) read->remote = index_at(msg.sender);
  return read;
}

Result<Timestamp, Refusal> read_initiation_timestamp(InitiationRead& read, const InitiationMessage& msg,
                                                     const RemoteIdentity& them) {
  const StackScrub scrub;
  Timestamp timestamp;
  const auto done = pattern::read_first_payload(timestamp.octets, read, first<const std::uint8_t>(msg), them);
  if (!done) return done.error();
  return timestamp;
}

Result<KeyPair, Refusal> write_response(ResponseMessage& msg, InitiationRead read, ReceiverIndex self,
                                        const LocalIdentity&, const RemoteIdentity& them, Entropy& entropy) {
  const StackScrub scrub;
  begin(msg, MessageType::kResponse, self);
  store_le(msg.receiver.data(), read.remote.raw());
  const auto done = pattern::write_second(second<std::uint8_t>(msg), read, {}, them, entropy);
  if (!done) return done.error();
  return split(*done, self, read.remote, false);
}

Result<KeyPair, Refusal> read_response(const InitiationSent& sent, const ResponseMessage& msg, const LocalIdentity& us,
                                       const RemoteIdentity& them) {
  const StackScrub scrub;
  if (index_at(msg.receiver) != sent.self) return Refusal::kWrongIndex;
  const auto done = pattern::read_second({}, sent, second<const std::uint8_t>(msg), us, them);
  if (!done) return done.error();
  return split(*done, sent.self, index_at(msg.sender), true);
}

namespace pattern {

// spec: wg §5.4.2, first message, as the initiator writes it             -> e, es, s, ss, {payload}
Result<InitiationSent, Refusal> write_first(First<std::uint8_t> msg, Octets prologue, Octets payload,
                                            ReceiverIndex self, const LocalIdentity& us, const RemoteIdentity& them,
                                            Entropy& entropy) {
  if (!them.usable) return Refusal::kUnusablePeer;
  InitiationSent sent{self, generate_ephemeral(entropy), Transcript{prologue, them.public_key}};
  Transcript& t = sent.transcript;
  std::ranges::copy(sent.ephemeral.public_key.octets, msg.ephemeral.begin());
  /* e   */ t.mix_ephemeral(sent.ephemeral.public_key);
  /* es  */ if (!t.mix_dh(sent.ephemeral.secret, them.public_key))
    return Refusal::kLowOrderPoint;
  /* s   */ t.seal(msg.sealed_static, us.public_key.octets);
  /* ss  */ t.mix_key(them.static_static.expose());
  /* {}  */ t.seal(msg.sealed_payload, payload);
  return sent;
}

// spec: wg §5.4.2, first message, as the responder reads it              -> e, es, s
// It ends where the caller must say who that is.
Result<InitiationRead, Refusal> read_first(First<const std::uint8_t> msg, Octets prologue, const LocalIdentity& us) {
  InitiationRead read{{}, key_at(msg.ephemeral), {}, Transcript{prologue, us.public_key}};
  Transcript& t = read.transcript;
  /* e   */ t.mix_ephemeral(read.ephemeral);
  /* es  */ if (!t.mix_dh(us.secret, read.ephemeral))
    return Refusal::kLowOrderPoint;
  /* s   */ if (!t.open(read.remote_static.octets, msg.sealed_static))
    return Refusal::kBadTag;
  return read;
}

//                                                                        -> ss, {payload}
Result<Nothing, Refusal> read_first_payload(std::span<std::uint8_t> payload, InitiationRead& read,
                                            First<const std::uint8_t> msg, const RemoteIdentity& them) {
  WG_CHECK(!read.timestamp_read && read.remote_static == them.public_key);
  if (!them.usable) return Refusal::kUnusablePeer;
  Transcript t = read.transcript;
  /* ss  */ t.mix_key(them.static_static.expose());
  if (seeded_fault(19)) read.transcript = t;
  /* {}  */ if (!t.open(payload, msg.sealed_payload))
    return Refusal::kBadTag;
  read.transcript = t;
  read.timestamp_read = true;
  return Nothing{};
}

// spec: wg §5.4.3, second message, as the responder writes it            <- e, ee, se, psk, {payload}
Result<Transcript, Refusal> write_second(Second<std::uint8_t> msg, const InitiationRead& read, Octets payload,
                                         const RemoteIdentity& them, Entropy& entropy) {
  WG_CHECK(read.timestamp_read);
  const EphemeralKeys ephemeral = generate_ephemeral(entropy);
  Transcript t = read.transcript;
  std::ranges::copy(ephemeral.public_key.octets, msg.ephemeral.begin());
  /* e   */ t.mix_ephemeral(ephemeral.public_key);
  /* ee  */ if (!t.mix_dh(ephemeral.secret, read.ephemeral))
    return Refusal::kLowOrderPoint;
  /* se  */ if (!t.mix_dh(ephemeral.secret, them.public_key))
    return Refusal::kLowOrderPoint;
  /* psk */ t.mix_psk(them.psk);
  /* {}  */ t.seal(msg.sealed_payload, payload);
  return t;
}

// spec: wg §5.4.3, second message, as the initiator reads it             <- e, ee, se, psk, {payload}
Result<Transcript, Refusal> read_second(std::span<std::uint8_t> payload, const InitiationSent& sent,
                                        Second<const std::uint8_t> msg, const LocalIdentity& us,
                                        const RemoteIdentity& them) {
  Transcript t = sent.transcript;
  const PublicKey ephemeral = key_at(msg.ephemeral);
  /* e   */ t.mix_ephemeral(ephemeral);
  /* ee  */ if (!t.mix_dh(sent.ephemeral.secret, ephemeral))
    return Refusal::kLowOrderPoint;
  /* se  */ if (!t.mix_dh(us.secret, ephemeral))
    return Refusal::kLowOrderPoint;
  /* psk */ t.mix_psk(them.psk);
  /* {}  */ if (!t.open(payload, msg.sealed_payload))
    return Refusal::kBadTag;
  return t;
}

}  // namespace pattern

Drop drop_of(Refusal refusal) {
  return refusal == Refusal::kWrongIndex ? Drop::kUnexpectedResponse : Drop::kBadHandshake;
}

}  // namespace wireplane
