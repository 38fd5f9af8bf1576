// numbers.h: the numbers of a session's transport messages: drawn by whoever sends, each once.
// spec: wg §5.4.6 (they start at 0 and grow by one; P31), §6.2 (none from Reject-After-Messages on; P33)
//
// Any worker sends with any session, so several draw from one counter, many at once (reservations.h). Drawing also
// counts the octets that leave. Cost: one locked instruction (16 octets are compared and swapped) where there are
// several workers, none where one is alone.
#pragma once
#include <algorithm>
#include <atomic>
#include <cstdint>

#include "dataplane/base/fault.h"
#include "dataplane/base/time.h"
#include "dataplane/session/session.h"

namespace wireplane {

struct Drawn {
  std::uint64_t first;    // the numbers first .. first + granted - 1 are the caller's
  std::uint64_t granted;  // what was wanted, or what is left
};

inline Drawn drawn_from(std::uint64_t next, std::uint64_t wanted) {
  const bool none_left = next >= kRejectAfterMessages && !seeded_fault(33);
  return {next, none_left ? 0 : std::min(wanted, kRejectAfterMessages - next)};
}

// One, where there is one worker. kRejectAfterMessages or more: there is none left.
inline std::uint64_t draw_alone(Session::Sent& sent, std::uint64_t octets) {
  constexpr auto relaxed = std::memory_order_relaxed;
  const auto [first, granted] = drawn_from(sent.counter.load(relaxed), 1);
  sent.counter.store(first + granted, relaxed);
  sent.octets.store(sent.octets.load(relaxed) + octets * granted, relaxed);
  return first;
}

// Others may draw at the same time. (cmpxchg16b: every x86-64 processor has it but the very first.)
__attribute__((target("cx16"))) inline Drawn draw_shared(Session::Sent& sent, std::uint64_t wanted,
                                                         std::uint64_t octets) {
  __extension__ using Pair = unsigned __int128;
  static_assert(offsetof(Session::Sent, octets) == offsetof(Session::Sent, counter) + 8 &&
                offsetof(Session::Sent, counter) % sizeof(Pair) == 0);
  const auto pair = [](std::uint64_t low, std::uint64_t high) { return Pair{high} << 64 | low; };
  for (;;) {  // a pair that was torn while it was read is not what is there, and is read again
    const std::uint64_t sum = sent.octets.load(std::memory_order_relaxed);
    const Drawn drawn = drawn_from(sent.counter.load(std::memory_order_relaxed), wanted);
    if (drawn.granted == 0) return drawn;
    if (__sync_bool_compare_and_swap(reinterpret_cast<Pair*>(&sent.counter), pair(drawn.first, sum),
                                     pair(drawn.first + drawn.granted, sum + octets)))
      return drawn;
  }
}

}  // namespace wireplane
