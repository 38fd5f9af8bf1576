// grace.h: a grace period for what workers read without locks (quiescent-state-based reclamation, McKenney 1998; the
// shape of DPDK's rte_rcu_qsbr).
//
//   control:  unlink it -> period = begin()  ...  passed(period)? -> nobody can still see it -> free
//   worker:   online -> [burst, quiescent]* -> offline
//
// A quiescent state says: "no pointer into shared state is left on my stack". What waits in a ring carries ids, not
// pointers. A worker that sleeps is offline, or control would wait for it. What is in flight between a worker's steps
// (spread.h) does hold pointers: while there is any, the worker stays online, at the period of the oldest.
#pragma once
#include <atomic>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <utility>

#include "dataplane/base/ring.h"

namespace wireplane {

class Grace {
 public:
  explicit Grace(unsigned readers) : readers_{readers}, seen_{std::make_unique<Seen[]>(readers)} {}
  ~Grace() {
    while (!waiting_.empty()) {  // no reader is left when the engine goes
      waiting_.front().free();
      waiting_.pop_front();
    }
  }
  Grace(const Grace&) = delete;
  Grace& operator=(const Grace&) = delete;

  // Reader side: `reader` is the worker's number.
  void online(unsigned reader) {
    seen_[reader].period.store(period_.load(std::memory_order_relaxed), std::memory_order_seq_cst);
    // G1 seq_cst, pairs with G4: either control sees us online, or we see what it unlinked before it looked.
    std::atomic_thread_fence(std::memory_order_seq_cst);
  }
  // The period that pointers read from now on belong to. G2: what was unlinked before it began is not among them.
  [[nodiscard]] std::uint64_t period() const { return period_.load(std::memory_order_acquire); }
  // What was read before `period` is no longer held; later pointers may be. The reader is online.
  void hold_since(unsigned reader, std::uint64_t period) {
    seen_[reader].period.store(period, std::memory_order_release);  // G5
  }
  void quiescent(unsigned reader) {
    const std::uint64_t now = period_.load(std::memory_order_acquire);  // G2 pairs with G3: the unlinking came before
    Seen& mine = seen_[reader];
    if (mine.period.load(std::memory_order_relaxed) != now)
      mine.period.store(now, std::memory_order_release);  // G5 release, pairs with G4: our reads are over
  }
  void offline(unsigned reader) { seen_[reader].period.store(kOffline, std::memory_order_release); }  // G5 too

  // Writer side (control only). begin() is called after the unlinking; passed() when nobody can hold what was unlinked.
  [[nodiscard]] std::uint64_t begin() {
    return period_.fetch_add(1, std::memory_order_seq_cst) + 1;  // G3 release (and the fence of G1)
  }
  [[nodiscard]] bool passed(std::uint64_t period) const {
    for (unsigned i = 0; i < readers_; ++i)
      if (seen_[i].period.load(std::memory_order_seq_cst) < period) return false;  // G4 acquire
    return true;
  }

  // Frees later: `free` runs in a reclaim() after a grace period that begins now. Callbacks may retire more.
  void retire(std::function<void()> free) { waiting_.push_back({begin(), std::move(free)}); }
  // Runs what has passed, at most `most` of it; true when nothing waits any more.
  bool reclaim(std::size_t most = 256) {
    for (; most != 0 && !waiting_.empty() && passed(waiting_.front().period); --most) {
      waiting_.front().free();  // in its place: one that finds no memory throws, and is tried again
      waiting_.pop_front();
    }
    return waiting_.empty();
  }
  [[nodiscard]] std::size_t waiting() const { return waiting_.size(); }

 private:
  static constexpr std::uint64_t kOffline = UINT64_MAX;
  struct alignas(kCacheLine) Seen {
    std::atomic<std::uint64_t> period{kOffline};
  };
  struct Waiting {
    std::uint64_t period;
    std::function<void()> free;
  };

  const unsigned readers_;
  std::unique_ptr<Seen[]> seen_;
  alignas(kCacheLine) std::atomic<std::uint64_t> period_{1};
  std::deque<Waiting> waiting_;
};

}  // namespace wireplane
