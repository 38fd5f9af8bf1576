// timers.cpp: when what is due. spec: wg §6; the Linux kernel's timers.c
//
//   retry            5 s + jitter after an initiation: again, 20 times in all, then give up (P43)
//   no answer        data was sent and nothing authentic came for 10 + 5 s: a new handshake (P46)
//   keepalive        data was received and nothing was sent for 10 s: an empty packet (P47)
//   persistent       nothing went either way for the configured time: an empty packet (P48)
//   wipe             540 s after the last session was derived: all keys (P30)
//
// Workers only note times. A peer has at most one live entry in the queue, for its earliest timer; when it is due, the
// notes are read and the entry moves to where they say. While workers need not tell us of traffic (timers_armed), we
// look every 10 s.
#include <algorithm>

#include "control/device.h"
#include "dataplane/base/fault.h"

namespace wireplane {
namespace {

// What a peer's line says of a time; the clock's beginning for never.
Instant at(const std::atomic<Stamp>& noted, Instant now) {
  const Stamp stamp = noted.load(std::memory_order_relaxed);
  return stamp == 0 ? Instant{} : instant_of(stamp, now);
}

void earliest(std::optional<Instant>& best, std::optional<Instant> candidate) {
  if (candidate && (!best || *candidate < *best)) best = candidate;
}

std::optional<Instant> since(const std::atomic<Stamp>& noted, Duration wait, Instant now) {
  const Stamp stamp = noted.load(std::memory_order_relaxed);
  return stamp == 0 ? std::nullopt : std::optional{instant_of(stamp, now) + wait};
}

std::optional<Instant> no_answer_due(const Peer& peer, Instant now) {
  if (seeded_fault(46)) return std::nullopt;
  return since(peer.state->send.unanswered_since, kKeepaliveTimeout + kRekeyTimeout + peer.answer_jitter, now);
}

std::optional<Instant> keepalive_due(const Peer& peer, Instant now) {
  return seeded_fault(47) ? std::nullopt : since(peer.state->receive.keepalive_owed_since, kKeepaliveTimeout, now);
}

Instant last_activity(const PeerState& state, Instant now) {
  return std::max(at(state.send.last_data_sent, now), at(state.receive.last_data_received, now));
}

}  // namespace

Duration Device::jitter() {
  return Duration{
      static_cast<std::int64_t>(entropy_.u64() % static_cast<std::uint64_t>(kRekeyTimeoutJitterMax.count() + 1))};
}

std::optional<Instant> Device::persistent_due(const Peer& peer) const {
  if (peer.persistent_keepalive_s == 0 || !peer.persistent_since || !peer.endpoint) return std::nullopt;
  const Instant heard = seeded_fault(48) ? Instant{} : at(peer.state->receive.last_received, now_.engine);
  Instant last = std::max({*peer.persistent_since, heard, at(peer.state->send.last_sent, now_.engine)});
  if (peer.last_handshake_sent) last = std::max(last, Instant{*peer.last_handshake_sent});  // not rounded
  return last + std::chrono::seconds{peer.persistent_keepalive_s};
}

std::optional<Instant> Device::next_due(const Peer& peer) const {
  std::optional<Instant> due = peer.retry_at;
  earliest(due, peer.wipe_at);
  earliest(due, peer.ask_again_at);
  earliest(due, peer.keepalive_again_at);
  earliest(due, persistent_due(peer));
  earliest(due, no_answer_due(peer, now_.engine));
  earliest(due, keepalive_due(peer, now_.engine));
  if (peer.state->timers_armed.load(std::memory_order_relaxed)) earliest(due, now_.engine + kKeepaliveTimeout);
  return due;
}

void Device::schedule(Peer& peer) {
  const std::optional<Instant> due = next_due(peer);
  if (!due || (peer.scheduled && *peer.scheduled <= *due)) return;
  due_.push({*due, peer.id});
  peer.scheduled = due;
}

void Device::run_timers() {
  for (unsigned budget = 4096; budget != 0 && !due_.empty() && due_.top().at <= now_.engine; --budget) {
    const Due entry = due_.top();
    Peer* peer = find(entry.peer);
    const bool current = peer != nullptr && peer->scheduled == entry.at;  // else gone, or an earlier one replaced it
    // The entry stays the earliest meanwhile, and comes again should there be no memory for what is due.
    if (current) run_timers_of(*peer);
    due_.pop();
    if (!current) continue;
    peer->scheduled.reset();
    schedule(*peer);
  }
}

void Device::run_timers_of(Peer& peer) {
  const Instant now = now_.engine;
  PeerState& state = *peer.state;
  const auto due = [now](const std::optional<Instant>& at) { return at && *at <= now; };
  const auto send_keepalive = [&] {
    order(peer.worker, {.kind = Order::Kind::kKeepalive, .peer = peer.id, .length = {}, .to = {}, .message = {}});
  };

  // P37: the route that our source address was learned on may be the trouble.
  const auto forget_source = [&] {
    if (!peer.endpoint || (peer.endpoint->local.none() && peer.endpoint->interface == 0) || seeded_fault(37)) return;
    Endpoint forgetful = *peer.endpoint;
    forgetful.local = {};
    if (!forgetful.remote.is_v6()) forgetful.interface = 0;  // there it is the scope of a link-local address
    publish_endpoint(peer, forgetful);
  };

  if (due(peer.wipe_at)) {
    expire_keys(peer);
    event(peer, "lost");
  }
  if (due(peer.ask_again_at)) {
    peer.ask_again_at.reset();
    state.handshake_wanted.store(false, std::memory_order_relaxed);
  }
  if (due(peer.retry_at)) {
    peer.retry_at.reset();
    forget_source();
    if (peer.attempts >= kMaxHandshakeSends && !seeded_fault(43))
      give_up(peer);
    else
      initiate(peer, true);
  }
  if (due(no_answer_due(peer, now))) {
    state.send.unanswered_since.store(0, std::memory_order_relaxed);
    peer.answer_jitter = jitter();
    forget_source();
    initiate(peer, false);
  }
  if (due(keepalive_due(peer, now))) {
    const Stamp first = state.receive.keepalive_owed_since.exchange(0, std::memory_order_relaxed);
    if (first != 0 && at(state.receive.last_data_received, now) > instant_of(first, now))
      peer.keepalive_again_at = now + kKeepaliveTimeout;
    send_keepalive();
  } else if (due(peer.keepalive_again_at)) {
    const Instant asked = *peer.keepalive_again_at - kKeepaliveTimeout;
    peer.keepalive_again_at.reset();
    if (at(state.send.last_data_sent, now) <= asked) send_keepalive();
  }
  if (due(persistent_due(peer))) {
    peer.persistent_since = now;
    send_keepalive();
  }
  // Quiet for a while: workers shall tell us when there is traffic again. One may have noted its packet and looked at
  // the flag just before we cleared it, so we look once more when its step is over.
  if (state.timers_armed.load(std::memory_order_relaxed) && last_activity(state, now) + kKeepaliveTimeout < now &&
      !no_answer_due(peer, now) && !keepalive_due(peer, now)) {
    state.timers_armed.store(false, std::memory_order_seq_cst);
    engine_.grace().retire([this, id = peer.id] {
      if (Peer* again = find(id)) schedule(*again);
    });
  }
}

// P43: nobody answers. What waits is dropped, keys are wiped in time; the next packet or persistent keepalive starts
// again.
void Device::give_up(Peer& peer) {
  order_all(Order::Kind::kPurge, peer.id);
  end_initiation(peer);
  if (!peer.wipe_at) peer.wipe_at = now_.engine + kWipeAfterTime;
  event(peer, "lost");
}

}  // namespace wireplane
