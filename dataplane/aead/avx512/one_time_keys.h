// one_time_keys.h: a group's keys by column, and block 0 of its packets: Poly1305's r and s.
#pragma once
#include "dataplane/aead/avx512/columns.h"

namespace wireplane {
namespace {  // of the one kernel file that includes this

// Packets' block 0, sixteen at a time: r and s stay vertical, only pairs of words become 64-bit columns.
INLINE void keep_one_time_keys(Group& group, u32 first, const Vector* x) {
  const Vector low = _mm512_setr_epi64(0, 1, 8, 9, 2, 3, 10, 11), high = _mm512_setr_epi64(4, 5, 12, 13, 6, 7, 14, 15);
  for (int i = 0; i < 4; ++i) {
    const Vector a = _mm512_unpacklo_epi32(x[2 * i], x[2 * i + 1]), b = _mm512_unpackhi_epi32(x[2 * i], x[2 * i + 1]);
    store(&group.one_time[i][first], _mm512_permutex2var_epi64(a, low, b));
    store(&group.one_time[i][first + 8], _mm512_permutex2var_epi64(a, high, b));
  }
}
NOINLINE void one_time_keys_of_sixteen(Group& group) {
  Lanes& lanes = group.columns_left;
  lanes_of_packets(lanes, 0, 0);
  Vector x[16];
  chacha20_vertical(group, lanes, x);
  keep_one_time_keys(group, 0, x);
}
NOINLINE void one_time_keys_of_thirty_two(Group& group) {
  for (u32 first = 0; first < kMaxGroup; first += kLanes) {
    store(&group.columns.block[first], _mm512_setzero_si512());
  }
  Vector* const x = group.late_stream.word;
  group.doubled = true;
  chacha20_first_words(halves(group.columns), x);
  keep_one_time_keys(group, 0, x);
  keep_one_time_keys(group, kLanes, x + 8);
}

// Block 1 of sixteen packets beside their block 0: the first state's tail brings the text, and the second's is not
// wanted, for r and s stay vertical.
NOINLINE void one_time_keys_and_first_columns(Group& group) {
  alignas(64) static constexpr u32 kNumbers[2 * kLanes] = {1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1};
  group.doubled = true;
  const Lanes* const half[2] = {&group.columns_left, group.right};
  for (u32 i = 0; i < 2; ++i) {
    const u32* const columns = group.columns.word[0] + i * kLanes;
    chacha20_of_lanes({columns, columns, kNumbers}, *half[i], *half[1 - i], 0, group.late_stream, {nullptr, 0},
                      nullptr);
    if (half[i]->full != 0xffff) cipher_edges(group, *half[i], i * kLanes);
    keep_one_time_keys(group, i * kLanes, group.late_stream.word);
  }
}

// block_zero of packets [first, first + 8) to one_time.
INLINE void transpose_one_time_keys(Group& group, u32 first) {
  Vector two[4];  // packets 2 i and 2 i + 1
  for (u32 i = 0; i < 4; ++i) {
    const __m256i* const row = reinterpret_cast<const __m256i*>(group.block_zero[first + 2 * i]);
    two[i] = _mm512_inserti64x4(_mm512_castsi256_si512(_mm256_loadu_si256(row)), _mm256_loadu_si256(row + 2), 1);
  }
  for (long long i = 0; i < 4; ++i) {
    const Vector pick = _mm512_setr_epi64(i, 4 + i, 8 + i, 12 + i, i, 4 + i, 8 + i, 12 + i);
    const Vector low = _mm512_permutex2var_epi64(two[0], pick, two[1]);
    store(&group.one_time[i][first], _mm512_shuffle_i64x2(low, _mm512_permutex2var_epi64(two[2], pick, two[3]), 0x44));
  }
}

// Keys and counters of packets [first, first + 16) into their columns; packets beyond the group repeat its last.
NOINLINE void transpose_keys(Group& group, u32 first) {
  const auto packet = [&](u32 i) -> const Packet& {
    return group.packet[first + i < group.count ? first + i : group.count - 1];
  };
  Vector x[8], y[8];
  for (u32 i = 0; i < 8; ++i) {  // x[i] = key i and key i + 8
    const __m256i low = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(packet(i).key));
    const __m256i high = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(packet(i + 8).key));
    x[i] = _mm512_inserti64x4(_mm512_castsi256_si512(low), high, 1);
  }
  // quarters: words 0-3 and 4-7 of keys i.. and i+8..
  for (int i = 0; i < 8; i += 4) transpose_quarters(x + i, y + i);
  const Vector even = _mm512_setr_epi64(0, 1, 8, 9, 4, 5, 12, 13), odd = _mm512_setr_epi64(2, 3, 10, 11, 6, 7, 14, 15);
  for (unsigned w = 0; w < 4; ++w) {
    store(&group.columns.word[kKeyRow + w][first], _mm512_permutex2var_epi64(y[w], even, y[4 + w]));
    store(&group.columns.word[kKeyRow + 4 + w][first], _mm512_permutex2var_epi64(y[w], odd, y[4 + w]));
  }
  for (u32 i = 0; i < kLanes; ++i) {
    group.columns.word[kCounterRow][first + i] = static_cast<u32>(packet(i).counter);
    group.columns.word[kCounterRow + 1][first + i] = static_cast<u32>(packet(i).counter >> 32);
  }
}

INLINE void broadcast_key(Group& group) {  // of the group's only packet; its lanes ask for column 0 only
  const Packet& packet = group.packet[0];
  for (unsigned w = 0; w < 8; ++w) {
    int word;
    __builtin_memcpy(&word, packet.key + 4 * w, 4);
    store(&group.columns.word[kKeyRow + w][0], _mm512_set1_epi32(word));
  }
  store(&group.columns.word[kCounterRow][0], _mm512_set1_epi32(static_cast<int>(packet.counter)));
  store(&group.columns.word[kCounterRow + 1][0], _mm512_set1_epi32(static_cast<int>(packet.counter >> 32)));
}

}  // namespace
}  // namespace wireplane
