// bytes.h: integers in wire order, at any alignment.
#pragma once
#include <bit>
#include <concepts>
#include <cstdint>
#include <cstring>

namespace wireplane {

static_assert(std::endian::native == std::endian::little, "the data plane reads little-endian words as they lie");

template <std::unsigned_integral T>
[[nodiscard]] inline T load_le(const std::uint8_t* from) {
  T value;
  std::memcpy(&value, from, sizeof value);
  return value;
}
template <std::unsigned_integral T>
inline void store_le(std::uint8_t* to, T value) {
  std::memcpy(to, &value, sizeof value);
}

[[nodiscard]] inline std::uint16_t load_be16(const std::uint8_t* from) {
  return __builtin_bswap16(load_le<std::uint16_t>(from));
}
[[nodiscard]] inline std::uint32_t load_be32(const std::uint8_t* from) {
  return __builtin_bswap32(load_le<std::uint32_t>(from));
}
[[nodiscard]] inline std::uint64_t load_be64(const std::uint8_t* from) {
  return __builtin_bswap64(load_le<std::uint64_t>(from));
}
inline void store_be16(std::uint8_t* to, std::uint16_t value) { store_le(to, __builtin_bswap16(value)); }
inline void store_be32(std::uint8_t* to, std::uint32_t value) { store_le(to, __builtin_bswap32(value)); }
inline void store_be64(std::uint8_t* to, std::uint64_t value) { store_le(to, __builtin_bswap64(value)); }

}  // namespace wireplane
