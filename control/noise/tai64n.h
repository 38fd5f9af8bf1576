// tai64n.h: the timestamp inside an initiation, and the clock that it is read from.
// spec: wg §5.1 (why), §5.4.2 (where); TAI64N labels: eight octets of seconds, four of nanoseconds, big-endian
//
// The label's base is 2^62 + 10 s, without leap seconds, as every WireGuard counts. Nanoseconds are rounded down to
// 2^24 (16.8 ms), so that a label says little about our clock. Hence the rule: two initiations to one peer within one
// such step carry equal labels and the peer refuses the second (P16): whoever sends spaces them by kInitiationSpacing
// (20 ms) at least. kRekeyTimeout (5 s) does so by far.
#pragma once
#include <array>
#include <compare>
#include <cstdint>

#include "dataplane/base/time.h"

namespace wireplane {

struct Timestamp {  // compares as the octets do, which is as the time does; all zero is before every real one
  std::array<std::uint8_t, 12> octets{};
  friend auto operator<=>(const Timestamp&, const Timestamp&) = default;
};

constexpr std::uint64_t kTaiBase = 0x400000000000000a;
constexpr std::uint32_t kTimestampStep = 1u << 24;  // nanoseconds; below kInitiationSpacing
static_assert(Duration{kTimestampStep} < kInitiationSpacing);

[[nodiscard]] Timestamp timestamp_at(Duration wall);  // since 1970, UTC

// Timestamps for one peer. When someone sets the wall clock back, the peer would refuse every initiation until the wall
// has caught up; so from there we count on by the engine's clock, and the labels never go backwards in a run (P17). One
// a peer rather than one a device: a clock that was for a moment far in the future then binds only who saw it.
class TimestampClock {
 public:
  [[nodiscard]] Timestamp read(Now now);

 private:
  Duration last_wall_ = Duration::min();  // none read yet
  Instant last_engine_{};
};

}  // namespace wireplane
