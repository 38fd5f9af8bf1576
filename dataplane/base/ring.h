// ring.h: bounded queues between two threads, and between many.
//
// SpscRing: one producer, one consumer, a slot each; Lamport 1983, with each side keeping a copy of the other's index
// so that the shared lines move only when the copy runs out. A full ring refuses: the caller counts it. MpmcRing:
// Vyukov's bounded queue: every slot has a sequence number that says whose turn it is.
#pragma once
#include <atomic>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <memory>

#include "dataplane/base/check.h"

namespace wireplane {

constexpr std::size_t kCacheLine = 64;

template <class T>
class SpscRing {
 public:
  explicit SpscRing(std::size_t capacity)  // a power of two
      : slots_{std::make_unique<T[]>(capacity)}, mask_{capacity - 1} {
    WG_CHECK(std::has_single_bit(capacity));
  }

  // Producer only. False: full, nothing happened.
  [[nodiscard]] bool push(const T& item) {
    T* slot = reserve();
    if (slot == nullptr) return false;
    *slot = item;
    commit();
    return true;
  }
  // Producer only, for large items: the next free slot to fill in place, or null; then commit().
  [[nodiscard]] T* reserve() {
    const std::size_t tail = tail_.load(std::memory_order_relaxed);
    if (tail - head_seen_ > mask_) {
      head_seen_ = head_.load(std::memory_order_acquire);  // Q4 pairs with Q3: the consumer is done with the slot
      if (tail - head_seen_ > mask_) return nullptr;
    }
    return &slots_[tail & mask_];
  }
  void commit() {
    // Q1 release, pairs with Q2: a consumer that sees the index sees the item behind it.
    tail_.store(tail_.load(std::memory_order_relaxed) + 1, std::memory_order_release);
  }

  // Consumer only: the oldest item in place, or null; pop() frees its slot.
  [[nodiscard]] T* front() {
    const std::size_t head = head_.load(std::memory_order_relaxed);
    if (head == tail_seen_) {
      tail_seen_ = tail_.load(std::memory_order_acquire);  // Q2 pairs with Q1
      if (head == tail_seen_) return nullptr;
    }
    return &slots_[head & mask_];
  }
  void pop() {
    // Q3 release, pairs with Q4: a producer that sees the index may overwrite the slot, so our reads are over.
    head_.store(head_.load(std::memory_order_relaxed) + 1, std::memory_order_release);
  }

  // Any thread; a guess while others work.
  [[nodiscard]] std::size_t size() const {
    return tail_.load(std::memory_order_acquire) - head_.load(std::memory_order_acquire);
  }
  [[nodiscard]] bool empty() const { return size() == 0; }
  [[nodiscard]] std::size_t capacity() const { return mask_ + 1; }

 private:
  std::unique_ptr<T[]> slots_;
  const std::size_t mask_;
  alignas(kCacheLine) std::atomic<std::size_t> tail_{0};  // the producer's line
  std::size_t head_seen_ = 0;
  alignas(kCacheLine) std::atomic<std::size_t> head_{0};  // the consumer's line
  std::size_t tail_seen_ = 0;
};

template <class T>
class MpmcRing {
 public:
  explicit MpmcRing(std::size_t capacity) : slots_{std::make_unique<Slot[]>(capacity)}, mask_{capacity - 1} {
    WG_CHECK(std::has_single_bit(capacity));
    for (std::size_t i = 0; i < capacity; ++i) slots_[i].turn.store(i, std::memory_order_relaxed);
  }

  [[nodiscard]] bool push(T item) {
    std::size_t at = tail_.load(std::memory_order_relaxed);
    for (;;) {
      Slot& slot = slots_[at & mask_];
      const auto lead =
          static_cast<std::ptrdiff_t>(slot.turn.load(std::memory_order_acquire) - at);  // M2 pairs with M3
      if (lead < 0) return false;                                                       // full
      if (lead > 0) {
        at = tail_.load(std::memory_order_relaxed);
      } else if (tail_.compare_exchange_weak(at, at + 1, std::memory_order_relaxed)) {
        slot.item = item;
        slot.turn.store(at + 1, std::memory_order_release);  // M1 release, pairs with M4: the item is there
        return true;
      }
    }
  }
  [[nodiscard]] bool pop(T& item) {
    std::size_t at = head_.load(std::memory_order_relaxed);
    for (;;) {
      Slot& slot = slots_[at & mask_];
      const auto lead = static_cast<std::ptrdiff_t>(slot.turn.load(std::memory_order_acquire) - (at + 1));  // M4
      if (lead < 0) return false;                                                                           // empty
      if (lead > 0) {
        at = head_.load(std::memory_order_relaxed);
      } else if (head_.compare_exchange_weak(at, at + 1, std::memory_order_relaxed)) {
        item = slot.item;
        slot.turn.store(at + mask_ + 1, std::memory_order_release);  // M3 release: the slot is free for the next lap
        return true;
      }
    }
  }
  [[nodiscard]] std::size_t size() const {
    return tail_.load(std::memory_order_relaxed) - head_.load(std::memory_order_relaxed);
  }

 private:
  struct Slot {
    std::atomic<std::size_t> turn;
    T item;
  };
  std::unique_ptr<Slot[]> slots_;
  const std::size_t mask_;
  alignas(kCacheLine) std::atomic<std::size_t> tail_{0};
  alignas(kCacheLine) std::atomic<std::size_t> head_{0};
};

}  // namespace wireplane
