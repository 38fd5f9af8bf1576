#include "control/noise/tai64n.h"

#include <algorithm>

#include "dataplane/base/bytes.h"
#include "dataplane/base/fault.h"

namespace wireplane {

Timestamp timestamp_at(Duration wall) {
  const auto seconds = std::chrono::floor<std::chrono::seconds>(wall);
  const auto nanoseconds = static_cast<std::uint32_t>((wall - seconds).count());
  const std::uint32_t step = seeded_fault(17) ? 1 : kTimestampStep;
  Timestamp result;
  store_be64(result.octets.data(), kTaiBase + static_cast<std::uint64_t>(seconds.count()));
  store_be32(result.octets.data() + 8, nanoseconds & ~(step - 1));
  return result;
}

Timestamp TimestampClock::read(Now now) {
  if (last_wall_ != Duration::min()) {
    const Duration passed = std::max(now.engine - last_engine_, Duration::zero());
    now.wall = std::max(now.wall, last_wall_ + passed);
  }
  last_wall_ = now.wall;
  last_engine_ = now.engine;
  return timestamp_at(now.wall);
}

}  // namespace wireplane
