#include "dataplane/wire/checksum.h"

namespace wireplane {

void ChecksumSum::add(const std::uint8_t* octets, std::size_t count) {
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
