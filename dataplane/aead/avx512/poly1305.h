// poly1305.h: Poly1305 of the AVX-512 kernel: across packets, in strands of two, of one alone.
#pragma once
#include "dataplane/aead/avx512/limbs.h"
#include "dataplane/aead/poly1305_scalar.h"

namespace wireplane {
namespace {  // of the one kernel file that includes this

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

// --- Poly1305 across packets of one length ---

// Columns of eight packets from where the cipher's lanes wrote their rows; the last row may be shorter.
template <bool sealing>
INLINE void columns_of_eight(const Group& group, u32 first, u32 length, Vector* column) {
  const u32 end = first + 8 < group.count ? first + 8 : group.count;
  const u8* text[8];
  for (u32 k = 0; k < 8; ++k) {
    const Packet& packet = group.packet[first + k < end ? first + k : end - 1];
    text[k] = sealing ? packet.out : packet.text;
  }
  Vector row[8];
  u32 at = 0;
  for (; at + 64 <= length; at += 64) {
    for (int k = 0; k < 8; ++k) row[k] = load(text[k] + at);
    transpose_rows(row, column + at / 8);
  }
  if (at < length) {
    const __mmask64 octets = first_octets(length - at);
    for (int k = 0; k < 8; ++k) row[k] = _mm512_maskz_loadu_epi8(octets, text[k] + at);
    transpose_rows(row, column + at / 8);
  }
  const u32 last = 2 * (poly_blocks(length) - 1);
  column[last] = _mm512_setzero_si512();
  column[last + 1] = set1(length);  // RFC 8439 §2.8: length of the additional data (0), length of the text
}

// Horner by pairs of blocks, (h + m0) r^2 + m1 r: r^3 and r^4 would cost short packets more than they save. Short ones
// go two eights beside each other, because one alone waits for its own h.
template <bool sealing, int eights>
NOINLINE void poly_alike(Group& group, u32 first) {
  const u32 length = group.packet[first].length, blocks = poly_blocks(length);
  Factor by_r[eights], by_r2[eights];
  Limbs h[eights];
  Product d[eights];
  Vector* const text[2] = {group.text, group.text + kColumnsOfEight};
  const auto block = [&](int e, u32 b) {
    Limbs limbs = split(text[e][2 * b], text[e][2 * b + 1]);
    limbs.v2 = _mm512_or_si512(limbs.v2, set1(kHighBit));
    return limbs;
  };
  for (int e = 0; e < eights; ++e) columns_of_eight<sealing>(group, first + 8 * static_cast<u32>(e), length, text[e]);
  for (int e = 0; e < eights; ++e) {
    const Limbs r = clamped_r(group, first + 8 * static_cast<u32>(e));
    by_r[e] = factor(r);
    if (blocks > 1) by_r2[e] = factor(multiply(r, by_r[e]));  // not for a keepalive
  }
  u32 i = blocks & 1;
  for (int e = 0; e < eights; ++e) {
    d[e] = nothing();
    if (i == 0) {
      multiply_add(d[e], block(e, 0), by_r2[e]);
      multiply_add(d[e], block(e, 1), by_r[e]);
    } else {
      multiply_add(d[e], block(e, 0), by_r[e]);
    }
    h[e] = fold(d[e]);
  }
  for (i = i == 0 ? 2 : 1; i < blocks; i += 2) {
    for (int e = 0; e < eights; ++e) {
      d[e] = nothing();
      multiply_add(d[e], block(e, i + 1), by_r[e]);
      multiply_add(d[e], add(carry(h[e]), block(e, i)), by_r2[e]);
      h[e] = fold(d[e]);
    }
  }
  for (int e = 0; e < eights; ++e) tags_of_eight(group, first + 8 * static_cast<u32>(e), h[e]);
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
  const u32 first_full = rows - poly_blocks(shortest) / 4;  // from this row on, all packets have all four blocks

  const Limbs r = clamped_r(group, first);
  const Factor by_r = factor(r);
  const Limbs r2 = multiply(r, by_r);
  const Factor by_r2 = factor(r2), by_r3 = factor(multiply(r2, by_r)), by_r4 = factor(multiply(r2, by_r2));
  Limbs h = {_mm512_setzero_si512(), _mm512_setzero_si512(), _mm512_setzero_si512()};
  const Vector high_bit = set1(kHighBit);
  for (u32 i = 0; i < rows; ++i) {
    Vector row[8], column[8];
    const bool last = i + 1 == rows, whole = i >= first_full;
    if (whole && !last) {
      for (int k = 0; k < 8; ++k) row[k] = load(row_at(m[k], i));
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

// Tags of packets [first, end), at most eight, or sixteen short ones of one length, or a pair of long ones. Sorted: the
// longest is the last. Across pays the longest for all eight; strands pay a fixed price a pair; one at a time is for
// one, and for two that differ much.
template <bool sealing>
INLINE void poly1305(Group& group, u32 first, u32 end) {
  const u32 shortest = group.packet[first].length, longest = group.packet[end - 1].length;
  const u32 column = first & ~7u;
  if (group.count <= 2 && (group.count == 1 || longest - shortest >= kSoloSpread)) {
    for (u32 p = first; p < end; ++p) poly_one<sealing>(group, p), tag_of_one(group, p);
    return;
  }
  const bool enough = end - first >= kAcrossAtLeast;
  if (enough && longest == shortest && longest <= kAlikeLongest)
    return end - first > 8 ? poly_alike<sealing, 2>(group, first) : poly_alike<sealing, 1>(group, first);
  const bool across = enough && longest - shortest < 64 && longest <= kAcrossLongest;
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
