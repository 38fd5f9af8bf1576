// seed.h: every random choice of a test comes from one number, which the test prints when it fails.
#pragma once
#include <cstdint>
#include <cstdlib>
#include <random>

namespace wireplane::test {

// Repeat a failure with WG_SEED=.
[[nodiscard]] inline std::uint64_t seed_from_env_or(std::uint64_t usual) {
  const char* text = std::getenv("WG_SEED");
  return text != nullptr ? std::strtoull(text, nullptr, 0) : usual;
}

using Random = std::mt19937_64;
[[nodiscard]] inline std::uint64_t below(Random& random, std::uint64_t limit) { return random() % limit; }

}  // namespace wireplane::test
