// egress.cpp: from an inner packet to a datagram on its way. Read worker.cpp's step() first.
#include <algorithm>

#include "dataplane/base/bytes.h"
#include "dataplane/base/fault.h"
#include "dataplane/session/numbers.h"
#include "dataplane/wire/ecn.h"
#include "dataplane/wire/fragment.h"
#include "dataplane/wire/inner_ip.h"
#include "dataplane/worker.h"

namespace wireplane {
namespace {

// P34: zeros to the next multiple of 16, but never beyond the MTU.
std::uint8_t padding_of(std::uint32_t length, std::uint32_t mtu) {
  if (seeded_fault(34)) return 0;
  const auto padded = static_cast<std::uint32_t>((length + kPaddingMultiple - 1) / kPaddingMultiple * kPaddingMultiple);
  return static_cast<std::uint8_t>(std::min(padded, std::max(mtu, length)) - length);  // less than 16
}

// What a port refuses of a burst for want of room, and not for another reason: octets, by the burst's mean length.
class Refusals {
 public:
  Refusals(const Counters& counters, Drop reason, std::size_t packets, std::uint64_t octets)
      : tally_{counters.drops[static_cast<std::size_t>(reason)]},
        before_{tally_.get()},
        packets_{packets},
        octets_{octets} {}
  [[nodiscard]] std::uint64_t octets() const {  // after send()
    const std::uint64_t refused = tally_.get() - before_;
    return refused == 0 ? 0 : octets_ * std::min<std::uint64_t>(refused, packets_) / packets_;
  }

 private:
  const Tally& tally_;
  std::uint64_t before_, packets_, octets_;
};

void prefetch_to_number(const Packet& packet) {
  __builtin_prefetch(&packet.session->sent, 1);
  __builtin_prefetch(packet.peer);
}

}  // namespace

inline bool Worker::is_for_host(const Packet& packet) const {
  const auto& ours = settings_->host_addresses;
  if (!ours.empty() && std::find(ours.begin(), ours.end(), destination_of(packet.data)) != ours.end()) return true;
  return settings_->has_inner && (packet.peer == nullptr || settings_->forward == Forward::kNone);
}

// Of what peers sent, what the data plane does not forward itself goes to the host: its own addresses, what is for no
// peer, and with Forward = none everything (its kernel and its firewall decide).
void Worker::for_the_host(Burst& burst) {
  if (burst.empty()) return;
  const bool all = settings_->has_inner && settings_->forward == Forward::kNone;  // whoever it is for: no look-up
  if (all && inner_ != nullptr && !inner_share_.active()) return send_to_host(burst);
  if (!all) find_destinations(burst, 0);
  burst.filter(context_, [this](Packet& packet) {
    if (!is_for_host(packet)) {
      prefetch_send_side(packet);
      return Drop::kNone;
    }
    if (inner_ == nullptr) return Drop::kNoInnerPort;
    if (inner_share_.active() && !inner_share_.take(packet.from_peer->id.slot, packet.length))
      return Drop::kOverFairShare;
    host_.add(packet);
    packet.buffer = nullptr;
    return Drop::kNone;
  });
  send_to_host(host_);
}

// Whose the inner destinations are. From packet `first` on.
void Worker::find_destinations(Burst& burst, std::size_t first) {
  const std::span<Packet> packets{burst.begin() + first, burst.end()};
  const auto take = [&](Packet& packet, std::uint32_t slot) {
    packet.peer = slot == kNoPeer ? nullptr : &engine_.peer(PeerSlot{slot});
    __builtin_prefetch(packet.peer);
  };
  const bool ask_recent = recent_.useful(packets.size());
  if (ask_recent)
    for (const Packet& packet : packets) recent_.prefetch(packet.data);
  std::uint16_t i = 0;
  for (Packet& packet : packets) {
    const auto known = ask_recent ? recent_.find(packet.data, routes_version_) : std::nullopt;
    if (known)
      take(packet, *known);
    else
      want(i, packet.data, destination_octets(packet.data));
    ++i;
  }
  look_up([&](std::uint16_t wanted, std::uint32_t slot) {
    take(packets[wanted], slot);
    if (ask_recent) recent_.remember(packets[wanted].data, routes_version_, slot);
  });
}

// What the rest of the way out will touch of its peer and of the session that sends for it.
inline void Worker::prefetch_send_side(const Packet& packet) const {
  if (packet.peer == nullptr) return;
  __builtin_prefetch(packet.peer->endpoint.load(std::memory_order_relaxed));
  const std::uint64_t word = packet.peer->sending.load(std::memory_order_relaxed);
  if (SendingWord::has_session(word)) __builtin_prefetch(&engine_.sessions().at(SendingWord::slot(word)).sent, 1);
}

void Worker::send_to_host(Burst& burst) {
  if (burst.empty()) return;
  std::uint64_t octets = 0;
  for (const Packet& packet : burst) octets += packet.length;
  link_.counters.inner_out_octets.add(octets);
  const Refusals refusals{link_.counters, Drop::kInnerSend, burst.size(), octets};
  link_.counters.inner_out.add(inner_->send(burst, context_));
  inner_share_.offered(octets, refusals.octets(), now_);
}

// The host's packets, or the application's, join what peers sent to each other.
void Worker::join_from_host(Burst& burst) {
  if (inner_ == nullptr || link_.spread.sealing.full()) return;
  const std::size_t first = burst.size();
  inner_->receive(burst, context_);
  if (burst.size() == first) return;
  note_received(burst, first);
  burst.filter(context_, [this](Packet& packet) {
    if (packet.from_peer != nullptr) return Drop::kNone;
    __builtin_prefetch(packet.data - kDataHeaderSize, 1);  // where header and tag will be
    __builtin_prefetch(packet.data + packet.length + kTagSize - 1, 1);
    packet.origin = Origin::kHost;
    link_.counters.inner_in.add(1);
    link_.counters.inner_in_octets.add(packet.length);
    received_ += packet.length;
    const std::size_t length = inner_length(packet.data, packet.length);
    packet.length = static_cast<std::uint32_t>(length);
    return length == 0 ? Drop::kInnerMalformed : Drop::kNone;
  });
  find_destinations(burst, first);
  for (const Packet& packet : std::span<Packet>{burst.begin() + first, burst.end()}) prefetch_send_side(packet);
}

void Worker::route(Burst& burst) {
  if (burst.empty()) return;
  worked_ = true;
  burst.filter(context_, [&](Packet& packet) {
    const Drop verdict = packet.from_peer != nullptr ? route_relayed(packet) : route_from_host(packet);
    if (packet.to_host) [[unlikely]] {  // an ICMP error about the host's packet goes back to it
      host_.add(packet);
      packet.buffer = nullptr;
    }
    return verdict;
  });
  send_to_host(host_);
}

// From one peer to another, as a router does it (RFC 1812 §5.2, RFC 8200).
inline Drop Worker::route_relayed(Packet& packet) {
  std::uint8_t* ip = packet.data;
  if (is_martian_source(ip)) return Drop::kMartian;
  if (is_local_destination(ip)) return Drop::kMulticast;
  if (packet.peer == nullptr) return refuse_with_icmp(packet, IcmpError::kUnreachable, Drop::kNoRoute);
  if (!may_forward(*packet.from_peer, *packet.peer))
    return refuse_with_icmp(packet, IcmpError::kProhibited, Drop::kForwardingOff);
  if (packet.peer == packet.from_peer) return Drop::kReflected;
  if (ttl_of(ip) <= 1) return refuse_with_icmp(packet, IcmpError::kTimeExceeded, Drop::kTtlExpired);
  packet.to = endpoint_of(*packet.peer);
  if (packet.to == nullptr) return refuse_with_icmp(packet, IcmpError::kUnreachable, Drop::kNoEndpoint);
  if (packet.length > settings_->mtu) return shorten(packet);
  if (!within_share(packet)) return Drop::kOverFairShare;
  WG_CHECK(decrement_ttl(ip));
  link_.counters.relayed.add(1);
  return Drop::kNone;
}

inline bool Worker::may_forward(const PeerState& from, const PeerState& to) const {
  if (settings_->forward != Forward::kGroups) return settings_->forward == Forward::kAll;
  const std::uint32_t group = from.group.load(std::memory_order_relaxed);
  return group != 0 && group == to.group.load(std::memory_order_relaxed);
}

Drop Worker::route_from_host(Packet& packet) {
  if (packet.peer == nullptr) return refuse_with_icmp(packet, IcmpError::kUnreachable, Drop::kNoRoute);  // P38: ENOKEY
  packet.to = endpoint_of(*packet.peer);
  if (packet.to == nullptr)
    return refuse_with_icmp(packet, IcmpError::kUnreachable, Drop::kNoEndpoint);  // P38: EDESTADDRREQ
  if (is_own_datagram(packet.data, packet.length, settings_->listen_port, *packet.to)) return Drop::kLoop;
  if (packet.length > settings_->mtu) return shorten(packet);
  return within_share(packet) ? Drop::kNone : Drop::kOverFairShare;
}

// Whose packets give way when the outer port is full: those of the peers that send most; of the host's, those to the
// peers it sends most to.
inline bool Worker::within_share(const Packet& packet) {
  if (!outer_share_.active()) [[likely]]
    return true;
  const PeerState& payer = packet.from_peer != nullptr ? *packet.from_peer : *packet.peer;
  return outer_share_.take(payer.id.slot, packet.length);
}

// Larger than the way out: an IPv4 packet without DF is cut, every other sender is told the MTU (RFC 1812 §4.2.2.7, RFC
// 8200 §4.5).
Drop Worker::shorten(Packet& packet) {
  if (!Fragmenter{packet.data, packet.length, settings_->mtu}.possible())
    return refuse_with_icmp(packet, IcmpError::kTooBig, Drop::kTooBig);
  if (packet.from_peer != nullptr) WG_CHECK(decrement_ttl(packet.data));  // before its header is copied to the pieces
  Fragmenter cut{packet.data, packet.length, settings_->mtu};
  while (const std::size_t length = cut.next_length()) {
    Packet piece;
    if (fragments_.room() == 0 || !context_.make(piece, length)) return Drop::kTooBig;
    cut.write_next(piece.data);
    piece.peer = packet.peer;
    piece.from_peer = packet.from_peer;
    piece.to = packet.to;
    fragments_.add(piece);
  }
  link_.counters.consumed.add(1);
  context_.release(packet);
  return Drop::kNone;
}

// Puts an ICMP error, if one may be sent, in the packet's place; the packet itself is dropped under `reason` either
// way.
Drop Worker::refuse_with_icmp(Packet& packet, IcmpError kind, Drop reason) {
  const std::uint8_t* ip = packet.data;
  const bool to_host = packet.from_peer == nullptr;
  if (seeded_fault(38)) return reason;
  if (!icmp_.allow(source_of(ip), now_)) return reason;
  Packet error;
  if (!context_.make(error)) return reason;
  const Address& router = is_ipv4(ip) ? settings_->router_v4 : settings_->router_v6;
  const std::size_t room = std::min<std::size_t>(engine_.pool().data_room(), settings_->mtu);
  const std::size_t length = make_icmp_error(kind, packet.octets(), router, settings_->mtu, {error.data, room});
  error.length = static_cast<std::uint32_t>(length);
  error.to_host = to_host;
  error.peer = packet.from_peer;
  if (!to_host) error.to = endpoint_of(*packet.from_peer);
  if (length == 0 || (!to_host && error.to == nullptr)) {  // nothing may be said, or to nobody
    link_.counters.consumed.add(1);                        // what was made ends here
    context_.release(error);
    return reason;
  }
  context_.drop(packet, reason);
  packet = error;
  return Drop::kNone;
}

void Worker::choose_sessions(Burst& burst) {
  const auto choose = [&](Packet& packet) {
    packet.session = sending_session(*packet.peer);
    if (packet.session == nullptr) {
      staging_.add(packet, packet.peer->id, context_);
      packet.buffer = nullptr;
      return Drop::kNone;
    }
    if (staging_.waits_for(packet.peer->id)) flush_staged(*packet.peer);  // P39: in order, before later ones
    return Drop::kNone;
  };
  burst.filter(context_, choose);
  if (fragments_.empty()) return;
  fragments_.filter(context_, choose);
  transmit(fragments_);
}

// The session that sends for this peer, or null; asks for a handshake where there is none, or the key is due (wg §6.2,
// P44, P45).
inline Session* Worker::sending_session(PeerState& peer) {
  const std::uint64_t word = peer.sending.load(std::memory_order_acquire);  // S2 pairs with S1
  if (!SendingWord::has_session(word)) {
    want_handshake(peer);
    return nullptr;
  }
  Session& session = engine_.sessions().at(SendingWord::slot(word));
  const Duration age = session.sent.age(now_);
  const std::uint64_t counter = session.sent.counter.load(std::memory_order_relaxed);
  if (age < kRekeyAfterTime && counter < kRekeyAfterMessages) [[likely]]
    return &session;
  if ((age >= kRejectAfterTime && !seeded_fault(45)) || (counter >= kRejectAfterMessages && !seeded_fault(33))) {
    want_handshake(peer);
    return nullptr;
  }
  if (counter >= kRekeyAfterMessages || session.sent.initiator || seeded_fault(44)) want_handshake(peer);
  return &session;
}

// What waited for a key, oldest first. If the key is gone again, the rest goes on waiting.
void Worker::flush_staged(PeerState& peer) {
  const Endpoint* to = endpoint_of(peer);
  for (bool more = true; more;) {
    Session* session = to == nullptr ? nullptr : sending_session(peer);
    if (session == nullptr) return;
    Packet packet;
    while (staged_.room() != 0 && (more = staging_.take(peer.id, packet))) {
      packet.peer = &peer;
      packet.from_peer = nullptr;
      packet.session = session;
      packet.to = to;
      staged_.add(packet);
    }
    if (seeded_fault(39)) std::reverse(staged_.begin(), staged_.end());
    transmit(staged_);
  }
}

void Worker::send_keepalive(PeerState& peer) {
  const Endpoint* to = endpoint_of(peer);
  if (to == nullptr) return;
  Packet packet;
  if (!context_.make(packet)) return;
  packet.peer = &peer;
  packet.to = to;
  packet.keepalive = true;
  packet.session = sending_session(peer);
  if (packet.session == nullptr)
    return staging_.add(packet, peer.id, context_);  // it opens the session that was asked for
  staged_.add(packet);
  transmit(staged_);
}

void Worker::transmit(Burst& burst) {
  if (in_flight() && &burst == &burst_) [[unlikely]]
    return transmit_with_helpers(burst);
  if (burst.empty()) return;
  worked_ = true;
  number(burst);
  if (seeded_fault(41)) std::reverse(burst.begin(), burst.end());
  engine_.aead().seal(seal_jobs_.data(), prepare_seal(burst, seal_jobs_.data()));
  send_out(burst);
}

// Decides a packet's padding. Returns the octets of the datagram that it becomes.
inline std::uint32_t Worker::pad(Packet& packet) const {
  packet.padding = padding_of(packet.length, settings_->mtu);
  return packet.length + packet.padding + static_cast<std::uint32_t>(kDataOverhead);
}

inline void Worker::note_sent(const Packet& packet) {
  packet.peer->note_sent(stamp_, !packet.keepalive);
  if (!packet.keepalive && packet.peer->timers_are_idle()) arm_timers(*packet.peer);
}

// Numbers are drawn last, after every check. Within a session they follow the packets' order (P41).
void Worker::number(Burst& burst) {
  const auto draw = [&](auto prefetch, auto number_of) {
    burst.filter(context_, prefetch, [&](Packet& packet) {
      const std::uint64_t number = number_of(packet, pad(packet));
      if (number >= kRejectAfterMessages && !seeded_fault(33)) return Drop::kExpired;
      packet.counter = seeded_fault(31) ? number & UINT32_MAX : number;
      note_sent(packet);
      return Drop::kNone;
    });
  };
  if (engine_.workers() == 1)
    return draw(prefetch_to_number,
                [](const Packet& packet, std::uint32_t octets) { return draw_alone(packet.session->sent, octets); });
  const auto prefetch = [this](const Packet& packet) {
    prefetch_to_number(packet);
    reservations_.prefetch(packet.peer->id.slot);
  };
  draw(prefetch, [this](const Packet& packet, std::uint32_t octets) {
    return reservations_.draw(*packet.session, packet.peer->id.slot, octets, stamp_);
  });
}

std::size_t Worker::prepare_seal(Burst& burst, SealJob* jobs) {
  for (Packet& packet : burst) {
    std::uint8_t* const text = packet.data;
    std::uint8_t* const header = text - kDataHeaderSize;
    store_le(header, static_cast<std::uint32_t>(MessageType::kData));
    store_le(header + 4, packet.session->sent.remote.raw());
    store_le(header + 8, packet.counter);
    *jobs++ = {.key = packet.session->sent.key,
               .counter = packet.counter,
               .head = nullptr,
               .head_length = 0,
               .body_length = packet.length,
               .body = text,
               .destination = text,
               .padding = packet.padding};
    packet.tos = packet.keepalive ? std::uint8_t{0} : outer_ds_for(text);  // before it is ciphertext
    packet.data = header;
    packet.length += packet.padding + static_cast<std::uint32_t>(kDataOverhead);
    WG_DCHECK(packet.headroom() <= packet.buffer->size && packet.length <= packet.buffer->size - packet.headroom());
  }
  return burst.size();
}

void Worker::send_out(Burst& burst) {
  std::uint64_t octets = 0;
  for (const Packet& packet : burst) octets += packet.length;
  link_.counters.outer_out_octets.add(octets);
  const Refusals refusals{link_.counters, Drop::kOuterSend, burst.size(), octets};
  link_.counters.outer_out.add(outer_.send(burst, context_));
  outer_share_.offered(octets, refusals.octets(), now_);
}

}  // namespace wireplane
