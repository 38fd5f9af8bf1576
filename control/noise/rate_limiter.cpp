#include "control/noise/rate_limiter.h"

#include <sodium.h>

#include <algorithm>
#include <bit>

#include "dataplane/base/bytes.h"
#include "dataplane/base/check.h"
#include "dataplane/base/fault.h"

namespace wireplane {

RateLimiter::RateLimiter(Entropy& seed, std::uint32_t capacity)
    : entries_(capacity), buckets_(std::bit_ceil(std::size_t{capacity} * 2), kNone) {
  WG_CHECK(capacity > 0 && capacity <= 1u << 30);
  static_assert(sizeof seed_ == crypto_shorthash_KEYBYTES);
  seed.fill(seed_);
  for (std::uint32_t i = 0; i < capacity; ++i) entries_[i].chain = i + 1 < capacity ? i + 1 : kNone;
  free_ = 0;
}

bool RateLimiter::allow(const Address& address, Instant now) {
  forget_idle(now);
  const Source source = source_of(address);
  std::uint32_t index = find(source);
  if (index == kNone) {
    index = add(source, now);
    if (index == kNone) return false;
  } else {
    unlink(index);
    push_newest(index);
  }
  Entry& entry = entries_[index];
  entry.tokens = std::min(entry.tokens + std::max(now - entry.used, Duration::zero()), kFull);
  entry.used = std::max(entry.used, now);
  if (entry.tokens < kCost) return false;
  entry.tokens -= kCost;
  return true;
}

RateLimiter::Source RateLimiter::source_of(const Address& address) {
  const std::uint64_t prefix = load_be64(address.octets.data());  // an IPv4 address has zeros behind it
  if (seeded_fault(13)) return {prefix ^ load_be64(address.octets.data() + 8), address.family};
  return {prefix, address.family};
}

std::uint32_t& RateLimiter::head_of(const Source& source) {
  std::array<std::uint8_t, 9> input;
  store_le(input.data(), source.prefix);
  input[8] = static_cast<std::uint8_t>(source.family);
  std::array<std::uint8_t, crypto_shorthash_BYTES> digest;
  crypto_shorthash(digest.data(), input.data(), input.size(), seed_.data());
  return buckets_[load_le<std::uint64_t>(digest.data()) & (buckets_.size() - 1)];
}

std::uint32_t RateLimiter::find(const Source& source) {
  std::uint32_t index = head_of(source);
  while (index != kNone && !(entries_[index].source == source)) index = entries_[index].chain;
  return index;
}

std::uint32_t RateLimiter::add(const Source& source, Instant now) {
  if (free_ == kNone) return kNone;
  const std::uint32_t index = free_;
  Entry& entry = entries_[index];
  free_ = entry.chain;
  std::uint32_t& head = head_of(source);
  entry = Entry{.source = source, .used = now, .tokens = kFull, .chain = head};
  head = index;
  push_newest(index);
  ++size_;
  return index;
}

void RateLimiter::forget_idle(Instant now) {
  for (unsigned i = 0; i < kForgetAtOnce && oldest_ != kNone; ++i) {
    const std::uint32_t index = oldest_;
    Entry& entry = entries_[index];
    if (now - entry.used < kForgetAfter) return;  // and all behind it are newer
    unlink(index);
    std::uint32_t* link = &head_of(entry.source);
    while (*link != index) link = &entries_[*link].chain;
    *link = entry.chain;
    entry.chain = free_;
    free_ = index;
    --size_;
  }
}

void RateLimiter::push_newest(std::uint32_t index) {
  Entry& entry = entries_[index];
  entry.older = newest_;
  entry.newer = kNone;
  (newest_ == kNone ? oldest_ : entries_[newest_].newer) = index;
  newest_ = index;
}

void RateLimiter::unlink(std::uint32_t index) {
  const Entry& entry = entries_[index];
  (entry.older == kNone ? oldest_ : entries_[entry.older].newer) = entry.newer;
  (entry.newer == kNone ? newest_ : entries_[entry.newer].older) = entry.older;
}

}  // namespace wireplane
