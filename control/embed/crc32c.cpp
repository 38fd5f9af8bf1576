#include "control/embed/crc32c.h"

#include <array>
#include <cstring>

namespace wireplane {
namespace {

constexpr std::array<std::uint32_t, 256> kTable = [] {
  constexpr std::uint32_t kPolynomial = 0x82f63b78;  // Castagnoli's, reflected
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
[[gnu::target("sse4.2")]] std::uint32_t by_instruction(std::uint32_t crc, const std::uint8_t* octets,
                                                       std::size_t length) {
  std::uint64_t wide = crc;
  for (; length >= 8; octets += 8, length -= 8) {
    std::uint64_t word;
    std::memcpy(&word, octets, 8);
    wide = __builtin_ia32_crc32di(wide, word);
  }
  crc = static_cast<std::uint32_t>(wide);
  for (; length != 0; ++octets, --length) crc = __builtin_ia32_crc32qi(crc, *octets);
  return crc;
}
const auto update = __builtin_cpu_supports("sse4.2") ? by_instruction : by_table;
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
