#include "control/embed/octet_sum.h"

#include <immintrin.h>

#include <cstring>

#include "dataplane/base/bytes.h"

namespace wireplane {
namespace {

// Words of 8, and what is left: the last 8 octets again where there are as many, shifted.
std::uint64_t rest(std::uint8_t* to, const std::uint8_t* from, std::size_t count, std::size_t before) {
  std::uint64_t sum = 0;
  for (; count >= 8; count -= 8, before += 8, from += 8) {
    const auto word = load_le<std::uint64_t>(from);
    sum += halves_of_word(word);
    store_le(to, word);
    to += 8;
  }
  if (count == 0) return sum;
  std::uint64_t word = 0;
  if (before + count >= 8) {
    word = load_le<std::uint64_t>(from + count - 8);
    store_le(to + count - 8, word);
    word >>= 8 * (8 - count);
  } else {
    std::memcpy(&word, from, count);
    std::memcpy(to, from, count);
  }
  return sum + halves_of_word(word);
}

__attribute__((target("avx2"))) std::uint64_t with_vectors(std::uint8_t* to, const std::uint8_t* from,
                                                           std::size_t count) {
  const __m256i zero = _mm256_setzero_si256();
  __m256i even = zero, odd = zero;
  std::size_t at = 0;
  for (; at + 32 <= count; at += 32) {
    const __m256i octets = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from + at));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(to + at), octets);
    even = _mm256_add_epi64(even, _mm256_unpacklo_epi32(octets, zero));
    odd = _mm256_add_epi64(odd, _mm256_unpackhi_epi32(octets, zero));
  }
  const __m256i both = _mm256_add_epi64(even, odd);
  const __m128i two = _mm_add_epi64(_mm256_castsi256_si128(both), _mm256_extracti128_si256(both, 1));
  const auto sum =
      static_cast<std::uint64_t>(_mm_cvtsi128_si64(two)) + static_cast<std::uint64_t>(_mm_extract_epi64(two, 1));
  return halves_of_word(sum) + rest(to + at, from + at, count - at, at);
}

const bool has_avx2 = __builtin_cpu_supports("avx2") != 0;

}  // namespace

std::uint64_t copy_with_sum(std::uint8_t* to, const std::uint8_t* from, std::size_t count) {
  return has_avx2 ? with_vectors(to, from, count) : halves_of_word(rest(to, from, count, 0));
}

}  // namespace wireplane
