// reassembly.h: outer datagrams put together again that came in pieces, where no kernel does it for us.
// spec: RFC 791 §3.2, RFC 8200 §4.5; RFC 5722 (overlapping pieces: the whole datagram is dropped); RFC 3168 §5.3 (CE)
//
//   piece [8..16) --+
//   piece [0..8)  --+--> | headroom | IP header of ours | UDP, payload | tailroom |   one buffer a datagram
//   piece [16..20)--+
//
// DPDK's own (librte_ip_frag) chains the pieces' buffers and keeps what overlaps; we need one contiguous buffer, and
// drop what overlaps. Bounded: kPlaces datagrams a queue of at most kMostPieces pieces, of at most a buffer's room, for
// kPatience. A new one takes the oldest one's place. The pieces of what does not become whole are refused one by one.
//
// Owner: one port; no clock: the time comes in. Cost: one copy of the payload. Pieces of one datagram that arrive at
// different queues do not meet (a NIC hashes them alike; veth may not).
#pragma once
#include <array>
#include <cstdint>

#include "dataplane/packet.h"
#include "drivers/udp_ip.h"

namespace wireplane {

class Reassembly {
 public:
  static constexpr std::size_t kPlaces = 16, kMostPieces = 16;
  static constexpr std::int64_t kPatienceNs = 2'000'000'000;

  Reassembly() = default;
  ~Reassembly();
  Reassembly(const Reassembly&) = delete;
  Reassembly& operator=(const Reassembly&) = delete;

  // The whole datagram as an IP packet without fragments, in a buffer of its own that is the caller's; null: not yet,
  // or refused, counted. The IP header's checksum is left zero.
  struct Whole {
    Buffer* buffer{};
    std::uint8_t* ip{};
    std::size_t length{};
  };
  [[nodiscard]] Whole add(const IpFragment& piece, std::int64_t now_ns, WorkerContext& context);
  void expire(std::int64_t now_ns, WorkerContext& context);
  [[nodiscard]] std::size_t incomplete() const { return used_; }

 private:
  struct Piece {
    std::uint32_t begin, end;
  };
  struct Place {
    Buffer* buffer{};  // null: free
    Address source, destination;
    std::uint32_t identification{};
    std::uint8_t protocol{}, tos{};
    bool congested{};
    std::int64_t until_ns{};
    std::uint32_t octets{}, total{};  // held; of the whole, 0: not known yet
    std::size_t count{};
    std::array<Piece, kMostPieces> pieces;
  };
  enum class Fit : std::uint8_t { kTaken, kDuplicate, kContradiction, kTooLarge };

  [[nodiscard]] Place* place_of(const IpFragment& piece, std::int64_t now_ns, WorkerContext& context);
  [[nodiscard]] static Fit fit(Place& place, const IpFragment& piece);
  [[nodiscard]] Whole finish(Place& place);
  void give_up(Place& place, Drop reason, WorkerContext& context);

  std::size_t used_ = 0;
  std::array<Place, kPlaces> places_;
};

}  // namespace wireplane
