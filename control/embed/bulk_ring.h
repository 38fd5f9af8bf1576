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

  // Consumer only. How many there were, the oldest first; at most as many as there is room for.
  [[nodiscard]] std::size_t pop(std::span<T> room) {
    const std::size_t head = head_.load(std::memory_order_relaxed);
    if (tail_seen_ - head < room.size()) tail_seen_ = tail_.load(std::memory_order_acquire);  // R2 pairs with R1
    const std::size_t count = std::min(room.size(), tail_seen_ - head);
    for (std::size_t i = 0; i < count; ++i) room[i] = slots_[(head + i) & mask_];
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
