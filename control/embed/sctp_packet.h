// sctp_packet.h: is this SCTP packet what RFC 9260 §3 says one looks like? Asked before usrsctp sees it, which for ever
// goes round a parameter of length zero in an INIT, for one (0.9.5), and has one lock for the process.
//
//   ports, both 5158 | tag | checksum | chunks: type, flags, length, value; padded to 4
//
// Lengths of chunks, parameters, error causes and gap reports are looked at, and that what must be alone is; what a
// value means is usrsctp's business. Chunks of extensions are refused: none is offered (SctpStack::start()).
#pragma once
#include <cstdint>
#include <span>

namespace wireplane {

[[nodiscard]] bool is_well_formed_sctp(std::span<const std::uint8_t> packet, std::uint16_t port);

}  // namespace wireplane
