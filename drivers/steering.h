// steering.h: which worker a datagram belongs to, where the port can choose.
// spec: wg §5.4: a receiver stamps its own index on every message it wants answered; its low 6 bits name the owner.
//
// The same rule three times: here for ports in this process, as a classic BPF program in udp_port, as RSS's stand-in on
// device ports whose hardware cannot look into the payload. A wrong guess costs a handover between workers, nothing
// else.
#pragma once
#include <cstdint>
#include <span>

#include "dataplane/base/bytes.h"
#include "dataplane/wire/messages.h"

namespace wireplane {

constexpr unsigned kSteeringBuckets = 64;  // the owner's number stands in the low 6 bits of a receiver index

// Where the index of the receiver stands in a message of this type, or 0: the message has none (an initiation, or
// noise).
[[nodiscard]] constexpr unsigned receiver_index_offset(std::uint8_t type) {
  switch (static_cast<MessageType>(type)) {
    case MessageType::kResponse:
      return 8;
    case MessageType::kCookieReply:
    case MessageType::kData:
      return 4;
    case MessageType::kInitiation:
      break;
  }
  return 0;
}

[[nodiscard]] inline unsigned steer(std::span<const std::uint8_t> datagram, unsigned workers, std::uint32_t hash) {
  const unsigned at = datagram.empty() ? 0 : receiver_index_offset(datagram[0]);
  if (at == 0 || datagram.size() < at + 4) return hash % workers;
  return load_le<std::uint32_t>(datagram.data() + at) % kSteeringBuckets % workers;
}

}  // namespace wireplane
