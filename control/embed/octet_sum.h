// octet_sum.h: what the Internet checksum adds up (RFC 1071), while the octets are copied. For datagrams, which are
// copied into a buffer and summed: one pass where ChecksumSum and memcpy take two.
//
// Sums are of little-endian words, modulo 0xffff, below 2^36, so that a few can be added as they are. Where one piece
// follows another its distance from the start is even.
#pragma once
#include <cstddef>
#include <cstdint>

namespace wireplane {

[[nodiscard]] std::uint64_t copy_with_sum(std::uint8_t* to, const std::uint8_t* from, std::size_t count);

// 2^32 is 1 modulo 0xffff: the halves of a word weigh the same.
constexpr std::uint64_t halves_of_word(std::uint64_t word) { return (word & 0xffffffff) + (word >> 32); }

// A number of a header, as it is added. Host order.
constexpr std::uint64_t word_in_sum(std::uint16_t number) { return __builtin_bswap16(number); }

// Not inverted: 0xffff over something that carries its own checksum. Host order.
constexpr std::uint16_t folded_sum(std::uint64_t sum) {
  sum = (sum & 0xffffffff) + (sum >> 32);
  sum = (sum & 0xffff) + (sum >> 16);
  sum = (sum & 0xffff) + (sum >> 16);
  sum = (sum & 0xffff) + (sum >> 16);
  return __builtin_bswap16(static_cast<std::uint16_t>(sum));
}

}  // namespace wireplane
