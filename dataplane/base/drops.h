// drops.h: why a packet ended here. Each line is the reason's name, its metric, and its explanation.
#pragma once
#include <cstddef>
#include <cstdint>
#include <string_view>

// clang-format off
#define WG_DROPS(X)                                                                                                    \
  /* outer: parsing (P1-P5) */                                                                                         \
  X(kUnknownType,        "unknown_type",         "message type is none of the four, or a reserved byte is set (wg 5.4)")  \
  X(kBadLength,          "bad_length",           "length does not fit the message type (wg 5.4)")                      \
  X(kTruncated,          "truncated",            "the datagram was larger than a receive buffer")                      \
  X(kOuterMalformed,     "outer_malformed",      "Ethernet, IP or UDP header damaged, or lengths that contradict each other") \
  X(kOuterChecksum,      "outer_checksum",       "outer IP or UDP checksum wrong, or zero over IPv6")                  \
  X(kOuterFragment,      "outer_fragment",       "fragment of an outer datagram on a device port")                     \
  X(kOuterNotOurs,       "outer_not_ours",       "frame on a device port for another address, port or protocol")       \
  /* outer: handshakes (P6-P22) */                                                                                     \
  X(kHandshakeQueueFull, "handshake_queue_full", "control's handshake ring is full")                                   \
  X(kBadMac1,            "bad_mac1",             "mac1 wrong: the sender does not know our public key (wg 5.4.4)")     \
  X(kCookieSent,         "cookie_sent",          "under load without a valid mac2: answered with a cookie reply (wg 5.3)") \
  X(kRateLimited,        "rate_limited",         "under load: too many handshakes from this source")                   \
  X(kUnknownPeer,        "unknown_peer",         "initiation by a static key that is not configured")                  \
  X(kBadHandshake,       "bad_handshake",        "a handshake's tag or point refused it")                              \
  X(kOldTimestamp,       "old_timestamp",        "initiation's timestamp not greater than the last (wg 5.1)")          \
  X(kInitiationFlood,    "initiation_flood",     "more than one initiation in 20 ms from one peer")                    \
  X(kUnexpectedResponse, "unexpected_response",  "response to no outstanding initiation")                              \
  X(kBadCookieReply,     "bad_cookie_reply",     "cookie reply that answers nothing we sent, or whose tag is wrong")   \
  /* outer: data (P25-P37) */                                                                                          \
  X(kUnknownIndex,       "unknown_index",        "no session answers to this receiver index")                          \
  X(kHandoverFull,       "handover_full",        "the owning worker's ring is full")                                   \
  X(kExpired,            "expired",              "session older than Reject-After-Time or past Reject-After-Messages") \
  X(kBadTag,             "bad_tag",              "Poly1305 refused it: forged or damaged")                             \
  X(kReplayed,           "replayed",             "counter seen before, or behind the window (wg 5.4.6)")               \
  X(kInnerMalformed,     "inner_malformed",      "inner packet neither IPv4 nor IPv6, or its length does not fit")     \
  X(kSourceNotAllowed,   "source_not_allowed",   "inner source outside the peer's allowed IPs (wg 2)")                 \
  X(kEcnForged,          "ecn_forged",           "outer CE over a not-ECT inner packet (RFC 6040 4.2)")                \
  /* routing and relaying */                                                                                           \
  X(kForwardingOff,      "forwarding_off",       "from one peer to another, which the Forward policy does not allow")  \
  X(kTtlExpired,         "ttl_expired",          "TTL or hop limit spent while relaying")                              \
  X(kMartian,            "martian",              "inner source that must not be forwarded (loopback, multicast, unspecified)") \
  X(kMulticast,          "multicast",            "inner destination is multicast, broadcast, loopback or link-local")  \
  X(kNoRoute,            "no_route",             "no peer for this inner destination")                                 \
  X(kNoEndpoint,         "no_endpoint",          "the peer's endpoint is not known")                                   \
  X(kTooBig,             "too_big",              "inner packet larger than the MTU of its way out")                    \
  X(kReflected,          "reflected",            "would go back to the peer it came from")                             \
  X(kLoop,               "loop",                 "an outer datagram of ours, routed into the tunnel again")            \
  X(kNoInnerPort,        "no_inner_port",        "for the host, but Inner is none")                                    \
  /* sending */                                                                                                        \
  X(kStagedOverflow,     "staged_overflow",      "waited for a key behind too many others: the oldest goes")           \
  X(kStagedGivenUp,      "staged_given_up",      "waited for a key that never came")                                   \
  X(kNoBuffer,           "no_buffer",            "the buffer pool is empty")                                           \
  X(kOuterSend,          "outer_send",           "the outer port could not take it")                                   \
  X(kOuterMessageSize,   "outer_message_size",   "larger than the outer path allows (EMSGSIZE)")                       \
  X(kOuterUnreachable,   "outer_unreachable",    "no route to the peer's endpoint, or no next hop yet")                \
  X(kInnerSend,          "inner_send",           "the inner port could not take it")                                   \
  X(kOverFairShare,      "over_fair_share",      "the port is full, and its peer has had its share")                   \
  X(kPeerGone,           "peer_gone",            "its peer or session was removed while it waited")                    \
  X(kFaultInjected,      "fault_injected",       "lost on purpose by a fault port")
// clang-format on

namespace wireplane {

enum class Drop : std::uint8_t {
  kNone = 0,  // alive
#define X(name, metric, text) name,
  WG_DROPS(X)
#undef X
      kCount
};
constexpr std::size_t kDropCount = static_cast<std::size_t>(Drop::kCount);

[[nodiscard]] std::string_view metric(Drop reason);       // "bad_tag"
[[nodiscard]] std::string_view explanation(Drop reason);  // one sentence for a person

}  // namespace wireplane
