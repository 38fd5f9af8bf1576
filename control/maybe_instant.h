// maybe_instant.h: an instant or none, in eight octets: a peer has seven of them, and a device may have a million
// peers.
#pragma once
#include <optional>

#include "dataplane/base/time.h"

namespace wireplane {

// Comes from and becomes what it stands for without being asked, as a std::optional does.
class MaybeInstant {
 public:
  constexpr MaybeInstant() = default;
  constexpr MaybeInstant(Instant at) : at_{at} {}
  constexpr MaybeInstant(std::optional<Instant> at) : at_{at.value_or(kNone)} {}
  constexpr operator std::optional<Instant>() const { return at_ == kNone ? std::nullopt : std::optional{at_}; }
  constexpr explicit operator bool() const { return at_ != kNone; }
  constexpr Instant operator*() const { return at_; }
  constexpr void reset() { at_ = kNone; }
  friend constexpr bool operator==(MaybeInstant a, Instant b) { return a && a.at_ == b; }

 private:
  static constexpr Instant kNone = Instant::min();  // no clock of ours shows it
  Instant at_ = kNone;
};

static_assert(sizeof(MaybeInstant) == 8);

}  // namespace wireplane
