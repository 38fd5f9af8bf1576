// rate_limiter.h: at most 20 handshakes a second, and 5 at once, from one source that has proved its address.
// spec: wg §5.3; the Linux kernel's ratelimiter.c (numbers and test schedule); PROTOCOL P13
//
// A source is an IPv4 address or an IPv6 /64: whoever holds one address of a /64 usually holds them all. Each has a
// bucket of tokens in nanoseconds: full at 250 ms, 50 ms a handshake. A bucket that rests for a quarter of a second is
// full again, so that one forgotten after a second takes nothing with it.
//
//   buckets_[SipHash(seed, source)] -> entry -> entry        the seed is ours: nobody can aim at one chain
//   oldest_ <-> ... <-> newest_                              in order of last use: what to forget stands in front
//
// Owner: control. Bounded: all memory is taken at construction, and when every entry was used within the last second, a
// source not among them is refused. No sweep: each call forgets at most a handful. Cost: one SipHash, three cache
// misses.
#pragma once
#include <array>
#include <cstdint>
#include <vector>

#include "dataplane/base/endpoint.h"
#include "dataplane/base/entropy.h"
#include "dataplane/base/time.h"

namespace wireplane {

class RateLimiter {
 public:
  static constexpr unsigned kPerSecond = 20, kBurst = 5;
  static constexpr Duration kCost = Duration{1s} / kPerSecond;
  static constexpr Duration kFull = kCost * kBurst;
  static constexpr Duration kForgetAfter = 1s;
  static_assert(kForgetAfter >= kFull, "a forgotten bucket must have been full");
  static constexpr std::uint32_t kDefaultCapacity = 65536;  // entries of 48 octets, and two chain heads of 4 each

  explicit RateLimiter(Entropy& seed, std::uint32_t capacity = kDefaultCapacity);

  [[nodiscard]] bool allow(const Address& source, Instant now);  // spends a token if there is one
  [[nodiscard]] std::uint32_t size() const { return size_; }     // sources remembered
  [[nodiscard]] std::uint32_t capacity() const { return static_cast<std::uint32_t>(entries_.size()); }

 private:
  static constexpr std::uint32_t kNone = UINT32_MAX;
  static constexpr unsigned kForgetAtOnce = 4;  // more than the one that a call can add, so that the table drains

  struct Source {
    std::uint64_t prefix{};
    Address::Family family{};
    friend bool operator==(const Source&, const Source&) = default;
  };
  struct Entry {
    Source source;
    Instant used;
    Duration tokens{};
    std::uint32_t chain = kNone;  // the next of its hash bucket, or the next free one
    std::uint32_t older = kNone, newer = kNone;
  };

  [[nodiscard]] static Source source_of(const Address& address);
  [[nodiscard]] std::uint32_t& head_of(const Source& source);
  [[nodiscard]] std::uint32_t find(const Source& source);
  std::uint32_t add(const Source& source, Instant now);
  void forget_idle(Instant now);
  void push_newest(std::uint32_t index);
  void unlink(std::uint32_t index);

  std::vector<Entry> entries_;
  std::vector<std::uint32_t> buckets_;
  std::array<std::uint8_t, 16> seed_;
  std::uint32_t free_ = kNone, oldest_ = kNone, newest_ = kNone;
  std::uint32_t size_ = 0;
};

}  // namespace wireplane
