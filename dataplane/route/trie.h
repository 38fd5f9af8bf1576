// trie.h: what a trie of prefixes is made of: inner nodes, and buckets at its ends. Reader's view; edit.h makes them.
//
//   node at depth 6, key 8.0.0.0/6:   prefixes "10" (10.0.0.0/8): peer 3 | child "100000" (10.0.0.0/12)
//      +--> bucket: 10.1.2.3/32: peer 7 | 10.1.2.0/24: peer 4 | 10.1.0.0/17: peer 4      (longest first)
//
// A node stands at a depth that is a multiple of six bits, and says in one bitmap which of its 63 prefixes of 0 to 5
// more bits are set, in another which of its 64 children are there (tree bitmap: Eatherton, Varghese, Dittia 2004). A
// node that would hold one child and no prefix is left out; that is why it knows its key. Where up to seven prefixes
// are left they stand in a bucket, longest first, and the eighth makes a node of it (burst tries: Heinz, Zobel,
// Williams 2002): a million hosts end three nodes below the root, in one or two cache lines.
//
// All of it is immutable once published.
#pragma once
#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "dataplane/base/bytes.h"

namespace wireplane::route {

__extension__ typedef unsigned __int128 Key128;  // an IPv6 address as a number

constexpr unsigned kStride = 6;

// What a prefix leads to: the peer for readers, the record in PrefixLists for the writer.
struct Value {
  std::uint32_t slot, record;
};

template <class Key>
constexpr unsigned kBits = sizeof(Key) * 8;

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

// Ones in the first `length` bits; looked up, because a shift by all bits is not defined.
template <class Key>
inline constexpr auto kMasks = [] {
  std::array<Key, kBits<Key> + 1> masks{};
  for (unsigned length = 1; length < masks.size(); ++length)
    masks[length] = static_cast<Key>(~Key{0} << (kBits<Key> - length));
  return masks;
}();
template <class Key>
Key masked(Key key, unsigned length) {
  return key & kMasks<Key>[length];
}

inline unsigned ones(std::uint64_t bits) { return static_cast<unsigned>(std::popcount(bits)); }
inline std::uint64_t bit(unsigned number) { return std::uint64_t{1} << number; }
inline std::uint64_t below(unsigned number) { return bit(number) - 1; }

// Prefixes inside a node are numbered 1xxx: a 1, then the bits behind the node's depth. So a chunk's prefixes are its
// own leading bits, and the longest has the highest number.
constexpr auto kPrefixesOf = [] {
  std::array<std::uint64_t, 1 << kStride> table{};
  for (unsigned c = 0; c < table.size(); ++c)
    for (unsigned number = (1u << kStride | c) >> 1; number != 0; number >>= 1) table[c] |= std::uint64_t{1} << number;
  return table;
}();
// Where a prefix of this length stands: the depth of its node, and its number there.
inline unsigned home(unsigned length) { return length / kStride * kStride; }
template <class Key>
unsigned number_of(Key key, unsigned length) {
  const unsigned bits = length - home(length);
  return (1u << kStride | chunk(key, home(length))) >> (kStride - bits);
}

template <class Key>
struct Node;
template <class Key>
struct Bucket;

// Leads to a node, a bucket, or nothing. The lowest bit tells; blocks are aligned.
template <class Key>
class Ref {
 public:
  constexpr Ref() = default;
  explicit Ref(const Node<Key>* node) : raw_{reinterpret_cast<std::uintptr_t>(node)} {}
  explicit Ref(const Bucket<Key>* bucket) : raw_{reinterpret_cast<std::uintptr_t>(bucket) | 1} {}

  [[nodiscard]] bool none() const { return raw_ == 0; }
  [[nodiscard]] bool is_bucket() const { return (raw_ & 1) != 0; }
  [[nodiscard]] bool is_node() const { return raw_ != 0 && !is_bucket(); }
  [[nodiscard]] const Node<Key>* node() const { return reinterpret_cast<const Node<Key>*>(raw_); }
  [[nodiscard]] const Bucket<Key>* bucket() const { return reinterpret_cast<const Bucket<Key>*>(raw_ - 1); }
  [[nodiscard]] const void* block() const { return reinterpret_cast<const void*>(raw_ & ~std::uintptr_t{1}); }

  // As an atomic holds it.
  static Ref of(std::uintptr_t raw) {
    Ref ref;
    ref.raw_ = raw;
    return ref;
  }
  [[nodiscard]] std::uintptr_t raw() const { return raw_; }

 private:
  std::uintptr_t raw_ = 0;
};

// Children, then prefixes' values lie behind it, both in the order of their bits.
template <class Key>
struct Node {
  std::uint64_t prefixes;  // which of the numbers 1 to 63 are set
  std::uint64_t children;  // which chunks go on
  std::uint32_t key[sizeof(Key) / 4];
  std::uint8_t depth, child_count, value_count;

  static std::size_t size(unsigned children, unsigned values) {
    return sizeof(Node) + children * sizeof(Ref<Key>) + values * sizeof(Value);
  }
  [[nodiscard]] std::size_t size() const { return size(child_count, value_count); }
  [[nodiscard]] Key number() const {
    Key k;
    std::memcpy(&k, key, sizeof k);
    return k;
  }
  [[nodiscard]] bool on_path(Key other) const { return masked(static_cast<Key>(number() ^ other), depth) == 0; }
  [[nodiscard]] const Ref<Key>* child_at() const { return reinterpret_cast<const Ref<Key>*>(this + 1); }
  [[nodiscard]] Ref<Key>* child_at() { return reinterpret_cast<Ref<Key>*>(this + 1); }
  [[nodiscard]] const Value* value_at() const { return reinterpret_cast<const Value*>(child_at() + child_count); }
  [[nodiscard]] Value* value_at() { return reinterpret_cast<Value*>(child_at() + child_count); }

  [[nodiscard]] Ref<Key> child(unsigned c) const {
    return (children & bit(c)) == 0 ? Ref<Key>{} : child_at()[ones(children & below(c))];
  }
  [[nodiscard]] const Value* value(unsigned n) const { return value_at() + ones(prefixes & below(n)); }
};

// Keys, then slots, then records lie behind it.
template <class Key>
struct Bucket {
  static constexpr unsigned kMost = 7;
  std::uint8_t count;
  std::uint8_t length[kMost];  // descending

  static std::size_t size(unsigned count) { return sizeof(Bucket) + count * (sizeof(Key) + 2 * sizeof(std::uint32_t)); }
  [[nodiscard]] std::size_t size() const { return size(count); }
  [[nodiscard]] const std::uint8_t* key_at() const { return reinterpret_cast<const std::uint8_t*>(this + 1); }
  [[nodiscard]] std::uint8_t* key_at() { return reinterpret_cast<std::uint8_t*>(this + 1); }
  [[nodiscard]] Key key(unsigned i) const {
    Key k;
    std::memcpy(&k, key_at() + i * sizeof k, sizeof k);
    return k;
  }
  [[nodiscard]] const std::uint32_t* slot_at() const {
    return reinterpret_cast<const std::uint32_t*>(key_at() + count * sizeof(Key));
  }
  [[nodiscard]] std::uint32_t* slot_at() { return reinterpret_cast<std::uint32_t*>(key_at() + count * sizeof(Key)); }
  [[nodiscard]] Value value(unsigned i) const { return {slot_at()[i], slot_at()[count + i]}; }
};

static_assert(sizeof(Bucket<std::uint32_t>) == 8 && sizeof(Bucket<Key128>) == 8);

}  // namespace wireplane::route
