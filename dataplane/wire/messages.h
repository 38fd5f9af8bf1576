// messages.h: the four messages of the whitepaper's §5.4, as they lie on the wire.
//
//   1 initiation 148   type | sender | ephemeral 32 | sealed static 48 | sealed timestamp 28 | mac1 16 | mac2 16
//   2 response    92   type | sender | receiver | ephemeral 32 | sealed nothing 16 | mac1 16 | mac2 16
//   3 cookie      64   type | receiver | nonce 24 | sealed cookie 32
//   4 data     16+n+16 type | receiver | counter 8 | sealed inner packet
//
// The type is a little-endian 32-bit word: the three octets behind its first must be zero (P1).
#pragma once
#include <array>
#include <cstddef>
#include <cstdint>

namespace wireplane {

enum class MessageType : std::uint32_t { kInitiation = 1, kResponse = 2, kCookieReply = 3, kData = 4 };

using Mac = std::array<std::uint8_t, 16>;

// All fields are octets: no alignment, no byte order, no padding. Integers are read with bytes.h.
struct Macs {
  Mac mac1;
  Mac mac2;
};

struct InitiationMessage {
  std::array<std::uint8_t, 4> type;
  std::array<std::uint8_t, 4> sender;
  std::array<std::uint8_t, 32> ephemeral;
  std::array<std::uint8_t, 32 + 16> sealed_static;
  std::array<std::uint8_t, 12 + 16> sealed_timestamp;
  Macs macs;
};

struct ResponseMessage {
  std::array<std::uint8_t, 4> type;
  std::array<std::uint8_t, 4> sender;
  std::array<std::uint8_t, 4> receiver;
  std::array<std::uint8_t, 32> ephemeral;
  std::array<std::uint8_t, 0 + 16> sealed_nothing;
  Macs macs;
};

struct CookieReplyMessage {
  std::array<std::uint8_t, 4> type;
  std::array<std::uint8_t, 4> receiver;
  std::array<std::uint8_t, 24> nonce;
  std::array<std::uint8_t, 16 + 16> sealed_cookie;
};

struct DataHeader {
  std::array<std::uint8_t, 4> type;
  std::array<std::uint8_t, 4> receiver;
  std::array<std::uint8_t, 8> counter;
};

static_assert(sizeof(InitiationMessage) == 148 && alignof(InitiationMessage) == 1);
static_assert(sizeof(ResponseMessage) == 92 && alignof(ResponseMessage) == 1);
static_assert(sizeof(CookieReplyMessage) == 64 && alignof(CookieReplyMessage) == 1);
static_assert(sizeof(DataHeader) == 16 && alignof(DataHeader) == 1);

constexpr std::size_t kTagSize = 16;
constexpr std::size_t kDataHeaderSize = sizeof(DataHeader);
constexpr std::size_t kDataOverhead = kDataHeaderSize + kTagSize;  // of a keepalive: its whole length
constexpr std::size_t kPaddingMultiple = 16;
constexpr std::size_t kMaxHandshakeSize = sizeof(InitiationMessage);
constexpr std::uint8_t kHandshakeTos = 0x88;  // AF41, not-ECT: what stock peers put on handshakes (P40)

}  // namespace wireplane
