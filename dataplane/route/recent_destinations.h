// recent_destinations.h: whom the destinations of the packets before belong to, so that a flow's packets need no walk.
//
// 128 lines of two places each (8 KiB a worker), found by a hash of the address. An answer holds as long as the
// routes' version is what it was before the look-up (AllowedIps::version()); nobody tells this table of changes. Where
// most destinations are new to it, it is left alone for a while. Owner: a worker, alone.
#pragma once
#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>

#include "dataplane/base/bytes.h"
#include "dataplane/wire/inner_ip.h"

namespace wireplane {

class RecentDestinations {
 public:
  // Shall so many destinations be asked here at all?
  bool useful(std::size_t count) {
    if (pause_ != 0) {
      pause_ -= std::min(count, pause_);
      return false;
    }
    asked_ += count;
    if (asked_ < kTrial) return true;
    if (found_ < asked_ / 4 * 3) pause_ = 15 * kTrial;
    asked_ = found_ = 0;
    return true;
  }
  void prefetch(const std::uint8_t* ip) const { __builtin_prefetch(&lines_[place_of(key_of(ip))]); }
  // A raw PeerSlot, or kNoPeer; nothing: unknown.
  std::optional<std::uint32_t> find(const std::uint8_t* ip, std::uint32_t version) {
    const Key key = key_of(ip);
    const Line& line = lines_[place_of(key)];
    const bool second = !line.place[0].is(key, version);
    if (second && !line.place[1].is(key, version)) return std::nullopt;
    ++found_;
    return line.place[second].slot;
  }
  void remember(const std::uint8_t* ip, std::uint32_t version, std::uint32_t slot) {
    const Key key = key_of(ip);
    Line& line = lines_[place_of(key)];
    line.place[1] = line.place[0];
    line.place[0] = {key.high, key.low, version, key.family, slot};
  }

 private:
  static constexpr std::size_t kLines = 128;
  static constexpr std::size_t kTrial = 1024;  // destinations, between two looks at how many were found

  struct Key {  // an address as it lies; an IPv4 address is the low half
    std::uint64_t high, low;
    std::uint32_t family;
  };
  struct alignas(32) Place {
    std::uint64_t high, low;
    std::uint32_t version, family;  // family 0: empty
    std::uint32_t slot;
    [[nodiscard]] bool is(const Key& key, std::uint32_t now) const {
      return ((high ^ key.high) | (low ^ key.low) | (version ^ now) | (family ^ key.family)) == 0;
    }
  };
  struct alignas(64) Line {
    Place place[2];
  };

  static Key key_of(const std::uint8_t* ip) {
    const std::uint8_t* to = destination_octets(ip);
    if (is_ipv4(ip)) return {0, load_le<std::uint32_t>(to), 4};
    return {load_le<std::uint64_t>(to), load_le<std::uint64_t>(to + 8), 6};
  }
  static std::size_t place_of(const Key& key) {
    return (key.high * 0x9e3779b97f4a7c15u + key.low * 0xc2b2ae3d27d4eb4fu) >> 57;
  }

  std::array<Line, kLines> lines_{};
  std::size_t asked_ = 0, found_ = 0, pause_ = 0;
};

}  // namespace wireplane
