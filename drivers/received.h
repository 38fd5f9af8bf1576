// received.h: how every port hands a packet over: at the front of the data room, with nothing left of the slot's last
// use.
#pragma once
#include "dataplane/packet.h"

namespace wireplane {

// Appends a packet whose `length` octets lie (or will lie) behind the buffer's headroom. The caller has looked at
// room().
inline Packet& add_received(Burst& burst, Buffer* buffer, std::size_t length, Origin origin) {
  Packet& packet = burst.add();
  packet.buffer = buffer;
  packet.data = buffer->memory + kHeadroom;
  packet.length = static_cast<std::uint32_t>(length);
  packet.origin = origin;
  return packet;
}

// How many packets a port may append now.
[[nodiscard]] inline std::size_t receive_room(const Burst& burst) {
  return burst.room() < kReceiveBurst ? burst.room() : kReceiveBurst;
}

}  // namespace wireplane
