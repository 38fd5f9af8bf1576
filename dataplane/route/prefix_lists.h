// prefix_lists.h: the writer's memory of who has which prefixes, in the order in which they were given.
//
// A record a prefix, 24 octets for IPv4 and 36 for IPv6, linked into its peer's list; a record's number stands in the
// trie beside the prefix, so that nothing is searched for. Nothing moves when it grows. Owner: control.
#pragma once
#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "dataplane/base/endpoint.h"
#include "dataplane/base/types.h"

namespace wireplane::route {

// An array that grows a piece at a time: no growth copies what is there.
template <class T>
class Pieces {
 public:
  void hold(std::size_t count) {  // strong: without memory nothing has changed
    while (pieces_.size() * kPiece < count) pieces_.push_back(std::make_unique<T[]>(kPiece));
  }
  [[nodiscard]] T& operator[](std::size_t i) { return pieces_[i / kPiece][i % kPiece]; }
  [[nodiscard]] const T& operator[](std::size_t i) const { return pieces_[i / kPiece][i % kPiece]; }
  [[nodiscard]] std::size_t held() const { return pieces_.size() * kPiece; }
  [[nodiscard]] std::size_t octets() const { return held() * sizeof(T) + pieces_.capacity() * sizeof(void*); }

 private:
  static constexpr std::size_t kPiece = 64;
  std::vector<std::unique_ptr<T[]>> pieces_;
};

class PrefixLists {
 public:
  static constexpr std::uint32_t kNone = UINT32_MAX;

  // Makes room for one prefix more of this family and peer, and says which record it will be; nothing is in a list yet.
  [[nodiscard]] std::uint32_t next_record(Address::Family family, PeerSlot slot);
  // At the end of the peer's list; cannot fail.
  void add(std::uint32_t record, const Address& prefix, unsigned length, PeerSlot slot);
  void move(std::uint32_t record, PeerSlot to);  // after next_record of that peer
  void remove(std::uint32_t record);

  [[nodiscard]] Address prefix(std::uint32_t record) const;
  [[nodiscard]] unsigned length(std::uint32_t record) const { return link(record).length; }
  [[nodiscard]] std::uint32_t first(PeerSlot slot) const { return list(slot).first; }
  [[nodiscard]] std::uint32_t after(std::uint32_t record) const { return link(record).after; }
  // Grows along each list; 0 of a record that is free, or was never used.
  [[nodiscard]] std::uint64_t given(std::uint32_t record) const;
  [[nodiscard]] std::size_t count(PeerSlot slot) const { return list(slot).count; }
  [[nodiscard]] std::size_t count() const { return count_; }
  [[nodiscard]] std::size_t octets() const { return v4_.octets() + v6_.octets() + lists_.octets(); }

 private:
  struct Link {
    std::uint32_t slot, before, after;  // free: `after` is the next free one
    std::uint32_t given_low;
    std::uint32_t given_high : 24;  // 2^56 changes
    std::uint32_t length : 8;
  };
  template <std::size_t kWords>
  struct Record {
    Link link;
    std::uint32_t octets[kWords];
  };
  struct List {
    std::uint32_t first = kNone, last = kNone, count = 0;
  };
  static constexpr std::uint32_t kV6 = 1u << 31;  // in a record's number

  [[nodiscard]] Link& link(std::uint32_t record) {
    return (record & kV6) != 0 ? v6_[record & ~kV6].link : v4_[record].link;
  }
  [[nodiscard]] const Link& link(std::uint32_t record) const {
    return (record & kV6) != 0 ? v6_[record & ~kV6].link : v4_[record].link;
  }
  [[nodiscard]] List list(PeerSlot slot) const { return slot.raw() < lists_.held() ? lists_[slot.raw()] : List{}; }
  void append(std::uint32_t record, PeerSlot slot);
  void unlink(std::uint32_t record);

  Pieces<Record<1>> v4_;
  Pieces<Record<4>> v6_;
  std::uint32_t used_v4_ = 0, used_v6_ = 0;  // records from there on were never used
  std::uint32_t free_v4_ = kNone, free_v6_ = kNone;
  Pieces<List> lists_;  // by slot
  std::size_t count_ = 0;
  std::uint64_t given_ = 0;
};

}  // namespace wireplane::route
