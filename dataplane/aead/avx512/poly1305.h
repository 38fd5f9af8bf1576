// poly1305.h: Poly1305 of the AVX-512 kernel: across eight packets, in strands of two, of one alone; and the tags.
#pragma once
#include "dataplane/aead/avx512/group.h"
#include "dataplane/aead/poly1305_scalar.h"

namespace wireplane {
namespace {  // of the one kernel file that includes this

struct Limbs {  // of eight numbers
  Vector v0, v1, v2;
};
struct Factor {               // a power of r, ready to multiply
  Vector r0, r1, r2, s1, s2;  // s = 20 r
};
struct Product {  // low and high halves, apart until fold()
  Vector low0, low1, low2, high0, high1, high2;
};

INLINE Vector set1(u64 value) { return _mm512_set1_epi64(static_cast<long long>(value)); }
constexpr u64 kMask44 = (u64{1} << 44) - 1, kMask42 = (u64{1} << 42) - 1;
constexpr u64 kHighBit = u64{1} << 40;  // 2^128 in limb 2
constexpr u64 kClampLow = 0x0ffffffc0fffffff, kClampHigh = 0x0ffffffc0ffffffc;

INLINE Factor factor(const Limbs& r) {
  const Vector zero = _mm512_setzero_si512(), twenty = set1(20);
  return {r.v0, r.v1, r.v2, _mm512_madd52lo_epu64(zero, r.v1, twenty), _mm512_madd52lo_epu64(zero, r.v2, twenty)};
}

INLINE Product nothing() {
  const Vector zero = _mm512_setzero_si512();
  return {zero, zero, zero, zero, zero, zero};
}

INLINE void multiply_add(Product& d, const Limbs& h, const Factor& r) {
  d.low0 = _mm512_madd52lo_epu64(d.low0, h.v0, r.r0), d.high0 = _mm512_madd52hi_epu64(d.high0, h.v0, r.r0);
  d.low1 = _mm512_madd52lo_epu64(d.low1, h.v0, r.r1), d.high1 = _mm512_madd52hi_epu64(d.high1, h.v0, r.r1);
  d.low2 = _mm512_madd52lo_epu64(d.low2, h.v0, r.r2), d.high2 = _mm512_madd52hi_epu64(d.high2, h.v0, r.r2);
  d.low0 = _mm512_madd52lo_epu64(d.low0, h.v1, r.s2), d.high0 = _mm512_madd52hi_epu64(d.high0, h.v1, r.s2);
  d.low1 = _mm512_madd52lo_epu64(d.low1, h.v1, r.r0), d.high1 = _mm512_madd52hi_epu64(d.high1, h.v1, r.r0);
  d.low2 = _mm512_madd52lo_epu64(d.low2, h.v1, r.r1), d.high2 = _mm512_madd52hi_epu64(d.high2, h.v1, r.r1);
  d.low0 = _mm512_madd52lo_epu64(d.low0, h.v2, r.s1), d.high0 = _mm512_madd52hi_epu64(d.high0, h.v2, r.s1);
  d.low1 = _mm512_madd52lo_epu64(d.low1, h.v2, r.s2), d.high1 = _mm512_madd52hi_epu64(d.high1, h.v2, r.s2);
  d.low2 = _mm512_madd52lo_epu64(d.low2, h.v2, r.r0), d.high2 = _mm512_madd52hi_epu64(d.high2, h.v2, r.r0);
}

// Joins the halves: limbs < 2^57. The high half of d2 has weight 2^(88 + 52) = 2^140 = 2^8 * 2^132: 20 * 2^8 in limb 0.
INLINE Limbs fold(const Product& d) {
  return {_mm512_madd52lo_epu64(d.low0, d.high2, set1(20 << 8)),
          _mm512_add_epi64(d.low1, _mm512_slli_epi64(d.high0, 8)),
          _mm512_add_epi64(d.low2, _mm512_slli_epi64(d.high1, 8))};
}

// Limbs < 2^60 in; out v0 < 2^44 + 2^21, v1 < 2^44, v2 < 2^42, the same number mod p.
INLINE Limbs carry(Limbs d) {
  const Vector mask44 = set1(kMask44);
  d.v1 = _mm512_add_epi64(d.v1, _mm512_srli_epi64(d.v0, 44)), d.v0 = _mm512_and_si512(d.v0, mask44);
  d.v2 = _mm512_add_epi64(d.v2, _mm512_srli_epi64(d.v1, 44)), d.v1 = _mm512_and_si512(d.v1, mask44);
  d.v0 = _mm512_madd52lo_epu64(d.v0, _mm512_srli_epi64(d.v2, 42), set1(5)),
  d.v2 = _mm512_and_si512(d.v2, set1(kMask42));
  return d;
}

INLINE Limbs multiply(const Limbs& a, const Factor& b) {
  Product d = nothing();
  multiply_add(d, a, b);
  return carry(fold(d));
}

INLINE Limbs split(Vector low, Vector high) {  // 128 bits into limbs, v2 < 2^40
  const Vector mask44 = set1(kMask44);
  const Vector middle = _mm512_or_si512(_mm512_srli_epi64(low, 44), _mm512_slli_epi64(high, 20));
  return {_mm512_and_si512(low, mask44), _mm512_and_si512(middle, mask44), _mm512_srli_epi64(high, 24)};
}

INLINE Limbs add(const Limbs& a, const Limbs& b) {
  return {_mm512_add_epi64(a.v0, b.v0), _mm512_add_epi64(a.v1, b.v1), _mm512_add_epi64(a.v2, b.v2)};
}

INLINE Limbs load_limbs(const u64 (&from)[3][kMaxGroup], u32 first) {
  return {load(&from[0][first]), load(&from[1][first]), load(&from[2][first])};
}
INLINE void store_limbs(u64 (&to)[3][kMaxGroup], u32 first, const Limbs& x) {
  store(&to[0][first], x.v0), store(&to[1][first], x.v1), store(&to[2][first], x.v2);
}

// The powers of packets [first, first + 8).
INLINE Limbs clamped_r(const Group& group, u32 first) {  // RFC 8439 §2.5
  return split(_mm512_and_si512(load(&group.one_time[0][first]), set1(kClampLow)),
               _mm512_and_si512(load(&group.one_time[1][first]), set1(kClampHigh)));
}

INLINE void powers_of_eight(Group& group, u32 first, bool eighth) {
  group.powers = true;
  const Limbs r = clamped_r(group, first);
  const Factor by_r = factor(r);
  const Limbs r2 = multiply(r, by_r), r3 = multiply(r2, by_r), r4 = multiply(r2, factor(r2));
  store_limbs(group.power[kR1], first, r);
  store_limbs(group.power[kR2], first, r2);
  store_limbs(group.power[kR3], first, r3);
  store_limbs(group.power[kR4], first, r4);
  if (eighth) store_limbs(group.power[kR8], first, multiply(r4, factor(r4)));
}

// What Poly1305 reads: the ciphertext, aligned at its end. Row i of `rows` holds octets [64 i - shift, 64 i - shift +
// 64).
struct Message {
  const u8* text;
  u32 length;
  u32 shift;  // a multiple of 16
};
INLINE u32 poly_blocks(u32 length) { return (length + 15) / 16 + 1; }
INLINE u32 poly_rows(u32 length) { return (poly_blocks(length) + 3) / 4; }
INLINE Message message(const u8* text, u32 length, u32 rows) {
  return {text, length, 64 * rows - 16 * poly_blocks(length)};
}
INLINE const u8* row_at(const Message& m, u32 i) {  // may begin before the text: only octets that exist are loaded
  return reinterpret_cast<const u8*>(reinterpret_cast<std::uintptr_t>(m.text) + u64{i} * 64 - m.shift);
}
// Which octets of row i there are.
INLINE __mmask64 row_octets(const Message& m, u32 i) {
  const u32 before = m.shift > 64 * i ? m.shift - 64 * i : 0;
  const u32 until = m.length + m.shift > 64 * i ? m.length + m.shift - 64 * i : 0;
  return first_octets(until) & ~first_octets(before);
}
// Any row, with zeros before the beginning and behind the end.
INLINE Vector edge_row(const Message& m, u32 i) { return _mm512_maskz_loadu_epi8(row_octets(m, i), row_at(m, i)); }
// The blocks of row i that exist, as bits 0-3.
INLINE u32 row_blocks(const Message& m, u32 i) {
  const u32 missing = m.shift > 64 * i ? (m.shift - 64 * i) / 16 : 0;
  return missing >= 4 ? 0 : 0xfu & (0xfu << missing);
}

// --- tags ---

// h mod p, plus s mod 2^128, of packets [first, first + 8).
INLINE void tags_of_eight(Group& group, u32 first, const Limbs& sum) {
  const Vector mask44 = set1(kMask44), mask42 = set1(kMask42);
  Limbs h = carry(sum);
  // A second round: v0 < 2^44 + 2^21 may carry one, up to v2 = 2^42. Then h - 2^130 < 2^21, and 5 in its place ends it.
  h.v1 = _mm512_add_epi64(h.v1, _mm512_srli_epi64(h.v0, 44)), h.v0 = _mm512_and_si512(h.v0, mask44);
  h.v2 = _mm512_add_epi64(h.v2, _mm512_srli_epi64(h.v1, 44)), h.v1 = _mm512_and_si512(h.v1, mask44);
  h.v0 = _mm512_madd52lo_epu64(h.v0, _mm512_srli_epi64(h.v2, 42), set1(5)), h.v2 = _mm512_and_si512(h.v2, mask42);
  // Now h < 2^130. h >= p = 2^130 - 5 exactly if h + 5 reaches 2^130; then h + 5 - 2^130 is the result.
  Limbs g = h;
  g.v0 = _mm512_add_epi64(g.v0, set1(5));
  g.v1 = _mm512_add_epi64(g.v1, _mm512_srli_epi64(g.v0, 44)), g.v0 = _mm512_and_si512(g.v0, mask44);
  g.v2 = _mm512_add_epi64(g.v2, _mm512_srli_epi64(g.v1, 44)), g.v1 = _mm512_and_si512(g.v1, mask44);
  const __mmask8 reaches = _mm512_cmpgt_epu64_mask(g.v2, mask42);
  h.v0 = _mm512_mask_mov_epi64(h.v0, reaches, g.v0);
  h.v1 = _mm512_mask_mov_epi64(h.v1, reaches, g.v1);
  h.v2 = _mm512_mask_mov_epi64(h.v2, reaches, g.v2);  // bit 42 and above leave below
  const Vector low = _mm512_or_si512(h.v0, _mm512_slli_epi64(h.v1, 44));
  const Vector high = _mm512_or_si512(_mm512_srli_epi64(h.v1, 20), _mm512_slli_epi64(h.v2, 24));
  const Vector tag_low = _mm512_add_epi64(low, load(&group.one_time[2][first]));
  const Vector sum_high = _mm512_add_epi64(high, load(&group.one_time[3][first]));
  const __mmask8 carried = _mm512_cmplt_epu64_mask(tag_low, low);
  store(&group.tag[0][first], tag_low);
  store(&group.tag[1][first], _mm512_mask_add_epi64(sum_high, carried, sum_high, set1(1)));
}

// --- Poly1305 across eight packets ---

// Rows of eight packets to columns: column c holds the low (even c) or high half of block c / 2 of each.
INLINE void transpose_rows(const Vector row[8], Vector column[8]) {
  Vector a[8];
  for (int i = 0; i < 8; i += 2) {
    a[i] = _mm512_unpacklo_epi64(row[i], row[i + 1]);
    a[i + 1] = _mm512_unpackhi_epi64(row[i], row[i + 1]);
  }
  for (int half = 0; half < 2;
       ++half) {  // a[half + 0, 2, 4, 6]: quarter q of a[half + 2 k] = block q of packets 2k, 2k + 1
    const Vector b0 = _mm512_shuffle_i64x2(a[half], a[half + 2], 0x44),
                 b1 = _mm512_shuffle_i64x2(a[half], a[half + 2], 0xee);
    const Vector b2 = _mm512_shuffle_i64x2(a[half + 4], a[half + 6], 0x44);
    const Vector b3 = _mm512_shuffle_i64x2(a[half + 4], a[half + 6], 0xee);
    column[half] = _mm512_shuffle_i64x2(b0, b2, 0x88);
    column[2 + half] = _mm512_shuffle_i64x2(b0, b2, 0xdd);
    column[4 + half] = _mm512_shuffle_i64x2(b1, b3, 0x88);
    column[6 + half] = _mm512_shuffle_i64x2(b1, b3, 0xdd);
  }
}

// The last blocks of eight rows (their octets 48-63) to columns, in the order of the packets.
INLINE void transpose_last_blocks(const Message m[8], u32 i, Vector& low, Vector& high) {
  const auto four = [&](int k) {
    const auto block = [&](int packet) {
      return _mm_loadu_si128(reinterpret_cast<const __m128i*>(row_at(m[packet], i) + 48));
    };
    Vector v = _mm512_castsi128_si512(block(k));
    v = _mm512_inserti64x2(v, block(k + 2), 1);
    v = _mm512_inserti64x2(v, block(k + 4), 2);
    return _mm512_inserti64x2(v, block(k + 6), 3);
  };
  const Vector even = four(0), odd = four(1);
  low = _mm512_unpacklo_epi64(even, odd);
  high = _mm512_unpackhi_epi64(even, odd);
}

// Tags of packets [first, first + 8); those beyond the group's count repeat its last, and nobody reads their tags.
template <bool sealing>
NOINLINE void poly_across(Group& group, u32 first) {
  Message m[8];
  u64 lengths[8];
  const u32 end = first + 8 < group.count ? first + 8 : group.count;
  const u32 longest = group.packet[end - 1].length, shortest = group.packet[first].length, rows = poly_rows(longest);
  for (u32 k = 0; k < 8; ++k) {
    const Packet& packet = group.packet[first + k < end ? first + k : end - 1];
    m[k] = message(sealing ? packet.out : packet.text, packet.length, rows);
    lengths[k] = packet.length;
  }
  const bool same = longest == shortest;                    // then one mask serves all eight
  const u32 first_full = rows - poly_blocks(shortest) / 4;  // from this row on, all packets have all four blocks

  const Limbs r = clamped_r(group, first);
  const Factor by_r = factor(r);
  const Limbs r2 = multiply(r, by_r);
  const Factor by_r2 = factor(r2), by_r3 = factor(multiply(r2, by_r)), by_r4 = factor(multiply(r2, by_r2));
  Limbs h = {_mm512_setzero_si512(), _mm512_setzero_si512(), _mm512_setzero_si512()};
  const Vector high_bit = set1(kHighBit);
  u32 i = 0;
  if (same && rows > 1 && m[0].shift == 48) {  // a multiple of 64 octets: the first row has only its last block
    Vector low, high;
    transpose_last_blocks(m, 0, low, high);
    Limbs block = split(low, high);
    block.v2 = _mm512_or_si512(block.v2, high_bit);
    h = multiply(block, by_r);
    i = 1;
  }
  for (; i < rows; ++i) {
    Vector row[8], column[8];
    const bool last = i + 1 == rows, whole = i >= first_full;
    if (whole && !last) {
      for (int k = 0; k < 8; ++k) row[k] = load(row_at(m[k], i));
    } else if (same) {
      const __mmask64 octets = row_octets(m[0], i);
      for (int k = 0; k < 8; ++k) row[k] = _mm512_maskz_loadu_epi8(octets, row_at(m[k], i));
    } else {
      for (int k = 0; k < 8; ++k) row[k] = edge_row(m[k], i);
    }
    transpose_rows(row, column);
    if (last) column[7] = load(lengths);  // RFC 8439 §2.8: length of the additional data (0), length of the text

    Limbs block[4];
    u32 present = 0xf;  // columns in which at least one packet has a block
    for (int b = 0; b < 4; ++b) block[b] = split(column[2 * b], column[2 * b + 1]);
    if (whole) {
      for (int b = 0; b < 4; ++b) block[b].v2 = _mm512_or_si512(block[b].v2, high_bit);
    } else {
      u32 has[4] = {};
      present = 0;
      for (u32 k = 0; k < 8; ++k) {
        const u32 blocks = row_blocks(m[k], i);
        present |= blocks;
        for (u32 b = 0; b < 4; ++b) has[b] |= (blocks >> b & 1) << k;
      }
      for (int b = 0; b < 4; ++b) {
        block[b].v2 = _mm512_mask_or_epi64(block[b].v2, static_cast<__mmask8>(has[b]), block[b].v2, high_bit);
      }
    }
    Product d = nothing();
    multiply_add(d, block[3], by_r);
    if (present & 4) multiply_add(d, block[2], by_r2);
    if (present & 2) multiply_add(d, block[1], by_r3);
    if (present & 1 || i != 0) multiply_add(d, add(h, block[0]), by_r4);
    h = carry(fold(d));
  }
  tags_of_eight(group, first, h);
}

// --- Poly1305 in strands ---

INLINE Vector of_pair(const u64* two) {  // the pair's two values in all four strands
  return _mm512_broadcast_i64x2(_mm_loadu_si128(reinterpret_cast<const __m128i*>(two)));
}
INLINE Factor factor_of_pair(const Group& group, Power power, u32 first) {
  const auto& limbs = group.power[power];
  return factor({of_pair(&limbs[0][first]), of_pair(&limbs[1][first]), of_pair(&limbs[2][first])});
}
INLINE Factor falling_powers(const Group& group, u32 first) {  // r^4 in the first strand, r in the last
  const auto strands = [&](int limb) {
    const auto two = [&](Power power) {
      return _mm_loadu_si128(reinterpret_cast<const __m128i*>(&group.power[power][limb][first]));
    };
    Vector v = _mm512_castsi128_si512(two(kR4));
    v = _mm512_inserti64x2(v, two(kR3), 1);
    v = _mm512_inserti64x2(v, two(kR2), 2);
    return _mm512_inserti64x2(v, two(kR1), 3);
  };
  return factor({strands(0), strands(1), strands(2)});
}

// Two rows side by side: block k of the first in lane 2 k, of the second in lane 2 k + 1.
INLINE Limbs two_rows(const u8* a, const u8* b) {
  const Vector x = load(a), y = load(b);
  Limbs both = split(_mm512_unpacklo_epi64(x, y), _mm512_unpackhi_epi64(x, y));
  both.v2 = _mm512_or_si512(both.v2, set1(kHighBit));
  return both;
}
// The same for rows with a beginning or an end; in the lanes `last`, the block is the one with the lengths.
INLINE Limbs two_edge_rows(const Message& a, u32 row_a, const Message& b, u32 row_b, u32 last) {
  const Vector x = edge_row(a, row_a), y = edge_row(b, row_b);
  const Vector lengths = _mm512_broadcast_i64x2(_mm_set_epi64x(b.length, a.length));
  const Vector high = _mm512_mask_mov_epi64(_mm512_unpackhi_epi64(x, y), static_cast<__mmask8>(last), lengths);
  Limbs both = split(_mm512_unpacklo_epi64(x, y), high);
  const u32 has = _pdep_u32(row_blocks(a, row_a), 0x55) | _pdep_u32(row_blocks(b, row_b), 0xaa);
  both.v2 = _mm512_mask_or_epi64(both.v2, static_cast<__mmask8>(has), both.v2, set1(kHighBit));
  return both;
}

INLINE Limbs sum_of_strands(const Limbs& h) {  // in the lowest two lanes
  const auto sum = [](Vector v) {
    const __m256i half = _mm256_add_epi64(_mm512_castsi512_si256(v), _mm512_extracti64x4_epi64(v, 1));
    return _mm512_castsi128_si512(_mm_add_epi64(_mm256_castsi256_si128(half), _mm256_extracti128_si256(half, 1)));
  };
  return {sum(h.v0), sum(h.v1), sum(h.v2)};
}

// Packets first and first + 1 of the group (the latter may be missing).
template <bool sealing>
NOINLINE void poly_pair(Group& group, u32 first) {
  const Packet& a = group.packet[first];
  const Packet& b = group.packet[first + 1 < group.count ? first + 1 : first];
  const u32 longest = a.length > b.length ? a.length : b.length, shortest = a.length < b.length ? a.length : b.length;
  const u32 rows = poly_rows(longest);
  const Message m[2] = {message(sealing ? a.out : a.text, a.length, rows),
                        message(sealing ? b.out : b.text, b.length, rows)};
  const u32 first_full = rows - poly_blocks(shortest) / 4;

  const Factor by_r4 = factor_of_pair(group, kR4, first);
  Limbs h = {_mm512_setzero_si512(), _mm512_setzero_si512(), _mm512_setzero_si512()};
  u32 i = 0;
  for (; i + 1 < rows && (i < first_full || (rows - 1 - i) % 2 != 0); ++i) {
    h = multiply(
        add(h, i < first_full ? two_edge_rows(m[0], i, m[1], i, 0) : two_rows(row_at(m[0], i), row_at(m[1], i))),
        by_r4);
  }
  if (i + 1 < rows) {
    const Factor by_r8 = factor_of_pair(group, kR8, first);
    for (; i + 1 < rows; i += 2) {
      Product d = nothing();
      const Limbs row0 = two_rows(row_at(m[0], i), row_at(m[1], i));
      const Limbs row1 = two_rows(row_at(m[0], i + 1), row_at(m[1], i + 1));
      multiply_add(d, row1, by_r4);
      multiply_add(d, add(h, row0), by_r8);
      h = carry(fold(d));
    }
  }
  Product d = nothing();
  multiply_add(d, add(h, two_edge_rows(m[0], i, m[1], i, 0xc0)), falling_powers(group, first));
  const Limbs sum = sum_of_strands(fold(d));  // < 2^59
  _mm_storeu_si128(reinterpret_cast<__m128i*>(&group.sum[0][first]), _mm512_castsi512_si128(sum.v0));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(&group.sum[1][first]), _mm512_castsi512_si128(sum.v1));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(&group.sum[2][first]), _mm512_castsi512_si128(sum.v2));
}

// --- Poly1305 of one packet ---

using Word = unsigned long long;  // what the carry intrinsics take

// A short one, in general registers.
template <bool sealing>
NOINLINE void poly_scalar(Group& group, u32 p) {
  const Packet& packet = group.packet[p];
  const u8* const text = sealing ? packet.out : packet.text;
  Poly h = poly_start(group.one_time[0][p], group.one_time[1][p]);
  u32 at = 0;
  for (; at + 16 <= packet.length; at += 16) {
    u64 m[2];
    __builtin_memcpy(m, text + at, 16);
    absorb(h, m[0], m[1]);
  }
  if (at < packet.length) {
    const __m128i rest = _mm_maskz_loadu_epi8(static_cast<__mmask16>(first_octets(packet.length - at)), text + at);
    absorb(h, static_cast<u64>(_mm_cvtsi128_si64(rest)), static_cast<u64>(_mm_extract_epi64(rest, 1)));
  }
  absorb(h, 0, packet.length);
  group.sum[0][p] = h.h0 & kMask44;
  group.sum[1][p] = (h.h0 >> 44 | h.h1 << 20) & kMask44;
  group.sum[2][p] = h.h1 >> 24 | h.h2 << 40;
}

// A longer one: strands of eight blocks, two rows side by side: h = (h + rows) r^8, in steps of two, and at the end
// r^8 r^4 r^7 r^3 r^6 r^2 r^5 r in the lanes.
template <bool sealing>
NOINLINE void poly_solo(Group& group, u32 p) {
  const Packet& packet = group.packet[p];
  const u32 steps = (poly_blocks(packet.length) + 7) / 8;
  const Message m = message(sealing ? packet.out : packet.text, packet.length, 2 * steps);

  const Limbs r = split(set1(group.one_time[0][p] & kClampLow), set1(group.one_time[1][p] & kClampHigh));
  const Limbs one = {set1(1), _mm512_setzero_si512(), _mm512_setzero_si512()};
  const auto choose = [](__mmask8 lanes, const Limbs& a, const Limbs& b) -> Limbs {
    return {_mm512_mask_mov_epi64(b.v0, lanes, a.v0), _mm512_mask_mov_epi64(b.v1, lanes, a.v1),
            _mm512_mask_mov_epi64(b.v2, lanes, a.v2)};
  };
  const Limbs r2 = multiply(r, factor(r)), r4 = multiply(r2, factor(r2)), r8 = multiply(r4, factor(r4));
  Limbs falling = choose(0x33, r2, r);                         // lanes 0 1 4 5: r^2, else r
  falling = multiply(falling, factor(choose(0x0f, r2, one)));  // lanes 0-3: r^4 r^4 r^3 r^3
  falling = multiply(falling, factor(choose(0x55, r4, one)));  // even lanes: r^4 more

  const Factor by_r8 = factor(r8);
  Limbs h = {_mm512_setzero_si512(), _mm512_setzero_si512(), _mm512_setzero_si512()};
  u32 i = 0;
  if (i + 1 < steps) h = multiply(two_edge_rows(m, 0, m, 1, 0), by_r8), ++i;
  if ((steps - 1 - i) % 2 != 0) h = multiply(add(h, two_rows(row_at(m, 2 * i), row_at(m, 2 * i + 1))), by_r8), ++i;
  if (i + 1 < steps) {
    const Factor by_r16 = factor(multiply(r8, by_r8));
    for (; i + 1 < steps; i += 2) {
      Product d = nothing();
      multiply_add(d, two_rows(row_at(m, 2 * i + 2), row_at(m, 2 * i + 3)), by_r8);
      multiply_add(d, add(h, two_rows(row_at(m, 2 * i), row_at(m, 2 * i + 1))), by_r16);
      h = carry(fold(d));
    }
  }
  Product d = nothing();
  multiply_add(d, add(h, two_edge_rows(m, 2 * i, m, 2 * i + 1, 0x80)), factor(falling));
  const Limbs sum = fold(d);  // < 2^57, eight of them < 2^60
  group.sum[0][p] = static_cast<u64>(_mm512_reduce_add_epi64(sum.v0));
  group.sum[1][p] = static_cast<u64>(_mm512_reduce_add_epi64(sum.v1));
  group.sum[2][p] = static_cast<u64>(_mm512_reduce_add_epi64(sum.v2));
}

template <bool sealing>
INLINE void poly_one(Group& group, u32 p) {
  if (group.packet[p].length <= kScalarLongest) {
    poly_scalar<sealing>(group, p);
  } else {
    poly_solo<sealing>(group, p);
  }
}

// --- tags, by whichever way ---

// As tags_of_eight, for one packet.
INLINE void tag_of_one(Group& group, u32 p) {
  u64 h0 = group.sum[0][p], h1 = group.sum[1][p], h2 = group.sum[2][p];  // < 2^60
  for (int round = 0; round < 2; ++round) {
    h1 += h0 >> 44, h0 &= kMask44;
    h2 += h1 >> 44, h1 &= kMask44;
    h0 += 5 * (h2 >> 42), h2 &= kMask42;
  }
  const u64 g0 = h0 + 5, g1 = h1 + (g0 >> 44), g2 = h2 + (g1 >> 44);
  const u64 reaches = u64{0} - (g2 >> 42);  // all ones if h >= p
  h0 = (h0 & ~reaches) | (g0 & kMask44 & reaches);
  h1 = (h1 & ~reaches) | (g1 & kMask44 & reaches);
  h2 = (h2 & ~reaches) | (g2 & reaches);
  Word low, high;
  const unsigned char carried = _addcarry_u64(0, h0 | h1 << 44, group.one_time[2][p], &low);
  _addcarry_u64(carried, h1 >> 20 | h2 << 24, group.one_time[3][p], &high);
  group.tag[0][p] = low, group.tag[1][p] = high;
}

// Tags of packets [first, end), at most eight, or a pair of long ones. Sorted: the longest is the last. Across pays the
// longest for all eight; strands pay a fixed price a pair; one at a time is for one, and for two that differ much.
template <bool sealing>
INLINE void poly1305(Group& group, u32 first, u32 end) {
  const u32 shortest = group.packet[first].length, longest = group.packet[end - 1].length;
  const u32 column = first & ~7u;
  if (group.count <= 2 && (group.count == 1 || longest - shortest >= kSoloSpread)) {
    for (u32 p = first; p < end; ++p) poly_one<sealing>(group, p), tag_of_one(group, p);
    return;
  }
  const bool across = end - first >= kAcrossAtLeast && longest - shortest < 64 && longest <= kAcrossLongest;
  if (across) return poly_across<sealing>(group, first);
  if (first == column) {
    const u32 last = column + 8 < group.count ? column + 7 : group.count - 1;
    powers_of_eight(group, first, group.packet[last].length >= 128);
  }
  for (u32 p = first; p < end; p += 2) poly_pair<sealing>(group, p);
  tags_of_eight(group, column, load_limbs(group.sum, column));
}

}  // namespace
}  // namespace wireplane
