// limbs.h: Poly1305 of eight at a time: numbers in three limbs, the blocks of a message, and the tags.
#pragma once
#include "dataplane/aead/avx512/group.h"

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

// Limbs < 2^57 in; out v0 < 2^44 + 2^18, v1 < 2^44 + 2^13, v2 < 2^42 + 2^13, the same number mod p. Every limb hands on
// what it had before its neighbour's came: the chain of h is shorter by that, and nothing asks for less.
INLINE Limbs carry(const Limbs& d) {
  const Vector mask44 = set1(kMask44);
  return {_mm512_madd52lo_epu64(_mm512_and_si512(d.v0, mask44), _mm512_srli_epi64(d.v2, 42), set1(5)),
          _mm512_add_epi64(_mm512_and_si512(d.v1, mask44), _mm512_srli_epi64(d.v0, 44)),
          _mm512_add_epi64(_mm512_and_si512(d.v2, set1(kMask42)), _mm512_srli_epi64(d.v1, 44))};
}

// One limb after the other. Limbs < 2^60 in; out v0 < 2^44 + 2^21, v1 < 2^44, v2 < 2^42.
INLINE Limbs carry_through(Limbs d) {
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
  Limbs h = carry_through(sum);
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

}  // namespace
}  // namespace wireplane
