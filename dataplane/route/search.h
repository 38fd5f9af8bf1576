// search.h: bursts of addresses down a trie.
//
// All walks take their step, each asks for what it needs next, then all take the next step: memory answers many at
// once. A step is two halves, because a node's header and the reference to its child lie in different lines. A half
// has no branch that depends on an address: what a walk has found and where it goes on are selected.
#pragma once
#ifdef __x86_64__
#include <immintrin.h>
#endif

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "dataplane/route/trie.h"

namespace wireplane::route {

// A bucket's prefixes that hold a key, as a mask: the lowest bit is the longest one's.
struct PlainBuckets {
  template <class Key>
  [[gnu::always_inline]] static unsigned matches(Bucket<Key> bucket, Key key) {
    unsigned found = 0;
    for (unsigned i = 0; i < bucket.count(); ++i)
      found |= static_cast<unsigned>(masked(static_cast<Key>(bucket.key(i) ^ key), bucket.length(i)) == 0) << i;
    return found;
  }
};

// Without a branch, which a compiler makes of what hardly differs, and which would be guessed wrong half of the time.
template <class T>
[[gnu::always_inline]] inline const T* select(bool first, const T* a, const T* b) {
  const auto x = reinterpret_cast<std::uintptr_t>(a), y = reinterpret_cast<std::uintptr_t>(b);
  return reinterpret_cast<const T*>(y ^ ((x ^ y) & (std::uintptr_t{0} - std::uintptr_t{first})));
}

// Up to 64 walks.
template <class Key>
struct Walks {
  static constexpr std::size_t kGroup = 64;
  using Number = std::uint8_t;

  Key key[kGroup];
  Ref<Key> at[kGroup];                // what it stands before
  const Entry<Key>* entry[kGroup];    // of those in step: what they read next
  const std::uint32_t* best[kGroup];  // where its answer stands so far
  Number wide[kGroup], bucket[kGroup], other[kGroup];
  std::size_t wides, buckets, others;

  // Into L2: two lines side by side then come almost as one (README.md). A number: there may be no block.
  [[gnu::always_inline]] static inline void ask(std::uintptr_t line) {
    __builtin_prefetch(reinterpret_cast<const void*>(line), 0, 2);
  }
  // The chunks at one depth, which is all walks': what is the same for all is worked out once.
  class Chunks {
   public:
    explicit Chunks(unsigned depth)
        : first_{sizeof(Key) > 4 ? std::min(depth / 8, 8u) : 0}, shift_{(depth - 8 * first_) % 64} {}
    [[gnu::always_inline]] inline std::uintptr_t of(const Walks& walks, Number i) const {
      std::uint64_t from_first;  // the key's bits from octet `first_` on
      if constexpr (sizeof(Key) == 4)
        from_first = std::uint64_t{walks.key[i]} << 32;
      else if constexpr (std::endian::native == std::endian::little)
        std::memcpy(&from_first, reinterpret_cast<const std::uint8_t*>(&walks.key[i]) + 8 - first_, 8);
      else
        from_first = static_cast<std::uint64_t>(walks.key[i] << 8 * first_ >> 64);
      return from_first << shift_ >> (64 - kStride);
    }

   private:
    unsigned first_, shift_;
  };
  // What an entry says of its node's own prefixes: seldom anything, where peers have hosts.
  [[gnu::always_inline]] inline void note(Number i, const Entry<Key>* from) {
    if (from->words() != 0) best[i] = reinterpret_cast<const std::uint32_t*>(from) + from->words();
  }
  // The same where it may well say something, and comes late: a wrong guess would wait for it.
  [[gnu::always_inline]] inline void note_unsure(Number i, const Entry<Key>* from) {
    best[i] = select(from->words() != 0, reinterpret_cast<const std::uint32_t*>(from) + from->words(), best[i]);
  }
  [[gnu::always_inline]] static inline const Entry<Key>* entry_of(Ref<Key> wide, std::uintptr_t chunk) {
    return reinterpret_cast<const Entry<Key>*>(wide.address() + Node<Key>::kLine + chunk * sizeof(Entry<Key>));
  }
  // Walk i goes on: in step with the others before a wide node, else on its own. The first is a branch: at one depth of
  // a large table mostly all or none are before one.
  [[gnu::always_inline]] inline void go_in_step(Number i, Ref<Key> to, Chunks chunks) {
    if (to.kind() != Ref<Key>::kWide) return go(i, to);
    entry[i] = entry_of(to, chunks.of(*this, i));
    ask(reinterpret_cast<std::uintptr_t>(entry[i]));
    wide[wides++] = i;
  }
  [[gnu::always_inline]] inline void go(Number i, Ref<Key> to) {
    at[i] = to;
    ask(to.address());
    ask(to.second_line());
    ask(to.third_line());
    if constexpr (Node<Key>::kMostSmallDear > 192) ask(to.fourth_line());
    bucket[buckets] = i;
    buckets += to.kind() == Ref<Key>::kBucket;
    other[others] = i;
    others += to.kind() > Ref<Key>::kBucket;
  }
  // The root is all walks', and what is below a wide one is near.
  [[gnu::always_inline]] inline void step_root(Number i, const Node<Key>& root, Chunks first, Chunks second,
                                               Chunks third) {
    if (root.depth != 0 && !root.on_path(key[i])) return;
    const Entry<Key>* from = root.entries() + first.of(*this, i);
    note(i, from);
    if (from->raw_child().kind() == Ref<Key>::kWide) {
      from = entry_of(from->raw_child(), second.of(*this, i));
      note(i, from);
    }
    go_in_step(i, from->raw_child(), third);
  }
  [[gnu::always_inline]] inline Ref<Key> step_small(Number i) {
    const Node<Key>& node = *at[i].node();
    const std::uint64_t on_path = node.on_path(key[i]) ? ~std::uint64_t{0} : 0;
    const unsigned c = node.chunk_of(key[i]);
    const std::uint64_t matches = node.prefixes & kPrefixesOf[c] & on_path;
    const unsigned longest = 63 - static_cast<unsigned>(std::countl_zero(matches | 1));
    const std::uint32_t* slot = node.small_slots() + node.place(longest);
    best[i] = select(matches != 0, slot, best[i]);
    static constexpr Ref<Key> nowhere{};
    const Ref<Key>* child = node.child_at() + ones(node.children & below(c));
    return *select((node.children & on_path & bit(c)) != 0, child, &nowhere);
  }
  // A wide node that walks do not reach in step.
  [[gnu::always_inline]] inline Ref<Key> step_wide(Number i) {
    const Node<Key>& node = *at[i].node();
    if (!node.on_path(key[i])) return {};
    const Entry<Key>* from = node.entries() + chunk(key[i], node.depth);
    note(i, from);
    return from->raw_child();
  }
  template <class Buckets>
  [[gnu::always_inline]] inline void read_bucket(Number i) {
    const Bucket<Key> here = at[i].bucket();
    const unsigned found = Buckets::matches(here, key[i]);
    const std::uint32_t* slot = here.slots() + std::countr_zero(found | 1u << Bucket<Key>::kMost);
    best[i] = select(found != 0, slot, best[i]);
  }
};

// The wide nodes of all walks, each level after the other; what they stand before then is on its way.
template <class Key>
[[gnu::always_inline]] inline void search_top(Walks<Key>& w, Ref<Key> root, std::uint8_t count) {
  using Number = typename Walks<Key>::Number;
  using Chunks = typename Walks<Key>::Chunks;
  unsigned depth = 0;
  if (root.is_wide() && root.node()->whole()) {
    const Node<Key>& node = *root.node();
    depth = node.depth + 2 * kStride;
    const Chunks first{node.depth}, second{node.depth + kStride}, third{depth};
    for (Number i = 0; i < count; ++i) w.step_root(i, node, first, second, third);
  } else if (root.is_node()) {
    depth = root.node()->depth + kStride;
    const Chunks chunks{depth};
    for (Number i = 0; i < count; ++i) {
      w.at[i] = root;
      w.go_in_step(i, root.is_wide() ? w.step_wide(i) : w.step_small(i), chunks);
    }
  } else {
    for (Number i = 0; i < count; ++i) w.go(i, root);
  }
  while (w.wides != 0) {
    depth += kStride;
    const Chunks chunks{depth};
    const std::size_t wides = w.wides;
    w.wides = 0;
    for (std::size_t n = 0; n < wides; ++n) {
      const Number i = w.wide[n];
      const Entry<Key>* entry = w.entry[i];
      w.note_unsure(i, entry);
      w.go_in_step(i, entry->raw_child(), chunks);
    }
  }
}

template <class Buckets, class Key>
[[gnu::always_inline]] inline void search_group(Ref<Key> root, const std::uint8_t* const* addresses, std::size_t count,
                                                std::uint32_t* slots, std::uint32_t nobody) {
  using Number = typename Walks<Key>::Number;
  Walks<Key> w;
  w.wides = w.buckets = w.others = 0;
  for (std::size_t i = 0; i < count; ++i) {
    w.key[i] = load_key<Key>(addresses[i]);
    w.best[i] = &nobody;
  }
  search_top(w, root, static_cast<Number>(count));
  std::size_t read = 0;
  const auto read_buckets = [&](std::size_t to) __attribute__((always_inline)) {
    for (; read < to; ++read) w.template read_bucket<Buckets>(w.bucket[read]);
  };
  while (w.others != 0) {
    const std::size_t others = w.others, asked = w.buckets;
    w.others = 0;
    for (std::size_t n = 0; n < others; ++n) {
      const Number i = w.other[n];
      w.go(i, w.at[i].kind() == Ref<Key>::kSmall ? w.step_small(i) : w.step_wide(i));
    }
    read_buckets(std::min(asked, read + 8));  // while few walks wait for memory
  }
  read_buckets(w.buckets);
  for (std::size_t i = 0; i < count; ++i) slots[i] = *w.best[i];
}

template <class Buckets, class Key>
[[gnu::always_inline]] inline void search_all(Ref<Key> root, const std::uint8_t* const* addresses, std::size_t count,
                                              std::uint32_t* slots, std::uint32_t nobody) {
  for (std::size_t first = 0; first < count; first += 64)
    search_group<Buckets>(root, addresses + first, std::min<std::size_t>(64, count - first), slots + first, nobody);
}

// The same code for machines of all ages: counting bits is an instruction on all but the oldest.
template <class Key>
void search_plain(Ref<Key> root, const std::uint8_t* const* addresses, std::size_t count, std::uint32_t* slots,
                  std::uint32_t nobody) {
  search_all<PlainBuckets>(root, addresses, count, slots, nobody);
}
#ifdef __x86_64__
#pragma GCC diagnostic push
#ifndef __clang__  // gcc 12's own _mm512_undefined_epi32(), an operand it never reads
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif
#define WG_ROUTE_AVX2 "avx2,bmi,bmi2,lzcnt,popcnt"
#define WG_ROUTE_AVX512 "avx512f,avx512vl,avx512bw,avx512dq," WG_ROUTE_AVX2

struct Avx2Buckets : PlainBuckets {
  using PlainBuckets::matches;
  [[gnu::target(WG_ROUTE_AVX2)]] static inline unsigned matches(Bucket<std::uint32_t> bucket, std::uint32_t key) {
    const unsigned first = eight(bucket, key, 0);
    return bucket.count() <= 8 ? first : first | eight(bucket, key, 8) << 8;
  }

 private:
  [[gnu::target(WG_ROUTE_AVX2)]] static inline unsigned eight(Bucket<std::uint32_t> bucket, std::uint32_t key,
                                                              unsigned from) {
    const __m256i lanes = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    const __m256i there = _mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<int>(bucket.count() - from)), lanes);
    const auto* octets = reinterpret_cast<const __m128i*>(bucket.lengths() + from);
    const __m256i unused = _mm256_sub_epi32(_mm256_set1_epi32(32), _mm256_cvtepu8_epi32(_mm_loadl_epi64(octets)));
    const __m256i keys = _mm256_maskload_epi32(reinterpret_cast<const int*>(bucket.keys()) + from, there);
    const __m256i differ = _mm256_srlv_epi32(_mm256_xor_si256(keys, _mm256_set1_epi32(static_cast<int>(key))), unused);
    const __m256i equal = _mm256_and_si256(_mm256_cmpeq_epi32(differ, _mm256_setzero_si256()), there);
    return static_cast<unsigned>(_mm256_movemask_ps(_mm256_castsi256_ps(equal)));
  }
};
struct Avx512Buckets {
  // Keys behind the last are slots, or of the next block: looked at, and not taken.
  [[gnu::target(WG_ROUTE_AVX512)]] static inline unsigned matches(Bucket<std::uint32_t> bucket, std::uint32_t key) {
    const auto there = static_cast<__mmask16>((1u << bucket.count()) - 1);
    const __m512i lengths = _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(bucket.lengths())));
    const __m512i unused = _mm512_sub_epi32(_mm512_set1_epi32(32), lengths);
    // A load waits for its lines even if it takes nothing from them: none touches one that has no keys.
    const std::uint8_t* at = bucket.keys();
    const __m512i keys = _mm512_inserti64x4(
        _mm512_castsi256_si512(_mm256_maskz_loadu_epi32(static_cast<__mmask8>(there), at)),
        _mm256_maskz_loadu_epi32(static_cast<__mmask8>(there >> 8), at + std::size_t{bucket.count() > 8} * 32), 1);
    const __m512i differ = _mm512_srlv_epi32(_mm512_xor_si512(keys, _mm512_set1_epi32(static_cast<int>(key))), unused);
    return _mm512_mask_testn_epi32_mask(there, differ, differ);
  }
  // Four keys in a vector, each as it lies: its lower half first. Shifts of 64 and more leave nothing.
  [[gnu::target(WG_ROUTE_AVX512)]] static inline unsigned matches(Bucket<Key128> bucket, Key128 key) {
    const unsigned count = bucket.count(), there = (1u << 2 * count) - 1;
    const __m512i both =
        _mm512_broadcast_i32x4(_mm_set_epi64x(static_cast<long long>(key >> 64), static_cast<long long>(key)));
    const __m512i bits = _mm512_broadcast_i32x4(_mm_set_epi64x(64, 128));
    const __m128i octets = _mm_loadu_si128(reinterpret_cast<const __m128i*>(bucket.lengths()));
    const __m128i twice = _mm_setr_epi8(0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7);
    const auto same = [&](__m512i keys, __m128i length) __attribute__((target(WG_ROUTE_AVX512))) {
      const __m512i unused = _mm512_subs_epu16(bits, _mm512_cvtepu8_epi64(length));
      const __m512i differ = _mm512_srlv_epi64(_mm512_xor_si512(keys, both), unused);
      return static_cast<unsigned>(_mm512_testn_epi64_mask(differ, differ));
    };
    // A load waits for its lines even if it takes nothing from them: none touches one that has no keys.
    const std::uint8_t* at = bucket.keys();
    const __m512i first = _mm512_inserti64x4(
        _mm512_castsi256_si512(_mm256_maskz_loadu_epi64(static_cast<__mmask8>(there & 15), at)),
        _mm256_maskz_loadu_epi64(static_cast<__mmask8>(there >> 4 & 15), at + std::size_t{count > 2} * 32), 1);
    const auto line = (reinterpret_cast<std::uintptr_t>(at) & ~std::uintptr_t{63}) + std::uintptr_t{count > 4} * 64;
    const __m512i second =
        _mm512_maskz_load_epi64(static_cast<__mmask8>(there >> 8), reinterpret_cast<const void*>(line));
    const __m128i lengths = _mm_shuffle_epi8(octets, twice);
    unsigned halves = same(first, lengths) | same(second, _mm_srli_si128(lengths, 8)) << 8;
    if (count > 8) {
      const __m512i third = _mm512_maskz_loadu_epi64(static_cast<__mmask8>(there >> 16), at + 128);
      halves |= same(third, _mm_shuffle_epi8(octets, _mm_add_epi8(twice, _mm_set1_epi8(8)))) << 16;
    }
    halves &= there;
    return _pext_u32(halves & halves >> 1, 0x555555);
  }
};
template <class Key>
[[gnu::target(WG_ROUTE_AVX2)]] void search_avx2(Ref<Key> root, const std::uint8_t* const* addresses, std::size_t count,
                                                std::uint32_t* slots, std::uint32_t nobody) {
  search_all<Avx2Buckets>(root, addresses, count, slots, nobody);
}
template <class Key>
[[gnu::target(WG_ROUTE_AVX512)]] void search_avx512(Ref<Key> root, const std::uint8_t* const* addresses,
                                                    std::size_t count, std::uint32_t* slots, std::uint32_t nobody) {
  search_all<Avx512Buckets>(root, addresses, count, slots, nobody);
}
[[nodiscard]] inline bool has_avx2() {
  return __builtin_cpu_supports("avx2") != 0 && __builtin_cpu_supports("bmi2") != 0;
}
[[nodiscard]] inline bool has_avx512() {
  return has_avx2() && __builtin_cpu_supports("avx512vl") != 0 && __builtin_cpu_supports("avx512bw") != 0 &&
         __builtin_cpu_supports("avx512dq") != 0;
}
template <class Key>
void search(Ref<Key> root, const std::uint8_t* const* addresses, std::size_t count, std::uint32_t* slots,
            std::uint32_t nobody) {
  static const auto best = has_avx512() ? search_avx512<Key> : has_avx2() ? search_avx2<Key> : search_plain<Key>;
  best(root, addresses, count, slots, nobody);
}
#pragma GCC diagnostic pop
#else
template <class Key>
void search(Ref<Key> root, const std::uint8_t* const* addresses, std::size_t count, std::uint32_t* slots,
            std::uint32_t nobody) {
  search_plain(root, addresses, count, slots, nobody);
}
#endif

}  // namespace wireplane::route
