// checksum.h: the Internet checksum, whole and by difference.
// spec: RFC 1071 (sums may be taken in any byte order); RFC 1624 eqn. 3 (difference);
//       RFC 768, RFC 8200 §8.1 (pseudo-headers)
//
// A ChecksumSum is unfinished: add to it what the checksum covers, then finish(). Finished checksums are numbers in
// host order: read them with load_be16, write them with store_be16. Cost: 8 octets an addition, 32 where AVX2 is.
#pragma once
#include <cstddef>
#include <cstdint>

#include "dataplane/base/bytes.h"

namespace wireplane {

class ChecksumSum {
 public:
  // Octets that start at an even distance from the start of what is covered. An odd count is padded with a zero octet,
  // so only the last piece may be odd.
  void add(const std::uint8_t* octets, std::size_t count);
  void add16(std::uint16_t host_order) { add_word(__builtin_bswap16(host_order)); }
  void add32(std::uint32_t host_order) {
    add16(static_cast<std::uint16_t>(host_order >> 16));
    add16(static_cast<std::uint16_t>(host_order));
  }
  // The sum, folded but not inverted: what the checksum field holds when the rest is left to others (NEEDS_CSUM).
  [[nodiscard]] std::uint16_t folded() const;
  [[nodiscard]] std::uint16_t finish() const { return static_cast<std::uint16_t>(~folded()); }

 private:
  void add_word(std::uint64_t word) {
    sum_ += word;
    sum_ += sum_ < word;  // end-around carry
  }
  std::uint64_t sum_{};  // of little-endian words, as they lie
};

// Over a header or a message whose checksum field is zero; 0 over one whose checksum is right.
[[nodiscard]] std::uint16_t internet_checksum(const std::uint8_t* octets, std::size_t count);

// Addresses as they lie in the IP header; length is that of header and payload behind IP.
[[nodiscard]] ChecksumSum pseudo_header_v4(const std::uint8_t* source, const std::uint8_t* destination,
                                           std::uint8_t protocol, std::size_t length);
[[nodiscard]] ChecksumSum pseudo_header_v6(const std::uint8_t* source, const std::uint8_t* destination,
                                           std::uint8_t protocol, std::size_t length);
// The same for an IPv4 or IPv6 packet, whose first octet says which: UDP, TCP, and ICMPv6 over IPv6.
[[nodiscard]] ChecksumSum pseudo_header(const std::uint8_t* ip, std::uint8_t protocol, std::size_t length);

// The checksum at `field` after one 16-bit word under it changed from `before` to `after`.
inline void update_checksum(std::uint8_t* field, std::uint16_t before, std::uint16_t after) {
  std::uint32_t sum = static_cast<std::uint16_t>(~load_be16(field));
  sum += static_cast<std::uint16_t>(~before);
  sum += after;
  sum = (sum & 0xffff) + (sum >> 16);
  sum = (sum & 0xffff) + (sum >> 16);
  store_be16(field, static_cast<std::uint16_t>(~sum));
}

}  // namespace wireplane
