#include "dataplane/session/replay_window.h"

#include <algorithm>

#include "dataplane/base/fault.h"

namespace wireplane {

bool ReplayWindow::accept(Counter counter) {
  const std::uint64_t number = counter.raw();
  if (number >= kRejectAfterMessages && !seeded_fault(33)) return false;
  const std::uint64_t span = seeded_fault(32) ? kSpan / 8 : kSpan;
  if (next_ > 0 && number + span < next_ - 1) return false;

  const std::uint64_t word = number / kWordBits;
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

}  // namespace wireplane
