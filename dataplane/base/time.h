// time.h: the engine's notion of time, and every limit of the whitepaper's §6.1 under its own name.
#pragma once
#include <chrono>
#include <cstdint>

namespace wireplane {

using namespace std::chrono_literals;
using Duration = std::chrono::nanoseconds;

// A clock that never goes backwards; its zero means nothing. Never read inside: time comes in as an argument.
struct EngineClock {
  using rep = std::int64_t;
  using period = std::nano;
  using duration = Duration;
  using time_point = std::chrono::time_point<EngineClock, Duration>;
  static constexpr bool is_steady = true;
};
using Instant = EngineClock::time_point;

// What control needs to know of time: the engine's clock, and the wall's (since 1970, UTC) for handshake timestamps.
struct Now {
  Instant engine;
  Duration wall;
};

// spec: wg §6.1 and the Linux kernel's messages.h, where the paper leaves room
constexpr Duration kRekeyAfterTime = 120s;
constexpr Duration kRejectAfterTime = 180s;
constexpr Duration kRekeyAttemptTime = 90s;
constexpr Duration kRekeyTimeout = 5s;
constexpr Duration kRekeyTimeoutJitterMax = 333ms;
constexpr Duration kKeepaliveTimeout = 10s;
constexpr Duration kCookieSecretMaxAge = 120s;
constexpr Duration kCookieSecretLatency = 5s;
constexpr Duration kInitiationSpacing = 20ms;              // from one peer: 50 a second
constexpr Duration kWipeAfterTime = 3 * kRejectAfterTime;  // keys of a silent peer
constexpr Duration kIndexRestTime = 10s;                   // a freed receiver index is not drawn again at once
constexpr unsigned kMaxHandshakeSends = 20;                // kernel: MAX_TIMER_HANDSHAKES (18) + 2
constexpr std::uint64_t kReplaySpan = 8128;                // (128 - 1) words of 64
constexpr std::uint64_t kRekeyAfterMessages = 1ull << 60;
constexpr std::uint64_t kRejectAfterMessages = UINT64_MAX - kReplaySpan - 1;
constexpr unsigned kMaxStagedPackets = 128;  // a peer
constexpr unsigned kMaxAllowedMtu = 65535;

}  // namespace wireplane
