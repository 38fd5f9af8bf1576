// group.h: what the AVX-512 kernel works on: packets, the lanes of a pass, and a group with all its secrets. avx512.cpp
// tells how it goes together; only that file includes what lies in this folder (and the bench rounds.h).
#pragma once
#include <immintrin.h>

#include "dataplane/aead/aead_kernels.h"

namespace wireplane {
namespace {  // of the one kernel file that includes this

using Vector = __m512i;
using u8 = std::uint8_t;
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
constexpr u32 kScalarLongest = 224;   // octets of a lone packet, where scalar Poly1305 beats eight strands
constexpr u32 kSoloSpread = 256;      // octets by which two packets differ, where each alone beats the pair
constexpr u32 kFetched = 1536;        // octets of each of the first packets that open fetches before it needs them
constexpr u32 kAheadShortest = 256;   // octets of the longest packet, from where the next eight are fetched meanwhile
constexpr u32 kAlikeLongest = 960;    // octets of packets of one length, whose Poly1305 goes by their own rows, and
constexpr u32 kSixteenLongest = 192;  // of those that go sixteen at a time
constexpr u32 kColumnsOfEight = 2 * (kSixteenLongest / 16 + 4);  // where the second eight's columns begin
constexpr u32 kAcrossLongest = 512;  // octets, where Poly1305 across packets beats strands: measured, README.md

// One packet of a group, sorted. Octet i of the text comes from head[i] below head_length, from text[i] below body_end,
// and is zero (padding) above; `text` is the body's address minus head_length.
struct Shape {
  u32 length;
  u32 head_length;
  u32 body_end;
  u32 blocks;      // of the text: ceil(length / 64); ChaCha20 numbers them from 1
  u32 full_first;  // blocks that lie whole inside the body, first and count
  u32 full_count;
  u32 apart_first;  // blocks that are computed apart from the list, in runs or columns: first, and one past the last
  u32 apart_end;
};
struct Packet : Shape {
  const u8* key;
  u64 counter;
  const u8* text;
  const u8* head;
  u8* out;
  bool wanted;  // to be ciphered: in open, only what verified
};

// Which blocks a pass computes; of idle lanes, anything. Arrays are longer than a pass because whole registers are
// written.
struct Lanes {
  alignas(64) u32 packet[2 * kLanes];
  alignas(64) u32 block[2 * kLanes];
  alignas(64) const u8* from[2 * kLanes];  // the block's octets, and
  alignas(64) u8* to[2 * kLanes];          // where they go
  u32 count = 0;
  u32 full = 0;  // bit i: lane i's block lies whole inside the body
};

// What chacha20_of_lanes begins with: words 4-12, 14 and 15 of two states, a lane a column. Secret.
struct alignas(64) Table {
  u32 word[10][2 * kLanes];
  u32 block[2 * kLanes];
};
enum TableRow : unsigned { kKeyRow = 0, kCounterRow = 8 };

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
  bool alike;    // all packets have one shape
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
  Lanes columns_left;  // a double pass of columns: its first half,
  Lanes* right;        // and its second
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
  u64 block_zero[kMaxGroup][8];               // key stream of block 0, where it was not computed vertically
  u8 stream[kLanes][64];                      // open: key stream that came along with block 0 and waits for the verdict
  Vector text[2 * (kAlikeLongest / 16 + 4)];  // columns of ciphertext, not secret
  u32 waiting_packet[kLanes], waiting_block[kLanes], waiting;
};
enum Power : unsigned { kR1, kR2, kR3, kR4, kR8 };

INLINE Vector load(const void* at) { return _mm512_loadu_si512(at); }
INLINE void store(void* at, Vector v) { _mm512_storeu_si512(at, v); }
INLINE __mmask64 first_octets(u32 count) { return count >= 64 ? ~u64{0} : _bzhi_u64(~u64{0}, count); }

// Four rows of words in each quarter, transposed: to[k] has word k of row 0, 1, 2, 3 of each quarter.
INLINE void transpose_quarters(const Vector from[4], Vector to[4]) {
  const Vector a = _mm512_unpacklo_epi32(from[0], from[1]), b = _mm512_unpackhi_epi32(from[0], from[1]);
  const Vector c = _mm512_unpacklo_epi32(from[2], from[3]), d = _mm512_unpackhi_epi32(from[2], from[3]);
  to[0] = _mm512_unpacklo_epi64(a, c);
  to[1] = _mm512_unpackhi_epi64(a, c);
  to[2] = _mm512_unpacklo_epi64(b, d);
  to[3] = _mm512_unpackhi_epi64(b, d);
}

}  // namespace
}  // namespace wireplane
