// icmp.h: what a router tells the sender of a packet that it could not pass on, and how often it says so.
// spec: RFC 792, RFC 1191 §4 (MTU), RFC 4443; when to be silent: RFC 1122 §3.2.2, RFC 1812 §4.3.2.7, RFC 4443 §2.4(e);
//       how much to quote: RFC 1812 §4.3.2.3 (576 in all), RFC 4443 §2.4(c) (1280 in all);
//       how often: RFC 1812 §4.3.2.8, RFC 4443 §2.4(f)
//
//   | IP: router -> offending packet's source | type, code, checksum, MTU or 0 | the offending packet, what fits |
//
// An error is longer than its cause by those two headers at most, and never longer than 576 (v4) or 1280 (v6) octets.
// No state but the limiter's; the limiter belongs to one worker.
#pragma once
#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

#include "dataplane/base/endpoint.h"
#include "dataplane/base/time.h"

namespace wireplane {

enum class IcmpError : std::uint8_t {
  kTimeExceeded,  // v4 11/0, v6 3/0
  kUnreachable,   // v4 3/1 host unreachable, v6 1/3 address unreachable: no peer for this destination (P38)
  kProhibited,    // v4 3/13, v6 1/1: the Forward policy
  kTooBig,        // v4 3/4 with DF set, v6 2/0, both with the MTU
};

constexpr std::size_t kIcmpv4Overhead = 20 + 8, kIcmpv6Overhead = 40 + 8;
constexpr std::size_t kIcmpv4Max = 576, kIcmpv6Max = 1280;

// Writes an error about `offending` (measured by inner_length()) into `out`, sent by `router`, and returns its length.
// 0: nothing may be said. The packet is an ICMP error itself or its kind cannot be seen, a fragment other than the
// first, to or from an address that is not one host's, or too big without DF; or `router` is of the other family or
// none, or `out` has no room for the headers and the first 28 (v4) or 48 (v6) octets. `out` may overlap `offending`:
// with out = offending's start less the overhead, nothing moves; it is overwritten only if the result is not 0. Of the
// MTU, what the protocols cannot use is not said: at least 68 (v4), 1280 (v6).
[[nodiscard]] std::size_t make_icmp_error(IcmpError kind, std::span<const std::uint8_t> offending,
                                          const Address& router, std::size_t mtu, std::span<std::uint8_t> out);

// How often errors may leave: a bucket for all of them, and one for each destination (a host of IPv4, a /64 of IPv6),
// hashed into a small table: those who share a place share its allowance. A bucket is one instant, the one at which it
// would be full again (GCRA).
class IcmpLimiter {
 public:
  struct Rate {
    std::uint32_t per_second;  // 0: never
    std::uint32_t burst;       // at least 1
  };
  explicit IcmpLimiter(Rate total = {1000, 50}, Rate each = {10, 6}, std::uint64_t hash_secret = 0);

  // May an error leave towards `to` now? A yes is spent; a no costs nothing.
  [[nodiscard]] bool allow(const Address& to, Instant now);

 private:
  struct Bucket {
    Instant full_again{Instant::min()};
  };
  struct Limit {
    explicit Limit(Rate rate);
    [[nodiscard]] bool allows(const Bucket& bucket, Instant now) const;
    void spend(Bucket& bucket, Instant now) const;
    Duration interval;   // one token's; 0: never
    Duration tolerance;  // how far ahead of now a bucket may be before it is spent
  };
  static constexpr std::size_t kPlaces = 256;

  Limit total_limit_, each_limit_;
  Bucket total_;
  std::array<Bucket, kPlaces> each_{};
  std::uint64_t hash_secret_;
};

}  // namespace wireplane
