// allowed_ips.h: which peer an inner address belongs to: longest-prefix match over all allowed IPs of the device.
// spec: wg §2 (cryptokey routing: what comes in must be from its peer's addresses, what goes out goes to the peer
//       whose address it is; P36)
//
// One trie a family (trie.h): tree bitmaps with buckets at the ends. What is published never changes: a change makes
// the path from the root anew, publishes the new root, and retires the old path. So a lookup, and a whole burst, sees
// the prefixes as they were at one instant, only the root is atomic, and a change without memory has not happened.
//
//   trie.h          nodes and buckets          search.h        readers: bursts down a trie
//   node_pool.h     their memory               edit.h          writer: a path made anew
//   prefix_lists.h  writer: who has which prefixes, in which order
//
// Writer: control, alone. Readers: any worker, under a grace period: they hold no node when they report quiescence.
// Cost (see README.md): a lookup is one node each 6 bits that differ, but the last; a burst overlaps the waits for
// memory. A change copies at most 6 (v4) or 22 (v6) nodes of at most 1 KiB, and short ones between them.
#pragma once
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>

#include "dataplane/base/endpoint.h"
#include "dataplane/base/types.h"
#include "dataplane/route/prefix_lists.h"

namespace wireplane {

constexpr std::uint32_t kNoPeer = UINT32_MAX;  // in place of a PeerSlot: the address is nobody's

namespace route {
__extension__ typedef unsigned __int128 Key128;  // an IPv6 address as a number
template <class Key>
class Ref;
template <class Key>
struct Node;
template <class Key>
class Edit;
class Retired;
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
  // Grows with every change, from 1. Read before a lookup: while it says the same, the lookup's answer holds.
  // R5 acquire, pairs with R6: who sees a version sees the roots of that time.
  [[nodiscard]] std::uint32_t version() const { return version_.load(std::memory_order_acquire); }
  [[nodiscard]] std::optional<PeerSlot> lookup(const Address& address) const;
  // Addresses as they lie in the packets, 4 or 16 octets each. slots[i] becomes a raw PeerSlot or kNoPeer.
  void lookup_v4(const std::uint8_t* const* addresses, std::size_t count, std::uint32_t* slots) const;
  void lookup_v6(const std::uint8_t* const* addresses, std::size_t count, std::uint32_t* slots) const;

  // Writer. Bits of `prefix` behind `length` are ignored; `length` is at most prefix.bits(), which the caller has
  // checked. Without memory insert and remove throw std::bad_alloc, and nothing has changed; remove_all has then taken
  // away some.

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
    std::uint32_t record = UINT32_MAX;
  };
  bool visit_some(PeerSlot slot, Cursor& cursor, std::size_t at_most,
                  const std::function<void(const Address& prefix, unsigned length)>& visit) const;
  [[nodiscard]] std::size_t count() const { return lists_.count(); }
  [[nodiscard]] std::size_t count(PeerSlot slot) const { return lists_.count(slot); }
  // Memory held: the pool of nodes with what is retired and what was freed, records, and peers' lists.
  [[nodiscard]] std::size_t octets() const;

 private:
  // A trie's root as one word; route::Ref makes sense of it.
  // R1 release store, pairs with R2 acquire load: a reader that sees a root sees all nodes under it finished.
  template <class Key>
  using Root = std::atomic<std::uintptr_t>;

  template <class Key>
  std::optional<PeerSlot> insert_in(Root<Key>& root, const Address& prefix, unsigned length, PeerSlot slot);
  template <class Key>
  bool remove_in(Root<Key>& root, const Address& prefix, unsigned length, PeerSlot slot);
  template <class Key>
  void publish(Root<Key>& root, route::Edit<Key>& edit, route::Ref<Key> fresh);

  std::atomic<std::uintptr_t> v4_{0}, v6_{0};
  std::atomic<std::uint32_t> version_{1};
  route::PrefixLists lists_;
  std::shared_ptr<route::Retired> retired_;  // and the pool; shared with what waits for its grace period
};

}  // namespace wireplane
