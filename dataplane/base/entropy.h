// entropy.h: randomness comes in as an argument, so that a whole simulated network runs on one seed.
#pragma once
#include <cstdint>
#include <span>

namespace wireplane {

class Entropy {
 public:
  virtual ~Entropy() = default;
  virtual void fill(std::span<std::uint8_t> octets) = 0;  // never fails; the system's blocks only before it is seeded

  [[nodiscard]] std::uint64_t u64() {
    std::uint64_t value;
    fill({reinterpret_cast<std::uint8_t*>(&value), sizeof value});
    return value;
  }
  [[nodiscard]] std::uint32_t u32() { return static_cast<std::uint32_t>(u64()); }
};

}  // namespace wireplane
