#include "control/embed/sctp_packet.h"

#include <cstddef>

#include "dataplane/base/bytes.h"

namespace wireplane {
namespace {

using Octets = std::span<const std::uint8_t>;
constexpr std::size_t kCommonHeader = 12, kChunkHeader = 4;

enum : std::uint8_t {
  kData = 0,
  kInit = 1,
  kInitAck = 2,
  kSack = 3,
  kHeartbeat = 4,
  kHeartbeatAck = 5,
  kAbort = 6,
  kShutdown = 7,
  kShutdownAck = 8,
  kError = 9,
  kCookieEcho = 10,
  kCookieAck = 11,
  kEcnEcho = 12,
  kWindowReduced = 13,
  kShutdownComplete = 14
};

// The next thing with a length at its octets 2 and 3, its own header included: a chunk, a parameter, a cause. Empty: it
// is shorter than that header, or longer than what there is. `left` is what follows its padding, which the last may
// lack.
Octets next_of(Octets& left) {
  const std::size_t length = left.size() < kChunkHeader ? 0 : load_be16(&left[2]);
  if (length < kChunkHeader || length > left.size()) return {};
  const Octets one = left.first(length);
  const std::size_t padded = (length + 3) & ~std::size_t{3};
  left = left.subspan(padded < left.size() ? padded : left.size());
  return one;
}

bool are_parameters(Octets left) {
  while (!left.empty())
    if (next_of(left).empty()) return false;
  return true;
}

bool is_sack(Octets chunk) {
  if (chunk.size() < 16) return false;
  const std::size_t gaps = load_be16(&chunk[12]), twice = load_be16(&chunk[14]);
  if (chunk.size() != 16 + 4 * (gaps + twice)) return false;
  for (std::size_t i = 0; i < gaps; ++i) {
    const std::uint16_t first = load_be16(&chunk[16 + 4 * i]), last = load_be16(&chunk[18 + 4 * i]);
    if (first == 0 || last < first) return false;
  }
  return true;
}

bool is_chunk(Octets chunk) {
  switch (chunk[0]) {
    case kData:
      return chunk.size() > 16;
    case kInit:
    case kInitAck:
      return chunk.size() >= 20 && are_parameters(chunk.subspan(20));
    case kSack:
      return is_sack(chunk);
    case kHeartbeat:
    case kHeartbeatAck:
    case kAbort:
    case kError:
      return are_parameters(chunk.subspan(kChunkHeader));
    case kCookieEcho:
      return chunk.size() > kChunkHeader;
    case kShutdown:
    case kEcnEcho:
    case kWindowReduced:
      return chunk.size() == 8;
    case kShutdownAck:
    case kCookieAck:
    case kShutdownComplete:
      return chunk.size() == kChunkHeader;
    default:
      return false;
  }
}

}  // namespace

bool is_well_formed_sctp(Octets packet, std::uint16_t port) {
  if (packet.size() < kCommonHeader + kChunkHeader) return false;
  if (load_be16(&packet[0]) != port || load_be16(&packet[2]) != port) return false;
  Octets left = packet.subspan(kCommonHeader);
  for (bool first = true; !left.empty(); first = false) {
    const Octets chunk = next_of(left);
    if (chunk.empty() || !is_chunk(chunk)) return false;
    const bool lonely = chunk[0] == kInit || chunk[0] == kInitAck || chunk[0] == kShutdownComplete;  // §6.10
    if (lonely && (!first || !left.empty())) return false;
  }
  return true;
}

}  // namespace wireplane
