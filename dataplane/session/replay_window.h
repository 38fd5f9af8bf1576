// replay_window.h: refuses transport messages whose counter was accepted before.
// spec: wg §5.4.6; RFC 6479 (a bitmap in a ring of words, so that nothing is ever shifted)
//
//      too old     |<----------- kSpan ----------->| newest
//   ...............|1 1 0 1 1 1 1 0 1 1 1 1 0 1 1 1|.........  not seen yet
//
// Owner: the session's worker, alone; hence no atomics. Cost: one word touched when in order.
// Call only after the tag has verified: a forged counter must not move the window (P32).
// All zero is the window that has seen nothing, so that it can lie in a pointer-free arena: write `ReplayWindow w{};`.
#pragma once
#include <algorithm>
#include <array>
#include <cstdint>
#include <type_traits>

#include "dataplane/base/fault.h"
#include "dataplane/base/time.h"
#include "dataplane/base/types.h"

namespace wireplane {

class ReplayWindow {
 public:
  static constexpr std::uint64_t kWords = 128, kWordBits = 64;
  static constexpr std::uint64_t kSpan = (kWords - 1) * kWordBits;  // one word is always being cleared
  static_assert(kSpan == kReplaySpan && kSpan < (1u << 13),
                "counter + kSpan must not wrap below Reject-After-Messages");

  // True once for each counter that is neither behind the window nor at Reject-After-Messages (P33); nothing but a true
  // answer changes the window.
  [[nodiscard]] bool accept(Counter counter);

  // Brings the word that accept() will look at nearer; for a burst.
  void prefetch(Counter counter) const { __builtin_prefetch(&words_[counter.raw() / kWordBits % kWords], 1); }

  // One more than the greatest counter accepted; 0: none yet.
  [[nodiscard]] std::uint64_t next() const { return next_; }

 private:
  std::uint64_t next_;
  std::array<std::uint64_t, kWords> words_;  // the bit of counter c is bit c % 64 of word c / 64 % 128
};

inline bool ReplayWindow::accept(Counter counter) {
  const std::uint64_t number = counter.raw();
  if (number >= kRejectAfterMessages && !seeded_fault(33)) return false;
  const std::uint64_t span = seeded_fault(32) ? kSpan / 8 : kSpan;
  if (next_ > 0 && number + span < next_ - 1) return false;

  const std::uint64_t word = number / kWordBits;
  if (number == next_ && number % kWordBits != 0) [[likely]] {  // in order: nothing is cleared, nothing can be there
    next_ = number + 1;
    words_[word % kWords] |= std::uint64_t{1} << (number % kWordBits);
    return true;
  }
  if (number >= next_) {  // ahead: clear the words that come into the window, none older than one turn of the ring
    const std::uint64_t newest = next_ == 0 ? 0 : (next_ - 1) / kWordBits;
    const std::uint64_t entering = std::min(word - newest, kWords);
    for (std::uint64_t i = 1; i <= entering; ++i) words_[(newest + i) % kWords] = 0;
    next_ = number + 1;
  }
  std::uint64_t& bits = words_[word % kWords];
  const std::uint64_t bit = std::uint64_t{1} << (number % kWordBits);
  if ((bits & bit) != 0) return false;
  bits |= bit;
  return true;
}

static_assert(std::is_trivial_v<ReplayWindow> && std::is_standard_layout_v<ReplayWindow>);

}  // namespace wireplane
