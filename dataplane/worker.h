// worker.h: one worker: its ports' queues, and the sessions whose receive side it owns.
//
// Nothing here blocks, allocates, takes a lock, or writes memory another core reads, except counters, posted events,
// timestamps and its grace-period word. The daemon calls step() in a loop on a pinned thread; a test calls it with any
// clock it likes.
//
//   worker.cpp    the loop, orders from control, what other workers hand over, sleeping
//   ingress.cpp   classify, find_sessions, open, accept
//   egress.cpp    for_the_host, route, choose_sessions, number, seal, and the packets we make ourselves
//   spread.cpp    open and seal when other workers help
#pragma once
#include <array>
#include <cstdint>
#include <utility>
#include <vector>

#include "dataplane/engine.h"
#include "dataplane/fair_share.h"
#include "dataplane/port.h"
#include "dataplane/route/recent_destinations.h"
#include "dataplane/session/reservations.h"
#include "dataplane/staging.h"
#include "dataplane/wire/icmp.h"
#include "dataplane/wire/inner_ip.h"

namespace wireplane {

enum class Work : bool { kIdle = false, kDone = true };

class Worker {
 public:
  // `number` < engine.workers(). `inner` may be null. Ports and engine outlive the worker.
  Worker(Engine& engine, unsigned number, Port& outer, Port* inner);
  ~Worker();  // packets that still wait are dropped, counted
  Worker(const Worker&) = delete;
  Worker& operator=(const Worker&) = delete;

  // One turn: a burst from each side and through. kIdle: nothing was there; the caller may let the core sleep.
  Work step(Instant now);

  // Before a thread sleeps in poll() on wake_fds() and its doorbell: false if there is work after all. After it:
  // sleep_end().
  [[nodiscard]] bool sleep_begin();
  void sleep_end() { link_.doorbell.sleep_end(); }
  void wake_fds(std::vector<int>& fds) const;

  [[nodiscard]] const Counters& counters() const { return link_.counters; }
  // Packets inside between steps, also in the ports (conservation).
  [[nodiscard]] std::size_t held() const {
    return staging_.size() + link_.spread.packets() + outer_.waiting() + (inner_ == nullptr ? 0 : inner_->waiting());
  }

 private:
  friend struct Stages;  // bench/worker.cpp: the same calls as step(), with a clock between them

  // worker.cpp
  void begin(Instant now);
  void receive(Burst& burst);
  void note_received(Burst& burst, std::size_t first);
  void end();
  void take_orders();
  void obey(const Order& order);
  void take_handed_over(Burst& burst);
  [[nodiscard]] bool post(SpscRing<Event>& ring, const Event& event);  // false: the ring is full
  void want_handshake(PeerState& peer);
  void arm_timers(PeerState& peer);

  // ingress.cpp, in the order of the packet's way
  void classify(Burst& burst);
  Drop give_to_control(Packet& packet);
  void find_sessions(Burst& burst);
  Drop hand_over(Packet& packet, unsigned owner);
  void open(Burst& burst);
  std::size_t prepare_open(Burst& burst, OpenJob* jobs);
  void finish_open(Burst& burst, const OpenJob* jobs);
  void accept(Burst& burst);
  static void prefetch_receive_side(const Packet& packet);
  Drop accept_one(Packet& packet);
  void check_sources(Burst& burst);
  void want(std::uint16_t i, const std::uint8_t* ip, const std::uint8_t* address);
  template <class Take>
  void look_up(Take take);
  void confirm(Session& session, PeerState& peer);
  void follow(Session& session, PeerState& peer, const Packet& packet, std::uint32_t version);
  void remember_move(const Session& session, PeerState& peer, const Packet& packet, std::uint32_t version);
  void forget_moves();
  // Where to send to a peer; null: nobody knows. Valid until the step ends.
  [[nodiscard]] const Endpoint* endpoint_of(const PeerState& peer) const {
    if (moves_count_ != 0) [[unlikely]]
      return moved_endpoint_of(peer);
    return peer.endpoint.load(std::memory_order_acquire);
  }
  [[nodiscard]] const Endpoint* moved_endpoint_of(const PeerState& peer) const;
  void ask_late(Session& session, PeerState& peer);
  Drop admit(Packet& packet);

  // egress.cpp
  [[nodiscard]] bool is_for_host(const Packet& packet) const;
  void for_the_host(Burst& burst);
  void find_destinations(Burst& burst, std::size_t first);
  void prefetch_send_side(const Packet& packet) const;
  void join_from_host(Burst& burst);
  void send_to_host(Burst& burst);
  void route(Burst& burst);
  Drop route_relayed(Packet& packet);
  Drop route_from_host(Packet& packet);
  [[nodiscard]] bool within_share(const Packet& packet);
  Drop refuse_with_icmp(Packet& packet, IcmpError kind, Drop reason);
  Drop shorten(Packet& packet);
  [[nodiscard]] bool may_forward(const PeerState& from, const PeerState& to) const;
  void choose_sessions(Burst& burst);
  Session* sending_session(PeerState& peer);
  void flush_staged(PeerState& peer);
  void send_keepalive(PeerState& peer);
  void number(Burst& burst);
  void note_sent(const Packet& packet);
  std::uint32_t pad(Packet& packet) const;
  void transmit(Burst& burst);  // number, seal, send
  std::size_t prepare_seal(Burst& burst, SealJob* jobs);
  void send_out(Burst& burst);

  // spread.cpp
  [[nodiscard]] bool in_flight() const { return lending_ || !link_.spread.empty(); }
  [[nodiscard]] bool holds_pointers() const { return !link_.spread.empty() || reservations_.owes(); }  // between steps
  template <class Job>
  void launch(Lane<Job>& lane, std::size_t jobs);
  void open_with_helpers(Burst& burst);
  void transmit_with_helpers(Burst& burst);
  void keep_endpoints(Burst& burst);
  void work_ahead(bool nothing_else);
  void consider_lending();
  void watch_lending();
  void pause_for_longer();
  [[nodiscard]] std::uint64_t idle_elsewhere() const;
  void lend(bool lending);
  void help();

  Engine& engine_;
  const unsigned number_;
  WorkerLink& link_;
  BufferCache buffers_;
  WorkerContext context_;
  Port& outer_;
  Port* inner_;
  const Settings* settings_ = nullptr;  // of this step
  Instant now_{};                       // of this step
  Stamp stamp_ = 0;                     // the same, as peers' lines keep it
  Staging staging_;
  IcmpLimiter icmp_;
  FairShare outer_share_, inner_share_;
  bool worked_ = false;  // in this step

  // Whether our queue is the bottleneck (spread.cpp).
  bool lending_ = false;
  bool full_ = false;           // in this step: a port gave as much as a step takes
  std::uint64_t received_ = 0;  // in this step: octets
  std::uint64_t period_ = 0;    // the grace period that what is in the step's burst belongs to
  bool pressed_ = false;        // every step since watch_.since was full
  struct Watch {
    Instant since{};
    std::uint64_t octets = 0, parts = 0, own_parts = 0, steps = 0, idle_elsewhere = 0;
    bool was_full = false;
    [[nodiscard]] double rate(Instant now) const {  // octets a nanosecond; 0: the clock stood still
      return now == since ? 0 : static_cast<double>(octets) / static_cast<double>((now - since).count());
    }
  } watch_;
  double alone_ = 0;  // rate of this core without help
  Instant not_before_{}, lent_until_{};
  Duration lease_ = std::chrono::milliseconds{20}, pause_ = std::chrono::milliseconds{20};

  Burst burst_;      // what came in this step
  Burst host_;       // of it, what leaves by the inner port
  Burst staged_;     // what had waited for a key, on its way out
  Burst fragments_;  // of packets that were cut to the MTU

  // Peers that have just moved: control has been told and has not published the endpoint yet. What we send meanwhile
  // goes to the new one; an answer to the old one would move a peer that hears it back.
  struct Move {
    PeerId peer;
    std::uint32_t version;  // of the endpoint that the peer left
    Instant until;          // by then control has decided, perhaps against it
    Endpoint to;
  };
  static constexpr Duration kMoveTakesAtMost = std::chrono::milliseconds{100};
  std::array<Move, 32> moves_;
  std::size_t moves_count_ = 0;

  // One burst's lookups of inner addresses, by family.
  struct Lookups {
    std::size_t count = 0;
    std::array<const std::uint8_t*, kBurst> addresses;
    std::array<std::uint32_t, kBurst> slots;
    std::array<std::uint16_t, kBurst> packet;
  };
  Lookups v4_, v6_;
  std::uint32_t routes_version_ = 0;  // read before any of the step's look-ups
  RecentDestinations recent_;

  std::array<OpenJob, kBurst> open_jobs_;  // of one call of the AEAD
  std::array<SealJob, kBurst> seal_jobs_;
  Reservations reservations_;               // of numbers, where several workers draw them
  std::uint64_t owing_since_ = UINT64_MAX;  // the period of the oldest pointer in it, if it owes
};

// The next look_up() says to whom this inner address, of packet `i`, belongs.
inline void Worker::want(std::uint16_t i, const std::uint8_t* ip, const std::uint8_t* address) {
  Lookups& family = is_ipv4(ip) ? v4_ : v6_;
  family.addresses[family.count] = address;
  family.packet[family.count++] = i;
}

// `take` is told each packet's number and its peer's slot, or kNoPeer.
template <class Take>
void Worker::look_up(Take take) {
  if (v4_.count != 0) engine_.routes().lookup_v4(v4_.addresses.data(), v4_.count, v4_.slots.data());
  if (v6_.count != 0) engine_.routes().lookup_v6(v6_.addresses.data(), v6_.count, v6_.slots.data());
  for (Lookups* family : {&v4_, &v6_}) {
    const std::size_t count = std::exchange(family->count, 0);
    for (std::size_t k = 0; k < count; ++k) take(family->packet[k], family->slots[k]);
  }
}

}  // namespace wireplane
