// ingress.cpp: from the outer port to an inner packet that may be believed. Read worker.cpp's step() first.
#include <algorithm>

#include "dataplane/base/bytes.h"
#include "dataplane/base/fault.h"
#include "dataplane/wire/ecn.h"
#include "dataplane/wire/inner_ip.h"
#include "dataplane/worker.h"

namespace wireplane {
namespace {

constexpr std::size_t kReceiverAt = 4, kCounterAt = 8;  // in a transport message

// P1: all four octets count. P2: lengths are exact, a transport message has at least its header and tag.
Drop check_length(std::uint32_t type, std::uint32_t length) {
  const bool loose = seeded_fault(2);
  switch (static_cast<MessageType>(type)) {
    case MessageType::kInitiation:
      return length == sizeof(InitiationMessage) ? Drop::kNone : Drop::kBadLength;
    case MessageType::kResponse:
      return length == sizeof(ResponseMessage) || (loose && length == sizeof(ResponseMessage) + 1) ? Drop::kNone
                                                                                                   : Drop::kBadLength;
    case MessageType::kCookieReply:
      return length == sizeof(CookieReplyMessage) ? Drop::kNone : Drop::kBadLength;
    case MessageType::kData:
      return length >= kDataOverhead ? Drop::kNone : Drop::kBadLength;
  }
  return Drop::kUnknownType;
}

ReceiverIndex receiver_of(const Packet& packet) {
  return ReceiverIndex{load_le<std::uint32_t>(packet.data + kReceiverAt)};
}

// P33, P45: neither a session's age nor its numbers may pass the limit.
bool expired(Duration age, std::uint64_t counter) {
  if (age >= kRejectAfterTime && !seeded_fault(45)) return true;
  return counter >= kRejectAfterMessages && !seeded_fault(33);
}

// P36, remembered: this source, that of the session's packet before, was the peer's when the routes were as they are.
bool source_is_known(const Session::Received& received, const std::uint8_t* ip, std::uint32_t version) {
  if (received.source_version != version) return false;
  const auto* seen = received.source;
  if (is_ipv4(ip)) return received.source_family == Address::Family::kV4 && load_be32(ip + 12) == load_be32(seen);
  return received.source_family == Address::Family::kV6 && load_be64(ip + 8) == load_be64(seen) &&
         load_be64(ip + 16) == load_be64(seen + 8);
}

void remember_source(Session::Received& received, const std::uint8_t* ip, std::uint32_t version) {
  received.source_version = version;
  received.source_family = is_ipv4(ip) ? Address::Family::kV4 : Address::Family::kV6;
  std::copy_n(source_octets(ip), is_ipv4(ip) ? 4 : 16, received.source);
}

}  // namespace

void Worker::classify(Burst& burst) {
  worked_ = worked_ || !burst.empty();
  std::uint64_t datagrams = 0, octets = 0, taken_on = 0;
  const auto prefetch = [](const Packet& packet) { __builtin_prefetch(packet.data); };
  burst.filter(context_, prefetch, [&](Packet& packet) {
    if (packet.session != nullptr) {  // handed over: counted and classified by the worker it came to
      taken_on += packet.length;
      link_.sessions.prefetch(receiver_of(packet));
      return Drop::kNone;
    }
    ++datagrams;
    octets += packet.length;
    if (packet.length < sizeof(std::uint32_t)) return Drop::kBadLength;
    const auto type = seeded_fault(1) ? packet.data[0] : load_le<std::uint32_t>(packet.data);
    if (const Drop drop = check_length(type, packet.length); drop != Drop::kNone) return drop;
    if (static_cast<MessageType>(type) != MessageType::kData) return give_to_control(packet);
    packet.counter = load_le<std::uint64_t>(packet.data + kCounterAt);
    link_.sessions.prefetch(receiver_of(packet));
    return Drop::kNone;
  });
  link_.counters.outer_in.add(datagrams);
  link_.counters.outer_in_octets.add(octets);
  received_ += octets + taken_on;
}

Drop Worker::give_to_control(Packet& packet) {
  HandshakePacket* slot = link_.handshakes.reserve();
  if (slot == nullptr) return Drop::kHandshakeQueueFull;
  std::copy_n(packet.data, packet.length, slot->message.data());
  slot->length = static_cast<std::uint16_t>(packet.length);
  slot->from = packet.from;
  link_.handshakes.commit();
  engine_.control_doorbell().ring_if_asleep();
  link_.counters.consumed.add(1);
  context_.release(packet);
  return Drop::kNone;
}

void Worker::find_sessions(Burst& burst) {
  burst.filter(context_, [&](Packet& packet) {
    const ReceiverIndex index = receiver_of(packet);
    if (const unsigned owner = engine_.owner(index); owner != number_) return hand_over(packet, owner);
    const std::uint32_t found = link_.sessions.find(index);  // all 32 bits were compared
    if (found == 0) return Drop::kUnknownIndex;
    packet.session = &engine_.sessions().at(SessionSlot{found - 1});
    __builtin_prefetch(packet.session->receive_key);
    return Drop::kNone;
  });
  burst.filter(context_, [&](Packet& packet) {
    const Duration age = packet.session->age(now_);
    if (expired(age, packet.counter)) return Drop::kExpired;
    packet.key_is_old = age >= kRejectAfterTime - kKeepaliveTimeout - kRekeyTimeout;
    packet.from_peer = &engine_.peer(packet.session->peer.slot);
    prefetch_receive_side(packet);  // the AEAD takes long enough for it to come from memory
    return Drop::kNone;
  });
}

// What accept() will want.
inline void Worker::prefetch_receive_side(const Packet& packet) {
  __builtin_prefetch(&packet.session->received, 1);
  packet.session->received.window.prefetch(Counter{packet.counter});
  __builtin_prefetch(packet.from_peer);
}

// Its session belongs to another worker: the window and the order of its packets are that one's business.
Drop Worker::hand_over(Packet& packet, unsigned owner) {
  packet.session = &engine_.sessions().at(SessionSlot{0});  // "classified": not null; the owner looks it up itself
  if (!engine_.handover(number_, owner).push(packet)) return Drop::kHandoverFull;
  engine_.link(owner).doorbell.ring_if_asleep();
  link_.counters.handed_on.add(1);
  packet.buffer = nullptr;  // it is the owner's now
  return Drop::kNone;
}

void Worker::open(Burst& burst) {
  if (in_flight()) [[unlikely]]
    return open_with_helpers(burst);
  if (burst.empty()) return;
  engine_.aead().open(open_jobs_.data(), prepare_open(burst, open_jobs_.data()));
  finish_open(burst, open_jobs_.data());
}

std::size_t Worker::prepare_open(Burst& burst, OpenJob* jobs) {
  for (const Packet& packet : burst) {
    *jobs++ = {.key = packet.session->receive_key,
               .counter = packet.counter,
               .source = packet.data + kDataHeaderSize,
               .length = packet.length - static_cast<std::uint32_t>(kDataHeaderSize),
               .destination = packet.data + kDataHeaderSize,
               .authentic = false};
  }
  return burst.size();
}

void Worker::finish_open(Burst& burst, const OpenJob* jobs) {
  burst.filter(context_, [&](Packet& packet) {
    if (!jobs++->authentic) {
      if (seeded_fault(37)) follow(*packet.session, *packet.from_peer, packet, 0);
      if (seeded_fault(25)) confirm(*packet.session, *packet.from_peer);
      if (seeded_fault(32)) static_cast<void>(packet.session->received.window.accept(Counter{packet.counter}));
      return Drop::kBadTag;
    }
    packet.data += kDataHeaderSize;
    packet.length -= static_cast<std::uint32_t>(kDataOverhead);
    return Drop::kNone;
  });
}

void Worker::accept(Burst& burst) {
  routes_version_ = engine_.routes().version();  // before any look-up
  bool all_known = true;
  // Prefetched again: meanwhile the kernel has filled the nearest cache with octets.
  burst.filter(context_, prefetch_receive_side, [&](Packet& packet) {
    const Drop verdict = accept_one(packet);
    all_known = all_known && packet.source_is_known;
    return verdict;
  });
  if (!all_known) check_sources(burst);
}

// P36: whose the source is by longest prefix over the whole device.
void Worker::check_sources(Burst& burst) {
  std::uint16_t i = 0;
  for (const Packet& packet : burst) {
    if (!packet.source_is_known) want(i, packet.data, source_octets(packet.data));
    ++i;
  }
  look_up([&](std::uint16_t packet, std::uint32_t slot) {
    burst[packet].source_is_known = slot == burst[packet].from_peer->id.slot.raw() || seeded_fault(36);
    if (burst[packet].source_is_known)
      remember_source(burst[packet].session->received, burst[packet].data, routes_version_);
  });
  burst.filter(context_,
               [](const Packet& packet) { return packet.source_is_known ? Drop::kNone : Drop::kSourceNotAllowed; });
}

// From here on the packet is authentic: its sender has the session's key.
inline Drop Worker::accept_one(Packet& packet) {
  Session& session = *packet.session;
  PeerState& peer = *packet.from_peer;
  if (!session.received.window.accept(Counter{packet.counter})) return Drop::kReplayed;
  session.received.octets.store(session.received.octets.load(std::memory_order_relaxed) + packet.length + kDataOverhead,
                                std::memory_order_relaxed);
  if (!session.received.confirmed) confirm(session, peer);
  // The version first: if control publishes in between, we say it once too often rather than once too seldom.
  const std::uint32_t version = peer.endpoint_version.load(std::memory_order_acquire);
  if (session.received.from_version != version || session.received.from != fingerprint(packet.from)) [[unlikely]]
    follow(session, peer, packet, version);
  const bool data = packet.length != 0;
  peer.note_received(stamp_, data);
  if (data && peer.timers_are_idle()) arm_timers(peer);
  if (packet.key_is_old) [[unlikely]]
    ask_late(session, peer);
  if (!data) {  // a keepalive has said all it has to say
    link_.counters.consumed.add(1);
    context_.release(packet);
    return Drop::kNone;
  }
  const Drop verdict = admit(packet);
  packet.source_is_known = verdict == Drop::kNone && source_is_known(session.received, packet.data, routes_version_);
  return verdict;
}

// spec: wg §5.4.5: the responder may send with a key once it has received with it (P24, P25). Control then rotates its
// keypairs.
void Worker::confirm(Session& session, PeerState& peer) {
  if (!session.initiator) {
    // The word first: what waits for the key may leave as soon as control hears of it.
    peer.offer_sending(session.serial, session.slot);
    session.received.confirmed = post(link_.urgent, {.kind = Event::Kind::kConfirmed,
                                                     .peer = session.peer,
                                                     .serial = session.serial,
                                                     .counter = {},
                                                     .endpoint = {}});
  } else {
    session.received.confirmed = true;
  }
}

// P37: the endpoint moves with authenticated packets only. Control decides by {serial, counter} which move is the
// latest.
void Worker::follow(Session& session, PeerState& peer, const Packet& packet, std::uint32_t version) {
  const Endpoint* known = peer.endpoint.load(std::memory_order_acquire);
  auto& received = session.received;
  const std::uint64_t from = fingerprint(packet.from);
  if (known != nullptr && packet.from == *known) {
    received.from = from;
    received.from_version = version;
    return;
  }
  if (from == received.posted && received.posted_against == version) return;  // said already
  const Event roamed{.kind = Event::Kind::kRoamed,
                     .peer = session.peer,
                     .serial = session.serial,
                     .counter = packet.counter,
                     .endpoint = packet.from};
  if (!post(link_.urgent, roamed)) return;  // the next packet tries again
  received.posted = from;
  received.posted_against = version;
  remember_move(session, peer, packet, version);
}

// Only by the newest packet of the newest session: a late one, from where the peer was, must not turn us back.
void Worker::remember_move(const Session& session, PeerState& peer, const Packet& packet, std::uint32_t version) {
  const bool newest = session.received.window.next() == packet.counter + 1 &&
                      session.serial >= SendingWord::serial(peer.sending.load(std::memory_order_relaxed));
  if (!newest) return;
  const auto end = moves_.begin() + static_cast<std::ptrdiff_t>(moves_count_);
  const auto move = std::find_if(moves_.begin(), end, [&](const Move& m) { return m.peer == session.peer; });
  if (move == moves_.end()) return;  // many at once: these are answered where they were, for a moment
  if (move == end) ++moves_count_;
  *move = {.peer = session.peer, .version = version, .until = now_ + kMoveTakesAtMost, .to = packet.from};
}

void Worker::forget_moves() {
  for (std::size_t i = 0; i < moves_count_;) {
    const PeerState* peer = engine_.find_peer(moves_[i].peer);
    const bool pending = peer != nullptr && now_ < moves_[i].until &&
                         peer->endpoint_version.load(std::memory_order_acquire) == moves_[i].version;
    if (pending) {
      ++i;
    } else {
      moves_[i] = moves_[--moves_count_];
    }
  }
}

const Endpoint* Worker::moved_endpoint_of(const PeerState& peer) const {
  for (std::size_t i = 0; i < moves_count_; ++i)
    if (moves_[i].peer == peer.id) return &moves_[i].to;
  return peer.endpoint.load(std::memory_order_acquire);
}

// P44: an initiator whose key is about to end while it only receives asks for a new one, once.
void Worker::ask_late(Session& session, PeerState& peer) {
  if (!session.initiator && !seeded_fault(44)) return;
  if (session.rekey_asked_late.load(std::memory_order_relaxed)) return;
  session.rekey_asked_late.store(true, std::memory_order_relaxed);
  want_handshake(peer);
}

// P35: a whole IP packet and nothing else.
inline Drop Worker::admit(Packet& packet) {
  const std::size_t length = inner_length(packet.data, packet.length);
  if (length == 0) return Drop::kInnerMalformed;
  packet.length = static_cast<std::uint32_t>(length);
  if (const Drop drop = ecn_decapsulate(packet.data, packet.tos); drop != Drop::kNone) return drop;
  return Drop::kNone;
}

}  // namespace wireplane
