#include "control/device.h"

#include <cerrno>
#include <new>
#include <thread>
#include <utility>

#include "control/noise/x25519.h"
#include "dataplane/base/fault.h"

namespace wireplane {
namespace {

constexpr Duration kOutOfMemoryPause = 10ms;  // until what had no memory is tried again

}  // namespace

Device::Device(Engine& engine, OuterDevice* outer, Entropy& entropy, Now now)
    : Device{engine, outer, entropy, now, {}} {}

Device::Device(Engine& engine, OuterDevice* outer, Entropy& entropy, Now now, Options options)
    : engine_{engine},
      outer_{outer},
      entropy_{entropy},
      options_{std::move(options)},
      now_{now},
      indices_{engine, entropy},
      sessions_owned_(engine.workers()),
      limiter_{entropy, options_.rate_limited_sources},
      under_load_until_{now.engine},
      late_orders_(engine.workers()) {
  // Address space, not memory: what comes free later must not need memory to be put back.
  peers_.reserve(engine.limits().peers);
  free_slots_.reserve(engine.limits().peers);
  free_sessions_.reserve(engine.limits().sessions);
  unretired_.reserve(engine.limits().sessions);
  unretired_endpoints_.reserve(engine.limits().peers);
}

Device::~Device() {
  forget_keys();
  WG_CHECK(settle(now_));  // no worker is online any more: every grace period passes at once
  for (const Endpoint* endpoint : unretired_endpoints_) delete endpoint;
  for (const auto& peer : peers_)
    if (peer != nullptr) delete peer->state->endpoint.exchange(nullptr, std::memory_order_relaxed);
}

Instant Device::step(Now now) {
  now_ = now;
  bool more = false;
  try {
    serve_rings();
    run_timers();
    send_late_orders();
    retry_retiring();
    more = !engine_.grace().reclaim();
  } catch (const std::bad_alloc&) {  // what needed it is still in its ring or queue
    return now.engine + kOutOfMemoryPause;
  }
  for (unsigned i = 0; i < engine_.workers(); ++i) {
    more = more || !engine_.link(i).handshakes.empty() || !late_orders_[i].empty();
  }
  if (more) return now.engine + 1ms;
  return due_.empty() ? now.engine + 1s : std::min(due_.top().at, now.engine + 1s);
}

// Confirmations and moves first, of all workers: nothing may be kept waiting by a flood of handshakes (DESIGN.md,
// Control).
void Device::serve_rings() {
  for (unsigned i = 0; i < engine_.workers(); ++i) {
    WorkerLink& link = engine_.link(i);
    for (const Event* event; (event = link.urgent.front()) != nullptr; link.urgent.pop()) take_event(*event);
    for (const Event* event; (event = link.events.front()) != nullptr; link.events.pop()) take_event(*event);
  }
  note_load();
  constexpr unsigned kHandshakesAStep = 8;  // about a millisecond of curve arithmetic
  for (unsigned i = 0; i < engine_.workers(); ++i) {
    WorkerLink& link = engine_.link(i);
    unsigned left = kHandshakesAStep;
    for (const HandshakePacket* packet; left != 0 && (packet = link.handshakes.front()) != nullptr;
         link.handshakes.pop(), --left)
      take_handshake(*packet, i);
  }
}

void Device::take_event(const Event& event) {
  Peer* peer = find(event.peer);
  if (peer == nullptr) return;  // removed meanwhile
  switch (event.kind) {
    case Event::Kind::kConfirmed: {
      const std::vector<SessionRef> gone = peer->keypairs.confirmed(event.serial);
      if (!peer->keypairs.current || peer->keypairs.current->serial != event.serial) return;  // superseded meanwhile
      retire(*peer, gone);
      peer->last_handshake = now_.wall;
      end_initiation(*peer);
      order_all(Order::Kind::kFlush, peer->id);
      this->event(*peer, "connected");
      return;
    }
    case Event::Kind::kRoamed:
      return follow(*peer, event.serial, event.counter + 1, event.endpoint);
    case Event::Kind::kWantHandshake:
      return initiate(*peer, false);
    case Event::Kind::kActive:
      return schedule(*peer);
  }
}

void Device::follow(Peer& peer, Serial serial, std::uint64_t counter, const Endpoint& endpoint) {
  // An older packet came late. But after two crossing handshakes each side may go on sending with the older session: a
  // handshake alone (0) does not outrank the data of the session before.
  const bool crossing = peer.heard_counter == 0 && counter != 0 && serial < peer.heard_serial;
  if (std::pair{serial, counter} < std::pair{peer.heard_serial, peer.heard_counter} && !crossing) return;
  peer.heard_serial = serial;
  peer.heard_counter = counter;
  if (peer.endpoint && *peer.endpoint == endpoint) return;
  publish_endpoint(peer, endpoint);
  event(peer, "roamed");
}

void Device::publish_endpoint(Peer& peer, const Endpoint& endpoint) {
  // First: without memory nothing has happened.
  if (unretired_endpoints_.size() == unretired_endpoints_.capacity()) throw std::bad_alloc{};
  const Endpoint* fresh = new Endpoint{endpoint};
  peer.endpoint = endpoint;
  const Endpoint* before = peer.state->endpoint.exchange(fresh, std::memory_order_acq_rel);
  peer.state->endpoint_version.fetch_add(1, std::memory_order_release);
  if (before != nullptr) free_later(before);
}

void Device::free_later(const Endpoint* endpoint) {
  try {
    engine_.grace().retire([endpoint] { delete endpoint; });
  } catch (const std::bad_alloc&) {
    unretired_endpoints_.push_back(endpoint);  // there is room: publish_endpoint() saw to it
  }
}

Status Device::check(const DeviceChange& change) const {
  std::size_t fresh = 0;
  for (const PeerChange& peer : change.peers)
    if (!peer.remove && !peer.update_only && !by_key_.contains(peer.public_key)) ++fresh;
  const std::size_t there = change.replace_peers ? 0 : by_key_.size();
  if (there + fresh > engine_.limits().peers)
    return Error{"more peers than the limit of " + std::to_string(engine_.limits().peers) + " ([Engine] Peers)",
                 ENOSPC};
  for (const PeerChange& peer : change.peers)
    for (const AllowedIpChange& ip : peer.allowed_ips)
      if (ip.prefix.length > ip.prefix.address.bits())
        return Error{"allowed IP with a prefix longer than its address", EINVAL};
  return Nothing{};
}

Status Device::apply(DeviceChange change) {
  if (Status possible = check(change); !possible) return possible;
  if (change.listen_port && outer_ != nullptr &&
      (*change.listen_port == 0 || *change.listen_port != outer_->listen_port())) {
    if (Status bound = outer_->set_listen_port(*change.listen_port); !bound) return bound;
    set_engine_settings(settings_);
  }
  if (change.fwmark && outer_ != nullptr && *change.fwmark != fwmark_) {
    if (Status marked = outer_->set_fwmark(*change.fwmark); !marked) return marked;
    fwmark_ = *change.fwmark;
  }
  if (change.private_key) set_private_key(std::move(*change.private_key));
  if (change.replace_peers)
    while (!by_key_.empty()) remove_peer(PublicKey{by_key_.begin()->first});
  for (PeerChange& peer : change.peers) {
    if (Status done = apply_peer(peer); !done) return done;
    // What a large change has replaced is freed on the way, or a file of a million peers needs gigabytes for a moment.
    static_cast<void>(engine_.grace().reclaim());
  }
  return Nothing{};
}

Status Device::apply_peer(PeerChange& change) {
  if (change.remove) {
    remove_peer(change.public_key);
    return Nothing{};
  }
  if (has_identity_ && change.public_key == identity_.public_key && !seeded_fault(29))
    return Nothing{};  // ourselves: ignored (P29)
  const auto known = by_key_.find(change.public_key);
  if (known == by_key_.end() && change.update_only) return Nothing{};
  Peer* peer = known != by_key_.end() ? peers_[known->second.raw()].get() : create_peer(change.public_key);
  if (peer == nullptr) return Error{"no room for another peer", ENOSPC};

  if (change.preshared_key && !std::ranges::equal(change.preshared_key->expose(), peer->psk.expose())) {
    peer->psk = std::move(*change.preshared_key);
    peer->identity.reset();
    expire_keys(*peer);  // P29: what was agreed without it is not to be used
  }
  if (change.endpoint && change.endpoint->valid()) {
    const bool same = peer->endpoint && peer->endpoint->remote == change.endpoint->remote &&
                      peer->endpoint->port == change.endpoint->port;
    if (!same) publish_endpoint(*peer, *change.endpoint);
  }
  if (change.group) {
    peer->group = *change.group;
    peer->state->group.store(peer->group, std::memory_order_relaxed);
  }
  change_allowed_ips(*peer, change);
  if (change.persistent_keepalive_s && *change.persistent_keepalive_s != peer->persistent_keepalive_s) {
    const bool begins = peer->persistent_keepalive_s == 0;
    peer->persistent_keepalive_s = *change.persistent_keepalive_s;
    peer->persistent_since = now_.engine;
    if (begins)
      order(peer->worker, {.kind = Order::Kind::kKeepalive, .peer = peer->id, .length = {}, .to = {}, .message = {}});
  }
  peer->state->handshake_wanted.store(false,
                                      std::memory_order_relaxed);  // what kept a handshake from beginning may be gone
  peer->ask_again_at.reset();
  schedule(*peer);
  return Nothing{};
}

void Device::change_allowed_ips(Peer& peer, const PeerChange& change) {
  AllowedIps& routes = engine_.routes();
  if (change.replace_allowed_ips) {
    // What stays is not taken away for an instant: packets are under way.
    std::vector<Prefix> leaving;
    routes.for_each(peer.id.slot, [&](const Address& address, unsigned length) {
      const auto stays = [&](const AllowedIpChange& c) {
        return !c.remove && c.prefix.address == address && c.prefix.length == length;
      };
      if (std::ranges::none_of(change.allowed_ips, stays))
        leaving.push_back({address, static_cast<std::uint8_t>(length)});
    });
    for (const Prefix& prefix : leaving) static_cast<void>(routes.remove(prefix.address, prefix.length, peer.id.slot));
  }
  for (const AllowedIpChange& ip : change.allowed_ips) {
    if (ip.remove)
      static_cast<void>(routes.remove(ip.prefix.address, ip.prefix.length, peer.id.slot));
    else
      static_cast<void>(routes.insert(ip.prefix.address, ip.prefix.length, peer.id.slot));
  }
}

void Device::set_private_key(SecretKey key) {
  if (key.is_zero()) {
    if (!has_identity_) return;
    forget_keys();
    for (const auto& peer : peers_)
      if (peer != nullptr) peer->identity.reset();
    has_identity_ = false;
    identity_ = LocalIdentity{};
    return;
  }
  clamp(key);
  if (has_identity_ && std::ranges::equal(key.expose(), identity_.secret.expose())) return;
  identity_ = make_local_identity(std::move(key));
  has_identity_ = true;
  remove_peer(identity_.public_key);  // P29: nobody is his own peer
  for (const auto& peer : peers_) {
    if (peer == nullptr) continue;
    peer->identity.reset();
    if (!seeded_fault(29)) expire_keys(*peer);
    peer->cookies.forget();
  }
}

const RemoteIdentity& Device::identity_of(Peer& peer) {
  if (peer.identity == nullptr)
    peer.identity =
        std::make_unique<RemoteIdentity>(make_remote_identity(identity_, peer.public_key, peer.psk.duplicate()));
  return *peer.identity;
}

bool Device::can_shake_hands(const PublicKey& key) {
  const auto known = by_key_.find(key);
  return has_identity_ && known != by_key_.end() && identity_of(*peers_[known->second.raw()]).usable;
}

Peer* Device::create_peer(const PublicKey& key) {
  // Full, but some were removed in this very request (replace_peers): workers need microseconds to let go of them.
  const bool grown = peers_.size() == engine_.limits().peers;
  for (unsigned tries = 0; grown && free_slots_.empty() && tries < 1000; ++tries)
    if (!engine_.grace().reclaim(SIZE_MAX)) std::this_thread::yield();
  if (free_slots_.empty() && peers_.size() == engine_.limits().peers) return nullptr;
  auto peer = std::make_unique<Peer>();  // what needs memory comes before what would have to be taken back
  PeerSlot& slot = by_key_.try_emplace(key, static_cast<std::uint32_t>(peers_.size())).first->second;
  if (!free_slots_.empty()) {
    slot = free_slots_.back();
    free_slots_.pop_back();
  } else {
    peers_.emplace_back();
  }
  peer->id = {slot, next_generation_++};
  peer->state = &engine_.peer(slot);
  peer->state->move_in(peer->id);
  peer->worker = slot.raw() % engine_.workers();
  peer->public_key = key;
  peer->answer_jitter = jitter();
  // E2 release, pairs with E1: who finds the generation finds the peer's state behind it.
  peer->state->live.store(peer->id.generation, std::memory_order_release);
  peers_[slot.raw()] = std::move(peer);
  return peers_[slot.raw()].get();
}

// Out of sight first (routes, keys, the peer itself), then, when no worker can hold it any more, out of memory. If
// there is no memory to wait in, the peer is still known, though nobody sends to it: whoever removes it may try again.
void Device::remove_peer(const PublicKey& key) {
  const auto known = by_key_.find(key);
  if (known == by_key_.end()) return;
  const PeerSlot slot = known->second;
  Peer& peer = *peers_[slot.raw()];
  static_cast<void>(engine_.routes().remove_all(slot));
  expire_keys(peer);
  peer.state->live.store(0, std::memory_order_release);
  order_all(Order::Kind::kPurge, peer.id);
  const Endpoint* endpoint = peer.state->endpoint.load(std::memory_order_relaxed);
  // Sessions retire in two periods; their last callbacks were queued before this one's, so the slot comes free behind
  // them.
  engine_.grace().retire([this, slot, endpoint] {
    engine_.grace().retire([this, slot, endpoint] {
      engine_.peer(slot).endpoint.store(nullptr, std::memory_order_relaxed);
      delete endpoint;
      free_slots_.push_back(slot);
    });
  });
  by_key_.erase(known);
  peers_[slot.raw()].reset();
}

DeviceView Device::view() const {
  DeviceView view;
  if (has_identity_) {
    view.private_key = identity_.secret.duplicate();
    view.public_key = identity_.public_key;
  }
  view.listen_port = outer_ == nullptr ? std::uint16_t{0} : outer_->listen_port();
  view.fwmark = fwmark_;
  view.peers = by_key_.size();
  return view;
}

PeerView Device::view_of(const Peer& peer) const {
  PeerView view;
  view.public_key = peer.public_key;
  view.preshared_key = peer.psk.duplicate();
  view.endpoint = peer.endpoint;
  view.persistent_keepalive_s = peer.persistent_keepalive_s;
  view.group = peer.group;
  view.last_handshake = peer.last_handshake;
  view.received_octets = peer.received_octets;
  view.sent_octets = peer.sent_octets;
  const auto add = [&](SessionSlot slot) {
    const Session& session = engine_.sessions().at(slot);
    view.received_octets += session.received.octets.load(std::memory_order_relaxed);
    view.sent_octets += session.sent.octets.load(std::memory_order_relaxed);
  };
  for (const auto& place : {peer.keypairs.previous, peer.keypairs.current, peer.keypairs.next})
    if (place) add(place->slot);
  for (const SessionSlot slot : peer.retiring) add(slot);
  engine_.routes().for_each(peer.id.slot, [&](const Address& address, unsigned length) {
    view.allowed_ips.push_back({address, static_cast<std::uint8_t>(length)});
  });
  return view;
}

void Device::for_each_peer(const Visit& visit) const { static_cast<void>(dump_some(0, SIZE_MAX, visit)); }

std::size_t Device::dump_some(std::size_t cursor, std::size_t at_most, const Visit& visit) const {
  for (; cursor < peers_.size() && at_most != 0; ++cursor) {
    if (peers_[cursor] == nullptr) continue;
    visit(view_of(*peers_[cursor]));
    --at_most;
  }
  return cursor < peers_.size() ? cursor : kEnd;
}

const Peer* Device::find(const PublicKey& key) const {
  const auto known = by_key_.find(key);
  return known == by_key_.end() ? nullptr : peers_[known->second.raw()].get();
}

Peer* Device::find(PeerId id) {
  Peer* peer = id.slot.raw() < peers_.size() ? peers_[id.slot.raw()].get() : nullptr;
  return peer != nullptr && peer->id == id ? peer : nullptr;
}

void Device::order(unsigned worker, const Order& order) {
  WorkerLink& link = engine_.link(worker);
  if (!late_orders_[worker].empty() || !link.orders.push(order)) late_orders_[worker].push_back(order);
  link.doorbell.ring_if_asleep();
}

void Device::order_all(Order::Kind kind, PeerId peer) {
  for (unsigned i = 0; i < engine_.workers(); ++i)
    order(i, {.kind = kind, .peer = peer, .length = {}, .to = {}, .message = {}});
}

void Device::send_late_orders() {
  for (unsigned i = 0; i < engine_.workers(); ++i) {
    auto& late = late_orders_[i];
    for (; !late.empty() && engine_.link(i).orders.push(late.front()); late.pop_front())
      engine_.link(i).doorbell.ring_if_asleep();
  }
}

void Device::event(const Peer& peer, const char* what) const {
  if (options_.on_event) options_.on_event(view_of(peer), what);
}

void Device::set_engine_settings(Settings settings) {
  settings_ = std::move(settings);
  settings_.listen_port = outer_ == nullptr ? settings_.listen_port : outer_->listen_port();
  engine_.publish(settings_);
}

void Device::retry_retiring() {
  for (std::size_t left = unretired_.size(); left != 0; --left) {
    const Retiring session = unretired_.back();
    unretired_.pop_back();
    retire_later(session);
  }
  for (std::size_t left = unretired_endpoints_.size(); left != 0; --left) {
    const Endpoint* endpoint = unretired_endpoints_.back();
    unretired_endpoints_.pop_back();
    free_later(endpoint);
  }
}

bool Device::settle(Now now) {
  now_ = now;
  retry_retiring();
  for (unsigned round = 0; round < 16 && !engine_.grace().reclaim(SIZE_MAX); ++round) {
  }
  return engine_.grace().waiting() == 0;
}

void Device::forget_keys() {
  for (const auto& peer : peers_)
    if (peer != nullptr) expire_keys(*peer);
}

}  // namespace wireplane
