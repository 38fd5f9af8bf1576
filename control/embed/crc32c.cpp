#include "control/embed/crc32c.h"

#include <array>
#include <cstring>

namespace wireplane {
namespace {

constexpr std::uint32_t kPolynomial = 0x82f63b78;  // Castagnoli's, reflected

constexpr std::array<std::uint32_t, 256> kTable = [] {
  std::array<std::uint32_t, 256> table{};
  for (std::uint32_t i = 0; i < 256; ++i) {
    std::uint32_t crc = i;
    for (int bit = 0; bit < 8; ++bit) crc = crc >> 1 ^ (kPolynomial & (0u - (crc & 1)));
    table[i] = crc;
  }
  return table;
}();

std::uint32_t by_table(std::uint32_t crc, const std::uint8_t* octets, std::size_t length) {
  for (std::size_t i = 0; i < length; ++i) crc = crc >> 8 ^ kTable[(crc ^ octets[i]) & 0xff];
  return crc;
}

#if defined(__x86_64__)
// The instruction takes three cycles, and one may begin in each: so three lanes side by side. What a lane found counts
// as if the octets of those behind it were zero: it is multiplied by x^(8 octets) modulo the polynomial, of which the
// instruction itself does the last 33 steps (a reflected product is one short).
constexpr std::size_t kLane = 112;
constexpr std::uint32_t factor_behind(std::size_t octets) {
  std::uint32_t power = 0x8000'0000;  // x^0, reflected
  for (std::size_t i = 0; i < 8 * octets - 33; ++i) power = power >> 1 ^ (kPolynomial & (0u - (power & 1)));
  return power;
}

[[gnu::target("sse4.2")]] std::uint64_t with_word(std::uint64_t crc, const std::uint8_t* octets) {
  std::uint64_t word;
  std::memcpy(&word, octets, 8);
  return __builtin_ia32_crc32di(crc, word);
}

[[gnu::target("sse4.2,pclmul")]] std::uint64_t carried(std::uint64_t crc, std::uint32_t factor) {
  using Wide = long long __attribute__((vector_size(16)));
  const Wide product = __builtin_ia32_pclmulqdq128(Wide{static_cast<long long>(crc), 0}, Wide{factor, 0}, 0);
  return __builtin_ia32_crc32di(0, static_cast<std::uint64_t>(product[0]));
}

[[gnu::target("sse4.2,pclmul")]] std::uint32_t by_instruction(std::uint32_t crc, const std::uint8_t* octets,
                                                              std::size_t length) {
  constexpr std::uint32_t kBehindOne = factor_behind(kLane), kBehindTwo = factor_behind(2 * kLane);
  std::uint64_t wide = crc;
  for (; length >= 3 * kLane; octets += 3 * kLane, length -= 3 * kLane) {
    std::uint64_t second = 0, third = 0;
    for (std::size_t i = 0; i < kLane; i += 8) {
      wide = with_word(wide, octets + i);
      second = with_word(second, octets + kLane + i);
      third = with_word(third, octets + 2 * kLane + i);
    }
    wide = carried(wide, kBehindTwo) ^ carried(second, kBehindOne) ^ third;
  }
  for (; length >= 8; octets += 8, length -= 8) wide = with_word(wide, octets);
  crc = static_cast<std::uint32_t>(wide);
  for (; length != 0; ++octets, --length) crc = __builtin_ia32_crc32qi(crc, *octets);
  return crc;
}
const auto update = __builtin_cpu_supports("sse4.2") && __builtin_cpu_supports("pclmul") ? by_instruction : by_table;
#else
constexpr auto update = by_table;
#endif

}  // namespace

std::uint32_t crc32c_of_sctp(const std::uint8_t* packet, std::size_t length) {
  constexpr std::array<std::uint8_t, 4> kNone{};
  std::uint32_t crc = update(~0u, packet, 8);
  crc = update(crc, kNone.data(), kNone.size());
  return __builtin_bswap32(~update(crc, packet + 12, length - 12));
}

}  // namespace wireplane
