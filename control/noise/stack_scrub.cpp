#include "control/noise/stack_scrub.h"

#include <array>
#include <cstdint>

#include "dataplane/base/secret.h"

namespace wireplane {

__attribute__((noinline)) void StackScrub::scrub() {
  std::array<std::uint8_t, 8192> below;  // libsodium's deepest frames take about half of it
  wipe(below.data(), below.size());
}

}  // namespace wireplane
