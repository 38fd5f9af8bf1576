// traffic.h: packets that say who sent them to whom, when, and the how manieth they are; and who checks that.
//
//   IPv4, protocol 253 (RFC 3692) | from 4 | to 4 | number 8 | sent at 8, ns | filler, all of it number's low octet
#pragma once
#include <bitset>
#include <chrono>
#include <cstring>
#include <map>
#include <memory>

#include "dataplane/base/bytes.h"
#include "tests/soak/gauges.h"
#include "tests/support/ip_packets.h"

namespace wireplane::test {

inline std::uint64_t real_ns() {
  return static_cast<std::uint64_t>(std::chrono::steady_clock::now().time_since_epoch().count());
}

constexpr std::size_t kIpHeader = 20, kSaid = 24, kMostFiller = 1200;

inline Octets say_packet(const std::string& from_address, const std::string& to_address, std::uint32_t from,
                         std::uint32_t to, std::uint64_t number, std::size_t filler) {
  Octets payload(kSaid + filler, static_cast<std::uint8_t>(number));
  store_le(&payload[0], from);
  store_le(&payload[4], to);
  store_le(&payload[8], number);
  store_le(&payload[16], real_ns());
  return ip_packet(from_address, to_address, 253, payload);
}

// What one host has heard. One thread.
class Hearing {
 public:
  // `third` of the run: where its latency is counted.
  void hear(std::uint32_t me, const Octets& packet, unsigned third) {
    if (packet.size() < kIpHeader + kSaid || packet[9] != 253) {
      ++strange;  // ICMP errors about packets that met a removed peer
      return;
    }
    const std::uint8_t* said = packet.data() + kIpHeader;
    const auto from = load_le<std::uint32_t>(said), to = load_le<std::uint32_t>(said + 4);
    const auto number = load_le<std::uint64_t>(said + 8), at = load_le<std::uint64_t>(said + 16);
    if (to != me) {
      ++elsewhere;  // a hub hands to its host what is for a peer that has just been removed
      return;
    }
    bool whole = true;
    for (std::size_t i = kIpHeader + kSaid; i < packet.size(); ++i)
      whole = whole && packet[i] == static_cast<std::uint8_t>(number);
    if (!whole) {
      ++altered;
      return;
    }
    ++heard;
    latency[third].add(real_ns() - at);
    const auto window = windows_.find(from);
    if (window == windows_.end())
      ++strange;
    else if (!window->second->first_time(number))
      ++twice;
  }
  void expect_from(std::uint32_t id) { windows_[id] = std::make_unique<Window>(); }  // not to be what grows later
  std::uint64_t heard = 0, twice = 0, altered = 0, elsewhere = 0, strange = 0;
  std::array<Histogram, 3> latency;

 private:
  struct Window {
    static constexpr std::uint64_t kSize = 8192;
    std::bitset<kSize> seen;
    std::uint64_t top = 0;
    bool first_time(std::uint64_t number) {
      if (number + kSize <= top) return true;  // too old to tell
      for (; top < number; seen.reset(top % kSize)) ++top;
      if (seen[number % kSize]) return false;
      seen.set(number % kSize);
      return true;
    }
  };
  std::map<std::uint32_t, std::unique_ptr<Window>> windows_;
};

}  // namespace wireplane::test
