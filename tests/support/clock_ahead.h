// clock_ahead.h: for programs whose own clock_gettime() stands before the C library's: one clock of the host runs
// ahead.
#pragma once
#include <sys/syscall.h>
#include <unistd.h>

#include <cstdint>
#include <ctime>

namespace wireplane::test {

// The host's time; of the clock `which` so many nanoseconds later.
inline int clock_ahead(clockid_t clock, timespec* out, clockid_t which, std::int64_t ahead_ns) {
  const long done = ::syscall(SYS_clock_gettime, clock, out);
  if (clock == which) {
    const std::int64_t ns = out->tv_nsec + ahead_ns;
    out->tv_sec += ns / 1'000'000'000;
    out->tv_nsec = ns % 1'000'000'000;
  }
  return static_cast<int>(done);
}

}  // namespace wireplane::test
