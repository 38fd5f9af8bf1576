// udp_message.h: addresses and control messages of a datagram, between our words and the kernel's. Pure functions.
#pragma once
#include <netinet/in.h>
#include <sys/socket.h>

#include <cstddef>
#include <cstdint>

#include "dataplane/packet.h"

namespace wireplane {

constexpr std::size_t kUdpMessages = 64;        // a system call
constexpr std::size_t kUdpControlOctets = 128;  // PKTINFO (v6: 20), TOS, train: each with a header of 16; room to spare
// A train: datagrams of one length (the last may be shorter) that pass the kernel as one.
constexpr std::size_t kLongestTrain = 64;        // datagrams; newer kernels take 128
constexpr std::size_t kLargestTrain = 65'507;    // octets: what IPv4 leaves for UDP's payload
constexpr int kUdpSegment = 103, kUdpGro = 104;  // UDP_SEGMENT, UDP_GRO of <linux/udp.h>, which clashes with libc's

union SocketAddress {
  sockaddr any;
  sockaddr_in v4;
  sockaddr_in6 v6;
};

// Source, own address, interface and DS field, as far as the message has them: a connected socket's need neither of the
// first three. Returns how long the datagrams of a train are, or 0: it is none.
std::size_t read_message(msghdr& header, const SocketAddress& source, Endpoint& from, std::uint8_t& tos);

[[nodiscard]] socklen_t write_destination(const Endpoint& to, SocketAddress& out);
// Returns how many octets of control messages there are at `at` now. `sticky`: from to.local. `segment`: 0 or how long
// the datagrams of a train are.
[[nodiscard]] std::size_t write_control(const Endpoint& to, std::uint8_t tos, bool sticky, std::uint16_t segment,
                                        std::uint8_t* at);

}  // namespace wireplane
