// initiation_history.h: what a responder remembers of one peer's initiations, to refuse replays and floods.
// spec: wg §5.1 (the greatest timestamp received), PROTOCOL P16, P18
//
// Judge after read_initiation_timestamp, record only when the response is on its way: a refused initiation changes
// nothing (P19). It outlives sessions; it does not outlive the process.
#pragma once
#include <optional>

#include "control/noise/tai64n.h"
#include "dataplane/base/drops.h"
#include "dataplane/base/time.h"

namespace wireplane {

class InitiationHistory {
 public:
  [[nodiscard]] Drop judge(const Timestamp& timestamp, Instant now) const;  // kNone, kOldTimestamp, kInitiationFlood
  void record(const Timestamp& timestamp, Instant now);

 private:
  Timestamp greatest_;  // all zero: nothing accepted yet
  std::optional<Instant> last_;
};

}  // namespace wireplane
