// allowed_ips.h: which peer an inner address belongs to: longest-prefix match over all allowed IPs of the device.
// spec: wg §2 (cryptokey routing: what comes in must be from its peer's addresses, what goes out goes to the peer
//       whose address it is; P36)
//
// One trie a family, in the manner of Eatherton's tree bitmap (2004) with path compression: a node stands at a depth
// that is a multiple of six bits, and says in one bitmap which of its 63 prefixes of 0 to 5 more bits are set, in
// another which of its 64 children are there. A node that would hold one child and no prefix is left out; that is why
// it knows its key.
//
//   [depth 6, key 8.0.0.0/6: prefix "10", 10.0.0.0/8, is peer 3's | child "100000", addresses in 10.0.0.0/12]
//      +--> [depth 30, key 10.1.2.0/30: prefix "11", 10.1.2.3/32, is peer 7's]
//
// A node never changes once it is published. A change copies the path from the root, publishes the new root, and
// retires the old path: a lookup, and a whole burst, sees the prefixes as they were at one instant, and only the root
// is atomic.
//
// Writer: control, alone. Readers: any worker, under a grace period: they hold no node when they report quiescence.
// Cost (see README.md): a lookup is one node each 6 bits that differ, a burst overlaps the waits for memory; a change
// copies at most 6 (v4) or 22 (v6) nodes of at most 1 KiB. An own prefix costs an entry of 40 octets, so that the
// prefixes of a peer are found without a search.
#pragma once
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <optional>
#include <unordered_map>
#include <vector>

#include "dataplane/base/endpoint.h"
#include "dataplane/base/types.h"

namespace wireplane {

constexpr std::uint32_t kNoPeer = UINT32_MAX;  // in place of a PeerSlot: the address is nobody's

namespace route {
__extension__ typedef unsigned __int128 Key128;  // an IPv6 address as a number
template <class Key>
struct Node;
class NodePool;
}  // namespace route

class AllowedIps {
 public:
  // Takes over what no new lookup can find, and runs `free` when no reader is left, on the writer's thread:
  //   [&](auto free) { grace.retire(std::move(free)); }
  // None: freed at once, for those without concurrent readers. `free` may outlive the AllowedIps.
  using Retire = std::function<void(std::function<void()> free)>;

  explicit AllowedIps(Retire retire = {});
  ~AllowedIps();  // no reader is left
  AllowedIps(const AllowedIps&) = delete;
  AllowedIps& operator=(const AllowedIps&) = delete;

  // Readers.
  [[nodiscard]] std::optional<PeerSlot> lookup(const Address& address) const;
  // Addresses as they lie in the packets, 4 or 16 octets each. slots[i] becomes a raw PeerSlot or kNoPeer.
  void lookup_v4(const std::uint8_t* const* addresses, std::size_t count, std::uint32_t* slots) const;
  void lookup_v6(const std::uint8_t* const* addresses, std::size_t count, std::uint32_t* slots) const;

  // Writer. Bits of `prefix` behind `length` are ignored; `length` is at most prefix.bits(), which the caller has
  // checked.

  // Gives a prefix to a peer. Returns whose it was before: another's (it has been moved), or already its own (nothing
  // changed).
  std::optional<PeerSlot> insert(const Address& prefix, unsigned length, PeerSlot slot);
  // False, and nothing changed, if exactly this prefix is not this peer's.
  bool remove(const Address& prefix, unsigned length, PeerSlot slot);
  // Takes a peer's prefixes away, at most so many, so that control's steps stay short. Returns how many; 0: none is
  // left.
  std::size_t remove_all(PeerSlot slot, std::size_t at_most = SIZE_MAX);
  // Whose exactly this prefix is.
  [[nodiscard]] std::optional<PeerSlot> owner(const Address& prefix, unsigned length) const;
  // A peer's prefixes in the order in which it was given them. `visit` changes nothing here.
  void for_each(PeerSlot slot, const std::function<void(const Address& prefix, unsigned length)>& visit) const;
  // The same in steps: at most `at_most` prefixes more, then true if all have been visited. Between the steps anything
  // may change: a prefix that stays is visited once; one that is given meanwhile comes at the end.
  struct Cursor {
    std::uint64_t given = 0;  // number of the last one visited
    std::uint32_t entry = UINT32_MAX;
  };
  bool visit_some(PeerSlot slot, Cursor& cursor, std::size_t at_most,
                  const std::function<void(const Address& prefix, unsigned length)>& visit) const;
  [[nodiscard]] std::size_t count() const { return count_; }
  [[nodiscard]] std::size_t count(PeerSlot slot) const;
  // Memory held: the pool of nodes with what is retired and what was freed, entries, and peers' lists.
  [[nodiscard]] std::size_t octets() const;

 private:
  static constexpr std::uint32_t kNone = UINT32_MAX;
  struct Entry {  // one prefix, in its peer's list, or in the list of free entries
    std::array<std::uint8_t, 16> octets;
    std::uint64_t given;  // numbered as peers got them: ascending in each list; 0: free
    std::uint32_t slot, before, after;
    std::uint8_t length;
    Address::Family family;
  };
  struct List {  // a peer's
    std::uint32_t first = kNone, last = kNone, count = 0;
  };
  template <class Key>
  struct Trie {
    // R1 release store, pairs with R2 acquire load: a reader that sees a root sees all nodes under it finished.
    std::atomic<const route::Node<Key>*> root{nullptr};
  };
  template <class Key>
  struct Edit;

  template <class Key>
  std::optional<PeerSlot> insert_in(Trie<Key>& trie, Key key, unsigned length, PeerSlot slot, Address::Family family);
  template <class Key>
  bool remove_in(Trie<Key>& trie, Key key, unsigned length, PeerSlot slot);
  template <class Key>
  void publish(Trie<Key>& trie, Edit<Key>& edit, const route::Node<Key>* root);
  static Address prefix_of(const Entry& entry);
  std::uint32_t take_entry();
  void append(std::uint32_t entry, PeerSlot slot);
  void unlink(std::uint32_t entry);

  Trie<std::uint32_t> v4_;
  Trie<route::Key128> v6_;
  std::deque<Entry> entries_;
  std::uint32_t free_entry_ = kNone;
  std::unordered_map<std::uint32_t, List> lists_;
  std::size_t count_ = 0;
  std::uint64_t given_ = 0;
  std::shared_ptr<route::NodePool> pool_;  // shared with what is retired
  Retire retire_;
};

}  // namespace wireplane
