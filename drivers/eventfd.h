// eventfd.h: waking a thread that sleeps in poll(), and the sleep. The descriptor does not block; whoever sleeps makes
// sure that nobody rings in vain (Doorbell, dataplane/engine.h).
#pragma once
#include <poll.h>
#include <unistd.h>

#include <cstdint>
#include <ctime>
#include <iterator>

#include "dataplane/base/time.h"

namespace wireplane {

// Makes it readable. A count that is full stays full, which is all that a ring is to say.
inline void ring_eventfd(int fd) {
  const std::uint64_t one = 1;
  static_cast<void>(!::write(fd, &one, sizeof one));
}

// How often it was rung since it was drained last. 0: it is not readable.
inline std::uint64_t drain_eventfd(int fd) {
  std::uint64_t rung;
  return ::read(fd, &rung, sizeof rung) == sizeof rung ? rung : 0;
}

inline timespec timespec_of(Duration time) {
  return {static_cast<time_t>(time / 1s), static_cast<long>((time % 1s).count())};
}

// Until one of them is readable, a signal comes, or `at_most` (0 or more) is over. True: the other one is readable.
// (-1: there is none, and poll() leaves it out.)
inline bool sleep_on(int fd, Duration at_most, int other_fd = -1) {
  pollfd polled[] = {{fd, POLLIN, 0}, {other_fd, POLLIN, 0}};
  const timespec most = timespec_of(at_most);
  return ::ppoll(polled, std::size(polled), &most, nullptr) > 0 && polled[1].revents != 0;
}

}  // namespace wireplane
