// stack_scrub.h: overwrites what functions called from here have left below our frame.
//
// Our own secrets wipe themselves; libraries do not always (libb2 leaves its last digest, which may be a key). Declared
// first in a function, it runs last: after the other locals. noise_wiping_test searches the stack to prove it. Cost:
// about 0.1 us.
#pragma once

namespace wireplane {

class StackScrub {
 public:
  StackScrub() = default;
  StackScrub(const StackScrub&) = delete;
  StackScrub& operator=(const StackScrub&) = delete;
  ~StackScrub() { scrub(); }

 private:
  static void scrub();  // never inlined: its frame must lie where the callees' frames lay
};

}  // namespace wireplane
