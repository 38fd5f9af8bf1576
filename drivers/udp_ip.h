// udp_ip.h: IP and UDP headers around an outer datagram, where no kernel writes and reads them for us.
// spec: RFC 791, RFC 8200, RFC 768 (and RFC 8200 §8.1: over IPv6 the checksum is not optional)
//
//   | IPv4 20 or IPv6 40 | UDP 8 | payload |       written directly before the payload, into the packet's headroom
//
// Pure functions on octets: no device, no state, no owner. Cost: one pass over the payload where the checksum is ours.
#pragma once
#include <cstddef>
#include <cstdint>

#include "dataplane/base/drops.h"
#include "dataplane/base/endpoint.h"

namespace wireplane {

// Who makes a checksum: we, in full; or the device, for which UDP's field holds the pseudo-header's sum and IPv4's
// zero.
enum class ChecksumBy : std::uint8_t { kUs, kDevice };

struct DatagramHeader {
  Address source, destination;  // of one family
  std::uint16_t source_port{}, destination_port{};
  std::uint8_t tos{};
  std::uint16_t identification{};  // IPv4: any number not used lately with the same addresses (RFC 6864 §4.3)
};

[[nodiscard]] inline std::size_t udp_ip_size(const Address& destination) { return destination.is_v4() ? 28 : 48; }

// Writes udp_ip_size() octets before `payload`. The caller has that headroom, and length fits (65,507 over IPv4).
void write_udp_ip(std::uint8_t* payload, std::size_t length, const DatagramHeader& header, ChecksumBy ip,
                  ChecksumBy udp);

// What the device has found out about a frame.
struct ChecksumsSeen {
  bool ip_good = false, udp_good = false;
  // Frames of this machine's own kernel may carry a UDP checksum it left to a device that was never there: the
  // pseudo-header's sum alone (af_packet, tap). It is taken for good.
  bool local_sender = false;
};

// A datagram found in an IP packet.
struct FoundDatagram {
  const std::uint8_t* payload{};
  std::size_t length{};
  Address source, destination;
  std::uint16_t source_port{}, destination_port{};
  std::uint8_t tos{};
};

// Reads an IP packet that fills the first part of `count` octets (a short frame is padded behind it). kNone: `found` is
// complete. kOuterNotOurs: no UDP, or to another port than `only_port` (0: any), whose checksum is not looked at.
// kOuterFragment: a piece of a UDP datagram; IPv6's atomic fragment is a whole one (RFC 6946). P3, P4.
[[nodiscard]] Drop read_udp_ip(const std::uint8_t* ip, std::size_t count, ChecksumsSeen seen, std::uint16_t only_port,
                               FoundDatagram& found);

// A piece of a datagram: IPv4's, or behind IPv6's fragment header.
struct IpFragment {
  Address source, destination;
  std::uint32_t identification{};
  std::uint8_t protocol{};
  std::uint8_t tos{};
  bool more{};           // others lie behind it
  std::size_t offset{};  // of `data` in the whole payload
  const std::uint8_t* data{};
  std::size_t length{};
};
// For what read_udp_ip() called kOuterFragment. kOuterMalformed: a piece that no sender makes.
[[nodiscard]] Drop read_fragment(const std::uint8_t* ip, std::size_t count, IpFragment& fragment);

// Octets of the IP packet at the start of `count` octets of frame, without padding; 0: neither version, or cut short.
[[nodiscard]] std::size_t ip_length(const std::uint8_t* ip, std::size_t count);

// A TCP or UDP checksum that a local sender left to a device (see local_sender) is computed; any other is not touched.
void complete_checksum(std::uint8_t* ip, std::size_t length);

}  // namespace wireplane
