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
#include <cstddef>
#include <cstdint>

#include "dataplane/route/trie.h"

namespace wireplane::route {

// A bucket's longest prefix that holds a key, as one bit of a mask: the lowest is the longest.
struct PlainBuckets {
  template <class Key>
  [[gnu::always_inline]] static unsigned matches(const Bucket<Key>& bucket, Key key) {
    unsigned found = 0;
    for (unsigned i = 0; i < bucket.count; ++i)
      found |= static_cast<unsigned>(masked(static_cast<Key>(bucket.key(i) ^ key), bucket.length[i]) == 0) << i;
    return found;
  }
};

template <class Buckets, class Key>
[[gnu::always_inline]] inline void search_group(Ref<Key> root, const std::uint8_t* const* addresses, std::size_t count,
                                                std::uint32_t* slots, std::uint32_t nobody) {
  constexpr std::size_t kGroup = 64;
  static constexpr Ref<Key> kNowhere{};
  Key keys[kGroup];
  Ref<Key> at[kGroup];
  const Ref<Key>* next[kGroup];
  const std::uint32_t* best[kGroup];
  std::uint8_t walking[kGroup], in_bucket[kGroup];
  std::size_t walks = root.is_node() ? count : 0, buckets = root.is_bucket() ? count : 0;
  for (std::size_t i = 0; i < count; ++i) {
    keys[i] = load_key<Key>(addresses[i]);
    at[i] = root;
    best[i] = &nobody;
    walking[i] = in_bucket[i] = static_cast<std::uint8_t>(i);
  }
  while (walks != 0) {
    for (std::size_t w = 0; w < walks; ++w) {
      const std::size_t i = walking[w];
      const Node<Key>& node = *at[i].node();
      const std::uint64_t on_path = node.on_path(keys[i]) ? ~std::uint64_t{0} : 0;
      const unsigned c = chunk(keys[i], node.depth);
      const std::uint64_t matches = node.prefixes & kPrefixesOf[c] & on_path;
      const unsigned longest = 63 - static_cast<unsigned>(std::countl_zero(matches | 1));
      const std::uint32_t* value = &node.value(longest)->slot;
      best[i] = matches != 0 ? value : best[i];
      const Ref<Key>* child = node.child_at() + ones(node.children & below(c));
      next[i] = (node.children & on_path & bit(c)) != 0 ? child : &kNowhere;
      __builtin_prefetch(next[i]);
      __builtin_prefetch(best[i]);
    }
    std::size_t still = 0;
    for (std::size_t w = 0; w < walks; ++w) {
      const std::uint8_t i = walking[w];
      const Ref<Key> to = *next[i];
      at[i] = to;
      // Into L2: two lines side by side then come almost as one (README.md). A number: there may be no block.
      const auto block = reinterpret_cast<std::uintptr_t>(to.block());
      __builtin_prefetch(reinterpret_cast<const void*>(block), 0, 2);
      if constexpr (sizeof(Key) > 4) __builtin_prefetch(reinterpret_cast<const void*>(block + 64), 0, 2);
      walking[still] = i;
      still += to.is_node();
      in_bucket[buckets] = i;
      buckets += to.is_bucket();
    }
    walks = still;
  }
  for (std::size_t b = 0; b < buckets; ++b) {
    const std::size_t i = in_bucket[b];
    const Bucket<Key>& bucket = *at[i].bucket();
    const unsigned found = Buckets::matches(bucket, keys[i]);
    const std::uint32_t* slot = bucket.slot_at() + std::countr_zero(found | 1u << Bucket<Key>::kMost);
    best[i] = found != 0 ? slot : best[i];
  }
  for (std::size_t i = 0; i < count; ++i) slots[i] = *best[i];
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
struct Avx2Buckets : PlainBuckets {
  using PlainBuckets::matches;
  [[gnu::target("avx2,bmi,bmi2,lzcnt,popcnt")]] static inline unsigned matches(const Bucket<std::uint32_t>& bucket,
                                                                               std::uint32_t key) {
    // Lengths come with the count in front of them: lane 0 is nobody's.
    const __m256i lanes = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    const __m256i count = _mm256_set1_epi32(bucket.count);
    const __m256i there = _mm256_cmpgt_epi32(count, lanes);
    const __m128i head = _mm_srli_epi64(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(&bucket)), 8);
    const __m256i unused = _mm256_sub_epi32(_mm256_set1_epi32(32), _mm256_cvtepu8_epi32(head));
    const __m256i keys = _mm256_maskload_epi32(reinterpret_cast<const int*>(bucket.key_at()), there);
    const __m256i differ = _mm256_srlv_epi32(_mm256_xor_si256(keys, _mm256_set1_epi32(static_cast<int>(key))), unused);
    const __m256i equal = _mm256_and_si256(_mm256_cmpeq_epi32(differ, _mm256_setzero_si256()), there);
    return static_cast<unsigned>(_mm256_movemask_ps(_mm256_castsi256_ps(equal)));
  }
};
template <class Key>
[[gnu::target("avx2,bmi,bmi2,lzcnt,popcnt")]] void search_avx2(Ref<Key> root, const std::uint8_t* const* addresses,
                                                               std::size_t count, std::uint32_t* slots,
                                                               std::uint32_t nobody) {
  search_all<Avx2Buckets>(root, addresses, count, slots, nobody);
}
template <class Key>
void search(Ref<Key> root, const std::uint8_t* const* addresses, std::size_t count, std::uint32_t* slots,
            std::uint32_t nobody) {
  static const bool has_avx2 = __builtin_cpu_supports("avx2") != 0 && __builtin_cpu_supports("bmi2") != 0;
  return has_avx2 ? search_avx2(root, addresses, count, slots, nobody)
                  : search_plain(root, addresses, count, slots, nobody);
}
#else
template <class Key>
void search(Ref<Key> root, const std::uint8_t* const* addresses, std::size_t count, std::uint32_t* slots,
            std::uint32_t nobody) {
  search_plain(root, addresses, count, slots, nobody);
}
#endif

}  // namespace wireplane::route
