// edit.h: one change of a trie. The path from the root to the prefix is made anew, the rest is shared.
//
// Nothing of the old trie is touched, so that a change without memory has not happened: what it made is given back.
// After keep() what it made is the trie's, and old() are the blocks that only readers of the old root still need.
#pragma once
#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <new>
#include <span>

#include "dataplane/base/check.h"
#include "dataplane/route/node_pool.h"
#include "dataplane/route/trie.h"

namespace wireplane::route {

struct Block {
  void* memory;
  std::size_t octets;
};

template <class Key>
class Edit {
 public:
  struct Item {  // one prefix
    Key key;
    unsigned length;
    Value value;
  };

  explicit Edit(NodePool& pool) : pool_{pool} {}
  ~Edit() {
    for (std::size_t i = 0; i < made_count_; ++i) pool_.give_back(made_[i].memory, made_[i].octets);
  }
  Edit(const Edit&) = delete;
  Edit& operator=(const Edit&) = delete;

  // The subtree with the prefix set to this value; and without it, where it is in it.
  [[nodiscard]] Ref<Key> with(Ref<Key> root, const Item& item) { return with(root, item, 0); }
  [[nodiscard]] Ref<Key> without(Ref<Key> root, Key key, unsigned length);

  void keep() { made_count_ = 0; }
  [[nodiscard]] std::span<const Block> old() const { return {old_.data(), old_count_}; }

  // Exactly this prefix's value, or none: record kNone.
  [[nodiscard]] static Value find(Ref<Key> ref, Key key, unsigned length, Value none);
  static void free_all(Ref<Key> ref, NodePool& pool);

 private:
  static constexpr unsigned kMost = Bucket<Key>::kMost;
  static constexpr unsigned kFew = 6;  // so few are a bucket again
  // Nodes of a path (one a bit, were all of them short), a full bucket's parts, and a bucket's children on the way
  // back.
  static constexpr std::size_t kMostBlocks = kBits<Key> + 1 + kMost + 3 + kFew;

  // A bucket's contents outside of it; room for the one that is too many.
  struct Items {
    std::array<Item, kMost + 1> item;
    unsigned count = 0;
    void add(const Item& fresh) {  // behind those as long as it
      unsigned i = count++;
      for (; i != 0 && item[i - 1].length < fresh.length; --i) item[i] = item[i - 1];
      item[i] = fresh;
    }
    void erase(unsigned which) {
      for (--count; which < count; ++which) item[which] = item[which + 1];
    }
  };
  static Items items_of(Bucket<Key> bucket) {
    Items items;
    for (unsigned& i = items.count; i < bucket.count(); ++i)
      items.item[i] = {bucket.key(i), bucket.length(i), bucket.value(i)};
    return items;
  }
  static unsigned find_in(Bucket<Key> bucket, Key key, unsigned length) {  // count: not there
    unsigned i = 0;
    while (i < bucket.count() && (bucket.length(i) != length || bucket.key(i) != key)) ++i;
    return i;
  }

  void* take(std::size_t octets) {
    WG_CHECK(made_count_ < kMostBlocks);
    void* memory = pool_.take(octets);
    made_[made_count_++] = {memory, octets};
    return memory;
  }
  void drop(const void* memory, std::size_t octets) {
    WG_CHECK(old_count_ < kMostBlocks);
    old_[old_count_++] = {const_cast<void*>(memory), octets};
  }

  // The bits that a node decides.
  struct Window {
    unsigned depth, end;
    [[nodiscard]] std::uint8_t mask() const {
      return static_cast<std::uint8_t>((Node<Key>::kWhole << (kStride - (end - depth))) & Node<Key>::kWhole);
    }
    [[nodiscard]] unsigned chunk_of(Key key) const { return chunk(key, depth) & mask(); }
  };
  static Window first_window(unsigned base, unsigned bit, unsigned longest);
  static Window window_above(unsigned base, unsigned bit, unsigned below);

  Ref<Key> with(Ref<Key> root, const Item& item, unsigned base);
  Ref<Key> make_bucket(const Items& items);
  Node<Key>* make_place(Key key, Window window, std::uint64_t prefixes, std::uint64_t children);
  Node<Key>* make_node(Key key, Window window, std::uint64_t prefixes, std::uint64_t children);
  Node<Key>* copy(const Node<Key>& from, std::uint64_t prefixes, std::uint64_t children);
  Ref<Key> burst(const Items& items, unsigned base);
  Ref<Key> with_in_bucket(Bucket<Key> bucket, const Item& item, unsigned base);
  Ref<Key> fork(const Node<Key>& node, const Item& item, unsigned base);
  Ref<Key> rest_of(const Node<Key>& node, std::uint64_t prefixes, std::uint64_t children, unsigned c, Ref<Key> below);
  bool gather(Items& items, const Node<Key>& node, std::uint64_t prefixes, std::uint64_t children, unsigned c,
              Ref<Key> below);

  NodePool& pool_;
  std::array<Block, kMostBlocks> made_, old_;
  std::size_t made_count_ = 0, old_count_ = 0;
};

// Where the node stands that decides `bit`, the first that differs or that a prefix ends before, when what leads to it
// has decided `base` bits. Mostly at six bits, or twelve, or more, behind that, so that hosts given in their order fill
// nodes well; at the bit itself if bits are left out and many follow, as of a subnet with hosts anywhere in it.
template <class Key>
typename Edit<Key>::Window Edit<Key>::first_window(unsigned base, unsigned bit, unsigned longest) {
  constexpr unsigned kMany = 2 * kStride;
  const unsigned depth = bit - base >= kStride && longest - bit >= kMany ? bit : bit - (bit - base) % kStride;
  return {depth, depth + kStride};
}

// The same above a node that begins at `below`: where both would overlap it stands right above, or is short.
template <class Key>
typename Edit<Key>::Window Edit<Key>::window_above(unsigned base, unsigned bit, unsigned below) {
  const unsigned depth = bit - (bit - base) % kStride;
  if (depth + kStride <= below) return {depth, depth + kStride};
  return {depth >= base + 2 * kStride ? below - kStride : depth, below};
}

template <class Key>
Ref<Key> Edit<Key>::make_bucket(const Items& items) {
  const Bucket<Key> bucket{take(Bucket<Key>::size(items.count)), items.count};
  for (unsigned i = 0; i < items.count; ++i)
    bucket.write(i, items.item[i].key, items.item[i].length, items.item[i].value);
  return Ref<Key>{bucket};
}

// Neither children nor values are written, nor what a wide one says of its values.
template <class Key>
Node<Key>* Edit<Key>::make_place(Key key, Window window, std::uint64_t prefixes, std::uint64_t children) {
  const unsigned child_count = ones(children), value_count = ones(prefixes);
  const bool wide = Node<Key>::needs_wide(child_count, value_count, pool_.dear());
  auto* node = new (take(Node<Key>::size(child_count, value_count, wide))) Node<Key>;
  node->prefixes = prefixes;
  node->children = children;
  const Key under = masked(key, window.depth);
  std::memcpy(node->key, &under, sizeof under);
  node->depth = static_cast<std::uint8_t>(window.depth);
  node->child_count = static_cast<std::uint8_t>(child_count);
  node->value_count = static_cast<std::uint8_t>(value_count);
  node->mask = static_cast<std::uint8_t>(window.mask() | (wide ? Node<Key>::kWide : 0));
  return node;
}

// Children and values are still to be written.
template <class Key>
Node<Key>* Edit<Key>::make_node(Key key, Window window, std::uint64_t prefixes, std::uint64_t children) {
  Node<Key>* node = make_place(key, window, prefixes, children);
  if (node->wide()) node->write_entries();
  return node;
}

// Copies what both sets have. Runs of it: sets differ in one bit.
template <class T>
void copy_common(T* to, std::uint64_t to_set, const T* from, std::uint64_t from_set) {
  if (to_set == from_set) {
    std::memcpy(to, from, ones(to_set) * sizeof(T));
    return;
  }
  const std::uint64_t lowest = (to_set ^ from_set) & (0 - (to_set ^ from_set)), before = lowest - 1;
  const unsigned same = ones(to_set & before);
  std::memcpy(to, from, same * sizeof(T));
  const unsigned to_skip = (to_set & lowest) != 0, from_skip = (from_set & lowest) != 0;
  std::memcpy(to + same + to_skip, from + same + from_skip, (ones(to_set) - same - to_skip) * sizeof(T));
}

// A copy with other bits, one at most a set; what is new in it is still to be written.
template <class Key>
Node<Key>* Edit<Key>::copy(const Node<Key>& from, std::uint64_t prefixes, std::uint64_t children) {
  Node<Key>* to = make_place(from.number(), {from.depth, from.end()}, prefixes, children);
  if (!to->wide() && !from.wide()) {
    copy_common(to->child_at(), children, from.child_at(), from.children);
  } else if (to->wide() && from.wide() && prefixes == from.prefixes) {
    std::memcpy(to->entries(), from.entries(), Node<Key>::kChunks * sizeof(Entry<Key>));
    if (const std::uint64_t gone = from.children & ~children; gone != 0)
      to->put_child(static_cast<unsigned>(std::countr_zero(gone)), {});
  } else {
    if (to->wide()) to->write_entries();
    for (std::uint64_t left = children & from.children; left != 0; left &= left - 1) {
      const auto c = static_cast<unsigned>(std::countr_zero(left));
      to->put_child(c, from.child(c));
    }
  }
  copy_common(to->slots(), prefixes, from.slots(), from.prefixes);
  copy_common(to->records(), prefixes, from.records(), from.prefixes);
  drop(&from, from.size());
  return to;
}

// One prefix too many for a bucket: a node with those that stand in it, and buckets of the others.
template <class Key>
Ref<Key> Edit<Key>::burst(const Items& items, unsigned base) {
  unsigned same = items.item[0].length;  // the longest
  for (unsigned i = 0; i < items.count; ++i) {
    const Key difference = items.item[i].key ^ items.item[0].key;
    if (difference != 0) same = std::min(same, leading_zeros(difference));
    same = std::min(same, items.item[i].length);
  }
  const Window window = first_window(base, same, items.item[0].length);
  const auto stands_here = [&](const Item& item) { return item.length < window.end; };
  std::uint64_t prefixes = 0, children = 0;
  for (unsigned i = 0; i < items.count; ++i) {
    const Item& item = items.item[i];
    if (stands_here(item))
      prefixes |= bit(number_of(item.key, item.length, window.depth));
    else
      children |= bit(window.chunk_of(item.key));
  }
  Node<Key>* node = make_node(items.item[0].key, window, prefixes, children);
  for (std::uint64_t left = children; left != 0; left &= left - 1) {
    const auto c = static_cast<unsigned>(std::countr_zero(left));
    Items part;
    for (unsigned i = 0; i < items.count; ++i)
      if (!stands_here(items.item[i]) && window.chunk_of(items.item[i].key) == c)
        part.item[part.count++] = items.item[i];
    WG_CHECK(part.count <= kMost);  // else they would have more in common
    node->set_child(c, make_bucket(part));
  }
  for (unsigned i = 0; i < items.count; ++i)
    if (const Item& item = items.item[i]; stands_here(item))
      node->set_value(number_of(item.key, item.length, window.depth), item.value);
  return Ref<Key>{node};
}

template <class Key>
Ref<Key> Edit<Key>::with_in_bucket(Bucket<Key> bucket, const Item& item, unsigned base) {
  Items items = items_of(bucket);
  const unsigned known = find_in(bucket, item.key, item.length);
  if (known < bucket.count())
    items.item[known].value = item.value;
  else
    items.add(item);
  drop(bucket.block(), bucket.size());
  return items.count <= kMost ? make_bucket(items) : burst(items, base);
}

// The prefix is not below the node: a node above both.
template <class Key>
Ref<Key> Edit<Key>::fork(const Node<Key>& node, const Item& item, unsigned base) {
  const Key difference = node.number() ^ item.key;
  const unsigned same = difference == 0 ? item.length : std::min(leading_zeros(difference), item.length);
  const Window window = window_above(base, same, node.depth);
  const unsigned c = window.chunk_of(item.key), old_chunk = window.chunk_of(node.number());
  if (item.length < window.end) {
    const unsigned n = number_of(item.key, item.length, window.depth);
    Node<Key>* here = make_node(item.key, window, bit(n), bit(old_chunk));
    here->set_child(old_chunk, Ref<Key>{&node});
    here->set_value(n, item.value);
    return Ref<Key>{here};
  }
  Node<Key>* here = make_node(item.key, window, 0, bit(old_chunk) | bit(c));
  Items alone;
  alone.add(item);
  here->set_child(c, make_bucket(alone));
  here->set_child(old_chunk, Ref<Key>{&node});
  return Ref<Key>{here};
}

template <class Key>
Ref<Key> Edit<Key>::with(Ref<Key> root, const Item& item, unsigned base) {
  if (root.none()) {
    Items alone;
    alone.add(item);
    return make_bucket(alone);
  }
  if (root.is_bucket()) return with_in_bucket(root.bucket(), item, base);
  const Node<Key>& node = *root.node();
  if (node.depth > item.length || !node.on_path(item.key)) return fork(node, item, base);
  if (item.length < node.end()) {
    const unsigned n = number_of(item.key, item.length, node.depth);
    Node<Key>* here = copy(node, node.prefixes | bit(n), node.children);
    here->set_value(n, item.value);
    return Ref<Key>{here};
  }
  const unsigned c = node.chunk_of(item.key);
  const Ref<Key> below = with(node.child(c), item, node.end());
  Node<Key>* here = copy(node, node.prefixes, node.children | bit(c));
  here->set_child(c, below);
  return Ref<Key>{here};
}

template <class Key>
Ref<Key> Edit<Key>::without(Ref<Key> root, Key key, unsigned length) {
  if (root.is_bucket()) {
    Items items = items_of(root.bucket());
    items.erase(find_in(root.bucket(), key, length));
    drop(root.block(), root.bucket().size());
    return items.count == 0 ? Ref<Key>{} : make_bucket(items);
  }
  const Node<Key>& node = *root.node();
  const unsigned c = node.chunk_of(key);
  if (length < node.end())
    return rest_of(node, node.prefixes & ~bit(number_of(key, length, node.depth)), node.children, c, node.child(c));
  const Ref<Key> below = without(node.child(c), key, length);
  return rest_of(node, node.prefixes, below.none() ? node.children & ~bit(c) : node.children, c, below);
}

// What is left of a node: fewer prefixes, or `below` as its child c.
template <class Key>
Ref<Key> Edit<Key>::rest_of(const Node<Key>& node, std::uint64_t prefixes, std::uint64_t children, unsigned c,
                            Ref<Key> below) {
  if (prefixes == 0 && (children & (children - 1)) == 0) {  // of no use any more
    drop(&node, node.size());
    if (children == 0) return {};
    const auto only = static_cast<unsigned>(std::countr_zero(children));
    return only == c ? below : node.child(only);
  }
  if (Items items; ones(prefixes) + ones(children) <= kFew && gather(items, node, prefixes, children, c, below)) {
    drop(&node, node.size());
    for (std::uint64_t left = children; left != 0; left &= left - 1) {
      const auto i = static_cast<unsigned>(std::countr_zero(left));
      const Ref<Key> child = i == c ? below : node.child(i);
      drop(child.block(), child.bucket().size());  // even if just made
    }
    return make_bucket(items);
  }
  Node<Key>* here = copy(node, prefixes, children);
  if ((children & bit(c)) != 0) here->set_child(c, below);
  return Ref<Key>{here};
}

// All prefixes of so small a node; false: they are too many for a bucket that is to have room.
template <class Key>
bool Edit<Key>::gather(Items& items, const Node<Key>& node, std::uint64_t prefixes, std::uint64_t children, unsigned c,
                       Ref<Key> below) {
  for (std::uint64_t left = children; left != 0; left &= left - 1) {
    const auto i = static_cast<unsigned>(std::countr_zero(left));
    const Ref<Key> child = i == c ? below : node.child(i);
    if (!child.is_bucket() || items.count + child.bucket().count() + ones(prefixes) > kFew) return false;
    const Items part = items_of(child.bucket());
    for (unsigned p = 0; p < part.count; ++p) items.add(part.item[p]);
  }
  for (std::uint64_t left = prefixes; left != 0; left &= left - 1) {
    const auto n = static_cast<unsigned>(std::countr_zero(left));
    const unsigned bits = 31 - static_cast<unsigned>(std::countl_zero(n));
    const unsigned length = node.depth + bits;
    const Key within = bits == 0 ? Key{0} : static_cast<Key>(Key{n ^ 1u << bits} << (kBits<Key> - length));
    items.add({static_cast<Key>(node.number() | within), length, node.value(n)});
  }
  return true;
}

template <class Key>
Value Edit<Key>::find(Ref<Key> ref, Key key, unsigned length, Value none) {
  while (ref.is_node()) {
    const Node<Key>& node = *ref.node();
    if (node.depth > length || !node.on_path(key)) return none;
    if (length < node.end()) {
      const unsigned n = number_of(key, length, node.depth);
      return (node.prefixes & bit(n)) == 0 ? none : node.value(n);
    }
    ref = node.child(node.chunk_of(key));
  }
  if (ref.none()) return none;
  const unsigned i = find_in(ref.bucket(), key, length);
  return i == ref.bucket().count() ? none : ref.bucket().value(i);
}

template <class Key>
void Edit<Key>::free_all(Ref<Key> ref, NodePool& pool) {
  if (ref.none()) return;
  if (ref.is_bucket()) return pool.give_back(ref.block(), ref.bucket().size());
  const Node<Key>& node = *ref.node();
  for (std::uint64_t left = node.children; left != 0; left &= left - 1)
    free_all(node.child(static_cast<unsigned>(std::countr_zero(left))), pool);
  pool.give_back(ref.block(), node.size());
}

}  // namespace wireplane::route
