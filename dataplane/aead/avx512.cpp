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
// state word; two such states fill all 32 (a *double pass*). After 20 rounds a 16x16 transpose makes a lane's 64 octets a
// register again. The group's keys lie transposed in memory. Which blocks come together, cheapest first:
//   - columns: lanes are the packets. Thirty-two packets, one block of each; or eight, four blocks of each. What they have in
//     common is computed so, and nothing but the block number changes from one double pass to the next.
//   - runs: sixteen blocks of one packet and sixteen of another (or the same); their keys are broadcast from where they lie.
//   - the list: all that is left, packet by packet. A permute by the lanes' packet numbers brings their keys together:
//
//              lane   0       1       2        15
//    word  4      key0(p0) key0(p0) key0(p1) .. key0(p7)    <- permute        mixed lengths and sessions: only a group's
//    word 12         1        2        1     ..    9        <- block number   last pass has idle lanes
//    word 14      n(p0)    n(p0)    n(p1)    .. n(p7)       <- permute
//
//   Up to 8 lanes are computed the other way round, four (two) blocks in the four rows of a state: half the latency.
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
constexpr u32 kColumnsMost = 8;    // blocks that are computed as columns: more, and the packets leave the first cache
constexpr u32 kAcrossAtLeast = 5;  // packets, and
constexpr u32 kScalarLongest = 224;  // octets of a lone packet, where scalar Poly1305 beats eight strands
constexpr u32 kSoloSpread = 256;     // octets by which two packets differ, where each alone beats the pair
constexpr u32 kFetched = 1536;
constexpr u32 kAheadShortest = 256;
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
  u32 apart_first;  // blocks that are computed apart from the list, in runs or columns: first, and one past the last
  u32 apart_end;
  bool wanted;  // to be ciphered: in open, only what verified
};

// Which blocks a pass computes; of idle lanes, anything. Arrays are longer than a pass because whole registers are
// written.
struct Lanes {
  alignas(64) u32 packet[2 * kLanes];
  alignas(64) u32 block[2 * kLanes];
  alignas(64) const u8* from[kLanes + 16];  // the block's octets, and
  alignas(64) u8* to[kLanes + 16];          // where they go
  u32 count = 0;
  u32 full = 0;  // bit i: lane i's block lies whole inside the body
};

// What chacha20_of_lanes begins with: words 4-12, 14 and 15 of two states, a lane a column. Secret.
struct alignas(64) Table {
  u32 word[11][2 * kLanes];
};
enum TableRow : unsigned { kKeyRow = 0, kBlockRow = 8, kCounterRow = 9 };

// What one double pass leaves to the next: its second state, not yet transposed. Secret.
struct alignas(64) Late {
  Vector word[kLanes];
  Vector spill[4];
};

// Sixteen blocks of one packet, twice: what differs from lane to lane. The key is read where it lies.
struct alignas(64) Runs {
  u32 block[2][kLanes];
  u64 counter[2];
};

// Eight packets whose turn is next, and how much of them has been fetched.
struct Ahead {
  const u8* text[8];
  u64 at;
};

struct alignas(64) Group {
  Packet packet[kMaxGroup];
  u32 count;
  bool powers;   // power[] and sum[] were used
  bool tabled;   // `table` was used
  bool doubled;  // `late_stream` was used
  Lanes lanes[4];
  Lanes *first, *second;  // those that are collected
  Lanes* late;            // those whose key stream waits in late_stream, or null
  u64 late_at;            // added to their addresses
  Lanes* spare[2];        // the others
  u32 spares;
  Ahead ahead_of;
  const Ahead* ahead;  // or null
  Lanes columns_left;  // a double pass of columns: its first half
  Runs runs;
  alignas(64) u32 sort_key[kMaxGroup];
  alignas(64) u32 sort_rank[kMaxGroup];
  u32 length[kMaxGroup];
  u8 order[kMaxGroup], kept[kMaxGroup];
  // All below is secret, and vertical: column p belongs to packet p.
  Table columns;
  Table table;  // of lanes
  Late late_stream;
  u8 edge[2 * kLanes][64];     // key stream of blocks that are not full, zero when not in use
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

// Where blocks [first, first + n) of a packet lie, in lanes from `lane` on.
INLINE void addresses(Lanes& to, u32 lane, const Packet& packet, u32 first, u32 n) {
  const u64 at = (u64{first} - 1) * 64;
  const Vector steps = _mm512_setr_epi64(0, 64, 128, 192, 256, 320, 384, 448);
  const auto from =
      _mm512_add_epi64(_mm512_set1_epi64(static_cast<long long>(reinterpret_cast<u64>(packet.text) + at)), steps);
  const auto out =
      _mm512_add_epi64(_mm512_set1_epi64(static_cast<long long>(reinterpret_cast<u64>(packet.out) + at)), steps);
  store(to.from + lane, from);
  store(to.to + lane, out);
  if (n > 8) {
    store(to.from + lane + 8, _mm512_add_epi64(from, _mm512_set1_epi64(512)));
    store(to.to + lane + 8, _mm512_add_epi64(out, _mm512_set1_epi64(512)));
  }
}

// Takes blocks [first, first + n) of packet p; n <= kLanes - count.
INLINE void take(Lanes& to, u32 p, const Packet& packet, u32 first, u32 n) {
  if (n == 1) {
    const u64 at = (u64{first} - 1) * 64;  // block 0 has no place, and none is used
    to.packet[to.count] = p;
    to.block[to.count] = first;
    to.from[to.count] = reinterpret_cast<const u8*>(reinterpret_cast<std::uintptr_t>(packet.text) + at);
    to.to[to.count] = reinterpret_cast<u8*>(reinterpret_cast<std::uintptr_t>(packet.out) + at);
    to.full |= u32{first - packet.full_first < packet.full_count} << to.count;
    ++to.count;
    return;
  }
  addresses(to, to.count, packet, first, n);
  const Vector number = _mm512_add_epi32(_mm512_set1_epi32(static_cast<int>(first)),
                                         _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15));
  store(to.packet + to.count, _mm512_set1_epi32(static_cast<int>(p)));
  store(to.block + to.count, number);
  const Vector past = _mm512_sub_epi32(number, _mm512_set1_epi32(static_cast<int>(packet.full_first)));
  const u32 whole = _mm512_cmplt_epu32_mask(past, _mm512_set1_epi32(static_cast<int>(packet.full_count)));
  to.full |= _bzhi_u32(whole, n) << to.count;
  to.count += n;
}

// The place in the list of all blocks: packet by packet, from block `begin`.
struct Position {
  u32 packet = 0;
  u32 block = 1;
  u32 begin = 1;
};

// Takes from the list, of packets before `end`, until the pass is full. What is computed as runs is left out.
INLINE void fill(Lanes& lanes, const Group& group, Position& at, u32 end) {
  while (at.packet < end && lanes.count < kLanes) {
    const Packet& packet = group.packet[at.packet];
    const bool before = at.block <= packet.apart_first;
    const u32 left = packet.wanted ? (before ? packet.apart_first : packet.blocks + 1) - at.block : 0;
    const u32 room = kLanes - lanes.count;
    const u32 n = left < room ? left : room;
    if (n != 0) take(lanes, at.packet, packet, at.block, n);
    at.block += n;
    if (n != left) return;
    if (before && packet.wanted && packet.apart_end <= packet.blocks) {
      at.block = packet.apart_end;
    } else {
      ++at.packet, at.block = at.begin;
    }
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

// Row `row` of the table, a column a packet, for the lanes of packets `who`.
INLINE Vector pick(const Group& group, unsigned row, Vector who) {
  return _mm512_permutex2var_epi32(load(&group.columns.word[row][0]), who, load(&group.columns.word[row][kLanes]));
}
INLINE void start_vertical(const Group& group, const Lanes& lanes, Vector start[16]) {
  const Vector who = _mm512_load_si512(lanes.packet);
  for (int i = 0; i < 4; ++i) start[i] = _mm512_set1_epi32(static_cast<int>(kSigma[i]));
  for (unsigned i = 0; i < 8; ++i) start[4 + i] = pick(group, kKeyRow + i, who);
  start[12] = _mm512_load_si512(lanes.block);
  start[13] = _mm512_setzero_si512();
  for (unsigned i = 0; i < 2; ++i) start[14 + i] = pick(group, kCounterRow + i, who);
}

// Sixteen blocks; x[w] holds word w of each.
INLINE void chacha20_vertical(const Group& group, const Lanes& lanes, Vector x[16]) {
  Vector start[16];
  start_vertical(group, lanes, start);
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
//
//   time ->   first state    10 double rounds ............ | its tail    |
//             second state                   10 double rounds ......................|
//   a tail: add the start, transpose, join with the text. The second's is left to the next call.
//
//   calls           this                                   next
//   first    | 2 rounds      | 8 rounds   | tail          | 2 rounds       | 8 rounds ..
//   second   | tail of last  | 8 rounds   | 2 rounds      | tail           | ..
#define WG_ADD(a, b) "vpaddd %%zmm" #b ", %%zmm" #a ", %%zmm" #a "\n\t"
#define WG_XOR(d, a) "vpxord %%zmm" #a ", %%zmm" #d ", %%zmm" #d "\n\t"
#define WG_ROTATE(d, n) "vprold $" #n ", %%zmm" #d ", %%zmm" #d "\n\t"
#define WG_STEP(n, a0, a1, a2, a3, b0, b1, b2, b3, d0, d1, d2, d3)                                                \
  WG_ADD(a0, b0) WG_ADD(a1, b1) WG_ADD(a2, b2) WG_ADD(a3, b3)                                                     \
  WG_XOR(d0, a0) WG_XOR(d1, a1) WG_XOR(d2, a2) WG_XOR(d3, a3)                                                     \
  WG_ROTATE(d0, n) WG_ROTATE(d1, n) WG_ROTATE(d2, n) WG_ROTATE(d3, n)
// A double round of the first and of the second state in eight steps each; the steps of the other state, or of a tail, go between.
#define WG_FIRST0 WG_STEP(16, 0, 1, 2, 3, 4, 5, 6, 7, 12, 13, 14, 15)
#define WG_FIRST1 WG_STEP(12, 8, 9, 10, 11, 12, 13, 14, 15, 4, 5, 6, 7)
#define WG_FIRST2 WG_STEP(8, 0, 1, 2, 3, 4, 5, 6, 7, 12, 13, 14, 15)
#define WG_FIRST3 WG_STEP(7, 8, 9, 10, 11, 12, 13, 14, 15, 4, 5, 6, 7)
#define WG_FIRST4 WG_STEP(16, 0, 1, 2, 3, 5, 6, 7, 4, 15, 12, 13, 14)
#define WG_FIRST5 WG_STEP(12, 10, 11, 8, 9, 15, 12, 13, 14, 5, 6, 7, 4)
#define WG_FIRST6 WG_STEP(8, 0, 1, 2, 3, 5, 6, 7, 4, 15, 12, 13, 14)
#define WG_FIRST7 WG_STEP(7, 10, 11, 8, 9, 15, 12, 13, 14, 5, 6, 7, 4)
#define WG_SECOND0 WG_STEP(16, 16, 17, 18, 19, 20, 21, 22, 23, 28, 29, 30, 31)
#define WG_SECOND1 WG_STEP(12, 24, 25, 26, 27, 28, 29, 30, 31, 20, 21, 22, 23)
#define WG_SECOND2 WG_STEP(8, 16, 17, 18, 19, 20, 21, 22, 23, 28, 29, 30, 31)
#define WG_SECOND3 WG_STEP(7, 24, 25, 26, 27, 28, 29, 30, 31, 20, 21, 22, 23)
#define WG_SECOND4 WG_STEP(16, 16, 17, 18, 19, 21, 22, 23, 20, 31, 28, 29, 30)
#define WG_SECOND5 WG_STEP(12, 26, 27, 24, 25, 31, 28, 29, 30, 21, 22, 23, 20)
#define WG_SECOND6 WG_STEP(8, 16, 17, 18, 19, 21, 22, 23, 20, 31, 28, 29, 30)
#define WG_SECOND7 WG_STEP(7, 26, 27, 24, 25, 31, 28, 29, 30, 21, 22, 23, 20)
#define WG_BOTH                                                                                                   \
  WG_FIRST0 WG_SECOND0 WG_FIRST1 WG_SECOND1 WG_FIRST2 WG_SECOND2 WG_FIRST3 WG_SECOND3                             \
  WG_FIRST4 WG_SECOND4 WG_FIRST5 WG_SECOND5 WG_FIRST6 WG_SECOND6 WG_FIRST7 WG_SECOND7

// Where a state starts from, and what its blocks are joined with. WG_LANES: a table of lanes, and an address a lane.
#define WG_LOAD(i, at) "vmovdqa64 " #at "(%[table]), %%zmm" #i "\n\t"
#define WG_ADD_START(i, at) "vpaddd " #at "(%[table]), %%zmm" #i ", %%zmm" #i "\n\t"
#define WG_CONSTANT(i, at) "vpbroadcastd " #at "(%[sigma]), %%zmm" #i "\n\t"
#define WG_ADD_CONSTANT(i, at) "vpaddd " #at "(%[sigma])%{1to16%}, %%zmm" #i ", %%zmm" #i "\n\t"
#define WG_ZERO(i) "vpxord %%zmm" #i ", %%zmm" #i ", %%zmm" #i "\n\t"
#define WG_KEEP(i, word) "vmovdqa64 %%zmm" #i ", 64*" #word "(%[late])\n\t"
#define WG_LANES_FIRST_START                                                                                      \
  WG_CONSTANT(0, 0) WG_CONSTANT(1, 4) WG_CONSTANT(2, 8) WG_CONSTANT(3, 12) WG_ZERO(13)                            \
  WG_LOAD(4, 0) WG_LOAD(5, 128) WG_LOAD(6, 256) WG_LOAD(7, 384) WG_LOAD(8, 512) WG_LOAD(9, 640) WG_LOAD(10, 768)  \
  WG_LOAD(11, 896) WG_LOAD(12, 1024) WG_LOAD(14, 1152) WG_LOAD(15, 1280)
#define WG_LANES_SECOND_START                                                                                     \
  WG_CONSTANT(16, 0) WG_CONSTANT(17, 4) WG_CONSTANT(18, 8) WG_CONSTANT(19, 12) WG_ZERO(29)                        \
  WG_LOAD(20, 64) WG_LOAD(21, 192) WG_LOAD(22, 320) WG_LOAD(23, 448) WG_LOAD(24, 576) WG_LOAD(25, 704)            \
  WG_LOAD(26, 832) WG_LOAD(27, 960) WG_LOAD(28, 1088) WG_LOAD(30, 1216) WG_LOAD(31, 1344)
#define WG_LANES_ADD_12_TO_15 WG_ADD_START(12, 1024) WG_ADD_START(14, 1152) WG_ADD_START(15, 1280)
#define WG_LANES_ADD_0_TO_7                                                                                       \
  WG_ADD_CONSTANT(0, 0) WG_ADD_CONSTANT(1, 4) WG_ADD_CONSTANT(2, 8) WG_ADD_CONSTANT(3, 12)                        \
  WG_ADD_START(4, 0) WG_ADD_START(5, 128) WG_ADD_START(6, 256) WG_ADD_START(7, 384)
#define WG_LANES_ADD_8_TO_11 WG_ADD_START(8, 512) WG_ADD_START(9, 640) WG_ADD_START(10, 768) WG_ADD_START(11, 896)
#define WG_LANES_ADD_16_TO_23                                                                                     \
  WG_ADD_CONSTANT(16, 0) WG_ADD_CONSTANT(17, 4) WG_ADD_CONSTANT(18, 8) WG_ADD_CONSTANT(19, 12)                    \
  WG_ADD_START(20, 64) WG_ADD_START(21, 192) WG_ADD_START(22, 320) WG_ADD_START(23, 448)
#define WG_LANES_ADD_24_TO_31                                                                                     \
  WG_ADD_START(24, 576) WG_ADD_START(25, 704) WG_ADD_START(26, 832) WG_ADD_START(27, 960)                         \
  WG_ADD_START(28, 1088) WG_ADD_START(30, 1216) WG_ADD_START(31, 1344)
// WG_RUNS: two keys, each for sixteen blocks that follow one another, from one address on.
#define WG_BROADCAST(i, from, at) "vpbroadcastd " #at "(%[" #from "]), %%zmm" #i "\n\t"
#define WG_ADD_BROADCAST(i, from, at) "vpaddd " #at "(%[" #from "])%{1to16%}, %%zmm" #i ", %%zmm" #i "\n\t"
#define WG_RUNS_FIRST_START                                                                                       \
  WG_CONSTANT(0, 0) WG_CONSTANT(1, 4) WG_CONSTANT(2, 8) WG_CONSTANT(3, 12) WG_ZERO(13)                            \
  WG_BROADCAST(4, key0, 0) WG_BROADCAST(5, key0, 4) WG_BROADCAST(6, key0, 8) WG_BROADCAST(7, key0, 12)            \
  WG_BROADCAST(8, key0, 16) WG_BROADCAST(9, key0, 20) WG_BROADCAST(10, key0, 24) WG_BROADCAST(11, key0, 28)       \
  "vmovdqa64 (%[runs]), %%zmm12\n\t" WG_BROADCAST(14, runs, 128) WG_BROADCAST(15, runs, 132)
#define WG_RUNS_SECOND_START                                                                                      \
  WG_CONSTANT(16, 0) WG_CONSTANT(17, 4) WG_CONSTANT(18, 8) WG_CONSTANT(19, 12) WG_ZERO(29)                        \
  WG_BROADCAST(20, key1, 0) WG_BROADCAST(21, key1, 4) WG_BROADCAST(22, key1, 8) WG_BROADCAST(23, key1, 12)        \
  WG_BROADCAST(24, key1, 16) WG_BROADCAST(25, key1, 20) WG_BROADCAST(26, key1, 24) WG_BROADCAST(27, key1, 28)     \
  "vmovdqa64 64(%[runs]), %%zmm28\n\t" WG_BROADCAST(30, runs, 136) WG_BROADCAST(31, runs, 140)
#define WG_RUNS_ADD_12_TO_15                                                                                      \
  "vpaddd (%[runs]), %%zmm12, %%zmm12\n\t" WG_ADD_BROADCAST(14, runs, 128) WG_ADD_BROADCAST(15, runs, 132)
#define WG_RUNS_ADD_0_TO_7                                                                                        \
  WG_ADD_CONSTANT(0, 0) WG_ADD_CONSTANT(1, 4) WG_ADD_CONSTANT(2, 8) WG_ADD_CONSTANT(3, 12)                        \
  WG_ADD_BROADCAST(4, key0, 0) WG_ADD_BROADCAST(5, key0, 4) WG_ADD_BROADCAST(6, key0, 8) WG_ADD_BROADCAST(7, key0, 12)
#define WG_RUNS_ADD_8_TO_11                                                                                       \
  WG_ADD_BROADCAST(8, key0, 16) WG_ADD_BROADCAST(9, key0, 20) WG_ADD_BROADCAST(10, key0, 24) WG_ADD_BROADCAST(11, key0, 28)
#define WG_RUNS_ADD_16_TO_23                                                                                      \
  WG_ADD_CONSTANT(16, 0) WG_ADD_CONSTANT(17, 4) WG_ADD_CONSTANT(18, 8) WG_ADD_CONSTANT(19, 12)                    \
  WG_ADD_BROADCAST(20, key1, 0) WG_ADD_BROADCAST(21, key1, 4) WG_ADD_BROADCAST(22, key1, 8) WG_ADD_BROADCAST(23, key1, 12)
#define WG_RUNS_ADD_24_TO_31                                                                                      \
  WG_ADD_BROADCAST(24, key1, 16) WG_ADD_BROADCAST(25, key1, 20) WG_ADD_BROADCAST(26, key1, 24)                    \
  WG_ADD_BROADCAST(27, key1, 28) "vpaddd 64(%[runs]), %%zmm28, %%zmm28\n\t"                                       \
  WG_ADD_BROADCAST(30, runs, 136) WG_ADD_BROADCAST(31, runs, 140)

// Four words of sixteen blocks, i to i + 3, to y: lane quarter q of y[k] has them of block 4 q + k. y3 goes to memory, for
// want of registers. In registers x0-x3, with t0 and t1: y0 = x1, y1 = t0, y2 = t1, and x0, x2 and x3 are free.
#define WG_LOW32(x, y, to) "vpunpckldq %%zmm" #y ", %%zmm" #x ", %%zmm" #to "\n\t"
#define WG_HIGH32(x, y, to) "vpunpckhdq %%zmm" #y ", %%zmm" #x ", %%zmm" #to "\n\t"
#define WG_LOW64(x, y, to) "vpunpcklqdq %%zmm" #y ", %%zmm" #x ", %%zmm" #to "\n\t"
#define WG_HIGH64(x, y, to) "vpunpckhqdq %%zmm" #y ", %%zmm" #x ", %%zmm" #to "\n\t"
#define WG_SPILL(i, group) "vmovdqa64 %%zmm" #i ", 1024+64*" #group "(%[late])\n\t"
#define WG_FOUR(group, x0, x1, x2, x3, t0, t1)                                                                    \
  WG_LOW32(x0, x1, t0) WG_HIGH32(x0, x1, x0) WG_LOW32(x2, x3, t1) WG_HIGH32(x2, x3, x2)                           \
  WG_LOW64(t0, t1, x1) WG_HIGH64(t0, t1, t0) WG_LOW64(x0, x2, t1) WG_HIGH64(x0, x2, x0) WG_SPILL(x0, group)
// The same from memory: y0, y1, y2 as named; t0 and t1 are free again.
#define WG_LATE(word, to) "vmovdqa64 64*(" #word ")(%[late]), %%zmm" #to "\n\t"
#define WG_LATE_LOW32(x, word, to) "vpunpckldq 64*(" #word ")(%[late]), %%zmm" #x ", %%zmm" #to "\n\t"
#define WG_LATE_HIGH32(x, word, to) "vpunpckhdq 64*(" #word ")(%[late]), %%zmm" #x ", %%zmm" #to "\n\t"
#define WG_FOUR_LATE(group, y0, y1, y2, t0, t1)                                                                   \
  WG_LATE(4*group, t0) WG_LATE_LOW32(t0, 4*group+1, y1) WG_LATE_HIGH32(t0, 4*group+1, t0)                         \
  WG_LATE(4*group+2, t1) WG_LATE_LOW32(t1, 4*group+3, y2) WG_LATE_HIGH32(t1, 4*group+3, t1)                       \
  WG_LOW64(y1, y2, y0) WG_HIGH64(y1, y2, y1) WG_LOW64(t0, t1, y2) WG_HIGH64(t0, t1, t0) WG_SPILL(t0, group)

// One of four of sixteen blocks: lane quarters of y from the four groups to blocks k, 4 + k, 8 + k and 12 + k, in registers
// g1, t0, t1 and g0; and these to the text.
#define WG_QUARTERS(how, x, y, to) "vshufi32x4 $" #how ", %%zmm" #y ", %%zmm" #x ", %%zmm" #to "\n\t"
#define WG_QUARTERS_SPILLED(how, x, group, to) "vshufi32x4 $" #how ", 1024+64*" #group "(%[late]), %%zmm" #x ", %%zmm" #to "\n\t"
#define WG_SPILLED(group, to) "vmovdqa64 1024+64*" #group "(%[late]), %%zmm" #to "\n\t"
#define WG_BLOCKS(g0, g1, g2, g3, t0, t1)                                                                         \
  WG_QUARTERS(0x44, g0, g1, t0) WG_QUARTERS(0xee, g0, g1, g0) WG_QUARTERS(0x44, g2, g3, t1)                       \
  WG_QUARTERS(0xee, g2, g3, g2) WG_BLOCKS_END(g0, g1, g2, t0, t1)
#define WG_BLOCKS_SPILLED(g0, g1, g2, t0, t1)                                                                     \
  WG_SPILLED(0, g0) WG_SPILLED(2, g2)                                                                             \
  WG_QUARTERS_SPILLED(0x44, g0, 1, t0) WG_QUARTERS_SPILLED(0xee, g0, 1, g0) WG_QUARTERS_SPILLED(0x44, g2, 3, t1)  \
  WG_QUARTERS_SPILLED(0xee, g2, 3, g2) WG_BLOCKS_END(g0, g1, g2, t0, t1)
#define WG_BLOCKS_END(g0, g1, g2, t0, t1)                                                                         \
  WG_QUARTERS(0x88, t0, t1, g1) WG_QUARTERS(0xdd, t0, t1, t0) WG_QUARTERS(0x88, g0, g2, t1) WG_QUARTERS(0xdd, g0, g2, g0)
#define WG_JOIN_LANE(lanes, at, lane, x)                                                                          \
  "mov %c[from]+8*(" #lane ")(%[" #lanes "]), %%rax\n\tmov %c[to]+8*(" #lane ")(%[" #lanes "]), %%rdx\n\t"        \
  "vpxord (%%rax,%[" #at "]), %%zmm" #x ", %%zmm" #x "\n\tvmovdqu64 %%zmm" #x ", (%%rdx,%[" #at "])\n\t"
// Fetches what will be joined, and for writing where it goes: two lanes of each state a double round, counted from -16.
#define WG_PREFETCH_LANE(lanes, lane, at)                                                                         \
  "mov %c[to]+128+8*" #lane "(%[" #lanes "],%%rax,8), %%rdx\n\tprefetchw 63(%%rdx" at ")\n\t"                       \
  "mov %c[from]+128+8*" #lane "(%[" #lanes "],%%rax,8), %%rdx\n\tprefetcht0 63(%%rdx" at ")\n\t"
// And four lines of one of the packets whose turn is next.
#define WG_PREFETCH_AHEAD                                                                                         \
  "test %[ahead], %[ahead]\n\tjz 4f\n\tmov 64(%[ahead],%%rax,4), %%rdx\n\tadd 64(%[ahead]), %%rdx\n\t"                                                \
  "prefetcht1 63(%%rdx)\n\t" "prefetcht1 127(%%rdx)\n\t" "prefetcht1 191(%%rdx)\n\t" "prefetcht1 255(%%rdx)\n4:\n\t"
#define WG_LANES_PREFETCH                                                                                         \
  WG_PREFETCH_LANE(lanes, 0, ",%[at]") WG_PREFETCH_LANE(lanes, 1, ",%[at]")                                       \
  WG_PREFETCH_LANE(right, 0, ",%[at]") WG_PREFETCH_LANE(right, 1, ",%[at]")
#define WG_RUNS_PREFETCH                                                                                          \
  WG_PREFETCH_LANE(right, 0, "") WG_PREFETCH_LANE(right, 1, "")                                                   \
  "mov %%rax, %%rdx\n\tshl $6, %%rdx\n\t"                                                                         \
  "prefetchw 1024+63(%[out],%%rdx)\n\tprefetchw 1024+127(%[out],%%rdx)\n\t"                                       \
  "prefetcht0 1024+63(%[text],%%rdx)\n\tprefetcht0 1024+127(%[text],%%rdx)\n\t"
#define WG_JOIN_LATE(lane, x) WG_JOIN_LANE(late_lanes, late_at, lane, x)
#define WG_LANES_JOIN(lane, x) WG_JOIN_LANE(lanes, at, lane, x)
#define WG_RUNS_JOIN(lane, x)                                                                                     \
  "vpxord 64*" #lane "(%[text]), %%zmm" #x ", %%zmm" #x "\n\tvmovdqu64 %%zmm" #x ", 64*" #lane "(%[out])\n\t"

#define WG_ROUND_FIRST(t0, t1, t2, t3, t4, t5, t6, t7)                                                            \
  WG_FIRST0 t0 WG_FIRST1 t1 WG_FIRST2 t2 WG_FIRST3 t3 WG_FIRST4 t4 WG_FIRST5 t5 WG_FIRST6 t6 WG_FIRST7 t7
#define WG_ROUND_SECOND(t0, t1, t2, t3, t4, t5, t6, t7)                                                           \
  WG_SECOND0 t0 WG_SECOND1 t1 WG_SECOND2 t2 WG_SECOND3 t3 WG_SECOND4 t4 WG_SECOND5 t5 WG_SECOND6 t6 WG_SECOND7 t7

#define WG_CIPHER(KIND)                                                                                           \
  KIND##_FIRST_START                                                                                              \
  "test %[late_lanes], %[late_lanes]\n\tjz 2f\n\t"                                                                \
  WG_ROUND_FIRST(WG_FOUR_LATE(0, 20, 16, 18, 17, 19),                                                             \
                 WG_FOUR_LATE(1, 23, 17, 21, 19, 22),                                                             \
                 WG_FOUR_LATE(2, 26, 19, 24, 22, 25),                                                             \
                 WG_FOUR_LATE(3, 29, 22, 27, 25, 28),                                                             \
                 WG_BLOCKS(20, 23, 26, 29, 25, 28),                                                               \
                 WG_JOIN_LATE(0, 23) WG_JOIN_LATE(4, 25),                                                         \
                 WG_JOIN_LATE(8, 28) WG_JOIN_LATE(12, 20),                                                        \
                 WG_BLOCKS(16, 17, 19, 22, 25, 28))                                                               \
  WG_ROUND_FIRST(WG_JOIN_LATE(1, 17) WG_JOIN_LATE(5, 25),                                                         \
                 WG_JOIN_LATE(9, 28) WG_JOIN_LATE(13, 16),                                                        \
                 WG_BLOCKS(18, 21, 24, 27, 25, 28),                                                               \
                 WG_JOIN_LATE(2, 21) WG_JOIN_LATE(6, 25),                                                         \
                 WG_JOIN_LATE(10, 28) WG_JOIN_LATE(14, 18),                                                       \
                 WG_BLOCKS_SPILLED(30, 29, 31, 25, 28),                                                           \
                 WG_JOIN_LATE(3, 29) WG_JOIN_LATE(7, 25),                                                         \
                 WG_JOIN_LATE(11, 28) WG_JOIN_LATE(15, 30))                                                       \
  "jmp 3f\n2:\n\t"                                                                                                \
  WG_ROUND_FIRST(, , , , , , , ) WG_ROUND_FIRST(, , , , , , , )                                                   \
  "3:\n\t"                                                                                                        \
  KIND##_SECOND_START                                                                                             \
  "mov $-16, %%rax\n\t.p2align 5\n1:\n\t" KIND##_PREFETCH WG_PREFETCH_AHEAD WG_BOTH "add $2, %%rax\n\tjnz 1b\n\t"                                         \
  WG_ROUND_SECOND(KIND##_ADD_12_TO_15                                                                             \
                  WG_KEEP(12, 12) WG_KEEP(13, 13) WG_KEEP(14, 14) WG_KEEP(15, 15)                                 \
                  KIND##_ADD_0_TO_7,                                                                              \
                  WG_FOUR(0, 0, 1, 2, 3, 12, 13)                                                                  \
                  KIND##_ADD_8_TO_11,                                                                             \
                  WG_FOUR(1, 4, 5, 6, 7, 14, 15),                                                                 \
                  WG_FOUR(2, 8, 9, 10, 11, 0, 2)                                                                  \
                  WG_FOUR_LATE(3, 8, 3, 6, 4, 7),                                                                 \
                  WG_BLOCKS(1, 5, 9, 8, 4, 7),                                                                    \
                  KIND##_JOIN(0, 5) KIND##_JOIN(4, 4),                                                            \
                  KIND##_JOIN(8, 7) KIND##_JOIN(12, 1),                                                           \
                  WG_BLOCKS(12, 14, 0, 3, 4, 7))                                                                  \
  WG_ROUND_SECOND(KIND##_JOIN(1, 14) KIND##_JOIN(5, 4),                                                           \
                  KIND##_JOIN(9, 7) KIND##_JOIN(13, 12),                                                          \
                  WG_BLOCKS(13, 15, 2, 6, 4, 7),                                                                  \
                  KIND##_JOIN(2, 15) KIND##_JOIN(6, 4),                                                           \
                  KIND##_JOIN(10, 7) KIND##_JOIN(14, 13),                                                         \
                  WG_BLOCKS_SPILLED(10, 8, 11, 4, 7),                                                             \
                  KIND##_JOIN(3, 8) KIND##_JOIN(7, 4),                                                            \
                  KIND##_JOIN(11, 7) KIND##_JOIN(15, 10))                                                         \
  KIND##_ADD_16_TO_23 KIND##_ADD_24_TO_31                                                                         \
  WG_KEEP(16, 0) WG_KEEP(17, 1) WG_KEEP(18, 2) WG_KEEP(19, 3) WG_KEEP(20, 4) WG_KEEP(21, 5) WG_KEEP(22, 6)        \
  WG_KEEP(23, 7) WG_KEEP(24, 8) WG_KEEP(25, 9) WG_KEEP(26, 10) WG_KEEP(27, 11) WG_KEEP(28, 12) WG_KEEP(29, 13)    \
  WG_KEEP(30, 14) WG_KEEP(31, 15)
#define WG_CLOBBERS                                                                                               \
  "memory", "cc", "rax", "rdx", "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9",  \
    "xmm10", "xmm11", "xmm12", "xmm13", "xmm14", "xmm15", "xmm16", "xmm17", "xmm18", "xmm19", "xmm20", "xmm21",   \
    "xmm22", "xmm23", "xmm24", "xmm25", "xmm26", "xmm27", "xmm28", "xmm29", "xmm30", "xmm31"

// Text and key stream of the blocks that the last double pass left behind, if any.
struct Behind {
  const Lanes* lanes;
  u64 at;  // added to their addresses
};

// The first state is the table's left half, with the texts of `lanes`; the key stream of the right half is left in `late`.
// What was there is joined with the texts of `behind`.
INLINE void chacha20_of_lanes(const Table& table, const Lanes& lanes, const Lanes& right, u64 at, Late& late,
                              const Behind& behind, const Ahead* ahead) {
  __asm__ volatile(WG_CIPHER(WG_LANES)
                   :
                   : [table] "r"(&table), [lanes] "r"(&lanes), [right] "r"(&right), [ahead] "r"(ahead), [at] "r"(at), [late] "r"(&late),
                     [late_lanes] "r"(behind.lanes), [late_at] "r"(behind.at), [sigma] "r"(kSigma),
                     [from] "i"(__builtin_offsetof(Lanes, from)), [to] "i"(__builtin_offsetof(Lanes, to))
                   : WG_CLOBBERS);
}
// The same for two runs: the first's text is at `text`.
INLINE void chacha20_of_runs(const Runs& runs, const u8* key0, const u8* key1, const u8* text, u8* out,
                             const Lanes& right, Late& late, const Behind& behind, const Ahead* ahead) {
  __asm__ volatile(WG_CIPHER(WG_RUNS)
                   :
                   : [runs] "r"(&runs), [key0] "r"(key0), [key1] "r"(key1), [text] "r"(text), [out] "r"(out), [right] "r"(&right), [ahead] "r"(ahead),
                     [late] "r"(&late), [late_lanes] "r"(behind.lanes), [late_at] "r"(behind.at), [sigma] "r"(kSigma),
                     [from] "i"(__builtin_offsetof(Lanes, from)), [to] "i"(__builtin_offsetof(Lanes, to))
                   : WG_CLOBBERS);
}

// The first eight words of 32 blocks, as they are: of the left half in x[0..7], of the right half in x[8..15].
INLINE void chacha20_first_words(const Table& table, Vector x[16]) {
  __asm__ volatile(
      WG_LANES_FIRST_START WG_LANES_SECOND_START
      "mov $10, %%eax\n\t.p2align 5\n1:\n\t" WG_BOTH "dec %%eax\n\tjnz 1b\n\t"
      WG_LANES_ADD_0_TO_7
      WG_KEEP(0, 0) WG_KEEP(1, 1) WG_KEEP(2, 2) WG_KEEP(3, 3) WG_KEEP(4, 4) WG_KEEP(5, 5) WG_KEEP(6, 6) WG_KEEP(7, 7)
      WG_LANES_ADD_16_TO_23
      WG_KEEP(16, 8) WG_KEEP(17, 9) WG_KEEP(18, 10) WG_KEEP(19, 11) WG_KEEP(20, 12) WG_KEEP(21, 13) WG_KEEP(22, 14)
      WG_KEEP(23, 15)
      :
      : [table] "r"(&table), [late] "r"(x), [sigma] "r"(kSigma)
      : WG_CLOBBERS);
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
NOINLINE void cipher_joined(const Packet& packet, u32 block, Vector stream) {
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

INLINE void cipher_edge(const Packet& packet, u32 block, Vector stream) {
  if (packet.head_length != 0 || packet.body_end != packet.length) return cipher_joined(packet, block, stream);
  const u32 at = (block - 1) * 64;
  const __mmask64 there = first_octets(packet.length - at);
  const Vector text = _mm512_maskz_loadu_epi8(there, packet.text + at);
  _mm512_mask_storeu_epi8(packet.out + at, there, _mm512_xor_si512(text, stream));
}

INLINE void cipher(const Packet& packet, u32 block, Vector stream) {
  const u64 at = (u64{block} - 1) * 64;
  store(packet.out + at, _mm512_xor_si512(load(packet.text + at), stream));
}

// What becomes of the rows of a pass: block 0 is the packet's one-time key, the others are used at once, or wait.
template <bool wait, bool all_full>
INLINE void deliver(Group& group, const Lanes& lanes, u32 i, Vector row) {
  if (!all_full && i >= lanes.count) return;
  const u32 p = lanes.packet[i], block = lanes.block[i];
  const Packet& packet = group.packet[p];
  if (all_full) return cipher(packet, block, row);
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

// Lanes whose blocks are not whole (or idle) read zeros and write their key stream to group.edge.
INLINE void divert_edges(Group& group, Lanes& lanes, u32 row) {
  alignas(64) static constexpr u8 kZeros[64] = {};
  for (u32 edges = lanes.full ^ 0xffff; edges != 0; edges &= edges - 1) {
    const u32 i = static_cast<u32>(__builtin_ctz(edges));
    lanes.from[i] = kZeros;
    lanes.to[i] = group.edge[row + i];
  }
}
INLINE void cipher_edges(Group& group, const Lanes& lanes, u32 row) {
  for (u32 edges = lanes.full ^ 0xffff; edges != 0; edges &= edges - 1) {
    const u32 i = static_cast<u32>(__builtin_ctz(edges));
    if (i < lanes.count) cipher_edge(group.packet[lanes.packet[i]], lanes.block[i], load(group.edge[row + i]));
    store(group.edge[row + i], _mm512_setzero_si512());
  }
}

INLINE void fill_table(const Group& group, const Lanes& lanes, Table& table, u32 first) {
  const Vector who = _mm512_load_si512(lanes.packet);
  for (unsigned i = 0; i < 8; ++i) store(&table.word[kKeyRow + i][first], pick(group, kKeyRow + i, who));
  store(&table.word[kBlockRow][first], _mm512_load_si512(lanes.block));
  for (unsigned i = 0; i < 2; ++i) store(&table.word[kCounterRow + i][first], pick(group, kCounterRow + i, who));
}

// The next double pass finds the second state of this one; the lanes of the last are free again.
INLINE void leave_late(Group& group, Lanes* lanes, u64 at) {
  if (group.late != nullptr && group.late != lanes) group.spare[group.spares++] = group.late;
  group.late = lanes;
  group.late_at = at;
  group.ahead_of.at += 256;
}

NOINLINE void double_pass(Group& group) {
  group.tabled = group.doubled = true;
  fill_table(group, *group.first, group.table, 0);
  fill_table(group, *group.second, group.table, kLanes);
  divert_edges(group, *group.first, 0);
  divert_edges(group, *group.second, kLanes);
  chacha20_of_lanes(group.table, *group.first, *group.second, 0, group.late_stream, {group.late, group.late_at},
                    group.ahead);
  if (group.first->full != 0xffff) cipher_edges(group, *group.first, 0);
  if (group.late != nullptr && group.late->full != 0xffff) cipher_edges(group, *group.late, kLanes);
  Lanes* const empty = group.spare[--group.spares];
  leave_late(group, group.second, 0);
  group.second = empty;
}

// Two runs: sixteen blocks each, from block `first` on.
struct Run {
  u32 packet;
  u32 block;
};
NOINLINE void double_run(Group& group, const Run (&run)[2]) {
  group.doubled = true;
  const Vector iota = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
  const Packet& a = group.packet[run[0].packet];
  const Packet& b = group.packet[run[1].packet];
  for (int i = 0; i < 2; ++i) {
    store(group.runs.block[i], _mm512_add_epi32(_mm512_set1_epi32(static_cast<int>(run[i].block)), iota));
  }
  group.runs.counter[0] = a.counter, group.runs.counter[1] = b.counter;
  Lanes* const lanes = group.spare[--group.spares];
  lanes->packet[0] = run[1].packet;
  lanes->full = 0xffff;
  addresses(*lanes, 0, b, run[1].block, kLanes);
  const u64 at = (u64{run[0].block} - 1) * 64;
  chacha20_of_runs(group.runs, a.key, b.key, a.text + at, a.out + at, *lanes, group.late_stream,
                   {group.late, group.late_at}, group.ahead);
  if (group.late != nullptr && group.late->full != 0xffff) cipher_edges(group, *group.late, kLanes);
  leave_late(group, lanes, 0);
}

// What the last double pass left.
NOINLINE void finish_late(Group& group) {
  Vector x[16];
  const Lanes& lanes = *group.late;
  for (int i = 0; i < 16; ++i) x[i] = group.late_stream.word[i];
  transpose(x);
#pragma GCC unroll 16
  for (int i = 0; i < 16; ++i) {
    store(lanes.to[i] + group.late_at, _mm512_xor_si512(load(lanes.from[i] + group.late_at), x[i]));
  }
  if (lanes.full != 0xffff) cipher_edges(group, lanes, kLanes);
  leave_late(group, nullptr, 0);
}

// Thirty-two packets that all have `blocks` whole blocks at their beginnings: lane i is packet i, and nothing is moved.
NOINLINE void cipher_all_columns(Group& group, u32 blocks) {
  group.doubled = true;
  Lanes* const halves[2] = {&group.columns_left, group.spare[--group.spares]};
  for (u32 half = 0; half < 2; ++half) {
    Lanes& lanes = *halves[half];
    for (u32 i = 0; i < kLanes; ++i) {
      lanes.from[i] = group.packet[half * kLanes + i].text;
      lanes.to[i] = group.packet[half * kLanes + i].out;
    }
    lanes.full = 0xffff;
  }
  for (u32 block = 1; block <= blocks; ++block) {
    const Vector number = _mm512_set1_epi32(static_cast<int>(block));
    store(&group.columns.word[kBlockRow][0], number);
    store(&group.columns.word[kBlockRow][kLanes], number);
    const u64 at = (u64{block} - 1) * 64;
    chacha20_of_lanes(group.columns, group.columns_left, *halves[1], at, group.late_stream, {group.late, group.late_at},
                      group.ahead);
    leave_late(group, halves[1], at);
  }
  finish_late(group);
}

// Packets [first, first + 8), four blocks of each at a time: lanes are the eight packets, four times.
NOINLINE void cipher_eight_columns(Group& group, u32 first) {
  group.doubled = group.tabled = true;
  const u32 begin = group.packet[first].apart_first, end = group.packet[first].apart_end;
  for (u32 row = 0; row < 11; ++row) {
    const auto* const eight = reinterpret_cast<const __m256i*>(&group.columns.word[row][first]);
    const Vector twice = _mm512_broadcast_i64x4(_mm256_loadu_si256(eight));
    store(&group.table.word[row][0], twice);
    store(&group.table.word[row][kLanes], twice);
  }
  Lanes& left = group.columns_left;
  Lanes& right = *group.spare[--group.spares];
  const auto eight = [&](auto&& of) {
    const auto number = [&](u32 i) {
      return static_cast<long long>(reinterpret_cast<u64>(of(group.packet[first + i])));
    };
    return _mm512_setr_epi64(number(0), number(1), number(2), number(3), number(4), number(5), number(6), number(7));
  };
  const Vector from = eight([](const Packet&p) { return p.text; }), to = eight([](const Packet&p) { return p.out; });
  const auto plus = [](Vector v, int octets) { return _mm512_add_epi64(v, _mm512_set1_epi64(octets)); };
  store(left.from, from), store(left.from + 8, plus(from, 64));
  store(left.to, to), store(left.to + 8, plus(to, 64));
  store(right.from, plus(from, 128)), store(right.from + 8, plus(from, 192));
  store(right.to, plus(to, 128)), store(right.to + 8, plus(to, 192));
  left.full = right.full = 0xffff;
  right.packet[0] = first;
  Vector number = _mm512_add_epi32(_mm512_set1_epi32(static_cast<int>(begin)),
                                   _mm512_setr_epi32(0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1));
  const Vector two = _mm512_set1_epi32(2);
  for (u32 block = begin; block < end; block += 4) {
    store(&group.table.word[kBlockRow][0], number);
    number = _mm512_add_epi32(number, two);
    store(&group.table.word[kBlockRow][kLanes], number);
    number = _mm512_add_epi32(number, two);
    const u64 at = (u64{block} - 1) * 64;
    chacha20_of_lanes(group.table, left, right, at, group.late_stream, {group.late, group.late_at}, group.ahead);
    if (group.late != nullptr && group.late->full != 0xffff) cipher_edges(group, *group.late, kLanes);
    leave_late(group, &right, at);
  }
}

// Everything that was collected. A second pass of up to 8 lanes costs less by rows than as half of a double pass.
INLINE void pass_both(Group& group) {
  if (group.second->count > 8) {
    double_pass(group);
  } else {
    if (group.first->count != 0) pass<false>(group, *group.first);
    if (group.second->count != 0) pass<false>(group, *group.second);
  }
  group.first->count = group.first->full = group.second->count = group.second->full = 0;
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
  for (u32 first = 0; first < kMaxGroup; first += kLanes) {
    store(&group.columns.word[kBlockRow][first], _mm512_setzero_si512());
  }
  Vector x[16];
  chacha20_first_words(group.columns, x);
  keep_one_time_keys(group, 0, x);
  keep_one_time_keys(group, kLanes, x + 8);
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

INLINE void begin_collecting(Group& group) {
  group.first = &group.lanes[0], group.second = &group.lanes[1];
  group.late = nullptr, group.late_at = 0;
  group.spare[0] = &group.lanes[2], group.spare[1] = &group.lanes[3], group.spares = 2;
  group.first->count = group.first->full = group.second->count = group.second->full = 0;
}

// How many blocks every packet of a whole group has that can be computed as columns.
INLINE u32 columns_of(const Group& group) {
  if (group.count < kMaxGroup || group.packet[0].length < 64 || group.packet[kMaxGroup - 1].blocks > kColumnsMost)
    return 0;
  u32 least = kColumnsMost;
  for (u32 p = 0; p < kMaxGroup; ++p) {
    const Packet& packet = group.packet[p];
    const u32 whole = packet.full_first == 1 ? packet.full_count : 0;
    least = whole < least ? whole : least;
  }
  return least;
}

// The packets whose tags are computed next: eight columns, or a pair of long ones.
INLINE u32 unit_end(const Group& group, u32 first) {
  const u32 eight = (first & ~7u) + 8 < group.count ? (first & ~7u) + 8 : group.count;
  if (first % 8 == 0 && group.packet[eight - 1].length < kLong) return eight;
  return first + 2 < group.count ? first + 2 : group.count;
}

// Sets apart, of the list from `at` on, what eight packets have in common, and runs of sixteen blocks of long ones.
INLINE void set_apart(Group& group, const Position& at) {
  if (group.packet[group.count - 1].blocks < 4) return;
  for (u32 first = 0, end; first < group.count; first = end) {
    end = unit_end(group, first);
    if (first < at.packet || (first == at.packet && at.block != at.begin)) continue;
    if (end - first == 8) {
      if (group.packet[first].blocks != group.packet[end - 1].blocks) continue;
      u32 from = at.begin, until = ~0u;
      for (u32 p = first; p < end; ++p) {
        const Packet& packet = group.packet[p];
        const u32 past = packet.full_first + packet.full_count;
        from = from > packet.full_first ? from : packet.full_first;
        until = until < past ? until : past;
      }
      if (until < from + 4) continue;
      for (u32 p = first; p < end; ++p) {
        group.packet[p].apart_first = from;
        group.packet[p].apart_end = from + ((until - from) & ~3u);
      }
    } else if (group.packet[end - 1].length >= kLong) {
      for (u32 p = first; p < end; ++p) {
        Packet& packet = group.packet[p];
        const u32 run = at.begin > packet.full_first ? at.begin : packet.full_first;
        const u32 past = packet.full_first + packet.full_count;
        if (past < run + kLanes) continue;
        packet.apart_first = run;
        packet.apart_end = run + (past - run) / kLanes * kLanes;
      }
    }
  }
}
INLINE bool has_apart(const Packet& packet) { return packet.apart_first < packet.apart_end; }

// A run that waits for another one.
struct RunLeft {
  Run run[2];
  u32 count = 0;
};
INLINE void finish_run(Group& group, RunLeft& left) {
  if (left.count == 0) return;
  Lanes lanes;
  take(lanes, left.run[0].packet, group.packet[left.run[0].packet], left.run[0].block, kLanes);
  pass<false>(group, lanes);
  left.count = 0;
}
// What was set apart, of packets [first, end).
INLINE void cipher_apart(Group& group, RunLeft& left, u32 first, u32 end) {
  if (end - first == 8) {
    if (!has_apart(group.packet[first])) return;
    bool all = true;
    for (u32 p = first; p < end; ++p) all &= group.packet[p].wanted;
    if (all) return cipher_eight_columns(group, first);
    for (u32 p = first; p < end; ++p)
      group.packet[p].apart_first = group.packet[p].apart_end = group.packet[p].blocks + 1;
    return;
  }
  for (u32 p = first; p < end; ++p) {
    const Packet& packet = group.packet[p];
    if (!packet.wanted) continue;
    for (u32 block = packet.apart_first; block < packet.apart_end; block += kLanes) {
      left.run[left.count++] = {p, block};
      if (left.count == 2) double_run(group, left.run), left.count = 0;
    }
  }
}

// Double passes of packets before `next` fetch those from there on.
INLINE void look_ahead(Group& group, u32 next) {
  group.ahead = nullptr;
  if (next >= group.count) return;
  const u32 length = group.packet[group.count - 1].length;
  if (length < kAheadShortest || length >= kLong) return;
  for (u32 i = 0; i < 8; ++i)
    group.ahead_of.text[i] = group.packet[next + i < group.count ? next + i : group.count - 1].text;
  group.ahead_of.at = 0;
  group.ahead = &group.ahead_of;
}

INLINE void seal_group(Group& group) {
  Position at;
  one_time_keys<true>(group, at);
  begin_collecting(group);
  look_ahead(group, group.count);
  if (const u32 columns = at.packet == 0 && at.block == 1 ? columns_of(group) : 0; columns != 0) {
    cipher_all_columns(group, columns);
    at.block = at.begin = columns + 1;
  } else {
    set_apart(group, at);
  }
  RunLeft run;
  for (u32 first = 0, end; first < group.count; first = end) {
    end = unit_end(group, first);
    look_ahead(group, end);
    cipher_apart(group, run, first, end);
    finish_run(group, run);
    // A pass takes blocks of the packets behind, too; and one more brings back what the last left behind.
    while (at.packet < end || (at.packet < group.count && group.late != nullptr && group.late->packet[0] < end)) {
      fill(*group.first, group, at, group.count);
      fill(*group.second, group, at, group.count);
      pass_both(group);
    }
    if (group.late != nullptr && group.late->packet[0] < end) finish_late(group);
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

// What open reads first, of packets [first, end).
INLINE void fetch(const Group& group, u32 first, u32 end) {
  for (u32 p = first; p < end; ++p) {
    const Packet& packet = group.packet[p];
    const u32 until = packet.length + kTag < kFetched ? packet.length + kTag : kFetched;
    for (u32 at = 0; at < until; at += 64) __asm__ volatile("prefetcht0 %0" : : "m"(packet.text[at]));
  }
}

INLINE void open_group(Group& group) {
  fetch(group, 0, unit_end(group, 0));
  Position at;
  one_time_keys<false>(group, at);
  u32 waiting = 0;
  begin_collecting(group);
  look_ahead(group, group.count);
  const u32 columns = at.packet == 0 && at.block == 1 ? columns_of(group) : 0;
  if (columns == 0) set_apart(group, at);
  RunLeft run;
  bool all = true;
  for (u32 first = 0, end; first < group.count; first = end) {
    end = unit_end(group, first);
    look_ahead(group, end);
    if (columns != 0 && end < group.count) fetch(group, end, unit_end(group, end));
    poly1305<false>(group, first, end);
    for (u32 p = first; p < end; ++p) all &= group.packet[p].wanted = tag_matches(group, p);
    for (; waiting < group.waiting && group.waiting_packet[waiting] < end; ++waiting) {
      const Packet& packet = group.packet[group.waiting_packet[waiting]];
      if (packet.wanted) cipher_edge(packet, group.waiting_block[waiting], load(group.stream[waiting]));
    }
    if (columns != 0) {
      if (end < group.count) continue;
      if (all) {
        cipher_all_columns(group, columns);
        at.block = at.begin = columns + 1;
      }
    }
    cipher_apart(group, run, first, end);
    if (end == group.count) finish_run(group, run);
    for (;;) {  // a pass that is not full waits for the packets behind
      fill(*group.first, group, at, end);
      fill(*group.second, group, at, end);
      if (group.second->count < kLanes && end < group.count) break;
      if (group.first->count == 0) break;
      pass_both(group);
    }
  }
  if (group.late != nullptr) finish_late(group);
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
    for (auto& row : group.columns.word) store(&row[first], zero);
  }
  if (group.tabled) {
    for (auto& row : group.table.word) store(row, zero), store(row + kLanes, zero);
  }
  if (group.doubled) {
    for (Vector& word : group.late_stream.word) word = zero;
    for (Vector& word : group.late_stream.spill) word = zero;
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
constexpr u32 kTrace = 2816;

// Registers, and the stack below: callees spilled there, and a double pass keeps its states there.
NOINLINE void leave_no_trace() {
  alignas(64) u8 below[kTrace];
  for (u32 i = 0; i < kTrace; i += 64) _mm512_store_si512(below + i, _mm512_setzero_si512());
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

INLINE void forget() {
  leave_no_trace();
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
  packet.apart_first = packet.apart_end = packet.blocks + 1;
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
  group.powers = group.tabled = group.doubled = false;
  for (std::size_t done = 0; done < count; done += kMaxGroup) {
    seal_some(group, jobs + done, static_cast<u32>(count - done < kMaxGroup ? count - done : kMaxGroup));
  }
  forget();
}

void open(OpenJob* jobs, std::size_t count) noexcept {
  if (count == 0) return;
  Group group;
  group.powers = group.tabled = group.doubled = false;
  for (std::size_t done = 0; done < count; done += kMaxGroup) {
    open_some(group, jobs + done, static_cast<u32>(count - done < kMaxGroup ? count - done : kMaxGroup));
  }
  forget();
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
