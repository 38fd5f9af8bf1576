// fair_share.h: who gives way when a port cannot take all: the peers that send most, not whoever comes last in a burst.
//
//   port refuses -> count octets a peer and interval -> a share -> of a peer that brings more, the part above it ends
//   before it is sealed (max-min fair: who brings less loses nothing) -> nothing refused for a second: no share
//
// Approximate Fair Dropping (Pan, Breslau, Prabhakar, Shenker 2003): a packet of a peer that brought m octets in the
// last interval goes on with probability share/m, so that what remains is even in time as well. The share is what
// water-filling would give (Bertsekas & Gallager, Data Networks, 6.5.2), by one of Newton's steps an interval. Peers
// are counted in two rows of a count-min sketch (Cormode, Muthukrishnan 2005): 16 KiB, no allocation, whoever the peers
// are. One a worker and port; costs nothing but a comparison while the port takes what it is given.
#pragma once
#include <algorithm>
#include <array>
#include <cstdint>
#include <limits>

#include "dataplane/base/time.h"
#include "dataplane/base/types.h"

namespace wireplane {

class FairShare {
 public:
  static constexpr Duration kInterval = std::chrono::milliseconds{10};
  static constexpr unsigned kCalm = 100;  // intervals in which nothing was refused, and the share is forgotten

  [[nodiscard]] bool active() const { return active_; }
  // Octets of one interval that a peer may have; for tests and logs.
  [[nodiscard]] std::uint64_t share() const { return share_; }

  // A packet on its way to the port; false: it is beyond its peer's share. Call it only while active().
  [[nodiscard]] bool take(PeerSlot peer, std::uint32_t octets) {
    const std::size_t i = (peer.raw() * 0x9e3779b1u) >> 23, j = (peer.raw() * 0x85ebca6bu) >> 23;
    const std::uint64_t before = std::min(current_.first[i], current_.second[j]), after = before + octets;
    current_.first[i] = std::max(current_.first[i], after);  // conservative update: what collides is not counted twice
    current_.second[j] = std::max(current_.second[j], after);
    peers_ += before == 0 ? 1 : 0;
    over_ += before <= share_ && after > share_ ? 1 : 0;
    largest_ = std::max(largest_, after);
    const std::uint64_t brings = std::max(after, std::min(last_.first[i], last_.second[j]));
    if (brings <= share_) return true;
    dice_ = dice_ * 1664525u + 1013904223u;  // Knuth's and Lewis' generator: nobody gains by guessing it
    return static_cast<double>(dice_) * static_cast<double>(brings) < 0x1p32 * static_cast<double>(share_);
  }

  // What a burst became: `octets` were offered to the port, which refused `refused` of them for want of room.
  void offered(std::uint64_t octets, std::uint64_t refused, Instant now) {
    if (!active_) {
      if (refused == 0) return;
      active_ = true;
      calm_ = 0;
      share_ = std::numeric_limits<std::uint64_t>::max();
      begin(now);
    }
    offered_ += octets;
    refused_ += refused;
    if (now - begun_ >= kInterval) adjust(now);
  }

 private:
  void begin(Instant now) {
    begun_ = now;
    offered_ = refused_ = peers_ = over_ = largest_ = 0;
    last_ = current_;
    current_ = {};
  }
  void adjust(Instant now) {
    const std::uint64_t taken = offered_ - refused_, tolerated = offered_ / kTolerated;
    calm_ = refused_ == 0 ? calm_ + 1 : 0;
    active_ = calm_ < kCalm;
    if (peers_ <= 1) {  // nobody to be fair to: what a port that stalls now and then refuses is enough
      share_ = std::numeric_limits<std::uint64_t>::max();
    } else if (refused_ <= tolerated) {
      if (share_ < std::numeric_limits<std::uint64_t>::max() / 2) share_ += share_ / 32 + kLeast;  // is there more?
    } else if (taken != 0) {  // a port that takes nothing has nothing to share
      const std::uint64_t from = std::min(share_, largest_);
      const std::uint64_t step = (refused_ - tolerated) / std::max<std::uint64_t>(over_, 1);
      const std::uint64_t at_least = std::max(taken / std::max<std::uint64_t>(peers_, 1), kLeast);
      share_ = std::max(from - std::min(from, step), at_least);
    }
    begin(now);
  }

  static constexpr std::uint64_t kTolerated = 64;  // part of what is offered: bursts do not come evenly
  static constexpr std::uint64_t kLeast = 256;     // octets
  static constexpr std::size_t kRow = 512;
  bool active_ = false;
  unsigned calm_ = 0;
  std::uint64_t share_ = 0;
  Instant begun_{};
  std::uint64_t offered_ = 0, refused_ = 0;           // octets, of this interval
  std::uint64_t peers_ = 0, over_ = 0, largest_ = 0;  // peers seen, those beyond the share, octets of the greatest
  std::uint32_t dice_ = 1;
  struct Counts {  // octets that came, by hash of the peer
    std::array<std::uint64_t, kRow> first{}, second{};
  } current_, last_;
};

}  // namespace wireplane
