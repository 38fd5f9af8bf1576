#include "dataplane/worker.h"

#include <algorithm>

#include "dataplane/base/bytes.h"
#include "dataplane/base/fault.h"

namespace wireplane {

Worker::Worker(Engine& engine, unsigned number, Port& outer, Port* inner)
    : engine_{engine},
      number_{number},
      link_{engine.link(number)},
      buffers_{engine.pool()},
      context_{buffers_, link_.counters},
      outer_{outer},
      inner_{inner},
      staging_{engine.pool().capacity() / 8 / engine.workers()},
      reservations_{engine.workers()} {}

// The other workers do not step any more: what is in flight and nobody took is ours to end.
Worker::~Worker() {
  staging_.purge_all(context_, Drop::kPeerGone);
  if (lending_) engine_.lend(number_, false);
  Spread& spread = link_.spread;
  while (spread.run_one(engine_.aead())) continue;
  const auto gone = [](Packet&) { return Drop::kPeerGone; };
  for (; !spread.opening.empty(); spread.opening.pop()) spread.opening.oldest().burst.filter(context_, gone);
  for (; !spread.sealing.empty(); spread.sealing.pop()) spread.sealing.oldest().burst.filter(context_, gone);
  reservations_.settle();
  engine_.grace().offline(number_);
}

// The packet's whole way. One reading of the clock a burst: its packets agree on the time.
Work Worker::step(Instant now) {
  begin(now);               //    from here to end() nothing we can see is freed
  take_orders();            //    what control left for us: handshake messages, keys that became ready
  receive(burst_);          // 1  up to kReceiveBurst datagrams, and what other workers handed over; burst_ owns them
  classify(burst_);         // 2  by type and length; handshakes are copied to the control ring
  find_sessions(burst_);    // 3  receiver index -> session, ours or handed over to its owner
  open(burst_);             // 4  all tags, all plaintexts, one kernel call (or idle workers': then an earlier burst)
  accept(burst_);           // 5  replay, roaming, inner packet, allowed IPs: authenticated input only
  for_the_host(burst_);     // 6  what is ours to deliver leaves; what may be forwarded stays in the burst
  join_from_host(burst_);   // 7  and what the host or the application brings joins it
  route(burst_);            // 8  policy, TTL, MTU, inner destination -> peer
  choose_sessions(burst_);  // 9  peer -> its sending session; without one the packet waits
  transmit(burst_);         // 10 numbers drawn last, one kernel call, out; the rest is counted and recycled
  end();                    //    no pointer outlives the step, but for what is in flight
  return Work{worked_};
}

void Worker::begin(Instant now) {
  Grace& grace = engine_.grace();
  period_ = grace.period();
  if (!holds_pointers())
    grace.online(number_);
  else
    grace.hold_since(number_, std::min(link_.spread.oldest_period(), owing_since_));
  settings_ = &engine_.settings();
  now_ = now;
  stamp_ = stamp_of(now);
  worked_ = false;
  if (moves_count_ != 0) [[unlikely]]
    forget_moves();
}

void Worker::end() {
  if (engine_.workers() > 1) {
    if (in_flight()) work_ahead(!worked_);
    consider_lending();
    if (!worked_) help();
    if (!worked_ || reservations_.is_due(stamp_)) reservations_.settle();
    owing_since_ = reservations_.owes() ? std::min(owing_since_, period_) : UINT64_MAX;
  }
  settings_ = nullptr;
  if (!holds_pointers())
    engine_.grace().offline(number_);
  else
    worked_ = true;
  (worked_ ? link_.counters.bursts : link_.counters.idle_steps).add(1);
}

// Nothing more while as much is in flight as may be: it waits in the port's queue, which is the longer one.
void Worker::receive(Burst& burst) {
  received_ = 0;
  full_ = link_.spread.opening.full();
  if (full_) return;
  take_handed_over(burst);
  outer_.receive(burst, context_);
  note_received(burst, 0);
}

// For spread.cpp: is this more than one core can do?
void Worker::note_received(Burst& burst, std::size_t first) { full_ = full_ || burst.size() - first >= kReceiveBurst; }

void Worker::take_orders() {
  for (const Order* order; (order = link_.orders.front()) != nullptr; link_.orders.pop()) {
    obey(*order);
    worked_ = true;
  }
}

void Worker::obey(const Order& order) {
  if (order.kind == Order::Kind::kSend) {
    Packet packet;
    if (!context_.make(packet, order.length)) return;
    std::copy_n(order.message.data(), order.length, packet.data);
    packet.tos = kHandshakeTos;
    packet.to = &order.to;
    staged_.add(packet);
    return send_out(staged_);
  }
  PeerState* peer = engine_.find_peer(order.peer);
  if (peer == nullptr || order.kind == Order::Kind::kPurge)
    return staging_.purge(order.peer, context_, peer == nullptr ? Drop::kPeerGone : Drop::kStagedGivenUp);
  const bool waiting = staging_.waits_for(order.peer);
  if (waiting) flush_staged(*peer);
  const bool speak =
      order.kind == Order::Kind::kKeepalive || (order.kind == Order::Kind::kKeyReady && !seeded_fault(26));
  if (!waiting && speak) send_keepalive(*peer);
}

void Worker::take_handed_over(Burst& burst) {
  for (unsigned from = 0; from < engine_.workers(); ++from) {
    if (from == number_) continue;
    SpscRing<Packet>& ring = engine_.handover(from, number_);
    const std::size_t before = burst.size();
    for (const Packet* packet; burst.size() < kReceiveBurst && (packet = ring.front()) != nullptr; ring.pop())
      burst.add(*packet);
    if (burst.size() != before) link_.counters.taken_on.add(burst.size() - before);
  }
}

bool Worker::post(SpscRing<Event>& ring, const Event& event) {
  if (!ring.push(event)) return false;
  engine_.control_doorbell().ring_if_asleep();
  return true;
}

// Asks control once; it clears the flag when it has heard. A full ring clears it too: the next packet asks again.
void Worker::want_handshake(PeerState& peer) {
  if (peer.handshake_wanted.load(std::memory_order_relaxed) ||
      peer.handshake_wanted.exchange(true, std::memory_order_relaxed))
    return;
  const Event event{.kind = Event::Kind::kWantHandshake, .peer = peer.id, .serial = {}, .counter = {}, .endpoint = {}};
  if (!post(link_.events, event)) peer.handshake_wanted.store(false, std::memory_order_relaxed);
}

void Worker::arm_timers(PeerState& peer) {
  if (peer.timers_armed.exchange(true, std::memory_order_relaxed)) return;
  const Event event{.kind = Event::Kind::kActive, .peer = peer.id, .serial = {}, .counter = {}, .endpoint = {}};
  if (!post(link_.events, event)) peer.timers_armed.store(false, std::memory_order_relaxed);
}

bool Worker::sleep_begin() {
  link_.doorbell.sleep_begin();
  bool work = !link_.orders.empty() || holds_pointers() || engine_.lenders() != 0;
  for (unsigned from = 0; from < engine_.workers(); ++from) work = work || !engine_.handover(from, number_).empty();
  if (work) {
    link_.doorbell.sleep_end();
    return false;
  }
  link_.counters.sleeps.add(1);
  return true;
}

void Worker::wake_fds(std::vector<int>& fds) const {
  outer_.wake_fds(fds);
  const std::size_t of_outer = fds.size();
  if (inner_ != nullptr) inner_->wake_fds(fds);
  // One port that can only be polled, and none may be waited for: packets would wait as long as the other is silent.
  if (of_outer == 0 || (inner_ != nullptr && fds.size() == of_outer)) fds.clear();
}

}  // namespace wireplane
