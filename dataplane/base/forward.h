// forward.h: may peers reach each other inside the data plane? A hub bypasses the host's firewall, hence none by
// default.
#pragma once
#include <cstdint>

namespace wireplane {

enum class Forward : std::uint8_t { kNone, kAll, kGroups };

}  // namespace wireplane
