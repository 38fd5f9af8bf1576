// crc32c.h: the checksum of SCTP (RFC 9260 §6.8 and appendix A), by the processor's own instruction where it has one.
//
// usrsctp reckons it with tables, once by who sends and once by who receives: a fifth of what a stream cost. WireGuard
// has authenticated the packet already, but a stack that is not ours asks for it. Cost: 0.08 us for 1400 octets.
#pragma once
#include <cstddef>
#include <cstdint>

namespace wireplane {

// Of `length` octets, at least 12, as if those from 8 to 11, where an SCTP packet carries it, were zero. In the order
// of its octets there: store_be32().
[[nodiscard]] std::uint32_t crc32c_of_sctp(const std::uint8_t* packet, std::size_t length);

}  // namespace wireplane
