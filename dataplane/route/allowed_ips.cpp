#include "dataplane/route/allowed_ips.h"

#include <algorithm>
#include <bit>
#include <new>

#include "dataplane/base/bytes.h"
#include "dataplane/base/check.h"
#include "dataplane/route/node_pool.h"

namespace wireplane {
namespace route {

constexpr unsigned kStride = 6;

// What a node gives a prefix: the peer for readers, the entry for the writer.
struct Value {
  std::uint32_t slot, entry;
};

template <class Key>
constexpr unsigned kBits = sizeof(Key) * 8;

// The six bits of a key from `depth` on, and zeros behind its end.
inline unsigned chunk(std::uint32_t key, unsigned depth) {
  return static_cast<unsigned>((std::uint64_t{key} << 32 << depth) >> (64 - kStride));
}
inline unsigned chunk(Key128 key, unsigned depth) { return static_cast<unsigned>((key << depth) >> (128 - kStride)); }

inline unsigned leading_zeros(std::uint32_t key) { return static_cast<unsigned>(std::countl_zero(key)); }
inline unsigned leading_zeros(Key128 key) {
  const auto high = static_cast<std::uint64_t>(key >> 64);
  return static_cast<unsigned>(high != 0 ? std::countl_zero(high)
                                         : 64 + std::countl_zero(static_cast<std::uint64_t>(key)));
}

template <class Key>
Key masked(Key key, unsigned length) {
  return length == 0 ? Key{0} : static_cast<Key>(key >> (kBits<Key> - length) << (kBits<Key> - length));
}

// Prefixes inside a node are numbered 1xxx: a 1, then the bits behind the node's depth. So a chunk's prefixes are its
// own leading bits, and the longest has the highest number.
constexpr auto kPrefixesOf = [] {
  std::array<std::uint64_t, 1 << kStride> table{};
  for (unsigned c = 0; c < table.size(); ++c)
    for (unsigned number = (1u << kStride | c) >> 1; number != 0; number >>= 1) table[c] |= std::uint64_t{1} << number;
  return table;
}();
inline unsigned prefix_number(unsigned chunk, unsigned bits) { return (1u << kStride | chunk) >> (kStride - bits); }

inline unsigned ones(std::uint64_t bits) { return static_cast<unsigned>(std::popcount(bits)); }
inline std::uint64_t bit(unsigned number) { return std::uint64_t{1} << number; }
inline std::uint64_t below(unsigned number) { return bit(number) - 1; }

// Children's pointers and prefixes' values lie behind it, both in the order of their bits.
template <class Key>
struct Node {
  std::uint64_t prefixes;  // which of the numbers 1 to 63 are set
  std::uint64_t children;  // which chunks go on
  std::uint32_t key[sizeof(Key) / 4];
  std::uint8_t depth, child_count, value_count;

  static std::size_t size(unsigned children, unsigned values) {
    return sizeof(Node) + children * sizeof(Node*) + values * sizeof(Value);
  }
  [[nodiscard]] std::size_t size() const { return size(child_count, value_count); }

  [[nodiscard]] Key number() const {
    Key k;
    std::memcpy(&k, key, sizeof k);
    return k;
  }
  [[nodiscard]] bool on_path(Key other) const {
    return ((number() ^ other) >> 1) >> (kBits<Key> - 1 - depth) ==
           0;  // in two steps: a shift by all bits is not defined
  }
  [[nodiscard]] const Node* const* child_at() const { return reinterpret_cast<const Node* const*>(this + 1); }
  [[nodiscard]] const Node** child_at() { return reinterpret_cast<const Node**>(this + 1); }
  [[nodiscard]] const Value* value_at() const { return reinterpret_cast<const Value*>(child_at() + child_count); }
  [[nodiscard]] Value* value_at() { return reinterpret_cast<Value*>(child_at() + child_count); }

  [[nodiscard]] const Node* child(unsigned c) const {
    return (children & bit(c)) == 0 ? nullptr : child_at()[ones(children & below(c))];
  }
  [[nodiscard]] const Value* value(unsigned n) const { return value_at() + ones(prefixes & below(n)); }
};

// ---- readers

template <class Key>
[[nodiscard]] inline Key load_key(const std::uint8_t* octets);
template <>
inline std::uint32_t load_key<std::uint32_t>(const std::uint8_t* octets) {
  return load_be32(octets);
}
template <>
inline Key128 load_key<Key128>(const std::uint8_t* octets) {
  return Key128{load_be64(octets)} << 64 | load_be64(octets + 8);
}

// Several walks at once: each takes a step, asks for its next node, and lets the others go on while that arrives.
template <class Key>
[[gnu::always_inline]] inline void lookup_burst(const Node<Key>* root, const std::uint8_t* const* addresses,
                                                std::size_t count, std::uint32_t* slots) {
  constexpr std::size_t kGroup = 16;
  struct Walk {
    Key key;
    const Node<Key>* at;
    const Value* best;
    std::uint32_t* answer;
  } walks[kGroup];
  static constexpr Value kNobody{kNoPeer, 0};

  for (std::size_t first = 0; first < count; first += kGroup) {
    std::size_t walking = root == nullptr ? 0 : std::min(kGroup, count - first);
    for (std::size_t i = 0; i < walking; ++i)
      walks[i] = {load_key<Key>(addresses[first + i]), root, &kNobody, &slots[first + i]};
    if (root == nullptr) std::fill(slots + first, slots + std::min(first + kGroup, count), kNoPeer);
    while (walking != 0) {
      for (std::size_t i = 0; i < walking;) {
        Walk& walk = walks[i];
        const Node<Key>& node = *walk.at;
        const Node<Key>* next = nullptr;
        if (node.on_path(walk.key)) {
          const unsigned c = chunk(walk.key, node.depth);
          const std::uint64_t matches = node.prefixes & kPrefixesOf[c];
          if (matches != 0) walk.best = node.value(63 - static_cast<unsigned>(std::countl_zero(matches)));
          next = node.child(c);
        }
        if (next != nullptr) {
          __builtin_prefetch(next);
          walk.at = next;
          ++i;
        } else {
          *walk.answer = walk.best->slot;
          walk = walks[--walking];
        }
      }
    }
  }
}

// The same code twice: counting bits is an instruction on all but the oldest machines, and a call elsewhere.
template <class Key>
void lookup_plain(const Node<Key>* root, const std::uint8_t* const* addresses, std::size_t count,
                  std::uint32_t* slots) {
  lookup_burst<Key>(root, addresses, count, slots);
}
#ifdef __x86_64__
template <class Key>
[[gnu::target("popcnt")]] void lookup_popcnt(const Node<Key>* root, const std::uint8_t* const* addresses,
                                             std::size_t count, std::uint32_t* slots) {
  lookup_burst<Key>(root, addresses, count, slots);
}
template <class Key>
void lookup_any(const Node<Key>* root, const std::uint8_t* const* addresses, std::size_t count, std::uint32_t* slots) {
  static const bool has_popcnt = __builtin_cpu_supports("popcnt") != 0;
  return has_popcnt ? lookup_popcnt(root, addresses, count, slots) : lookup_plain(root, addresses, count, slots);
}
#else
template <class Key>
void lookup_any(const Node<Key>* root, const std::uint8_t* const* addresses, std::size_t count, std::uint32_t* slots) {
  lookup_plain(root, addresses, count, slots);
}
#endif

}  // namespace route

using route::Key128;
using route::Node;
using route::Value;

// R2 acquire in each of the three, pairs with R1. Relaxed, a worker could walk nodes that are not yet written.
void AllowedIps::lookup_v4(const std::uint8_t* const* addresses, std::size_t count, std::uint32_t* slots) const {
  route::lookup_any(v4_.root.load(std::memory_order_acquire), addresses, count, slots);
}
void AllowedIps::lookup_v6(const std::uint8_t* const* addresses, std::size_t count, std::uint32_t* slots) const {
  route::lookup_any(v6_.root.load(std::memory_order_acquire), addresses, count, slots);
}

std::optional<PeerSlot> AllowedIps::lookup(const Address& address) const {
  const std::uint8_t* octets = address.octets.data();
  std::uint32_t slot = kNoPeer;
  if (address.is_v4()) lookup_v4(&octets, 1, &slot);
  if (address.is_v6()) lookup_v6(&octets, 1, &slot);
  return slot == kNoPeer ? std::nullopt : std::optional{PeerSlot{slot}};
}

// ---- the writer

// One change: makes the nodes of the new path, and remembers those of the old one.
template <class Key>
struct AllowedIps::Edit {
  route::NodePool& pool;
  std::vector<const Node<Key>*> old{};

  using N = const Node<Key>*;

  Node<Key>* make(Key key, unsigned depth, std::uint64_t prefixes, std::uint64_t children) {
    const unsigned child_count = route::ones(children), value_count = route::ones(prefixes);
    const std::size_t size = Node<Key>::size(child_count, value_count);
    auto* node = new (pool.take(size)) Node<Key>;
    node->prefixes = prefixes;
    node->children = children;
    const Key under = route::masked(key, depth);
    std::memcpy(node->key, &under, sizeof under);
    node->depth = static_cast<std::uint8_t>(depth);
    node->child_count = static_cast<std::uint8_t>(child_count);
    node->value_count = static_cast<std::uint8_t>(value_count);
    return node;
  }
  void drop(N node) { old.push_back(node); }

  // A copy with other bits; what is new in it is still to be written.
  Node<Key>* copy(N from, std::uint64_t prefixes, std::uint64_t children) {
    Node<Key>* to = make(from->number(), from->depth, prefixes, children);
    unsigned i = 0, j = 0;
    for (std::uint64_t all = from->children | children; all != 0; all &= all - 1) {
      const std::uint64_t lowest = all & -all;
      if ((from->children & children & lowest) != 0) to->child_at()[i] = from->child_at()[j];
      i += (children & lowest) != 0;
      j += (from->children & lowest) != 0;
    }
    i = j = 0;
    for (std::uint64_t all = from->prefixes | prefixes; all != 0; all &= all - 1) {
      const std::uint64_t lowest = all & -all;
      if ((from->prefixes & prefixes & lowest) != 0) to->value_at()[i] = from->value_at()[j];
      i += (prefixes & lowest) != 0;
      j += (from->prefixes & lowest) != 0;
    }
    drop(from);
    return to;
  }
  static void set_child(Node<Key>* node, unsigned c, N child) {
    node->child_at()[route::ones(node->children & route::below(c))] = child;
  }
  static void set_value(Node<Key>* node, unsigned n, Value value) {
    node->value_at()[route::ones(node->prefixes & route::below(n))] = value;
  }

  // Where a prefix of this length stands: the depth of its node, and its number there.
  static unsigned home(unsigned length) { return length / route::kStride * route::kStride; }
  static unsigned number(Key key, unsigned length) {
    return route::prefix_number(route::chunk(key, home(length)), length - home(length));
  }

  N leaf(Key key, unsigned length, Value value) {
    Node<Key>* node = make(key, home(length), route::bit(number(key, length)), 0);
    set_value(node, number(key, length), value);
    return node;
  }

  // The subtree with the prefix set to this value; nullptr is the empty subtree.
  N with(N node, Key key, unsigned length, Value value) {
    if (node == nullptr) return leaf(key, length, value);
    const unsigned target = home(length);
    if (node->depth <= target && node->on_path(key)) {
      if (node->depth == target) {
        const unsigned n = number(key, length);
        Node<Key>* here = copy(node, node->prefixes | route::bit(n), node->children);
        set_value(here, n, value);
        return here;
      }
      const unsigned c = route::chunk(key, node->depth);
      N below = with(node->child(c), key, length, value);
      Node<Key>* here = copy(node, node->prefixes, node->children | route::bit(c));
      set_child(here, c, below);
      return here;
    }
    const Key difference =
        node->number() ^ key;  // some bit before the nearer of both depths, unless the target is on the node's path
    const unsigned same = difference == 0 ? target : std::min(route::leading_zeros(difference), target);
    const unsigned fork = std::min(home(same), target);
    const std::uint64_t old_child = route::bit(route::chunk(node->number(), fork));
    if (fork == target) {  // the prefix's node goes between the node and its parent
      const unsigned n = number(key, length);
      Node<Key>* here = make(key, target, route::bit(n), old_child);
      here->child_at()[0] = node;
      set_value(here, n, value);
      return here;
    }
    const unsigned c = route::chunk(key, fork);
    Node<Key>* here = make(key, fork, 0, old_child | route::bit(c));
    set_child(here, c, leaf(key, length, value));
    set_child(here, route::chunk(node->number(), fork), node);
    return here;
  }

  // The subtree without the prefix, which is in it.
  N without(N node, Key key, unsigned length) {
    if (node->depth == home(length)) {
      const std::uint64_t left = node->prefixes & ~route::bit(number(key, length));
      if (left == 0 && node->child_count <= 1) {
        drop(node);
        return node->child_count == 0 ? nullptr : node->child_at()[0];
      }
      return copy(node, left, node->children);
    }
    const unsigned c = route::chunk(key, node->depth);
    N below = without(node->child(c), key, length);
    if (below != nullptr) {
      Node<Key>* here = copy(node, node->prefixes, node->children);
      set_child(here, c, below);
      return here;
    }
    const std::uint64_t left = node->children & ~route::bit(c);
    if (node->prefixes == 0 && std::has_single_bit(left)) {
      drop(node);
      return node->child(static_cast<unsigned>(std::countr_zero(left)));
    }
    return copy(node, node->prefixes, left);
  }

  // Exactly this prefix, or nullptr.
  static const Value* find(N node, Key key, unsigned length) {
    const unsigned target = home(length);
    while (node != nullptr && node->depth <= target && node->on_path(key)) {
      const unsigned n = number(key, length);
      if (node->depth == target) return (node->prefixes & route::bit(n)) == 0 ? nullptr : node->value(n);
      node = node->child(route::chunk(key, node->depth));
    }
    return nullptr;
  }

  static void free(N node, route::NodePool& pool) { pool.give_back(const_cast<Node<Key>*>(node), node->size()); }
  static void free_all(N node, route::NodePool& pool) {
    if (node == nullptr) return;
    for (unsigned i = 0; i < node->child_count; ++i) free_all(node->child_at()[i], pool);
    free(node, pool);
  }
};

AllowedIps::AllowedIps(Retire retire) : pool_{std::make_shared<route::NodePool>()}, retire_{std::move(retire)} {}
AllowedIps::~AllowedIps() {
  Edit<std::uint32_t>::free_all(v4_.root.load(std::memory_order_relaxed), *pool_);
  Edit<Key128>::free_all(v6_.root.load(std::memory_order_relaxed), *pool_);
}

template <class Key>
void AllowedIps::publish(Trie<Key>& trie, Edit<Key>& edit, const Node<Key>* root) {
  trie.root.store(root, std::memory_order_release);  // R1 release, pairs with R2
  auto free = [old = std::move(edit.old), pool = pool_] {
    for (const Node<Key>* node : old) Edit<Key>::free(node, *pool);
  };
  if (retire_)
    retire_(std::move(free));
  else
    free();
}

template <class Key>
std::optional<PeerSlot> AllowedIps::insert_in(Trie<Key>& trie, Key key, unsigned length, PeerSlot slot,
                                              Address::Family family) {
  key = route::masked(key, length);
  const Node<Key>* root = trie.root.load(std::memory_order_relaxed);  // our own store
  const Value* held = Edit<Key>::find(root, key, length);
  std::optional<PeerSlot> previous;
  std::uint32_t entry;
  if (held != nullptr) {
    previous = PeerSlot{held->slot};
    if (*previous == slot) return previous;
    entry = held->entry;
    unlink(entry);
  } else {
    entry = take_entry();
    Entry& e = entries_[entry];
    e.family = family;
    e.length = static_cast<std::uint8_t>(length);
    e.octets = {};
    for (std::size_t i = 0; i < sizeof(Key); ++i)
      e.octets[i] = static_cast<std::uint8_t>(key >> (8 * (sizeof(Key) - 1 - i)));
    ++count_;
  }
  append(entry, slot);
  Edit<Key> edit{*pool_};
  publish(trie, edit, edit.with(root, key, length, {slot.raw(), entry}));
  return previous;
}

template <class Key>
bool AllowedIps::remove_in(Trie<Key>& trie, Key key, unsigned length, PeerSlot slot) {
  key = route::masked(key, length);
  const Node<Key>* root = trie.root.load(std::memory_order_relaxed);  // our own store
  const Value* held = Edit<Key>::find(root, key, length);
  if (held == nullptr || held->slot != slot.raw()) return false;
  const std::uint32_t entry = held->entry;
  unlink(entry);
  entries_[entry].given = 0;
  entries_[entry].after = free_entry_;
  free_entry_ = entry;
  --count_;
  Edit<Key> edit{*pool_};
  publish(trie, edit, edit.without(root, key, length));
  return true;
}

std::optional<PeerSlot> AllowedIps::insert(const Address& prefix, unsigned length, PeerSlot slot) {
  WG_CHECK(!prefix.none() && length <= prefix.bits() && slot.raw() != kNoPeer);
  const std::uint8_t* octets = prefix.octets.data();
  return prefix.is_v4() ? insert_in(v4_, route::load_key<std::uint32_t>(octets), length, slot, prefix.family)
                        : insert_in(v6_, route::load_key<Key128>(octets), length, slot, prefix.family);
}

bool AllowedIps::remove(const Address& prefix, unsigned length, PeerSlot slot) {
  WG_CHECK(!prefix.none() && length <= prefix.bits());
  const std::uint8_t* octets = prefix.octets.data();
  return prefix.is_v4() ? remove_in(v4_, route::load_key<std::uint32_t>(octets), length, slot)
                        : remove_in(v6_, route::load_key<Key128>(octets), length, slot);
}

std::optional<PeerSlot> AllowedIps::owner(const Address& prefix, unsigned length) const {
  WG_CHECK(!prefix.none() && length <= prefix.bits());
  const auto find = [&]<class Key>(const Trie<Key>& trie) {
    const Key key = route::masked(route::load_key<Key>(prefix.octets.data()), length);
    return Edit<Key>::find(trie.root.load(std::memory_order_relaxed), key, length);
  };
  const Value* held = prefix.is_v4() ? find(v4_) : find(v6_);
  return held == nullptr ? std::nullopt : std::optional{PeerSlot{held->slot}};
}

std::size_t AllowedIps::remove_all(PeerSlot slot, std::size_t at_most) {
  std::size_t removed = 0;
  for (auto list = lists_.find(slot.raw()); removed < at_most && list != lists_.end();
       list = lists_.find(slot.raw()), ++removed) {
    const Entry& e = entries_[list->second.first];
    WG_CHECK(remove(prefix_of(e), e.length, slot));
  }
  return removed;
}

void AllowedIps::for_each(PeerSlot slot, const std::function<void(const Address&, unsigned)>& visit) const {
  Cursor cursor;
  (void)visit_some(slot, cursor, SIZE_MAX, visit);
}

bool AllowedIps::visit_some(PeerSlot slot, Cursor& cursor, std::size_t at_most,
                            const std::function<void(const Address&, unsigned)>& visit) const {
  const auto list = lists_.find(slot.raw());
  if (list == lists_.end()) return true;
  std::uint32_t i = list->second.first;
  if (cursor.entry < entries_.size() && entries_[cursor.entry].given == cursor.given) {
    i = entries_[cursor.entry].after;  // still where we left it
  } else {
    while (i != kNone && entries_[i].given <= cursor.given) i = entries_[i].after;
  }
  for (; i != kNone && at_most != 0; i = entries_[i].after, --at_most) {
    const Entry& e = entries_[i];
    cursor = {e.given, i};
    visit(prefix_of(e), e.length);
  }
  return i == kNone;
}

std::size_t AllowedIps::count(PeerSlot slot) const {
  const auto list = lists_.find(slot.raw());
  return list == lists_.end() ? 0 : list->second.count;
}

std::size_t AllowedIps::octets() const {
  constexpr std::size_t kListNode = sizeof(std::pair<const std::uint32_t, List>) + 2 * sizeof(void*);
  return sizeof *this + pool_->octets() + entries_.size() * sizeof(Entry) + lists_.size() * kListNode +
         lists_.bucket_count() * sizeof(void*);
}

Address AllowedIps::prefix_of(const Entry& entry) {
  Address prefix;
  prefix.octets = entry.octets;
  prefix.family = entry.family;
  return prefix;
}

std::uint32_t AllowedIps::take_entry() {
  if (free_entry_ == kNone) {
    entries_.emplace_back();
    return static_cast<std::uint32_t>(entries_.size() - 1);
  }
  const std::uint32_t entry = free_entry_;
  free_entry_ = entries_[entry].after;
  return entry;
}

void AllowedIps::append(std::uint32_t entry, PeerSlot slot) {
  List& list = lists_[slot.raw()];
  Entry& e = entries_[entry];
  e.slot = slot.raw();
  e.given = ++given_;
  e.before = list.last;
  e.after = kNone;
  (list.last == kNone ? list.first : entries_[list.last].after) = entry;
  list.last = entry;
  ++list.count;
}

void AllowedIps::unlink(std::uint32_t entry) {
  const Entry& e = entries_[entry];
  const auto list = lists_.find(e.slot);
  (e.before == kNone ? list->second.first : entries_[e.before].after) = e.after;
  (e.after == kNone ? list->second.last : entries_[e.after].before) = e.before;
  if (--list->second.count == 0) lists_.erase(list);
}

}  // namespace wireplane
