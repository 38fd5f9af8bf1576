// bulk_ring.h: a bounded queue between two threads, in bulk: the indices move once a burst (Lamport 1983, as SpscRing).
//
//   producer: push(items) --> slots [head, tail) --> pop(room) : consumer
//
// Where several threads share an end they take a lock of their own around it.
#pragma once
#include <algorithm>
#include <atomic>
#include <bit>
#include <cstddef>
#include <memory>
#include <span>
#include <utility>

#include "dataplane/base/check.h"
#include "dataplane/base/ring.h"

namespace wireplane {

template <class T>
class BulkRing {
 public:
  explicit BulkRing(std::size_t capacity)  // a power of two
      : slots_{std::make_unique<T[]>(capacity)}, mask_{capacity - 1} {
    WG_CHECK(std::has_single_bit(capacity));
  }

  // Producer only. How many were taken: the first ones; the ring is full then.
  [[nodiscard]] std::size_t push(std::span<const T> items) {
    const std::size_t tail = tail_.load(std::memory_order_relaxed);
    std::size_t room = head_seen_ + mask_ + 1 - tail;
    if (room < items.size()) {
      head_seen_ = head_.load(std::memory_order_acquire);  // R4 pairs with R3: the consumer is done with the slots
      room = head_seen_ + mask_ + 1 - tail;
    }
    const std::size_t count = std::min(room, items.size());
    for (std::size_t i = 0; i < count; ++i) slots_[(tail + i) & mask_] = items[i];
    tail_.store(tail + count, std::memory_order_release);  // R1 pairs with R2: whoever sees the index sees the items
    return count;
  }

  // Producer only: one by one into their places, seen by the consumer at the end. Items that are assembled elsewhere
  // and copied are read before their stores have left the core, in other words than they were written: that stalls.
  class Filling {
   public:
    // `expected`: how many will be put; more may fit.
    Filling(BulkRing& ring, std::size_t expected)
        : ring_{ring}, begin_{ring.tail_.load(std::memory_order_relaxed)}, next_{begin_} {
      if (ring.head_seen_ + ring.mask_ + 1 - begin_ < expected)
        ring.head_seen_ = ring.head_.load(std::memory_order_acquire);  // R4
      end_ = ring.head_seen_ + ring.mask_ + 1;
    }
    ~Filling() {
      if (next_ != begin_) ring_.tail_.store(next_, std::memory_order_release);  // R1
    }
    Filling(const Filling&) = delete;
    Filling& operator=(const Filling&) = delete;
    [[nodiscard]] T* place() { return next_ == end_ ? nullptr : &ring_.slots_[next_++ & ring_.mask_]; }  // null: full
    [[nodiscard]] std::size_t count() const { return next_ - begin_; }

   private:
    BulkRing& ring_;
    const std::size_t begin_;
    std::size_t next_, end_;
  };

  // Consumer only. How many there were, the oldest first; at most as many as there is room for.
  [[nodiscard]] std::size_t pop(std::span<T> room) {
    T* next = room.data();
    return pop_each(room.size(), [&](const T& item) { *next++ = item; });
  }
  // The same where they lie.
  template <class See>
  std::size_t pop_each(std::size_t most, See see) {
    const std::size_t head = head_.load(std::memory_order_relaxed);
    if (tail_seen_ - head < most) tail_seen_ = tail_.load(std::memory_order_acquire);  // R2 pairs with R1
    const std::size_t count = std::min(most, tail_seen_ - head);
    for (std::size_t i = 0; i < count; ++i) see(std::as_const(slots_[(head + i) & mask_]));
    if (count != 0) head_.store(head + count, std::memory_order_release);  // R3 pairs with R4: our reads are over
    return count;
  }

  // Any thread; a guess while others work.
  [[nodiscard]] std::size_t size() const {
    const std::size_t head = head_.load(std::memory_order_acquire);  // before the tail, which is never behind it
    return tail_.load(std::memory_order_acquire) - head;
  }

 private:
  std::unique_ptr<T[]> slots_;
  const std::size_t mask_;
  alignas(kCacheLine) std::atomic<std::size_t> tail_{0};  // the producer's line
  std::size_t head_seen_ = 0;
  alignas(kCacheLine) std::atomic<std::size_t> head_{0};  // the consumer's line
  std::size_t tail_seen_ = 0;
};

}  // namespace wireplane
