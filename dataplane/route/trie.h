// trie.h: what a trie of prefixes is made of: inner nodes, and buckets at its ends. Reader's view; edit.h makes them.
//
//   node at depth 6, key 8.0.0.0/6:   prefixes "10" (10.0.0.0/8): peer 3 | child "100000" (10.0.0.0/12)
//      +--> bucket: 10.1.2.3/32: peer 7 | 10.1.2.0/24: peer 4 | 10.1.0.0/17: peer 4      (longest first)
//
// A node decides six bits, and says in one bitmap which of its 63 prefixes of 0 to 5 of them are set, in another which
// of its 64 children are there (tree bitmap: Eatherton, Varghese, Dittia 2004). A node that would hold one child and no
// prefix is left out; that is why it knows its key and depth. It may begin at any bit; one that would overlap with what
// is below it is short: it decides fewer bits. One that does not fit into two cache lines says in 64 entries
// what each chunk's child and longest prefix are: a reader of it counts no bits and reads one line. Where few prefixes
// are left they stand in a bucket, longest first, and one too many makes a node of it (burst tries: Heinz, Zobel,
// Williams 2002): a million hosts end below three nodes, in one to four cache lines side by side.
//
// All of it is immutable once published.
#pragma once
#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <utility>

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
// A prefix's number in a node at this depth that holds it.
template <class Key>
unsigned number_of(Key key, unsigned length, unsigned depth) {
  return (1u << kStride | chunk(key, depth)) >> (kStride - (length - depth));
}

template <class Key>
struct Node;

// A few prefixes where the trie ends, longest first: their keys, lengths, slots, and records, each side by side.
// Readers need a line for three IPv6 or seven IPv4 prefixes, two for six or fourteen, four for twelve IPv6 prefixes.
template <class Key>
class Bucket {
 public:
  static constexpr unsigned kMost = sizeof(Key) > 4 ? 12 : 14;

  Bucket(void* block, unsigned count) : block_{static_cast<std::uint8_t*>(block)}, count_{count} {}

  static std::size_t size(unsigned count) { return read(count) + count * sizeof(std::uint32_t); }
  [[nodiscard]] std::size_t size() const { return size(count_); }
  [[nodiscard]] std::size_t read() const { return read(count_); }
  [[nodiscard]] void* block() const { return block_; }
  [[nodiscard]] unsigned count() const { return count_; }
  [[nodiscard]] const std::uint8_t* keys() const { return block_; }
  [[nodiscard]] std::uint8_t* lengths() const { return block_ + count_ * sizeof(Key); }
  [[nodiscard]] std::uint32_t* slots() const { return reinterpret_cast<std::uint32_t*>(lengths() + padded(count_)); }

  [[nodiscard]] unsigned length(unsigned i) const { return lengths()[i]; }
  [[nodiscard]] Key key(unsigned i) const {
    Key k;
    std::memcpy(&k, block_ + i * sizeof k, sizeof k);
    return k;
  }
  [[nodiscard]] Value value(unsigned i) const { return {slots()[i], slots()[count_ + i]}; }
  void write(unsigned i, Key key, unsigned length, Value value) const {
    std::memcpy(block_ + i * sizeof key, &key, sizeof key);
    lengths()[i] = static_cast<std::uint8_t>(length);
    slots()[i] = value.slot;
    slots()[count_ + i] = value.record;
  }

 private:
  static std::size_t padded(std::size_t count) { return (count + 3) / 4 * 4; }
  static std::size_t read(unsigned count) { return count * (sizeof(Key) + sizeof(std::uint32_t)) + padded(count); }

  std::uint8_t* block_;
  unsigned count_;
};

// Leads to a node, a bucket, or nothing: an address, and in the bits that addresses leave free what a reader wants to
// know before the block's first line has come.
template <class Key>
class Ref {
 public:
  static constexpr std::uintptr_t kBucket = 1, kSmall = 2, kWide = 3;  // and 0: nothing
  static constexpr std::uintptr_t kApart = 4;  // a wide node that does not stand six bits below what leads to it
  static constexpr std::uintptr_t kKind = 7;
  static constexpr std::uintptr_t kTwoLines = 8;    // readers read a second line of it; never said of wide nodes
  static constexpr std::uintptr_t kFourLines = 16;  // and two more
  // Blocks are aligned to 32 octets, a user's addresses have 47 bits. Bits 48 to 55 are an Entry's own.
  static constexpr std::uintptr_t kAddress = (std::uintptr_t{1} << 48) - 32;
  static constexpr unsigned kCountShift = 56;  // of a bucket's prefixes
  static_assert(sizeof(std::uintptr_t) == 8);

  constexpr Ref() = default;
  explicit Ref(const Node<Key>* node)
      : raw_{reinterpret_cast<std::uintptr_t>(node) | (node->wide() ? kWide | kApart : kSmall | lines(node->read()))} {}
  explicit Ref(Bucket<Key> bucket)
      : raw_{reinterpret_cast<std::uintptr_t>(bucket.block()) | kBucket | lines(bucket.read()) |
             std::uintptr_t{bucket.count()} << kCountShift} {}

  [[nodiscard]] bool none() const { return kind() == 0; }
  [[nodiscard]] std::uintptr_t kind() const { return raw_ & kKind; }
  [[nodiscard]] bool is_bucket() const { return kind() == kBucket; }
  [[nodiscard]] bool is_node() const { return kind() > kBucket; }
  [[nodiscard]] bool is_wide() const { return kind() > kSmall; }
  [[nodiscard]] std::uintptr_t address() const { return raw_ & kAddress; }
  [[nodiscard]] std::uintptr_t second_line() const { return address() + (raw_ & kTwoLines) * 8; }  // or the first again
  [[nodiscard]] std::uintptr_t third_line() const { return address() + (raw_ & kFourLines) * 8; }
  [[nodiscard]] std::uintptr_t fourth_line() const { return address() + (raw_ & (kTwoLines | kFourLines)) * 8; }
  [[nodiscard]] void* block() const { return reinterpret_cast<void*>(address()); }
  [[nodiscard]] const Node<Key>* node() const { return static_cast<const Node<Key>*>(block()); }
  [[nodiscard]] Bucket<Key> bucket() const { return {block(), static_cast<unsigned>(raw_ >> kCountShift)}; }
  // As a node holds it.
  [[nodiscard]] Ref under(const Node<Key>& above) const {
    if (!is_wide()) return *this;
    return of(above.whole() && node()->depth == above.end() ? raw_ & ~kApart : raw_ | kApart);
  }

  // As an atomic holds it.
  static Ref of(std::uintptr_t raw) {
    Ref ref;
    ref.raw_ = raw;
    return ref;
  }
  [[nodiscard]] std::uintptr_t raw() const { return raw_; }

 private:
  static std::uintptr_t lines(std::size_t read) { return (read > 64 ? kTwoLines : 0) | (read > 128 ? kFourLines : 0); }
  std::uintptr_t raw_ = 0;
};

// What a wide node says about a chunk: where its addresses go on, and how many words behind this entry the slot of the
// longest of the node's prefixes stands that holds them; 0: there is none.
template <class Key>
class Entry {
 public:
  Entry() = default;
  Entry(Ref<Key> child, unsigned words) : raw_{child.raw() | std::uint64_t{words} << kShift} {}
  [[nodiscard]] Ref<Key> child() const { return Ref<Key>::of(raw_ & ~(std::uint64_t{kMost} << kShift)); }
  [[nodiscard]] Ref<Key> raw_child() const { return Ref<Key>::of(raw_); }  // for its readers: with bits they ignore
  [[nodiscard]] unsigned words() const { return static_cast<unsigned>(raw_ >> kShift) & kMost; }

 private:
  static constexpr unsigned kShift = 48, kMost = 0xff;
  std::uint64_t raw_ = 0;
};

// A node whose readers' part fits into two cache lines is small: its children, then its values' slots, in the order of
// their bits, lie behind it. Others are wide: an entry for each chunk, then the slots, lie behind the first line, so
// that a reader who knows the depth reads one line of it. Records come last. In a large table (NodePool::dear()) small
// ones are up to three or four lines: with its 13 hosts a wide one would take three quarters of a site's memory.
template <class Key>
struct Node {
  static constexpr std::size_t kLine = 64, kMostSmall = 2 * kLine, kChunks = 1 << kStride;
  static constexpr std::size_t kMostSmallDear = (sizeof(Key) > 4 ? 4 : 3) * kLine;

  std::uint64_t prefixes;  // which of the numbers 1 to 63 are set
  std::uint64_t children;  // which chunks go on
  std::uint32_t key[sizeof(Key) / 4];
  std::uint8_t depth, child_count, value_count;
  std::uint8_t mask;  // the bits of a chunk that decide here, the first ones: all, but in a short node; and kWide

  static constexpr std::uint8_t kWide = 0x80, kWhole = kChunks - 1;
  [[nodiscard]] bool wide() const { return (mask & kWide) != 0; }
  [[nodiscard]] bool whole() const { return (mask & kWhole) == kWhole; }
  // Where its children begin; shorter prefixes below it are its own.
  [[nodiscard]] unsigned end() const { return depth + ones(mask & kWhole); }
  [[nodiscard]] unsigned chunk_of(Key of) const { return chunk(of, depth) & mask; }

  static std::size_t read(unsigned children, unsigned values) {
    return sizeof(Node) + children * sizeof(Ref<Key>) + values * sizeof(std::uint32_t);
  }
  static bool needs_wide(unsigned children, unsigned values, bool dear) {
    return read(children, values) > (dear ? kMostSmallDear : kMostSmall);
  }
  [[nodiscard]] std::size_t read() const { return read(child_count, value_count); }
  static std::size_t size(unsigned children, unsigned values, bool wide) {
    const std::size_t before = wide ? kLine + kChunks * sizeof(Entry<Key>) : sizeof(Node) + children * sizeof(Ref<Key>);
    return before + 2 * sizeof(std::uint32_t) * values;
  }
  [[nodiscard]] std::size_t size() const { return size(child_count, value_count, wide()); }
  [[nodiscard]] Key number() const {
    Key k;
    std::memcpy(&k, key, sizeof k);
    return k;
  }
  [[nodiscard]] bool on_path(Key other) const { return masked(static_cast<Key>(number() ^ other), depth) == 0; }

  // Small ones'.
  [[nodiscard]] const Ref<Key>* child_at() const { return reinterpret_cast<const Ref<Key>*>(this + 1); }
  [[nodiscard]] Ref<Key>* child_at() { return reinterpret_cast<Ref<Key>*>(this + 1); }
  [[nodiscard]] const std::uint32_t* small_slots() const {
    return reinterpret_cast<const std::uint32_t*>(child_at() + child_count);
  }
  // Wide ones'.
  [[nodiscard]] const Entry<Key>* entries() const { return at<Entry<Key>>(kLine); }
  [[nodiscard]] Entry<Key>* entries() { return const_cast<Entry<Key>*>(std::as_const(*this).entries()); }
  [[nodiscard]] const std::uint32_t* wide_slots() const {
    return at<std::uint32_t>(kLine + kChunks * sizeof(Entry<Key>));
  }

  [[nodiscard]] const std::uint32_t* slots() const { return wide() ? wide_slots() : small_slots(); }
  [[nodiscard]] std::uint32_t* slots() { return const_cast<std::uint32_t*>(std::as_const(*this).slots()); }
  [[nodiscard]] const std::uint32_t* records() const { return slots() + value_count; }
  [[nodiscard]] std::uint32_t* records() { return slots() + value_count; }
  [[nodiscard]] Ref<Key> child(unsigned c) const {
    if ((children & bit(c)) == 0) return {};
    return wide() ? entries()[c].child() : child_at()[ones(children & below(c))];
  }
  void set_child(unsigned c, Ref<Key> to) { put_child(c, to.under(*this)); }
  void put_child(unsigned c, Ref<Key> to) {  // as such a node held it
    if (!wide()) {
      child_at()[ones(children & below(c))] = to;
      return;
    }
    for (unsigned same = c; same <= (c | (~mask & kWhole)); ++same) entries()[same] = {to, entries()[same].words()};
  }
  [[nodiscard]] unsigned place(unsigned n) const { return ones(prefixes & below(n)); }
  [[nodiscard]] Value value(unsigned n) const { return {slots()[place(n)], records()[place(n)]}; }
  void set_value(unsigned n, Value to) {
    slots()[place(n)] = to.slot;
    records()[place(n)] = to.record;
  }
  // A wide one's, still without its children.
  void write_entries() {
    for (unsigned c = 0; c < kChunks; ++c) {
      const std::uint64_t matches = prefixes & kPrefixesOf[c];
      const unsigned longest = 63 - static_cast<unsigned>(std::countl_zero(matches | 1));
      entries()[c] = {{}, matches == 0 ? 0 : 2 * (static_cast<unsigned>(kChunks) - c) + place(longest)};
    }
  }

 private:
  template <class T>
  [[nodiscard]] const T* at(std::size_t offset) const {
    return reinterpret_cast<const T*>(reinterpret_cast<const std::uint8_t*>(this) + offset);
  }
};

}  // namespace wireplane::route
