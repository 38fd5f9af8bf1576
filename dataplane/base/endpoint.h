// endpoint.h: where a peer is on the outer network, and where we were when it reached us.
#pragma once
#include <array>
#include <compare>
#include <cstdint>
#include <cstring>

namespace wireplane {

// An IP address; an IPv4 address stands in the first four octets, the rest is zero.
struct Address {
  enum class Family : std::uint8_t { kNone = 0, kV4 = 4, kV6 = 6 };
  std::array<std::uint8_t, 16> octets{};
  Family family{};

  [[nodiscard]] bool is_v4() const { return family == Family::kV4; }
  [[nodiscard]] bool is_v6() const { return family == Family::kV6; }
  [[nodiscard]] bool none() const { return family == Family::kNone; }
  [[nodiscard]] unsigned bits() const { return is_v4() ? 32 : 128; }
  friend auto operator<=>(const Address&, const Address&) = default;
  friend bool operator==(const Address& a, const Address& b) {  // once a packet: words, not a call of memcmp
    std::uint64_t x[2], y[2];
    std::memcpy(x, a.octets.data(), sizeof x);
    std::memcpy(y, b.octets.data(), sizeof y);
    return ((x[0] ^ y[0]) | (x[1] ^ y[1])) == 0 && a.family == b.family;
  }

  static Address v4(const std::uint8_t* network_order) { return make(network_order, 4, Family::kV4); }
  static Address v6(const std::uint8_t* network_order) { return make(network_order, 16, Family::kV6); }

 private:
  static Address make(const std::uint8_t* from, std::size_t count, Family family) {
    Address a;
    std::memcpy(a.octets.data(), from, count);
    a.family = family;
    return a;
  }
};

struct Endpoint {
  Address remote;
  Address local;               // sticky source (P37); none: the host chooses
  std::uint32_t interface {};  // ifindex the peer was heard on, and the scope of a link-local remote; 0: none
  std::uint16_t port{};        // the remote's, host order

  [[nodiscard]] bool valid() const { return !remote.none() && port != 0; }
  friend bool operator==(const Endpoint&, const Endpoint&) = default;
};

// Tells two endpoints apart, but for a chance of 2^-64; never 0. For where a mistake harms nobody but its owner: no
// secret is in it.
[[nodiscard]] inline std::uint64_t fingerprint(const Endpoint& e) {
  std::uint64_t remote[2], local[2];
  std::memcpy(remote, e.remote.octets.data(), sizeof remote);
  std::memcpy(local, e.local.octets.data(), sizeof local);
  const std::uint64_t rest = std::uint64_t{e.interface} << 32 | std::uint64_t{e.port} << 16 |
                             static_cast<std::uint64_t>(e.remote.family) << 8 |
                             static_cast<std::uint64_t>(e.local.family);
  const std::uint64_t sum = remote[0] * 0x9e3779b97f4a7c15u + remote[1] * 0xc2b2ae3d27d4eb4fu +
                            local[0] * 0x165667b19e3779f9u + local[1] * 0xd6e8feb86659fd93u +
                            rest * 0xa0761d6478bd642fu;
  return sum | 1;
}

}  // namespace wireplane
