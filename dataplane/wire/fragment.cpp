#include "dataplane/wire/fragment.h"

#include <algorithm>
#include <cstring>

#include "dataplane/base/bytes.h"
#include "dataplane/wire/inner_ip.h"

namespace wireplane {
namespace {

constexpr std::uint16_t kMoreFragments = 0x2000, kOffset = 0x1fff;
constexpr std::size_t kUnit = 8;

// Header of every fragment but the first: the options that say "copy me", padded to words. Returns its size.
std::size_t make_later_header(const std::uint8_t* packet, std::size_t header, std::uint8_t* out) {
  constexpr std::uint8_t kEnd = 0, kNop = 1, kCopied = 0x80;
  std::memcpy(out, packet, kIpv4HeaderSize);
  std::size_t size = kIpv4HeaderSize;
  for (std::size_t at = kIpv4HeaderSize; at < header && packet[at] != kEnd;) {
    if (packet[at] == kNop) {
      ++at;
      continue;
    }
    if (at + 1 >= header || packet[at + 1] < 2 || at + packet[at + 1] > header)
      break;  // damaged: nothing after it can be read
    const std::size_t option = packet[at + 1];
    if ((packet[at] & kCopied) != 0) {
      std::memcpy(out + size, packet + at, option);
      size += option;
    }
    at += option;
  }
  while (size % 4 != 0) out[size++] = kEnd;
  out[0] = static_cast<std::uint8_t>(0x40 | size / 4);
  return size;
}

}  // namespace

Fragmenter::Fragmenter(const std::uint8_t* packet, std::size_t length, std::size_t mtu) : packet_{packet}, mtu_{mtu} {
  if (!is_ipv4(packet)) return;
  header_ = ip_header_length(packet);
  payload_ = length - header_;
  later_header_size_ = make_later_header(packet, header_, later_header_.data());
  const std::size_t end = (load_be16(packet + 6) & kOffset) * kUnit + payload_;
  possible_ = length <= mtu || (!dont_fragment(packet) && mtu >= header_ + kUnit && end <= 0xffff);
}

std::size_t Fragmenter::next_payload() const {
  const std::size_t room = mtu_ - header_length(), left = payload_ - done_;
  return left <= room ? left : room / kUnit * kUnit;
}

std::size_t Fragmenter::next_length() const { return possible_ && !finished_ ? header_length() + next_payload() : 0; }

void Fragmenter::write_next(std::uint8_t* out) {
  const std::size_t header = header_length(), count = next_payload();
  std::memcpy(out, done_ == 0 ? packet_ : later_header_.data(), header);
  std::memcpy(out + header, packet_ + header_ + done_, count);

  const std::uint16_t before = load_be16(packet_ + 6);
  const bool last = done_ + count == payload_;
  const std::size_t offset = (before & kOffset) + done_ / kUnit;
  const std::uint16_t more = last ? before & kMoreFragments : kMoreFragments;
  store_be16(out + 2, static_cast<std::uint16_t>(header + count));
  store_be16(out + 6, static_cast<std::uint16_t>((before & ~(kMoreFragments | kOffset)) | more | (offset & kOffset)));
  store_be16(out + 10, 0);
  store_be16(out + 10, internet_checksum(out, header));
  done_ += count;
  finished_ = last;
}

}  // namespace wireplane
