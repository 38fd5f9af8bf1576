// waiting_room.h: packets whose next hop has been asked for, until it answers.
//
//   send() -> no hardware address yet -> the question goes out, the packet waits here
//   receive(), send() -> it is known now -> on its way                 kPatience over, or too many -> dropped, counted
//
// Bounded: kPlaces in all, kOfOneHop of them for one next hop, of which the oldest makes room for the newest (RFC 1122
// §2.3.2.2 asks for at least one). Owner: one port; the time comes in. What waits is inside of the port: its owner
// counts it as sent when it leaves.
#pragma once
#include <cstdint>
#include <utility>
#include <vector>

#include "dataplane/packet.h"

namespace wireplane {

class WaitingRoom {
 public:
  static constexpr std::size_t kPlaces = 64, kOfOneHop = 16;
  static constexpr std::int64_t kPatienceNs = 3'000'000'000;

  WaitingRoom() { waiting_.reserve(kPlaces); }
  ~WaitingRoom() {
    for (One& one : waiting_) one.packet.buffer->pool->give(&one.packet.buffer, 1);
  }
  WaitingRoom(const WaitingRoom&) = delete;
  WaitingRoom& operator=(const WaitingRoom&) = delete;

  [[nodiscard]] std::size_t size() const { return waiting_.size(); }

  // Takes the packet, or drops one (it, or an older one for the same hop) under `reason`.
  void hold(Packet& packet, const Address& next, std::int64_t now_ns, Drop reason, WorkerContext& context) {
    std::size_t same = 0, oldest = waiting_.size();
    for (std::size_t i = waiting_.size(); i-- > 0;)
      if (waiting_[i].next == next) ++same, oldest = i;
    if (same >= kOfOneHop) {
      context.drop(waiting_[oldest].packet, reason);
      waiting_.erase(waiting_.begin() + static_cast<std::ptrdiff_t>(oldest));
    }
    if (waiting_.size() >= kPlaces) return context.drop(packet, reason);
    One& one = waiting_.emplace_back(One{packet, {}, next, now_ns + kPatienceNs});
    if (packet.to != nullptr) one.to = *packet.to;  // the peer's own lives only until the worker's next quiescent state
    packet.buffer = nullptr;
  }

  // `try_now(packet)` in order of arrival: true: it has taken the packet. The others stay, or are dropped when their
  // time is over.
  template <class TryNow>
  void look(std::int64_t now_ns, Drop reason, WorkerContext& context, TryNow try_now) {
    std::size_t kept = 0;
    for (std::size_t i = 0; i < waiting_.size(); ++i) {
      One& one = waiting_[i];
      if (one.packet.to != nullptr) one.packet.to = &one.to;
      if (try_now(one.packet)) continue;
      if (now_ns >= one.until_ns) {
        context.drop(one.packet, reason);
        continue;
      }
      if (kept != i) waiting_[kept] = one;
      ++kept;
    }
    waiting_.resize(kept);
  }

 private:
  struct One {
    Packet packet;
    Endpoint to;
    Address next;
    std::int64_t until_ns{};
  };
  std::vector<One> waiting_;
};

}  // namespace wireplane
