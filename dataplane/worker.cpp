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
      staging_{engine.pool().capacity() / 8 / engine.workers()} {}

Worker::~Worker() { staging_.purge_all(context_, Drop::kPeerGone); }

// The packet's whole way. One reading of the clock a burst: its packets agree on the time.
Work Worker::step(Instant now) {
  engine_.grace().online(number_);  // from here to offline() nothing we can see is freed
  settings_ = &engine_.settings();
  now_ = now;
  now_ms_ = ns(now) / 1'000'000 * 1'000'000;
  worked_ = false;
  if (moves_count_ != 0) [[unlikely]]
    forget_moves();

  take_orders();                     //    what control left for us: handshake messages, keys that became ready
  take_handed_over();                //    transport messages of our sessions that arrived at another worker
  outer_.receive(burst_, context_);  // 1  up to kReceiveBurst datagrams; burst_ owns them from here
  classify(burst_);                  // 2  by type and length; handshakes are copied to the control ring
  find_sessions(burst_);             // 3  receiver index -> session, ours or handed over to its owner
  open(burst_);                      // 4  all tags, all plaintexts, one kernel call
  accept(burst_);                    // 5  replay, roaming, inner packet, allowed IPs: authenticated input only
  for_the_host(burst_);              // 6  what is ours to deliver leaves; what may be forwarded stays in the burst
  join_from_host(burst_);            // 7  and what the host or the application brings joins it
  route(burst_);                     // 8  policy, TTL, MTU, inner destination -> peer
  choose_sessions(burst_);           // 9  peer -> its sending session; without one the packet waits
  transmit(burst_);                  // 10 numbers drawn last, one kernel call, out; the rest is counted and recycled

  settings_ = nullptr;
  engine_.grace().offline(number_);  //    no pointer outlives its step, so control may free
  (worked_ ? link_.counters.bursts : link_.counters.idle_steps).add(1);
  return Work{worked_};
}

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

void Worker::take_handed_over() {
  for (unsigned from = 0; from < engine_.workers(); ++from) {
    if (from == number_) continue;
    SpscRing<Packet>& ring = engine_.handover(from, number_);
    const std::size_t before = burst_.size();
    for (const Packet* packet; burst_.size() < kReceiveBurst && (packet = ring.front()) != nullptr; ring.pop())
      burst_.add(*packet);
    if (burst_.size() != before) link_.counters.taken_on.add(burst_.size() - before);
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
  if (peer.timers_armed.load(std::memory_order_relaxed) || peer.timers_armed.exchange(true, std::memory_order_relaxed))
    return;
  const Event event{.kind = Event::Kind::kActive, .peer = peer.id, .serial = {}, .counter = {}, .endpoint = {}};
  if (!post(link_.events, event)) peer.timers_armed.store(false, std::memory_order_relaxed);
}

bool Worker::sleep_begin() {
  link_.doorbell.sleep_begin();
  bool work = !link_.orders.empty();
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
