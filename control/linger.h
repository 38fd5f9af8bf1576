// linger.h: whether a thread that has run out of work looks again for a moment before it sleeps.
//
//   no work -> look, yield, look, yield ... kLongest -> sleep
//             ^ only while that pays
//
// A wake costs both sides: a system call of whoever brings the work, the scheduler twice, and between the cores of a
// virtual machine an interrupt that its host delivers: 4 us on one core, 28 us from one to the other were measured
// (README.md). Who still looks need not be woken, and who yields between looks leaves the core to whoever brings the
// work. It pays where work comes soon, again and again; a node that hears a datagram now and then does not linger.
//
// Owner: the thread that waits. Cost: a clock and a system call a look.
#pragma once
#include <algorithm>

#include "dataplane/base/time.h"

namespace wireplane {

class Linger {
 public:
  static constexpr Duration kLongest = std::chrono::microseconds{50};  // about what two wakes cost

  // Nothing to do since `since`: look once more?
  [[nodiscard]] bool pays(Instant since, Instant now) const { return credit_ > 0 && now - since < kLongest; }
  void found() { credit_ = std::min(credit_ + 1, kMost); }  // while it lingered
  // It lingered in vain, perhaps, and slept.
  void slept(Instant since, Instant now) {
    if (credit_ > 0) credit_ = credit_ > kMost / 2 ? credit_ - kMost / 2 : -kMost / 2;
    if (now - since < kSoon)
      ++credit_;
    else
      credit_ = std::min(credit_, 0);
  }

 private:
  static constexpr int kMost = 8;
  static constexpr Duration kSoon = std::chrono::microseconds{200};  // would it have paid? A wake takes long itself
  int credit_ = 0;
};

}  // namespace wireplane
