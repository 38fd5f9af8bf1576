// secret.h: key material. Moved, never copied, compared or printed; wiped when left.
#pragma once
#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

namespace wireplane {

// Overwrites with zeros in a way that the compiler may not remove.
inline void wipe(void* octets, std::size_t count) {
  __builtin_memset(octets, 0, count);
  __asm__ __volatile__("" : : "r"(octets) : "memory");
}

class SecretKey {
 public:
  static constexpr std::size_t kSize = 32;

  SecretKey() = default;  // all zero: "none" for a preshared key
  explicit SecretKey(std::span<const std::uint8_t, kSize> octets) {
    std::copy(octets.begin(), octets.end(), octets_.begin());
  }
  SecretKey(SecretKey&& from) noexcept : octets_{from.octets_} { from.clear(); }
  SecretKey& operator=(SecretKey&& from) noexcept {
    if (this != &from) {
      octets_ = from.octets_;
      from.clear();
    }
    return *this;
  }
  SecretKey(const SecretKey&) = delete;
  SecretKey& operator=(const SecretKey&) = delete;
  ~SecretKey() { clear(); }

  // The one door; grep for it.
  [[nodiscard]] std::span<const std::uint8_t, kSize> expose() const { return octets_; }
  [[nodiscard]] std::span<std::uint8_t, kSize> fill() { return octets_; }  // for whoever derives the key in place
  [[nodiscard]] SecretKey duplicate() const {
    return SecretKey{std::span<const std::uint8_t, kSize>{octets_}};
  }                                     // said aloud
  [[nodiscard]] bool is_zero() const {  // constant time: no early exit
    std::uint8_t all = 0;
    for (const std::uint8_t octet : octets_) all |= octet;
    return all == 0;
  }
  void clear() { wipe(octets_.data(), octets_.size()); }

 private:
  std::array<std::uint8_t, kSize> octets_{};
};

}  // namespace wireplane
