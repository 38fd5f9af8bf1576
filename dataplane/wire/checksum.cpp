#include "dataplane/wire/checksum.h"

#include <immintrin.h>

namespace wireplane {
namespace {

constexpr std::size_t kLong = 128;  // octets from which vectors pay

// The low and the high halves of 64-bit words, a sum each, which 2^32 of them cannot overflow.
__attribute__((target("avx2"))) std::uint64_t sum_of_blocks(const std::uint8_t* octets, std::size_t blocks) {
  const __m256i low_half = _mm256_set1_epi64x(0xffffffff);
  __m256i low = _mm256_setzero_si256(), high = low;
  for (; blocks != 0; --blocks, octets += 32) {
    const __m256i words = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(octets));
    low = _mm256_add_epi64(low, _mm256_and_si256(words, low_half));
    high = _mm256_add_epi64(high, _mm256_srli_epi64(words, 32));
  }
  alignas(32) std::uint64_t parts[4];
  _mm256_store_si256(reinterpret_cast<__m256i*>(parts), _mm256_add_epi64(low, high));
  return parts[0] + parts[1] + parts[2] + parts[3];  // 2^32 is 1 in this arithmetic: both halves weigh the same
}

}  // namespace

void ChecksumSum::add(const std::uint8_t* octets, std::size_t count) {
  static const bool has_avx2 = __builtin_cpu_supports("avx2");
  if (count >= kLong && has_avx2) {
    add_word(sum_of_blocks(octets, count / 32));
    octets += count / 32 * 32;
    count %= 32;
  }
  for (; count >= 8; octets += 8, count -= 8) add_word(load_le<std::uint64_t>(octets));
  if (count == 0) return;
  std::uint8_t rest[8] = {};
  for (std::size_t i = 0; i < count; ++i) rest[i] = octets[i];
  add_word(load_le<std::uint64_t>(rest));
}

std::uint16_t ChecksumSum::folded() const {
  std::uint64_t sum = (sum_ & 0xffffffff) + (sum_ >> 32);
  sum = (sum & 0xffff) + (sum >> 16);
  sum = (sum & 0xffff) + (sum >> 16);
  sum = (sum & 0xffff) + (sum >> 16);
  return __builtin_bswap16(static_cast<std::uint16_t>(sum));
}

std::uint16_t internet_checksum(const std::uint8_t* octets, std::size_t count) {
  ChecksumSum sum;
  sum.add(octets, count);
  return sum.finish();
}

ChecksumSum pseudo_header_v4(const std::uint8_t* source, const std::uint8_t* destination, std::uint8_t protocol,
                             std::size_t length) {
  ChecksumSum sum;
  sum.add(source, 4);
  sum.add(destination, 4);
  sum.add16(protocol);
  sum.add16(static_cast<std::uint16_t>(length));
  return sum;
}

ChecksumSum pseudo_header_v6(const std::uint8_t* source, const std::uint8_t* destination, std::uint8_t protocol,
                             std::size_t length) {
  ChecksumSum sum;
  sum.add(source, 16);
  sum.add(destination, 16);
  sum.add32(static_cast<std::uint32_t>(length));
  sum.add16(protocol);
  return sum;
}

ChecksumSum pseudo_header(const std::uint8_t* ip, std::uint8_t protocol, std::size_t length) {
  return ip[0] >> 4 == 4 ? pseudo_header_v4(ip + 12, ip + 16, protocol, length)
                         : pseudo_header_v6(ip + 8, ip + 24, protocol, length);
}

}  // namespace wireplane
