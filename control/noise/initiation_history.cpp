#include "control/noise/initiation_history.h"

#include "dataplane/base/fault.h"

namespace wireplane {

Drop InitiationHistory::judge(const Timestamp& timestamp, Instant now) const {
  if (timestamp <= greatest_ && !seeded_fault(16)) return Drop::kOldTimestamp;
  if (last_ && now < *last_ + kInitiationSpacing && !seeded_fault(18)) return Drop::kInitiationFlood;
  return Drop::kNone;
}

void InitiationHistory::record(const Timestamp& timestamp, Instant now) {
  greatest_ = timestamp;
  last_ = now;
}

}  // namespace wireplane
