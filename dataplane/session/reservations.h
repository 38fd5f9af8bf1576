// reservations.h: numbers that a worker draws in advance, where several draw from the same sessions.
// spec: wg §5.4.6
//
//   sent.counter --draw_shared(), once in many packets--> place of the peer: {next, left} --draw()--> a packet's number
//                                                         {owed} --settle()--> sent.octets
//
// So the line that holds a session's key and counter, which all workers read, is written once for many packets, and a
// packet costs no locked instruction. Reserved are as many numbers as the worker is likely to use within kValid, or, of
// a session that many are sent with, within kManyValid: that line takes a time to come from the other core, and so do a
// thousand peers' in turn. A session that sends seldom reserves none: its numbers keep the order of time, also where
// workers take turns, for peers whose replay window is small (lwIP's is 32). None is used that is kMostBehind behind
// what others drew: it might be behind a window of 1024. What is not used is left out, which nobody minds: a window
// moves on.
//
// The octets of packets numbered so are owed to their session and paid with its next reservation, or by settle(), which
// the worker calls when it has nothing else to do, and when is_due(). As long as it owes() anything it holds a pointer
// to a session, and must stay online (base/grace.h).
//
// A worker's own. Cost: a look-up by peer in a table that L2 holds.
#pragma once
#include <algorithm>
#include <cstdint>
#include <vector>

#include "dataplane/session/numbers.h"
#include "dataplane/session/peer_state.h"

namespace wireplane {

class Reservations {
 public:
  static constexpr std::size_t kPlaces = 2048;  // peers that share one share its reservation, that is to say lose it
  static constexpr std::uint64_t kMostBehind = 512;
  static constexpr std::uint16_t kValid = 5;       // ms
  static constexpr std::uint16_t kManyValid = 50;  // ms, if many were reserved; and for so long octets are owed

  explicit Reservations(unsigned workers)
      : most_{static_cast<std::uint8_t>(std::clamp<std::uint64_t>(kMostBehind / workers, 1, UINT8_MAX))},
        many_{std::min<std::uint8_t>(most_, 128)},
        places_(workers > 1 ? kPlaces : 0) {
    owing_.reserve(places_.size());
  }

  void prefetch(PeerSlot peer) const { __builtin_prefetch(&places_[peer.raw() % kPlaces], 1); }

  // The number of one packet of so many octets of UDP payload. kRejectAfterMessages or more: there is none left. `now`:
  // the step's stamp.
  [[nodiscard]] std::uint64_t draw(Session& session, PeerSlot peer, std::uint32_t octets, Stamp now) {
    Place& place = places_[peer.raw() % kPlaces];
    // Sessions are created one at a time (Device::install()): one that has this one's slot later is another.
    const bool known = place.session == &session && place.created == session.sent.created;
    const std::uint64_t behind = session.sent.counter.load(std::memory_order_relaxed) - place.next;
    if (known && place.left != 0 && behind <= kMostBehind && age_of(place, now) < valid(place)) [[likely]] {
      if (place.owed == 0) [[unlikely]]
        owe(place, now);
      place.owed += octets;
      --place.left;
      return place.next++;
    }
    return reserve(place, known, session, octets, now);
  }

  [[nodiscard]] bool owes() const { return !owing_.empty(); }
  [[nodiscard]] bool is_due(Stamp now) const {
    return owes() && (now - owing_since_ >= kManyValid || owing_.size() > kPlaces / 2);
  }
  void settle() {
    for (const std::uint32_t i : owing_) pay(places_[i]);
    owing_.clear();
  }

 private:
  struct alignas(32) Place {  // zeros: nobody's
    Session* session;
    std::int64_t created;
    std::uint64_t next;
    std::uint32_t owed;       // octets
    std::uint8_t left, size;  // of the numbers from `next` on; of what was wanted
    std::uint16_t since;      // a stamp's low half
  };

  static std::uint16_t age_of(const Place& place, Stamp now) { return static_cast<std::uint16_t>(now - place.since); }

  std::uint64_t reserve(Place& place, bool known, Session& session, std::uint32_t octets, Stamp now) {
    const std::uint8_t wanted = known ? next_size(place, age_of(place, now)) : 1;
    if (!known) pay(place);
    const auto [first, granted] = draw_shared(session.sent, wanted, octets + place.owed);
    if (granted == 0) return kRejectAfterMessages;
    place = {&session, session.sent.created,           first + 1, 0, static_cast<std::uint8_t>(granted - 1),
             wanted,   static_cast<std::uint16_t>(now)};
    return first;
  }
  [[nodiscard]] bool has_many(const Place& place) const { return place.size >= many_; }
  [[nodiscard]] std::uint16_t valid(const Place& place) const { return has_many(place) ? kManyValid : kValid; }
  // As many as are likely to be used while they are valid. What was used up before was too little.
  std::uint8_t next_size(const Place& place, std::uint16_t age) const {
    const unsigned used = place.size - place.left, more = 8 * used;
    const auto size = [this](unsigned n) { return static_cast<std::uint8_t>(std::clamp<unsigned>(n, 1, most_)); };
    if (age >= 2 * valid(place)) return 1;
    if (age < valid(place)) return size(more);
    if (has_many(place)) return size(used >= many_ ? used : used / 8);
    return size(more >= many_ ? more : used);
  }
  void owe(Place& place, Stamp now) {
    if (owing_.empty()) owing_since_ = now;
    if (owing_.size() == kPlaces) settle();  // a place may be there twice
    owing_.push_back(static_cast<std::uint32_t>(&place - places_.data()));
  }
  static void pay(Place& place) {
    if (place.owed == 0) return;
    place.session->sent.octets.fetch_add(place.owed, std::memory_order_relaxed);
    place.owed = 0;
  }

  std::uint8_t most_;  // numbers: all workers' together stay within kMostBehind
  std::uint8_t many_;  // so many are used by a session that is busy for a while
  std::vector<Place> places_;
  std::vector<std::uint32_t> owing_;  // places
  Stamp owing_since_ = 0;
};

}  // namespace wireplane
