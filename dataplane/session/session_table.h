// session_table.h: receiver index -> session, in one access. One table a worker, written by control.
//
//   receiver index   [ random | position | bucket 6 ]     bucket % workers = the owner (sockets steer by it)
//   word             [ receiver index 32 | slot + 1 32 ]  0: empty
//
// The position is drawn from a CSPRNG among free ones, the remaining bits too: an index tells an observer nothing
// (P23). The whole index is compared before a key is touched. spec: wg §5.4 (indices are random per session).
#pragma once
#include <atomic>
#include <bit>
#include <cstdint>

#include "dataplane/base/check.h"
#include "dataplane/base/types.h"
#include "dataplane/base/zero_pages.h"

namespace wireplane {

constexpr unsigned kBucketBits = 6, kBuckets = 1u << kBucketBits;  // hence at most 64 workers

inline unsigned bucket(ReceiverIndex index) { return index.raw() & (kBuckets - 1); }

class SessionTable {
 public:
  explicit SessionTable(std::size_t capacity)  // a power of two, at least twice the sessions it shall hold
      : pages_{capacity * sizeof(*words_)},
        words_{static_cast<std::atomic<std::uint64_t>*>(pages_.get())},
        mask_{static_cast<std::uint32_t>(capacity - 1)} {
    WG_CHECK(std::has_single_bit(capacity) && capacity <= (1u << (32 - kBucketBits)));
  }

  // Workers. The slot + 1, or 0.
  [[nodiscard]] std::uint32_t find(ReceiverIndex index) const {
    // T2 acquire, pairs with T1: who sees the entry sees the session's keys.
    const std::uint64_t word = words_[position(index)].load(std::memory_order_acquire);
    return static_cast<std::uint32_t>(word >> 32) == index.raw() ? static_cast<std::uint32_t>(word) : 0;
  }
  void prefetch(ReceiverIndex index) const { __builtin_prefetch(&words_[position(index)]); }

  // Control.
  void store(ReceiverIndex index, SessionSlot slot) {
    words_[position(index)].store((std::uint64_t{index.raw()} << 32) | (slot.raw() + 1u),
                                  std::memory_order_release);  // T1
  }
  void clear(ReceiverIndex index) { words_[position(index)].store(0, std::memory_order_release); }
  [[nodiscard]] std::uint32_t position(ReceiverIndex index) const { return (index.raw() >> kBucketBits) & mask_; }
  [[nodiscard]] std::size_t capacity() const { return std::size_t{mask_} + 1; }

 private:
  ZeroPages pages_;
  std::atomic<std::uint64_t>* words_;
  const std::uint32_t mask_;
};

}  // namespace wireplane
