// system.h: the world that the core never asks: the host's clocks and its randomness.
#pragma once
#include "dataplane/base/entropy.h"
#include "dataplane/base/time.h"

namespace wireplane {

[[nodiscard]] Instant engine_clock();  // CLOCK_BOOTTIME: keys age while the host sleeps
[[nodiscard]] Now system_now();

class SystemEntropy final : public Entropy {  // getrandom
 public:
  void fill(std::span<std::uint8_t> octets) override;
};

}  // namespace wireplane
