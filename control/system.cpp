#include "control/system.h"

#include <sys/random.h>
#include <time.h>

#include <algorithm>
#include <cerrno>

#include "dataplane/base/check.h"

namespace wireplane {
namespace {

Duration read_clock(clockid_t clock) {
  timespec at;
  WG_CHECK(::clock_gettime(clock, &at) == 0);
  return std::chrono::seconds{at.tv_sec} + Duration{at.tv_nsec};
}

}  // namespace

Instant engine_clock() { return Instant{read_clock(CLOCK_BOOTTIME)}; }

Now system_now() { return {engine_clock(), read_clock(CLOCK_REALTIME)}; }

void SystemEntropy::fill(std::span<std::uint8_t> octets) {
  while (!octets.empty()) {
    const ssize_t got = ::getrandom(octets.data(), std::min<std::size_t>(octets.size(), 256), 0);
    // A signal may come between; a kernel without getrandom, or one that forbids it, cannot make keys.
    WG_CHECK(got > 0 || (got < 0 && errno == EINTR));
    if (got > 0) octets = octets.subspan(static_cast<std::size_t>(got));
  }
}

}  // namespace wireplane
