// staging.h: packets of one worker that wait for a session key (wg §6.2; P39).
//
//   queue of a peer    oldest <-> ... <-> newest      at most 128, the oldest goes first
//   list of a source   oldest <-> ... <-> newest      who filled it: a peer we relay for, or the host
//
// All waiting packets together are bounded (an eighth of the pool, shared by the workers). When they are all in use,
// the oldest packet of the heaviest source goes (by power of two of its count: sources are listed by it, so that
// finding it is O(1)). All memory is allocated at construction. Owner: one worker.
#pragma once
#include <array>
#include <cstdint>
#include <vector>

#include "dataplane/base/time.h"
#include "dataplane/packet.h"

namespace wireplane {

class Staging {
 public:
  explicit Staging(std::size_t capacity);  // packets

  // Keeps `packet` (its buffer changes hands) for its `peer`. Sources are told apart by from_peer.
  // What has to go for it is dropped through `context` as kStagedOverflow.
  void add(const Packet& packet, PeerId peer, WorkerContext& context);
  [[nodiscard]] bool waits_for(PeerId peer) const { return count_ != 0 && find(peer) != kNone; }
  // The oldest packet that waits for `peer`, taken out; false: none. Its peer and from_peer pointers are void: ids
  // only.
  [[nodiscard]] bool take(PeerId peer, Packet& packet);
  void purge(PeerId peer, WorkerContext& context, Drop reason);
  void purge_all(WorkerContext& context, Drop reason);
  [[nodiscard]] std::size_t size() const { return count_; }
  [[nodiscard]] std::size_t capacity() const { return nodes_.size(); }

 private:
  using Index = std::uint32_t;
  static constexpr Index kNone = UINT32_MAX;
  enum Kind : unsigned { kQueue, kSource };  // every waiting packet is in one list of each kind

  struct Links {
    Index list = kNone, older = kNone, newer = kNone;
  };
  struct Node {
    Packet packet;
    std::array<Links, 2> in;  // by Kind
    Index next_free = kNone;
  };
  struct List {
    std::uint64_t key = 0;
    Index oldest = kNone, newest = kNone;
    std::uint32_t count = 0;
    Index next = kNone;                      // in its hash chain, or in the free list
    Index lighter = kNone, heavier = kNone;  // sources: neighbours in their weight class
  };
  struct Lists {  // of one kind: hash chains over a fixed array
    std::vector<List> at;
    std::vector<Index> chains;
    Index free = kNone;
    [[nodiscard]] Index* chain(std::uint64_t key);
    [[nodiscard]] Index find(std::uint64_t key) const;
    Index find_or_add(std::uint64_t key);
    void erase(Index list);
  };

  static std::uint64_t key_of(PeerId peer) { return std::uint64_t{peer.generation} << 32 | peer.slot.raw(); }
  static std::uint64_t source_of(const Packet& packet);
  [[nodiscard]] Index find(PeerId peer) const { return lists_[kQueue].find(key_of(peer)); }
  void link(Kind kind, Index list, Index node);
  void unlink(Kind kind, Index node);
  void remove(Index node);  // from both its lists, back to the free ones; its packet is the caller's
  void drop(Index node, WorkerContext& context, Drop reason);
  void weigh(Index source, bool in);  // puts a source into, or takes it out of, its weight class
  [[nodiscard]] Index heaviest_source() const;

  std::vector<Node> nodes_;
  Index free_node_ = kNone;
  std::array<Lists, 2> lists_;
  std::array<Index, 33> classes_;  // a source whose count has that bit width, or kNone
  std::size_t count_ = 0;
};

}  // namespace wireplane
