// handshakes.cpp: handshake messages in and out, and the sessions that come of them.
#include <algorithm>
#include <array>
#include <cstring>
#include <new>

#include "control/device.h"
#include "dataplane/base/bytes.h"
#include "dataplane/base/fault.h"

namespace wireplane {
namespace {

constexpr Duration kUnderLoadLasts = 1s;  // P9: after the rings were last an eighth full

template <class Message>
Message message_of(const HandshakePacket& packet) {
  static_assert(sizeof(Message) <= kMaxHandshakeSize);
  Message message;
  std::memcpy(&message, packet.message.data(), sizeof message);
  return message;
}

// Hands out the system's randomness and remembers the last 32 octets: how the ephemeral secret of a response gets into
// a keylog.
class RecordingEntropy final : public Entropy {
 public:
  explicit RecordingEntropy(Entropy& source) : source_{source} {}
  void fill(std::span<std::uint8_t> octets) override {
    source_.fill(octets);
    if (octets.size() == SecretKey::kSize) std::ranges::copy(octets, last_.fill().begin());
  }
  [[nodiscard]] const SecretKey& last() const { return last_; }

 private:
  Entropy& source_;
  SecretKey last_;
};

}  // namespace

void Device::note_load() {
  std::size_t waiting = 0;
  for (unsigned i = 0; i < engine_.workers(); ++i) waiting += engine_.link(i).handshakes.size();
  const std::size_t bound = engine_.link(0).handshakes.capacity() / 8;
  Duration lasts = seeded_fault(9) ? Duration{0} : kUnderLoadLasts;
  if (seeded_fault(14)) lasts = 1h;
  if (waiting >= bound) under_load_until_ = now_.engine + lasts;
}

void Device::take_handshake(const HandshakePacket& packet, unsigned worker) {
  if (!has_identity_) return drop(Drop::kUnknownPeer);
  const auto type = static_cast<MessageType>(load_le<std::uint32_t>(packet.message.data()));
  if (type == MessageType::kCookieReply) {
    if (const Drop verdict = take_cookie_reply(packet); verdict != Drop::kNone) drop(verdict);
    return;
  }
  const std::span<const std::uint8_t> message{packet.message.data(), packet.length};
  const bool loaded = under_load() || seeded_fault(7);
  Drop verdict = admit(message, packet.from, loaded, identity_, cookie_checker_, limiter_, now_.engine);
  if (verdict == Drop::kCookieSent) reply_with_cookie(packet, worker);
  if (verdict == Drop::kNone)
    verdict = type == MessageType::kInitiation ? take_initiation(packet, worker) : take_response(packet);
  if (verdict != Drop::kNone) drop(verdict);
}

void Device::reply_with_cookie(const HandshakePacket& packet, unsigned worker) {
  CookieReplyMessage reply;
  cookie_checker_.make_reply(reply, {packet.message.data(), packet.length}, packet.from, identity_, now_.engine,
                             entropy_);
  Order out{.kind = Order::Kind::kSend, .peer = {}, .length = sizeof reply, .to = packet.from, .message = {}};
  std::memcpy(out.message.data(), &reply, sizeof reply);
  order(worker, out);
}

// spec: wg §5.4.2 as the responder reads it, §5.4.3 as it answers. Nothing of the peer changes before the message has
// proved itself (P19).
Drop Device::take_initiation(const HandshakePacket& packet, unsigned worker) {
  const auto message = message_of<InitiationMessage>(packet);
  Result<InitiationRead, Refusal> read = read_initiation(message, identity_);
  if (!read) return drop_of(read.error());
  const auto known = by_key_.find(read->remote_static);
  if (known == by_key_.end()) {  // P15: silent
    if (seeded_fault(15)) reply_with_cookie(packet, worker);
    return Drop::kUnknownPeer;
  }
  Peer& peer = *peers_[known->second.raw()];
  if (seeded_fault(21) && peer.sent) return Drop::kUnexpectedResponse;  // "we have asked first"
  const Result<Timestamp, Refusal> timestamp = read_initiation_timestamp(*read, message, identity_of(peer));
  if (!timestamp) return drop_of(timestamp.error());
  if (const Drop verdict = peer.history.judge(*timestamp, now_.engine); verdict != Drop::kNone) return verdict;

  const std::optional<ReceiverIndex> self = indices_.draw(worker, now_.engine);
  if (!self) return Drop::kHandshakeQueueFull;
  ResponseMessage response;
  RecordingEntropy entropy{entropy_};
  Result<KeyPair, Refusal> keys =
      write_response(response, std::move(*read), *self, identity_, identity_of(peer), entropy);
  bool installed = false;
  try {
    installed = keys && install(peer, *keys);
  } catch (const std::bad_alloc&) {  // the message stays in its ring, and will draw again
    indices_.put_back(*self);
    throw;
  }
  if (!installed) {
    indices_.give_back(*self, now_.engine);
    return keys ? Drop::kHandshakeQueueFull : drop_of(keys.error());
  }
  if (options_.keylog) options_.keylog({peer.public_key, identity_.secret, entropy.last(), peer.psk});
  peer.history.record(*timestamp, now_.engine);
  peer.worker = worker;  // on a NIC that is where the peer's packets arrive
  handshake_heard(peer, packet);
  follow(peer, peer.last_serial, 0, packet.from);
  peer.cookies.write_macs(octets_of(response), identity_of(peer), now_.engine);
  send_message(peer, octets_of(response), worker);
  return Drop::kNone;
}

Drop Device::take_response(const HandshakePacket& packet) {
  const auto message = message_of<ResponseMessage>(packet);
  const auto owner = index_owner_.find(ReceiverIndex{load_le<std::uint32_t>(message.receiver.data())});
  Peer* peer = owner == index_owner_.end() ? nullptr : find(owner->second);
  if (peer == nullptr || !peer->sent || peer->sent->self != owner->first) return Drop::kUnexpectedResponse;  // P22
  Result<KeyPair, Refusal> keys = read_response(*peer->sent, message, identity_, identity_of(*peer));
  if (!keys) return drop_of(keys.error());
  if (options_.keylog) options_.keylog({peer->public_key, identity_.secret, peer->sent->ephemeral.secret, peer->psk});
  if (!install(*peer, *keys)) return Drop::kHandshakeQueueFull;
  if (!seeded_fault(22)) peer->sent.reset();  // its index is the session's now (P22, P23)
  end_initiation(*peer);
  handshake_heard(*peer, packet);
  follow(*peer, peer->last_serial, 0, packet.from);
  peer->last_handshake = now_.wall;
  for (unsigned i = 0; i < engine_.workers(); ++i)
    order(i, {.kind = i == peer->worker ? Order::Kind::kKeyReady : Order::Kind::kFlush,
              .peer = peer->id,
              .length = {},
              .to = {},
              .message = {}});
  event(*peer, "connected");
  return Drop::kNone;
}

// P12: kept for the next message; moves no endpoint and sends nothing.
Drop Device::take_cookie_reply(const HandshakePacket& packet) {
  const auto message = message_of<CookieReplyMessage>(packet);
  const auto owner = index_owner_.find(ReceiverIndex{load_le<std::uint32_t>(message.receiver.data())});
  Peer* peer = owner == index_owner_.end() ? nullptr : find(owner->second);
  if (peer == nullptr || !peer->cookies.accept(message, identity_of(*peer), now_.engine)) return Drop::kBadCookieReply;
  return Drop::kNone;
}

void Device::handshake_heard(Peer& peer, const HandshakePacket& packet) {
  peer.received_octets += packet.length;
  peer.state->receive.last_received.store(stamp_of(now_.engine), std::memory_order_relaxed);
  peer.state->send.unanswered_since.store(0, std::memory_order_relaxed);
}

// Begins a handshake, or repeats it. Not within Rekey-Timeout of the last message: then workers are asked to come
// again.
void Device::initiate(Peer& peer, bool retry) {
  if (!retry) peer.attempts = 0;
  const bool possible = has_identity_ && peer.endpoint && (identity_of(peer).usable || seeded_fault(20));
  const Instant allowed = peer.last_handshake_sent ? *peer.last_handshake_sent + kRekeyTimeout : now_.engine;
  const std::optional<ReceiverIndex> self =
      possible && allowed <= now_.engine ? indices_.draw(peer.worker, now_.engine) : std::nullopt;
  if (!self) {
    const Instant again = std::max(allowed, now_.engine + 1s);
    if (retry && possible)  // we answered the peer meanwhile, so the message counts as sent; but this goes on (P21)
      peer.retry_at = again;
    else if (!peer.retry_at)
      peer.ask_again_at = again;
    return schedule(peer);
  }
  InitiationMessage message;
  Result<InitiationSent, Refusal> sent =
      write_initiation(message, *self, identity_, identity_of(peer), peer.clock.read(now_), entropy_);
  if (!sent) {
    indices_.give_back(*self, now_.engine);
    peer.ask_again_at = now_.engine + kRekeyTimeout;
    return schedule(peer);
  }
  std::unique_ptr<InitiationSent> waiting;
  try {
    waiting = std::make_unique<InitiationSent>(std::move(*sent));
    index_owner_[*self] = peer.id;
    if (peer.sent) {  // the earlier one's answer would come too late
      indices_.give_back(peer.sent->self, now_.engine);
      index_owner_.erase(peer.sent->self);
    }
  } catch (const std::bad_alloc&) {
    index_owner_.erase(*self);
    indices_.put_back(*self);
    throw;
  }
  peer.sent = std::move(waiting);
  ++peer.attempts;
  peer.cookies.write_macs(octets_of(message), identity_of(peer), now_.engine);
  send_message(peer, octets_of(message), peer.worker);
  peer.retry_at = now_.engine + kRekeyTimeout + jitter();
  schedule(peer);
}

void Device::send_message(Peer& peer, std::span<const std::uint8_t> message, unsigned worker) {
  Order out{.kind = Order::Kind::kSend,
            .peer = peer.id,
            .length = static_cast<std::uint16_t>(message.size()),
            .to = *peer.endpoint,
            .message = {}};
  std::ranges::copy(message, out.message.begin());
  order(worker, out);
  peer.last_handshake_sent = now_.engine;
  peer.sent_octets += message.size();
  peer.state->send.last_sent.store(stamp_of(now_.engine), std::memory_order_relaxed);
  peer.state->receive.keepalive_owed_since.store(0, std::memory_order_relaxed);
}

// A handshake has ended well: what was armed for it is over.
void Device::end_initiation(Peer& peer) {
  if (peer.sent && !seeded_fault(22)) {
    index_owner_.erase(peer.sent->self);
    indices_.give_back(peer.sent->self, now_.engine);
    peer.sent.reset();
  }
  peer.attempts = 0;
  peer.retry_at.reset();
  peer.ask_again_at.reset();
  peer.state->handshake_wanted.store(false, std::memory_order_relaxed);
  schedule(peer);
}

std::optional<SessionSlot> Device::take_slot() {
  if (!free_sessions_.empty()) {
    const SessionSlot slot = free_sessions_.back();
    free_sessions_.pop_back();
    return slot;
  }
  if (next_session_ == engine_.sessions().slots()) return std::nullopt;
  return SessionSlot{next_session_++};
}

// Makes a session of a keypair: into the arena, then into its owner's table, then into the peer's rotation. False: no
// slot is free.
bool Device::install(Peer& peer, KeyPair& keys) {
  // What needs memory comes first: without it nothing has happened. An initiator has had its index since its
  // initiation.
  const bool fresh = index_owner_.try_emplace(keys.self, peer.id).second;
  const std::optional<SessionSlot> slot = take_slot();
  if (!slot) {
    if (fresh) index_owner_.erase(keys.self);
    return false;
  }
  std::vector<SessionRef> gone;
  try {
    gone = peer.keypairs.derived({*slot, Serial{peer.last_serial.raw() + 1}, keys.self}, keys.initiator);
  } catch (const std::bad_alloc&) {
    free_sessions_.push_back(*slot);
    if (fresh) index_owner_.erase(keys.self);
    throw;
  }
  peer.last_serial = Serial{peer.last_serial.raw() + 1};
  Session& session = *new (&engine_.sessions().at(*slot)) Session{};
  std::ranges::copy(keys.receive.expose(), session.receive_key);
  std::ranges::copy(keys.send.expose(), session.sent.key);
  session.peer = peer.id;
  session.serial = peer.last_serial;
  session.slot = *slot;
  session.self = keys.self;
  session.sent.remote = keys.remote;
  // One at a time: where a worker remembers a session's place, this tells whether it is that session still
  // (dataplane/session/reservations.h).
  last_created_ = std::max(last_created_ + 1, ns(now_.engine));
  session.created = session.sent.created = last_created_;
  session.initiator = session.sent.initiator = keys.initiator;
  ++live_sessions_;
  ++sessions_owned_[engine_.owner(keys.self)];
  engine_.link(engine_.owner(keys.self)).sessions.store(keys.self, *slot);  // T1: found from here on

  retire(peer, gone);
  // P24: the responder may not send before the first packet on this key has come; its owner will offer it then.
  if (keys.initiator || seeded_fault(24)) peer.state->offer_sending(session.serial, *slot);
  peer.wipe_at = now_.engine + kWipeAfterTime;
  schedule(peer);
  return true;
}

// spec: DESIGN.md, session keys: clear the entry, grace period, clear `sending` if it names it, grace period, wipe,
// free. The first period is there because the owner may be offering the session for sending right now.
void Device::retire(Peer& peer, const std::vector<SessionRef>& gone) {
  for (const SessionRef& ref : gone) {
    engine_.link(engine_.owner(ref.self)).sessions.clear(ref.self);
    index_owner_.erase(ref.self);
    peer.retiring.add(ref.slot);
    retire_later({peer.id, ref, false});
  }
}

// Its keys must not stay because there is no memory to wait in: then it waits in a place it has of old.
void Device::retire_later(const Retiring& session) {
  try {
    engine_.grace().retire([this, session] { retired(session); });
  } catch (const std::bad_alloc&) {
    unretired_.push_back(session);
  }
}

void Device::retired(const Retiring& session_of) {
  const auto& [id, ref, cleared_once] = session_of;
  if (!cleared_once) {
    std::uint64_t word = SendingWord::pack(ref.serial, ref.slot);
    engine_.peer(id.slot).sending.compare_exchange_strong(word, std::uint64_t{ref.serial.raw()} << 32,
                                                          std::memory_order_acq_rel);
    return retire_later({id, ref, true});
  }
  const Session& session = engine_.sessions().at(ref.slot);
  if (Peer* peer = find(id)) {
    peer->received_octets += session.received.octets.load(std::memory_order_relaxed);
    peer->sent_octets += session.sent.octets.load(std::memory_order_relaxed);
    peer->retiring.remove(ref.slot);
  }
  if (!seeded_fault(30)) engine_.sessions().wipe_slot(ref.slot);
  free_sessions_.push_back(ref.slot);
  indices_.give_back(ref.self, now_.engine);
  --live_sessions_;
  --sessions_owned_[engine_.owner(ref.self)];
}

// From here on no key of this peer is used: configuration changed, or nobody used them for too long (P29, P30).
void Device::expire_keys(Peer& peer) {
  std::uint64_t word = peer.state->sending.load(std::memory_order_relaxed);
  while (!peer.state->sending.compare_exchange_weak(word, word >> 32 << 32, std::memory_order_acq_rel)) {
  }
  retire(peer, peer.keypairs.clear());
  end_initiation(peer);
  peer.wipe_at.reset();
  peer.last_handshake_sent.reset();  // a new handshake may begin at once
}

}  // namespace wireplane
