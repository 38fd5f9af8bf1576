// clang-format off
// avx512.cpp: ChaCha20-Poly1305 for bursts, on AVX-512 F, VL, BW, DQ and IFMA.
//
// Libraries compute a packet at a time: of the 16 lanes of a 512-bit register a 64-octet packet fills two, and Poly1305 is
// one long chain. Here a *group* of up to 32 packets is computed together, whatever their keys and lengths.
//
//   burst -> group (sorted by length) -> 1 one-time keys   ChaCha20 block 0 of every packet
//                                        2 cipher          all other blocks of all packets, 16 or 32 at a time
//                                        3 tags            Poly1305: eight packets at once, or pairs of long ones
//   seal does 1, then 2 and 3 eight packets at a time (a pair, of long ones), while the cache still holds them. open does
//   1 and 3, compares, and 2 for the packets that verified. No other plaintext is ever written.
//
// ChaCha20 (RFC 8439 §2.3). A *lane* is one block: any (packet, block number). Sixteen lanes fill sixteen registers, one a
// state word. The group's keys lie transposed in memory, and a permute by the lanes' packet numbers brings them together:
//
//              lane   0       1       2        15
//    word  4      key0(p0) key0(p0) key0(p1) .. key0(p7)    <- permute        mixed lengths and sessions cost nothing:
//    word 12         1        2        1     ..    9        <- block number   lanes are taken from one list, packet by
//    word 14      n(p0)    n(p0)    n(p1)    .. n(p7)       <- permute        packet; only a group's last pass has idle ones
//
//   After 20 rounds a 16x16 transpose makes a lane's 64 octets a register again. Two such states at once keep all 32 registers
//   and both kinds of pipes busy (chacha20_of_two). Up to 8 lanes are computed the other way round, four (two) blocks in the
//   four rows of a state: half the latency.
//
// Poly1305 (RFC 8439 §2.5). h and r are three limbs of 44, 44 and 42 bits, h = h0 + 2^44 h1 + 2^88 h2; vpmadd52 multiplies
// them in eight 64-bit lanes and adds the low or the high 52 bits of the product. Since 2^132 = 4 * 2^130 = 20 (mod p):
//
//    d0 = h0 r0 + h1 20r2 + h2 20r1      low halves have the weight of d, high halves that of d times 2^52,
//    d1 = h0 r1 + h1 r0   + h2 20r2      which is 2^8 times the next limb's
//    d2 = h0 r2 + h1 r1   + h2 r0
//
//   Messages are aligned at their ends: what is missing at the front are zero blocks without the 2^128 bit, and they leave h at 0.
//   So packets of different lengths end together, and the last block is always the one with the lengths. A *row* is 64 octets,
//   four blocks, of one packet.
//   - across: lanes are eight packets. A row of each is transposed, then h = (h + m0) r^4 + m1 r^3 + m2 r^2 + m3 r.
//   - strands: lanes are two packets times four blocks. h = (h + row) r^4, in steps of two rows; the last row is multiplied by
//     r^4 r^3 r^2 r, and the four strands are added. Better for long packets and for unequal ones.
//   - one packet alone: eight strands of its own, or, when it is short, general registers (poly1305_scalar.h).
//
// Bounds, all sums of four blocks: m0, m1 < 2^44, m2 < 2^41. r^k: r0 < 2^44 + 2^21, r1 < 2^44, r2 < 2^42, so 20 r1, 20 r2 < 2^48.4.
// h after carry() as r^k; h + m: below 2^45.1, 2^45, 2^42.6. All are below the 52 bits that vpmadd52 reads. A low half is < 2^52;
// a high half of d0 or d1 < 2^(45.1 + 48.4 - 52) = 2^41.5, twelve of them times 2^8 < 2^53.1; so limbs stay < 2^56. d2 has no factor 20:
// its high halves sum to less than 7.5 * 2^36 (three blocks of 1.5 * 2^36, one with h of 3 * 2^36), and times 20 * 2^8 that is
// < 2^51.3: fold() may multiply it by vpmadd52, too.
//
// Constant time: lengths, block numbers, and which packets verified are public and may be branched on; nothing else is.
// Secrets live in Group, which is wiped, and in registers and spills, which leave_no_trace() clears.
// clang-format on
#pragma GCC diagnostic ignored "-Wuninitialized"  // gcc 12's own _mm512_undefined_epi32(), an operand it never reads
#ifndef __clang__
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif
#include <immintrin.h>

#include "dataplane/aead/aead_kernels.h"
#include "dataplane/aead/cpu.h"
#include "dataplane/aead/poly1305_for_test.h"
#include "dataplane/aead/poly1305_scalar.h"

// One bit of 128, without a branch before it is one. A function of its own, so that a test can read its instructions
// (aead_constant_time_test): valgrind cannot run the rest of this file.
extern "C" __attribute__((noinline)) bool aead_avx512_tags_equal(const std::uint64_t* low, const std::uint64_t* high,
                                                                 const std::uint8_t* sent) {
  std::uint64_t theirs[2];
  __builtin_memcpy(theirs, sent, sizeof theirs);
  return ((theirs[0] ^ *low) | (theirs[1] ^ *high)) == 0;
}

namespace wireplane {
namespace {

using Vector = __m512i;
using u8 = std::uint8_t;
using u16 = std::uint16_t;
using u32 = std::uint32_t;
using u64 = std::uint64_t;

#define INLINE static inline __attribute__((always_inline))
#define NOINLINE __attribute__((noinline))

constexpr u32 kMaxGroup = 32;  // packets computed together: two registers of 16 transposed key words
constexpr u32 kLanes = 16;     // ChaCha20 blocks in one pass
constexpr u32 kTag = 16;
constexpr u32 kLong = 2048;        // from here on the cache holds a pair of packets between cipher and tags, not eight
constexpr u32 kAcrossAtLeast = 5;  // packets, and
constexpr u32 kScalarLongest = 224;  // octets of a lone packet, where scalar Poly1305 beats eight strands
constexpr u32 kSoloSpread = 256;     // octets by which two packets differ, where each alone beats the pair
constexpr u32 kAcrossLongest = 512;  // octets, where Poly1305 across packets beats strands: measured, README.md

// One packet of a group, sorted. Octet i of the text comes from head[i] below head_length, from text[i] below body_end,
// and is zero (padding) above; `text` is the body's address minus head_length.
struct Packet {
  const u8* key;
  u64 counter;
  const u8* text;
  const u8* head;
  u8* out;
  u32 length;
  u32 head_length;
  u32 body_end;
  u32 blocks;      // of the text: ceil(length / 64); ChaCha20 numbers them from 1
  u32 full_first;  // blocks that lie whole inside the body, first and count
  u32 full_count;
  bool wanted;  // to be ciphered: in open, only what verified
};

// Which blocks a pass computes. Arrays are twice as long as a pass because take() writes whole registers.
struct Lanes {
  alignas(64) u32 packet[2 * kLanes];
  alignas(64) u32 block[2 * kLanes];
  u32 count = 0;
  u32 full = 0;  // bit i: lane i's block lies whole inside the body
};

struct alignas(64) Group {
  Packet packet[kMaxGroup];
  u32 count;
  bool powers;  // power[] and sum[] were used
  bool deep;    // a callee with a large frame ran: there is more to forget
  Lanes lanes[2];
  alignas(64) u32 sort_key[kMaxGroup];
  alignas(64) u32 sort_rank[kMaxGroup];
  u32 length[kMaxGroup];
  u8 order[kMaxGroup], kept[kMaxGroup];
  // All below is secret, and vertical: column p belongs to packet p.
  u32 key[8][kMaxGroup];
  u32 counter[2][kMaxGroup];
  u64 one_time[4][kMaxGroup];  // r low, r high, s low, s high
  u64 power[5][3][kMaxGroup];  // r, r^2, r^3, r^4, r^8 in limbs
  u64 sum[3][kMaxGroup];       // h before the last carry
  u64 tag[2][kMaxGroup];
  u64 block_zero[kMaxGroup][8];  // key stream of block 0, where it was not computed vertically
  u8 stream[kLanes][64];         // open: key stream that came along with block 0 and waits for the verdict
  u32 waiting_packet[kLanes], waiting_block[kLanes], waiting;
};
enum Power : unsigned { kR1, kR2, kR3, kR4, kR8 };

INLINE Vector load(const void* at) { return _mm512_loadu_si512(at); }
INLINE void store(void* at, Vector v) { _mm512_storeu_si512(at, v); }
INLINE __mmask64 first_octets(u32 count) { return count >= 64 ? ~u64{0} : _bzhi_u64(~u64{0}, count); }

// --- ChaCha20 ---

constexpr u32 kSigma[4] = {0x61707865, 0x3320646e, 0x79622d32, 0x6b206574};  // "expand 32-byte k"

INLINE void quarter_round(Vector& a, Vector& b, Vector& c, Vector& d) {  // RFC 8439 §2.1, in every lane
  a = _mm512_add_epi32(a, b);
  d = _mm512_rol_epi32(_mm512_xor_si512(d, a), 16);
  c = _mm512_add_epi32(c, d);
  b = _mm512_rol_epi32(_mm512_xor_si512(b, c), 12);
  a = _mm512_add_epi32(a, b);
  d = _mm512_rol_epi32(_mm512_xor_si512(d, a), 8);
  c = _mm512_add_epi32(c, d);
  b = _mm512_rol_epi32(_mm512_xor_si512(b, c), 7);
}

// Takes blocks [first, first + n) of packet p; n <= kLanes - count.
INLINE void take(Lanes& to, u32 p, const Packet& packet, u32 first, u32 n) {
  const Vector number = _mm512_add_epi32(_mm512_set1_epi32(static_cast<int>(first)),
                                         _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15));
  store(to.packet + to.count, _mm512_set1_epi32(static_cast<int>(p)));
  store(to.block + to.count, number);
  const Vector past = _mm512_sub_epi32(number, _mm512_set1_epi32(static_cast<int>(packet.full_first)));
  const u32 whole = _mm512_cmplt_epu32_mask(past, _mm512_set1_epi32(static_cast<int>(packet.full_count)));
  to.full |= _bzhi_u32(whole, n) << to.count;
  to.count += n;
}

// The place in the list of all blocks: packet by packet, from block 1.
struct Position {
  u32 packet = 0;
  u32 block = 1;
};

// Takes from the list, of packets before `end`, until the pass is full.
INLINE void fill(Lanes& lanes, const Group& group, Position& at, u32 end) {
  while (at.packet < end && lanes.count < kLanes) {
    const Packet& packet = group.packet[at.packet];
    const u32 left = packet.wanted ? packet.blocks + 1 - at.block : 0;
    const u32 room = kLanes - lanes.count;
    const u32 n = left < room ? left : room;
    if (n != 0) take(lanes, at.packet, packet, at.block, n);
    at.block += n;
    if (n == left) at = {at.packet + 1, 1};
  }
}

// x[w] holds word w of sixteen blocks; afterwards x[i] holds block i.
INLINE void transpose(Vector x[16]) {
  Vector y[16];
  for (int i = 0; i < 16;
       i += 4) {  // 4x4 words inside each quarter: y[i + k] has words i..i+3 of blocks k, 4+k, 8+k, 12+k
    const Vector a = _mm512_unpacklo_epi32(x[i], x[i + 1]), b = _mm512_unpackhi_epi32(x[i], x[i + 1]);
    const Vector c = _mm512_unpacklo_epi32(x[i + 2], x[i + 3]), d = _mm512_unpackhi_epi32(x[i + 2], x[i + 3]);
    y[i] = _mm512_unpacklo_epi64(a, c);
    y[i + 1] = _mm512_unpackhi_epi64(a, c);
    y[i + 2] = _mm512_unpacklo_epi64(b, d);
    y[i + 3] = _mm512_unpackhi_epi64(b, d);
  }
  for (int k = 0; k < 4; ++k) {  // 4x4 quarters
    const Vector a = _mm512_shuffle_i32x4(y[k], y[4 + k], 0x44), b = _mm512_shuffle_i32x4(y[k], y[4 + k], 0xee);
    const Vector c = _mm512_shuffle_i32x4(y[8 + k], y[12 + k], 0x44),
                 d = _mm512_shuffle_i32x4(y[8 + k], y[12 + k], 0xee);
    x[k] = _mm512_shuffle_i32x4(a, c, 0x88);
    x[4 + k] = _mm512_shuffle_i32x4(a, c, 0xdd);
    x[8 + k] = _mm512_shuffle_i32x4(b, d, 0x88);
    x[12 + k] = _mm512_shuffle_i32x4(b, d, 0xdd);
  }
}

// The initial state of sixteen blocks, a word a register.
template <bool constants>
INLINE void start_vertical(const Group& group, const Lanes& lanes, Vector start[16]) {
  const Vector who = _mm512_load_si512(lanes.packet);
  if (constants) {
    for (int i = 0; i < 4; ++i) start[i] = _mm512_set1_epi32(static_cast<int>(kSigma[i]));
    start[13] = _mm512_setzero_si512();
  }
  for (int i = 0; i < 8; ++i) {
    start[4 + i] = _mm512_permutex2var_epi32(load(&group.key[i][0]), who, load(&group.key[i][16]));
  }
  start[12] = _mm512_load_si512(lanes.block);
  for (int i = 0; i < 2; ++i) {
    start[14 + i] = _mm512_permutex2var_epi32(load(&group.counter[i][0]), who, load(&group.counter[i][16]));
  }
}

// Sixteen blocks; x[w] holds word w of each.
INLINE void chacha20_vertical(const Group& group, const Lanes& lanes, Vector x[16]) {
  Vector start[16];
  start_vertical<true>(group, lanes, start);
  for (int i = 0; i < 16; ++i) x[i] = start[i];
  for (int i = 0; i < 10; ++i) {
    quarter_round(x[0], x[4], x[8], x[12]);
    quarter_round(x[1], x[5], x[9], x[13]);
    quarter_round(x[2], x[6], x[10], x[14]);
    quarter_round(x[3], x[7], x[11], x[15]);
    quarter_round(x[0], x[5], x[10], x[15]);
    quarter_round(x[1], x[6], x[11], x[12]);
    quarter_round(x[2], x[7], x[8], x[13]);
    quarter_round(x[3], x[4], x[9], x[14]);
  }
  for (int i = 0; i < 16; ++i) {
    if (i != 13) x[i] = _mm512_add_epi32(x[i], start[i]);
  }
}

// clang-format off
// Thirty-two blocks: two states fill all 32 registers, and while one waits for its rotates (one or two pipes) the other
// adds. This is the one place with inline assembly: compilers move and spill registers here although none is missing,
// and lose a tenth of the cipher's speed (README.md). Every operation works in place on a fixed register; state two's
// registers are those of state one plus 16. A STEP is a quarter of a quarter round, for four columns or diagonals.
#define WG_ADD(a, b) "vpaddd %%zmm" #b ", %%zmm" #a ", %%zmm" #a "\n\t"
#define WG_XOR(d, a) "vpxord %%zmm" #a ", %%zmm" #d ", %%zmm" #d "\n\t"
#define WG_ROTATE(d, n) "vprold $" #n ", %%zmm" #d ", %%zmm" #d "\n\t"
#define WG_STEP(n, a0, a1, a2, a3, b0, b1, b2, b3, d0, d1, d2, d3)                                                \
  WG_ADD(a0, b0) WG_ADD(a1, b1) WG_ADD(a2, b2) WG_ADD(a3, b3)                                                     \
  WG_XOR(d0, a0) WG_XOR(d1, a1) WG_XOR(d2, a2) WG_XOR(d3, a3)                                                     \
  WG_ROTATE(d0, n) WG_ROTATE(d1, n) WG_ROTATE(d2, n) WG_ROTATE(d3, n)
#define WG_LOAD(i, at) "vmovdqa64 " #at "(%[state]), %%zmm" #i "\n\t"
#define WG_ADD_START(i, at) "vpaddd " #at "(%[state]), %%zmm" #i ", %%zmm" #i "\n\t"
#define WG_STORE(i, at) "vmovdqa64 %%zmm" #i ", " #at "(%[state])\n\t"
#define WG_CONSTANT(i, at) "vpbroadcastd " #at "(%[sigma]), %%zmm" #i "\n\t"
#define WG_ADD_CONSTANT(i, at) "vpaddd " #at "(%[sigma])%{1to16%}, %%zmm" #i ", %%zmm" #i "\n\t"
#define WG_ZERO(i) "vpxord %%zmm" #i ", %%zmm" #i ", %%zmm" #i "\n\t"
#define WG_FIRST_STATE(F) \
  F(4, 256) F(5, 320) F(6, 384) F(7, 448) F(8, 512) F(9, 576) F(10, 640) F(11, 704) F(12, 768) \
  F(14, 896) F(15, 960)
#define WG_SECOND_STATE(F) \
  F(20, 1280) F(21, 1344) F(22, 1408) F(23, 1472) F(24, 1536) F(25, 1600) F(26, 1664) F(27, 1728) \
  F(28, 1792) F(30, 1920) F(31, 1984)
// In: words 4-12, 14 and 15 of two states at state[0..15] and state[16..31]; words 0-3 and 13 are the same for all and need not
// be there. Out: the first state's key stream (not transposed) in x, the second's in state[16..31].
INLINE void chacha20_of_two(Vector state[32], Vector x[16]) {
  register Vector z0 __asm__("zmm0"), z1 __asm__("zmm1"), z2 __asm__("zmm2"), z3 __asm__("zmm3"), z4 __asm__("zmm4");
  register Vector z5 __asm__("zmm5"), z6 __asm__("zmm6"), z7 __asm__("zmm7"), z8 __asm__("zmm8"), z9 __asm__("zmm9");
  register Vector z10 __asm__("zmm10"), z11 __asm__("zmm11"), z12 __asm__("zmm12"), z13 __asm__("zmm13");
  register Vector z14 __asm__("zmm14"), z15 __asm__("zmm15");
  int rounds = 10;
  __asm__ volatile(
      WG_CONSTANT(0, 0) WG_CONSTANT(1, 4) WG_CONSTANT(2, 8) WG_CONSTANT(3, 12)
      WG_CONSTANT(16, 0) WG_CONSTANT(17, 4) WG_CONSTANT(18, 8) WG_CONSTANT(19, 12) WG_ZERO(13) WG_ZERO(29)
      WG_FIRST_STATE(WG_LOAD) WG_SECOND_STATE(WG_LOAD)
      ".p2align 5\n1:\n\t"
      WG_STEP(16, 0, 1, 2, 3, 4, 5, 6, 7, 12, 13, 14, 15)
      WG_STEP(16, 16, 17, 18, 19, 20, 21, 22, 23, 28, 29, 30, 31)
      WG_STEP(12, 8, 9, 10, 11, 12, 13, 14, 15, 4, 5, 6, 7)
      WG_STEP(12, 24, 25, 26, 27, 28, 29, 30, 31, 20, 21, 22, 23)
      WG_STEP(8, 0, 1, 2, 3, 4, 5, 6, 7, 12, 13, 14, 15)
      WG_STEP(8, 16, 17, 18, 19, 20, 21, 22, 23, 28, 29, 30, 31)
      WG_STEP(7, 8, 9, 10, 11, 12, 13, 14, 15, 4, 5, 6, 7)
      WG_STEP(7, 24, 25, 26, 27, 28, 29, 30, 31, 20, 21, 22, 23)
      WG_STEP(16, 0, 1, 2, 3, 5, 6, 7, 4, 15, 12, 13, 14)
      WG_STEP(16, 16, 17, 18, 19, 21, 22, 23, 20, 31, 28, 29, 30)
      WG_STEP(12, 10, 11, 8, 9, 15, 12, 13, 14, 5, 6, 7, 4)
      WG_STEP(12, 26, 27, 24, 25, 31, 28, 29, 30, 21, 22, 23, 20)
      WG_STEP(8, 0, 1, 2, 3, 5, 6, 7, 4, 15, 12, 13, 14)
      WG_STEP(8, 16, 17, 18, 19, 21, 22, 23, 20, 31, 28, 29, 30)
      WG_STEP(7, 10, 11, 8, 9, 15, 12, 13, 14, 5, 6, 7, 4)
      WG_STEP(7, 26, 27, 24, 25, 31, 28, 29, 30, 21, 22, 23, 20)
      "dec %[rounds]\n\tjnz 1b\n\t"
      WG_ADD_CONSTANT(16, 0) WG_ADD_CONSTANT(17, 4) WG_ADD_CONSTANT(18, 8) WG_ADD_CONSTANT(19, 12)
      WG_SECOND_STATE(WG_ADD_START)
      WG_STORE(16, 1024) WG_STORE(17, 1088) WG_STORE(18, 1152) WG_STORE(19, 1216) WG_STORE(29, 1856)
      WG_SECOND_STATE(WG_STORE)
      WG_ADD_CONSTANT(0, 0) WG_ADD_CONSTANT(1, 4) WG_ADD_CONSTANT(2, 8) WG_ADD_CONSTANT(3, 12)
      WG_FIRST_STATE(WG_ADD_START)
      : [rounds] "+r"(rounds), "=v"(z0), "=v"(z1), "=v"(z2), "=v"(z3), "=v"(z4), "=v"(z5), "=v"(z6), "=v"(z7), "=v"(z8),
        "=v"(z9), "=v"(z10), "=v"(z11), "=v"(z12), "=v"(z13), "=v"(z14), "=v"(z15)
      : [state] "r"(state), [sigma] "r"(kSigma)
      : "memory", "cc", "xmm16", "xmm17", "xmm18", "xmm19", "xmm20", "xmm21", "xmm22", "xmm23", "xmm24", "xmm25", "xmm26",
        "xmm27", "xmm28", "xmm29", "xmm30", "xmm31");
  const Vector all[16] = {z0, z1, z2, z3, z4, z5, z6, z7, z8, z9, z10, z11, z12, z13, z14, z15};
  for (int i = 0; i < 16; ++i) x[i] = all[i];
}
// clang-format on

// 4 * sets blocks, four in the rows of each state (a, b, c, d); x[i] = block i out. Lanes beyond the count repeat lane
// 0.
template <int sets>
INLINE void chacha20_rows(const Group& group, const Lanes& lanes, Vector* x) {
  Vector a[sets], b[sets], c[sets], d[sets], key0[sets], key1[sets], numbers[sets];
  const Vector sigma = _mm512_broadcast_i32x4(_mm_setr_epi32(static_cast<int>(kSigma[0]), static_cast<int>(kSigma[1]),
                                                             static_cast<int>(kSigma[2]), static_cast<int>(kSigma[3])));
  for (int s = 0; s < sets; ++s) {
    const Packet* p[4];
    u64 number[4];
    for (u32 i = 0; i < 4; ++i) {
      const u32 lane = 4 * static_cast<u32>(s) + i < lanes.count ? 4 * static_cast<u32>(s) + i : 0;
      p[i] = &group.packet[lanes.packet[lane]];
      number[i] = lanes.block[lane];
    }
    const auto four = [&p](int at) {
      Vector v = _mm512_castsi128_si512(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p[0]->key + at)));
      v = _mm512_inserti32x4(v, _mm_loadu_si128(reinterpret_cast<const __m128i*>(p[1]->key + at)), 1);
      v = _mm512_inserti32x4(v, _mm_loadu_si128(reinterpret_cast<const __m128i*>(p[2]->key + at)), 2);
      return _mm512_inserti32x4(v, _mm_loadu_si128(reinterpret_cast<const __m128i*>(p[3]->key + at)), 3);
    };
    key0[s] = four(0);
    key1[s] = four(16);
    const auto n = [&](int i) { return static_cast<long long>(number[i]); };
    const auto counter = [&](int i) { return static_cast<long long>(p[i]->counter); };
    numbers[s] = _mm512_setr_epi64(n(0), counter(0), n(1), counter(1), n(2), counter(2), n(3), counter(3));
    a[s] = sigma, b[s] = key0[s], c[s] = key1[s], d[s] = numbers[s];
  }
  for (int i = 0; i < 10; ++i) {
    for (int s = 0; s < sets; ++s) quarter_round(a[s], b[s], c[s], d[s]);
    for (int s = 0; s < sets; ++s) {
      b[s] = _mm512_shuffle_epi32(b[s], _MM_PERM_ENUM(0x39));
      c[s] = _mm512_shuffle_epi32(c[s], _MM_PERM_ENUM(0x4e));
      d[s] = _mm512_shuffle_epi32(d[s], _MM_PERM_ENUM(0x93));
    }
    for (int s = 0; s < sets; ++s) quarter_round(a[s], b[s], c[s], d[s]);
    for (int s = 0; s < sets; ++s) {
      b[s] = _mm512_shuffle_epi32(b[s], _MM_PERM_ENUM(0x93));
      c[s] = _mm512_shuffle_epi32(c[s], _MM_PERM_ENUM(0x4e));
      d[s] = _mm512_shuffle_epi32(d[s], _MM_PERM_ENUM(0x39));
    }
  }
  for (int s = 0; s < sets; ++s) {
    a[s] = _mm512_add_epi32(a[s], sigma), b[s] = _mm512_add_epi32(b[s], key0[s]);
    c[s] = _mm512_add_epi32(c[s], key1[s]), d[s] = _mm512_add_epi32(d[s], numbers[s]);
    const Vector t0 = _mm512_shuffle_i32x4(a[s], b[s], 0x44), t1 = _mm512_shuffle_i32x4(a[s], b[s], 0xee);
    const Vector t2 = _mm512_shuffle_i32x4(c[s], d[s], 0x44), t3 = _mm512_shuffle_i32x4(c[s], d[s], 0xee);
    x[4 * s] = _mm512_shuffle_i32x4(t0, t2, 0x88);
    x[4 * s + 1] = _mm512_shuffle_i32x4(t0, t2, 0xdd);
    x[4 * s + 2] = _mm512_shuffle_i32x4(t1, t3, 0x88);
    x[4 * s + 3] = _mm512_shuffle_i32x4(t1, t3, 0xdd);
  }
}

// 2 * sets blocks, two in the rows of each state, in 256-bit registers: there some processors rotate with less latency,
// and latency is all there is when lanes are few.
template <int sets>
INLINE void chacha20_half_rows(const Group& group, const Lanes& lanes, Vector* x) {
  using Half = __m256i;
  Half a[sets], b[sets], c[sets], d[sets], key0[sets], key1[sets], numbers[sets];
  const Half sigma =
      _mm256_broadcastsi128_si256(_mm_setr_epi32(static_cast<int>(kSigma[0]), static_cast<int>(kSigma[1]),
                                                 static_cast<int>(kSigma[2]), static_cast<int>(kSigma[3])));
  for (int s = 0; s < sets; ++s) {
    const u32 first = 2 * static_cast<u32>(s), second = first + 1 < lanes.count ? first + 1 : 0;
    const u32 lane0 = first < lanes.count ? first : 0;
    const Packet& p = group.packet[lanes.packet[lane0]];
    const Packet& q = group.packet[lanes.packet[second]];
    const auto two = [&](int at) {
      return _mm256_inserti128_si256(
          _mm256_castsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p.key + at))),
          _mm_loadu_si128(reinterpret_cast<const __m128i*>(q.key + at)), 1);
    };
    key0[s] = two(0);
    key1[s] = two(16);
    numbers[s] = _mm256_setr_epi64x(lanes.block[lane0], static_cast<long long>(p.counter), lanes.block[second],
                                    static_cast<long long>(q.counter));
    a[s] = sigma, b[s] = key0[s], c[s] = key1[s], d[s] = numbers[s];
  }
  const auto round = [&] {
    for (int s = 0; s < sets; ++s) {
      a[s] = _mm256_add_epi32(a[s], b[s]), d[s] = _mm256_rol_epi32(_mm256_xor_si256(d[s], a[s]), 16);
      c[s] = _mm256_add_epi32(c[s], d[s]), b[s] = _mm256_rol_epi32(_mm256_xor_si256(b[s], c[s]), 12);
      a[s] = _mm256_add_epi32(a[s], b[s]), d[s] = _mm256_rol_epi32(_mm256_xor_si256(d[s], a[s]), 8);
      c[s] = _mm256_add_epi32(c[s], d[s]), b[s] = _mm256_rol_epi32(_mm256_xor_si256(b[s], c[s]), 7);
    }
  };
  for (int i = 0; i < 10; ++i) {
    round();
    for (int s = 0; s < sets; ++s) {
      b[s] = _mm256_shuffle_epi32(b[s], 0x39), c[s] = _mm256_shuffle_epi32(c[s], 0x4e),
      d[s] = _mm256_shuffle_epi32(d[s], 0x93);
    }
    round();
    for (int s = 0; s < sets; ++s) {
      b[s] = _mm256_shuffle_epi32(b[s], 0x93), c[s] = _mm256_shuffle_epi32(c[s], 0x4e),
      d[s] = _mm256_shuffle_epi32(d[s], 0x39);
    }
  }
  for (int s = 0; s < sets; ++s) {
    a[s] = _mm256_add_epi32(a[s], sigma), b[s] = _mm256_add_epi32(b[s], key0[s]);
    c[s] = _mm256_add_epi32(c[s], key1[s]), d[s] = _mm256_add_epi32(d[s], numbers[s]);
    const auto join = [](Half low, Half high) { return _mm512_inserti64x4(_mm512_castsi256_si512(low), high, 1); };
    x[2 * s] = join(_mm256_permute2x128_si256(a[s], b[s], 0x20), _mm256_permute2x128_si256(c[s], d[s], 0x20));
    x[2 * s + 1] = join(_mm256_permute2x128_si256(a[s], b[s], 0x31), _mm256_permute2x128_si256(c[s], d[s], 0x31));
  }
}

// --- from key stream to text ---

// A block that touches the head, the padding or the end.
NOINLINE void cipher_edge(const Packet& packet, u32 block, Vector stream) {
  const u32 at = (block - 1) * 64;
  const u32 end = packet.length - at;                                      // octets of the text from here on
  const u32 head = packet.head_length > at ? packet.head_length - at : 0;  // of these, the head's
  const u32 body = packet.body_end > at ? packet.body_end - at : 0;        // and the head's and the body's
  const __mmask64 in_head = first_octets(head), in_body = first_octets(body) & ~in_head;  // beyond: padding, zero
  Vector text = _mm512_setzero_si512();
  if (in_body != 0)
    text = _mm512_maskz_loadu_epi8(in_body, packet.text + at);  // either may be absent, its pointer null
  if (head != 0) text = _mm512_or_si512(text, _mm512_maskz_loadu_epi8(in_head, packet.head + at));
  _mm512_mask_storeu_epi8(packet.out + at, first_octets(end), _mm512_xor_si512(text, stream));
}

INLINE void cipher(const Packet& packet, u32 block, Vector stream) {
  const u64 at = (u64{block} - 1) * 64;
  store(packet.out + at, _mm512_xor_si512(load(packet.text + at), stream));
}

// What becomes of the rows of a pass: block 0 is the packet's one-time key, the others are used at once, or wait.
template <bool wait, bool all_full>
INLINE void deliver(Group& group, const Lanes& lanes, u32 i, Vector row) {
  const u32 p = lanes.packet[i], block = lanes.block[i];
  const Packet& packet = group.packet[p];
  if (all_full) return cipher(packet, block, row);
  if (i >= lanes.count) return;
  if (block == 0) {
    store(group.block_zero[p], row);
  } else if (wait) {
    group.waiting_packet[group.waiting] = p;
    group.waiting_block[group.waiting] = block;
    store(group.stream[group.waiting++], row);
  } else if (lanes.full >> i & 1) {
    cipher(packet, block, row);
  } else {
    cipher_edge(packet, block, row);
  }
}

template <bool wait, int rows>
INLINE void deliver_rows(Group& group, const Lanes& lanes, const Vector* x) {
  if (!wait && rows == kLanes && lanes.full == 0xffff) {
#pragma GCC unroll 16
    for (u32 i = 0; i < rows; ++i) deliver<wait, true>(group, lanes, i, x[i]);
  } else {
#pragma GCC unroll 16
    for (u32 i = 0; i < rows; ++i) deliver<wait, false>(group, lanes, i, x[i]);
  }
}

template <bool wait>
NOINLINE void pass(Group& group, const Lanes& lanes) {
  Vector x[16];
  if (lanes.count <= 2) {
    chacha20_half_rows<1>(group, lanes, x);
    deliver_rows<wait, 2>(group, lanes, x);
  } else if (lanes.count <= 4) {
    chacha20_rows<1>(group, lanes, x);
    deliver_rows<wait, 4>(group, lanes, x);
  } else if (lanes.count <= 8) {
    chacha20_rows<2>(group, lanes, x);
    deliver_rows<wait, 8>(group, lanes, x);
  } else {
    chacha20_vertical(group, lanes, x);
    transpose(x);
    deliver_rows<wait, 16>(group, lanes, x);
  }
}

NOINLINE void double_pass(Group& group, const Lanes lanes[2]) {
  group.deep = true;
  Vector state[32], x[16];
  start_vertical<false>(group, lanes[0], state);
  start_vertical<false>(group, lanes[1], state + 16);
  chacha20_of_two(state, x);
  transpose(x);
  deliver_rows<false, 16>(group, lanes[0], x);
  for (int i = 0; i < 16; ++i) x[i] = state[16 + i];
  transpose(x);
  deliver_rows<false, 16>(group, lanes[1], x);
}

// Everything that was collected. A second pass of up to 8 lanes costs less by rows than as half of a double pass.
INLINE void pass_both(Group& group, Lanes lanes[2]) {
  if (lanes[1].count > 8) {
    double_pass(group, lanes);
  } else {
    if (lanes[0].count != 0) pass<false>(group, lanes[0]);
    if (lanes[1].count != 0) pass<false>(group, lanes[1]);
  }
  lanes[0].count = lanes[0].full = lanes[1].count = lanes[1].full = 0;
}

// Packets' block 0, sixteen at a time: r and s stay vertical, only pairs of words become 64-bit columns.
INLINE void keep_one_time_keys(Group& group, u32 first, const Vector* x) {
  const Vector low = _mm512_setr_epi64(0, 1, 8, 9, 2, 3, 10, 11), high = _mm512_setr_epi64(4, 5, 12, 13, 6, 7, 14, 15);
  for (int i = 0; i < 4; ++i) {
    const Vector a = _mm512_unpacklo_epi32(x[2 * i], x[2 * i + 1]), b = _mm512_unpackhi_epi32(x[2 * i], x[2 * i + 1]);
    store(&group.one_time[i][first], _mm512_permutex2var_epi64(a, low, b));
    store(&group.one_time[i][first + 8], _mm512_permutex2var_epi64(a, high, b));
  }
}
INLINE void lanes_of_block_zero(Lanes& lanes, u32 first) {
  store(lanes.packet, _mm512_add_epi32(_mm512_set1_epi32(static_cast<int>(first)),
                                       _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15)));
  store(lanes.block, _mm512_setzero_si512());
}
NOINLINE void one_time_keys_of_sixteen(Group& group) {
  Lanes lanes;
  lanes_of_block_zero(lanes, 0);
  Vector x[16];
  chacha20_vertical(group, lanes, x);
  keep_one_time_keys(group, 0, x);
}
NOINLINE void one_time_keys_of_thirty_two(Group& group) {
  group.deep = true;
  Lanes lanes[2];
  Vector state[32], x[16];
  for (u32 half = 0; half < 2; ++half) {
    lanes_of_block_zero(lanes[half], half * kLanes);
    start_vertical<false>(group, lanes[half], state + half * kLanes);
  }
  chacha20_of_two(state, x);
  keep_one_time_keys(group, 0, x);
  keep_one_time_keys(group, kLanes, state + kLanes);
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
  for (int i = 0; i < 8; i += 4) {  // quarters: words 0-3 and 4-7 of keys i.. and i+8..
    const Vector a = _mm512_unpacklo_epi32(x[i], x[i + 1]), b = _mm512_unpackhi_epi32(x[i], x[i + 1]);
    const Vector c = _mm512_unpacklo_epi32(x[i + 2], x[i + 3]), d = _mm512_unpackhi_epi32(x[i + 2], x[i + 3]);
    y[i] = _mm512_unpacklo_epi64(a, c);
    y[i + 1] = _mm512_unpackhi_epi64(a, c);
    y[i + 2] = _mm512_unpacklo_epi64(b, d);
    y[i + 3] = _mm512_unpackhi_epi64(b, d);
  }
  const Vector even = _mm512_setr_epi64(0, 1, 8, 9, 4, 5, 12, 13), odd = _mm512_setr_epi64(2, 3, 10, 11, 6, 7, 14, 15);
  for (int w = 0; w < 4; ++w) {
    store(&group.key[w][first], _mm512_permutex2var_epi64(y[w], even, y[4 + w]));
    store(&group.key[4 + w][first], _mm512_permutex2var_epi64(y[w], odd, y[4 + w]));
  }
  for (u32 i = 0; i < kLanes; ++i) {
    group.counter[0][first + i] = static_cast<u32>(packet(i).counter);
    group.counter[1][first + i] = static_cast<u32>(packet(i).counter >> 32);
  }
}

INLINE void broadcast_key(Group& group) {  // of the group's only packet; its lanes ask for column 0 only
  const Packet& packet = group.packet[0];
  for (int w = 0; w < 8; ++w) {
    int word;
    __builtin_memcpy(&word, packet.key + 4 * w, 4);
    store(&group.key[w][0], _mm512_set1_epi32(word));
  }
  store(&group.counter[0][0], _mm512_set1_epi32(static_cast<int>(packet.counter)));
  store(&group.counter[1][0], _mm512_set1_epi32(static_cast<int>(packet.counter >> 32)));
}

// --- Poly1305 ---

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
  group.deep = true;
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

// --- groups ---

// Steps 1 and, as far as it comes along, 2.
template <bool sealing>
INLINE void one_time_keys(Group& group, Position& at) {
  u32 total = group.count;
  for (u32 p = 0; p < group.count; ++p) total += group.packet[p].blocks;
  if (total > 8 && group.count == 1) {
    broadcast_key(group);
  } else if (total > 8) {
    transpose_keys(group, 0);
    if (group.count > kLanes) transpose_keys(group, kLanes);
  }
  u32 p = 0;
  if (group.count == kMaxGroup) {
    one_time_keys_of_thirty_two(group), p = kMaxGroup;
  } else if (group.count >= kLanes) {
    one_time_keys_of_sixteen(group), p = kLanes;
  }
  group.waiting = 0;
  const u32 rest = p;
  if (p < group.count) {
    Lanes lanes;
    for (; p < group.count; ++p) take(lanes, p, group.packet[p], 0, 1);
    lanes.full = 0;
    fill(lanes, group, at, group.count);
    pass<!sealing>(group, lanes);
    if (group.count == 1) {
      for (u32 i = 0; i < 4; ++i) group.one_time[i][0] = group.block_zero[0][i];
    } else {
      for (u32 first = rest; first < group.count; first += 8) transpose_one_time_keys(group, first);
    }
  }
}

// The packets whose tags are computed next: eight columns, or a pair of long ones.
INLINE u32 unit_end(const Group& group, u32 first) {
  const u32 eight = (first & ~7u) + 8 < group.count ? (first & ~7u) + 8 : group.count;
  if (first % 8 == 0 && group.packet[eight - 1].length < kLong) return eight;
  return first + 2 < group.count ? first + 2 : group.count;
}

INLINE void seal_group(Group& group) {
  Position at;
  one_time_keys<true>(group, at);
  Lanes* const lanes = group.lanes;
  lanes[0].count = lanes[0].full = lanes[1].count = lanes[1].full = 0;
  for (u32 first = 0, end; first < group.count; first = end) {
    end = unit_end(group, first);
    while (at.packet < end) {  // a pass takes blocks of the packets behind, too
      fill(lanes[0], group, at, group.count);
      fill(lanes[1], group, at, group.count);
      pass_both(group, lanes);
    }
    poly1305<true>(group, first, end);
  }
  for (u32 p = 0; p < group.count; ++p) {
    u8* const to = group.packet[p].out + group.packet[p].length;
    const __m128i tag =
        _mm_set_epi64x(static_cast<long long>(group.tag[1][p]), static_cast<long long>(group.tag[0][p]));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(to), tag);
  }
}

INLINE bool tag_matches(const Group& group, u32 p) {
  return aead_avx512_tags_equal(&group.tag[0][p], &group.tag[1][p], group.packet[p].text + group.packet[p].length);
}

INLINE void open_group(Group& group) {
  Position at;
  one_time_keys<false>(group, at);
  u32 waiting = 0;
  Lanes* const lanes = group.lanes;
  lanes[0].count = lanes[0].full = lanes[1].count = lanes[1].full = 0;
  for (u32 first = 0, end; first < group.count; first = end) {
    end = unit_end(group, first);
    poly1305<false>(group, first, end);
    for (u32 p = first; p < end; ++p) group.packet[p].wanted = tag_matches(group, p);
    for (; waiting < group.waiting && group.waiting_packet[waiting] < end; ++waiting) {
      const Packet& packet = group.packet[group.waiting_packet[waiting]];
      if (packet.wanted) cipher_edge(packet, group.waiting_block[waiting], load(group.stream[waiting]));
    }
    for (;;) {  // a pass that is not full waits for the packets behind
      fill(lanes[0], group, at, end);
      fill(lanes[1], group, at, end);
      if (lanes[1].count < kLanes && end < group.count) break;
      if (lanes[0].count == 0) break;
      pass_both(group, lanes);
    }
  }
}

// Columns that were used, and what lies in rows.
INLINE void wipe(Group& group) {
  const Vector zero = _mm512_setzero_si512();
  for (u32 p = group.count & ~(kLanes - 1); p < group.count; ++p) store(group.block_zero[p], zero);
  for (u32 i = 0; i < group.waiting; ++i) store(group.stream[i], zero);
  if (group.count == 1) {
    for (auto& row : group.one_time) row[0] = 0;
    for (auto& row : group.sum) row[0] = 0;
    if (group.packet[0].blocks < 8) return;  // by rows, from the caller's key
  }
  for (u32 first = 0; first < group.count; first += kLanes) {
    for (auto& row : group.key) store(&row[first], zero);
  }
  if (group.count == 1) return;
  for (u32 first = 0; first < group.count; first += 8) {
    for (auto& row : group.one_time) store(&row[first], zero);
    if (!group.powers) continue;
    for (auto& power : group.power) {
      for (auto& row : power) store(&row[first], zero);
    }
    for (auto& row : group.sum) store(&row[first], zero);
  }
}

// More than the deepest chain of callees' frames: see -fstack-usage, and aead_wiping_test, which searches what is left.
constexpr u32 kTrace = 2560, kTraceDeep = 5120;

// Registers, and the stack below: callees spilled there, and a double pass keeps its states there.
template <u32 octets>
NOINLINE void leave_no_trace() {
  alignas(64) u8 below[octets];
  for (u32 i = 0; i < octets; i += 64) _mm512_store_si512(below + i, _mm512_setzero_si512());
  __asm__ volatile("" : : "r"(below) : "memory");
  __asm__ volatile(
      "vpxord %%xmm16, %%xmm16, %%xmm16\n\tvpxord %%xmm17, %%xmm17, %%xmm17\n\tvpxord %%xmm18, %%xmm18, %%xmm18\n\t"
      "vpxord %%xmm19, %%xmm19, %%xmm19\n\tvpxord %%xmm20, %%xmm20, %%xmm20\n\tvpxord %%xmm21, %%xmm21, %%xmm21\n\t"
      "vpxord %%xmm22, %%xmm22, %%xmm22\n\tvpxord %%xmm23, %%xmm23, %%xmm23\n\tvpxord %%xmm24, %%xmm24, %%xmm24\n\t"
      "vpxord %%xmm25, %%xmm25, %%xmm25\n\tvpxord %%xmm26, %%xmm26, %%xmm26\n\tvpxord %%xmm27, %%xmm27, %%xmm27\n\t"
      "vpxord %%xmm28, %%xmm28, %%xmm28\n\tvpxord %%xmm29, %%xmm29, %%xmm29\n\tvpxord %%xmm30, %%xmm30, %%xmm30\n\t"
      "vpxord %%xmm31, %%xmm31, %%xmm31\n\tvzeroall"
      :
      :
      : "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10", "xmm11", "xmm12",
        "xmm13", "xmm14", "xmm15", "xmm16", "xmm17", "xmm18", "xmm19", "xmm20", "xmm21", "xmm22", "xmm23", "xmm24",
        "xmm25", "xmm26", "xmm27", "xmm28", "xmm29", "xmm30", "xmm31");
}

INLINE void forget(bool deep) {
  if (deep) {
    leave_no_trace<kTraceDeep>();
  } else {
    leave_no_trace<kTrace>();
  }
  __asm__ volatile("" : : : "memory");  // no tail call: after a jump its frame would lie where ours is, not below it
}

// The order of up to 32 jobs by length: rank = how many are smaller. Keys differ in their low bits, so ranks do.
INLINE void sort_by_length(Group& group, u32 count) {
  u32 *const key = group.sort_key, *const rank = group.sort_rank;
  const u32* const length = group.length;
  u8* const order = group.order;
  bool sorted = true;
  for (u32 i = 0; i < count; ++i) {
    key[i] = length[i] << 5 | i;
    order[i] = static_cast<u8>(i);
    sorted &= i == 0 || length[i - 1] <= length[i];
  }
  if (sorted) return;
  for (u32 i = count; i < kMaxGroup; ++i) key[i] = ~0u;
  const Vector key0 = load(key), key1 = load(key + kLanes), one = _mm512_set1_epi32(1);
  Vector rank0 = _mm512_setzero_si512(), rank1 = rank0;
  for (u32 i = 0; i < count; ++i) {
    const Vector other = _mm512_set1_epi32(static_cast<int>(key[i]));
    rank0 = _mm512_mask_add_epi32(rank0, _mm512_cmplt_epu32_mask(other, key0), rank0, one);
    rank1 = _mm512_mask_add_epi32(rank1, _mm512_cmplt_epu32_mask(other, key1), rank1, one);
  }
  store(rank, rank0);
  store(rank + kLanes, rank1);
  for (u32 i = 0; i < count; ++i) order[rank[i]] = static_cast<u8>(i);
}

INLINE void find_full_blocks(Packet& packet) {
  packet.blocks = (packet.length + 63) / 64;
  packet.full_first = (packet.head_length + 63) / 64 + 1;
  const u32 end = packet.body_end / 64 + 1;  // one past the last block that ends inside the body
  packet.full_count = end > packet.full_first ? end - packet.full_first : 0;
}

INLINE u32 text_length(const SealJob& job) { return job.head_length + job.body_length + job.padding; }

INLINE void describe(Packet& packet, const SealJob& job) {
  packet.key = job.key;
  packet.counter = job.counter;
  packet.text = reinterpret_cast<const u8*>(reinterpret_cast<std::uintptr_t>(job.body) - job.head_length);
  packet.head = job.head;
  packet.out = job.destination;
  packet.length = text_length(job);
  packet.head_length = job.head_length;
  packet.body_end = job.head_length + job.body_length;
  packet.wanted = true;
  find_full_blocks(packet);
}
INLINE void describe(Packet& packet, const OpenJob& job) {
  packet.key = job.key;
  packet.counter = job.counter;
  packet.text = job.source;
  packet.head = nullptr;
  packet.out = job.destination;
  packet.length = packet.body_end = job.length - kTag;
  packet.head_length = 0;
  packet.wanted = true;
  find_full_blocks(packet);
}

NOINLINE void seal_some(Group& group, SealJob* jobs, u32 count) {
  for (u32 i = 0; i < count; ++i) group.length[i] = text_length(jobs[i]);
  sort_by_length(group, count);
  group.count = count;
  for (u32 i = 0; i < count; ++i) describe(group.packet[i], jobs[group.order[i]]);
  seal_group(group);
  wipe(group);
}

NOINLINE void open_some(Group& group, OpenJob* jobs, u32 count) {
  u32 n = 0;
  for (u32 i = 0; i < count; ++i) {
    jobs[i].authentic = false;
    if (jobs[i].length < kTag) continue;  // cannot hold a tag
    group.length[n] = jobs[i].length;
    group.kept[n++] = static_cast<u8>(i);
  }
  if (n == 0) return;
  sort_by_length(group, n);
  group.count = n;
  for (u32 i = 0; i < n; ++i) describe(group.packet[i], jobs[group.kept[group.order[i]]]);
  open_group(group);
  for (u32 i = 0; i < n; ++i) jobs[group.kept[group.order[i]]].authentic = group.packet[i].wanted;
  wipe(group);
}

// The callees of *_some spill below its frame, which lies below this one: all of it is cleared before returning.
void seal(SealJob* jobs, std::size_t count) noexcept {
  if (count == 0) return;
  Group group;
  group.deep = group.powers = false;
  for (std::size_t done = 0; done < count; done += kMaxGroup) {
    seal_some(group, jobs + done, static_cast<u32>(count - done < kMaxGroup ? count - done : kMaxGroup));
  }
  forget(group.deep);
}

void open(OpenJob* jobs, std::size_t count) noexcept {
  if (count == 0) return;
  Group group;
  group.deep = group.powers = false;
  for (std::size_t done = 0; done < count; done += kMaxGroup) {
    open_some(group, jobs + done, static_cast<u32>(count - done < kMaxGroup ? count - done : kMaxGroup));
  }
  forget(group.deep);
}

}  // namespace

const AeadKernels kAeadAvx512 = {"avx512", cpu_has_avx512_ifma, seal, open};

// The packet stands last in its pair or eight, among neighbours whose keys differ.
void poly1305_avx512_for_test(unsigned variant, const u8* one_time, const u8* text, u32 length, u8* tag) {
  Group group;
  group.count = 8;
  u64 key[4];
  __builtin_memcpy(key, one_time, 32);
  for (u32 p = 0; p < 8; ++p) {
    group.packet[p].text = text;
    group.packet[p].length = length;
    for (u32 i = 0; i < 4; ++i) group.one_time[i][p] = p == 7 ? key[i] : 0x0123456789abcdef * (p + i + 1);
  }
  if (variant >= 2) powers_of_eight(group, 0, true);
  if (variant == 0) poly_scalar<false>(group, 7);
  if (variant == 1) poly_solo<false>(group, 7);
  if (variant == 2) poly_pair<false>(group, 6);
  if (variant == 3) poly_across<false>(group, 0);
  if (variant < 2) tag_of_one(group, 7);
  if (variant == 2) tags_of_eight(group, 0, load_limbs(group.sum, 0));
  const u64 both[2] = {group.tag[0][7], group.tag[1][7]};
  __builtin_memcpy(tag, both, kTag);
}

}  // namespace wireplane
