// ip_packets.h: inner packets for tests, with right lengths and checksums, and addresses as people write them.
#pragma once
#include <arpa/inet.h>

#include <cstdint>
#include <cstdlib>
#include <string>
#include <vector>

#include "dataplane/base/bytes.h"
#include "dataplane/base/endpoint.h"
#include "dataplane/wire/checksum.h"

namespace wireplane::test {

using Octets = std::vector<std::uint8_t>;

// Stops the program if the text is no address: a test's typing error.
[[nodiscard]] inline Address address(const std::string& text) {
  std::uint8_t octets[16];
  if (inet_pton(AF_INET, text.c_str(), octets) == 1) return Address::v4(octets);
  if (inet_pton(AF_INET6, text.c_str(), octets) == 1) return Address::v6(octets);
  std::abort();
}

// An IP packet of either family around a payload; the header has no options.
[[nodiscard]] inline Octets ip_packet(const std::string& source, const std::string& destination, std::uint8_t protocol,
                                      const Octets& payload, std::uint8_t ttl = 64, std::uint8_t ds = 0,
                                      bool df = false) {
  const Address from = address(source), to = address(destination);
  Octets packet;
  if (from.is_v4()) {
    packet.resize(20);
    packet[0] = 0x45;
    packet[1] = ds;
    store_be16(&packet[2], static_cast<std::uint16_t>(20 + payload.size()));
    store_be16(&packet[4], 0x1234);
    packet[6] = df ? 0x40 : 0;
    packet[8] = ttl;
    packet[9] = protocol;
    std::copy_n(from.octets.begin(), 4, packet.begin() + 12);
    std::copy_n(to.octets.begin(), 4, packet.begin() + 16);
    store_be16(&packet[10], internet_checksum(packet.data(), 20));
  } else {
    packet.resize(40);
    store_be32(&packet[0], 0x60012345u | static_cast<std::uint32_t>(ds) << 20);
    store_be16(&packet[4], static_cast<std::uint16_t>(payload.size()));
    packet[6] = protocol;
    packet[7] = ttl;
    std::copy_n(from.octets.begin(), 16, packet.begin() + 8);
    std::copy_n(to.octets.begin(), 16, packet.begin() + 24);
  }
  packet.insert(packet.end(), payload.begin(), payload.end());
  return packet;
}

// A UDP datagram in an IP packet, `count` octets of payload that count upwards.
[[nodiscard]] inline Octets udp_packet(const std::string& source, std::uint16_t source_port,
                                       const std::string& destination, std::uint16_t destination_port,
                                       std::size_t count, std::uint8_t ttl = 64) {
  Octets udp(8 + count);
  store_be16(&udp[0], source_port);
  store_be16(&udp[2], destination_port);
  store_be16(&udp[4], static_cast<std::uint16_t>(udp.size()));
  for (std::size_t i = 0; i < count; ++i) udp[8 + i] = static_cast<std::uint8_t>(i);
  Octets packet = ip_packet(source, destination, 17, udp, ttl);
  const std::size_t header = packet.size() - udp.size();
  ChecksumSum sum = pseudo_header(packet.data(), 17, udp.size());
  sum.add(packet.data() + header, udp.size());
  const std::uint16_t checksum = sum.finish();
  store_be16(&packet[header + 6], checksum == 0 ? std::uint16_t{0xffff} : checksum);
  return packet;
}

}  // namespace wireplane::test
