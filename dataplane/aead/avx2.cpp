// avx2.cpp: ChaCha20-Poly1305 for bursts, on AVX2 and BMI2.
//
// The plan is avx512.cpp's, with half the lanes: a *group* of up to eight packets, sorted by length, whatever their
// keys.
//
//   1 one-time keys   ChaCha20 block 0 of every packet, together
//   2 cipher          all other blocks of all packets from one list, eight lanes at a time
//   3 tags            Poly1305, two packets at once
//   seal does 1 2 3; open does 1 3, compares, and 2 for the packets that verified. No other plaintext is ever written.
//
// ChaCha20 (RFC 8439 §2.3): a lane is one block of any packet. Eight lanes fill sixteen registers, one a state word:
//
//              lane 0   1   2      7
//    word  4   k0(p0) k0(p0) .. k0(p4)    <- the group's keys lie transposed; a permute by packet number gathers them
//    word 12     1      2    ..   3       <- block number
//
//   After 20 rounds two 8x8 transposes make the two halves of each block registers again. Up to 4 lanes are computed
//   two blocks a state instead, in rows: half the latency, when there is not enough work for eight lanes.
//
// Poly1305 (RFC 8439 §2.5) runs in scalar registers (poly1305_scalar.h): AVX2 multiplies only 32 bits, five limbs cost
// 25 multiplications for four blocks and more to keep them carried; mulx needs 6 a block, and two packets side by side
// hide its latency.
//
// Constant time: lengths, block numbers and verdicts are public; nothing else is branched on or used as an address. The
// tool that shows it is tests/unit/aead_constant_time_test.cpp. Secrets live in Group, which is wiped, and in registers
// and spills, which leave_no_trace() clears.
#include <immintrin.h>

#include <cstddef>

#include "dataplane/aead/aead_kernels.h"
#include "dataplane/aead/cpu.h"
#include "dataplane/aead/poly1305_for_test.h"
#include "dataplane/aead/poly1305_scalar.h"

namespace wireplane {
namespace {

using Vector = __m256i;
using u8 = std::uint8_t;
using u32 = std::uint32_t;
using u64 = std::uint64_t;

#define INLINE static inline __attribute__((always_inline))
#define NOINLINE __attribute__((noinline))

constexpr u32 kMaxGroup = 8;    // packets computed together: one register of transposed key words
constexpr u32 kMaxSorted = 32;  // packets sorted together
constexpr u32 kLanes = 8;       // ChaCha20 blocks in one pass
constexpr u32 kTag = 16;

// One packet of a group. Octet i of the text comes from head[i] below head_length, from text[i] below body_end, and is
// zero (padding) above; `text` is the body's address minus head_length.
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

// Which blocks a pass computes.
struct alignas(32) Lanes {
  u32 packet[kLanes];
  u32 block[kLanes];
  u32 count = 0;
};

struct alignas(64) Group {
  Packet packet[kMaxGroup];
  u32 count;
  // All below is secret.
  alignas(64) u32 key[8][kMaxGroup];  // column p belongs to packet p
  u32 counter[2][kMaxGroup];
  u64 one_time[kMaxGroup][4];  // r and s
  u64 tag[kMaxGroup][2];
  u8 stream[kLanes][64];  // open: key stream that came along with block 0 and waits for the verdict
  u8 edge[64];
  u32 waiting_packet[kLanes], waiting_block[kLanes], waiting;
};

INLINE Vector load(const void* at) { return _mm256_loadu_si256(static_cast<const __m256i*>(at)); }
INLINE void store(void* at, Vector v) { _mm256_storeu_si256(static_cast<__m256i*>(at), v); }

// --- ChaCha20 ---

constexpr u32 kSigma[4] = {0x61707865, 0x3320646e, 0x79622d32, 0x6b206574};  // "expand 32-byte k"

INLINE Vector rotate16(Vector v) {
  return _mm256_shuffle_epi8(v, _mm256_setr_epi8(2, 3, 0, 1, 6, 7, 4, 5, 10, 11, 8, 9, 14, 15, 12, 13, 2, 3, 0, 1, 6, 7,
                                                 4, 5, 10, 11, 8, 9, 14, 15, 12, 13));
}
INLINE Vector rotate8(Vector v) {
  return _mm256_shuffle_epi8(v, _mm256_setr_epi8(3, 0, 1, 2, 7, 4, 5, 6, 11, 8, 9, 10, 15, 12, 13, 14, 3, 0, 1, 2, 7, 4,
                                                 5, 6, 11, 8, 9, 10, 15, 12, 13, 14));
}
INLINE Vector rotate12(Vector v) { return _mm256_or_si256(_mm256_slli_epi32(v, 12), _mm256_srli_epi32(v, 20)); }
INLINE Vector rotate7(Vector v) { return _mm256_or_si256(_mm256_slli_epi32(v, 7), _mm256_srli_epi32(v, 25)); }

INLINE void quarter_round(Vector& a, Vector& b, Vector& c, Vector& d) {  // RFC 8439 §2.1, in every lane
  a = _mm256_add_epi32(a, b), d = rotate16(_mm256_xor_si256(d, a));
  c = _mm256_add_epi32(c, d), b = rotate12(_mm256_xor_si256(b, c));
  a = _mm256_add_epi32(a, b), d = rotate8(_mm256_xor_si256(d, a));
  c = _mm256_add_epi32(c, d), b = rotate7(_mm256_xor_si256(b, c));
}
// Two at once, step by step: sixteen registers hold eight words, the rest waits in memory.
INLINE void two_quarter_rounds(Vector& a, Vector& b, Vector& c, Vector& d, Vector& e, Vector& f, Vector& g, Vector& h) {
  a = _mm256_add_epi32(a, b), e = _mm256_add_epi32(e, f);
  d = rotate16(_mm256_xor_si256(d, a)), h = rotate16(_mm256_xor_si256(h, e));
  c = _mm256_add_epi32(c, d), g = _mm256_add_epi32(g, h);
  b = rotate12(_mm256_xor_si256(b, c)), f = rotate12(_mm256_xor_si256(f, g));
  a = _mm256_add_epi32(a, b), e = _mm256_add_epi32(e, f);
  d = rotate8(_mm256_xor_si256(d, a)), h = rotate8(_mm256_xor_si256(h, e));
  c = _mm256_add_epi32(c, d), g = _mm256_add_epi32(g, h);
  b = rotate7(_mm256_xor_si256(b, c)), f = rotate7(_mm256_xor_si256(f, g));
}

// Eight registers of eight words: x[i] lane j to x[j] lane i.
INLINE void transpose(Vector x[8]) {
  Vector y[8];
  for (int i = 0; i < 8; i += 4) {
    const Vector a = _mm256_unpacklo_epi32(x[i], x[i + 1]), b = _mm256_unpackhi_epi32(x[i], x[i + 1]);
    const Vector c = _mm256_unpacklo_epi32(x[i + 2], x[i + 3]), d = _mm256_unpackhi_epi32(x[i + 2], x[i + 3]);
    y[i] = _mm256_unpacklo_epi64(a, c), y[i + 1] = _mm256_unpackhi_epi64(a, c);
    y[i + 2] = _mm256_unpacklo_epi64(b, d), y[i + 3] = _mm256_unpackhi_epi64(b, d);
  }
  for (int i = 0; i < 4; ++i) {
    x[i] = _mm256_permute2x128_si256(y[i], y[4 + i], 0x20);
    x[4 + i] = _mm256_permute2x128_si256(y[i], y[4 + i], 0x31);
  }
}

// Eight blocks; row[i] is block i's key stream. Lanes beyond the count compute something nobody reads.
NOINLINE void chacha20_vertical(const Group& group, const Lanes& lanes, u8 (*row)[64]) {
  const Vector who = load(lanes.packet);
  const auto of = [&](const u32* column) { return _mm256_permutevar8x32_epi32(load(column), who); };
  Vector x[16];
  for (int i = 0; i < 4; ++i) x[i] = _mm256_set1_epi32(static_cast<int>(kSigma[i]));
  for (int i = 0; i < 8; ++i) x[4 + i] = of(group.key[i]);
  x[12] = load(lanes.block);
  x[13] = _mm256_setzero_si256();
  x[14] = of(group.counter[0]), x[15] = of(group.counter[1]);
  for (int i = 0; i < 10; ++i) {
    two_quarter_rounds(x[0], x[4], x[8], x[12], x[1], x[5], x[9], x[13]);
    two_quarter_rounds(x[2], x[6], x[10], x[14], x[3], x[7], x[11], x[15]);
    two_quarter_rounds(x[0], x[5], x[10], x[15], x[1], x[6], x[11], x[12]);
    two_quarter_rounds(x[2], x[7], x[8], x[13], x[3], x[4], x[9], x[14]);
  }
  for (int i = 0; i < 4; ++i) x[i] = _mm256_add_epi32(x[i], _mm256_set1_epi32(static_cast<int>(kSigma[i])));
  for (int i = 0; i < 8; ++i) x[4 + i] = _mm256_add_epi32(x[4 + i], of(group.key[i]));
  x[12] = _mm256_add_epi32(x[12], load(lanes.block));
  x[14] = _mm256_add_epi32(x[14], of(group.counter[0])), x[15] = _mm256_add_epi32(x[15], of(group.counter[1]));
  for (int half = 0; half < 2; ++half) {
    transpose(x + 8 * half);
    for (int i = 0; i < 8; ++i) store(row[i] + 32 * half, x[8 * half + i]);
  }
}

// 2 * sets blocks, two in the rows of each state. Lanes beyond the count repeat lane 0.
template <int sets>
NOINLINE void chacha20_rows(const Group& group, const Lanes& lanes, u8 (*row)[64]) {
  Vector a[sets], b[sets], c[sets], d[sets], key0[sets], key1[sets], numbers[sets];
  const Vector sigma = _mm256_broadcastsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i*>(kSigma)));
  for (u32 s = 0; s < sets; ++s) {
    const u32 first = 2 * s < lanes.count ? 2 * s : 0, second = 2 * s + 1 < lanes.count ? 2 * s + 1 : 0;
    const Packet& p = group.packet[lanes.packet[first]];
    const Packet& q = group.packet[lanes.packet[second]];
    const auto two = [&](int at) {
      return _mm256_inserti128_si256(
          _mm256_castsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p.key + at))),
          _mm_loadu_si128(reinterpret_cast<const __m128i*>(q.key + at)), 1);
    };
    key0[s] = two(0), key1[s] = two(16);
    numbers[s] = _mm256_setr_epi64x(lanes.block[first], static_cast<long long>(p.counter), lanes.block[second],
                                    static_cast<long long>(q.counter));
    a[s] = sigma, b[s] = key0[s], c[s] = key1[s], d[s] = numbers[s];
  }
  for (int i = 0; i < 10; ++i) {
    for (int s = 0; s < sets; ++s) quarter_round(a[s], b[s], c[s], d[s]);
    for (int s = 0; s < sets; ++s) {
      b[s] = _mm256_shuffle_epi32(b[s], 0x39), c[s] = _mm256_shuffle_epi32(c[s], 0x4e);
      d[s] = _mm256_shuffle_epi32(d[s], 0x93);
    }
    for (int s = 0; s < sets; ++s) quarter_round(a[s], b[s], c[s], d[s]);
    for (int s = 0; s < sets; ++s) {
      b[s] = _mm256_shuffle_epi32(b[s], 0x93), c[s] = _mm256_shuffle_epi32(c[s], 0x4e);
      d[s] = _mm256_shuffle_epi32(d[s], 0x39);
    }
  }
  for (int s = 0; s < sets; ++s) {
    a[s] = _mm256_add_epi32(a[s], sigma), b[s] = _mm256_add_epi32(b[s], key0[s]);
    c[s] = _mm256_add_epi32(c[s], key1[s]), d[s] = _mm256_add_epi32(d[s], numbers[s]);
    store(row[2 * s], _mm256_permute2x128_si256(a[s], b[s], 0x20));
    store(row[2 * s] + 32, _mm256_permute2x128_si256(c[s], d[s], 0x20));
    store(row[2 * s + 1], _mm256_permute2x128_si256(a[s], b[s], 0x31));
    store(row[2 * s + 1] + 32, _mm256_permute2x128_si256(c[s], d[s], 0x31));
  }
}

// --- from key stream to text ---

// A block that touches the head, the padding or the end: joined in a buffer of its own.
NOINLINE void cipher_edge(Group& group, const Packet& packet, u32 block, const u8* stream) {
  const u32 at = (block - 1) * 64;
  const u32 end = packet.length - at < 64 ? packet.length - at : 64;
  const u32 head = packet.head_length > at ? (packet.head_length - at < 64 ? packet.head_length - at : 64) : 0;
  const u32 body = packet.body_end > at ? (packet.body_end - at < 64 ? packet.body_end - at : 64) : 0;
  const Vector zero = _mm256_setzero_si256();
  store(group.edge, zero), store(group.edge + 32, zero);
  if (head != 0) __builtin_memcpy(group.edge, packet.head + at, head);
  if (body > head) __builtin_memcpy(group.edge + head, packet.text + at + head, body - head);
  for (int i = 0; i < 64; i += 32) store(group.edge + i, _mm256_xor_si256(load(group.edge + i), load(stream + i)));
  __builtin_memcpy(packet.out + at, group.edge, end);
}

INLINE void cipher(Group& group, const Packet& packet, u32 block, const u8* stream) {
  if (block - packet.full_first >= packet.full_count) return cipher_edge(group, packet, block, stream);
  const u64 at = (u64{block} - 1) * 64;
  const Vector low = _mm256_xor_si256(load(packet.text + at), load(stream));
  const Vector high = _mm256_xor_si256(load(packet.text + at + 32), load(stream + 32));
  store(packet.out + at, low), store(packet.out + at + 32, high);
}

// What becomes of the rows of a pass: block 0 is the packet's one-time key, the others are used at once, or wait.
template <bool wait>
INLINE void pass(Group& group, const Lanes& lanes) {
  alignas(32) u8 row[kLanes][64];
  if (lanes.count <= 2) {
    chacha20_rows<1>(group, lanes, row);
  } else if (lanes.count <= 4) {
    chacha20_rows<2>(group, lanes, row);
  } else {
    chacha20_vertical(group, lanes, row);
  }
  for (u32 i = 0; i < lanes.count; ++i) {
    const u32 p = lanes.packet[i], block = lanes.block[i];
    if (block == 0) {
      store(group.one_time[p], load(row[i]));
    } else if (wait) {
      group.waiting_packet[group.waiting] = p;
      group.waiting_block[group.waiting] = block;
      __builtin_memcpy(group.stream[group.waiting++], row[i], 64);
    } else {
      cipher(group, group.packet[p], block, row[i]);
    }
  }
}

// The place in the list of all blocks: packet by packet, from block 1.
struct Position {
  u32 packet = 0;
  u32 block = 1;
};

INLINE void fill(Lanes& lanes, const Group& group, Position& at) {
  while (at.packet < group.count && lanes.count < kLanes) {
    const Packet& packet = group.packet[at.packet];
    if (!packet.wanted || at.block > packet.blocks) {
      at = {at.packet + 1, 1};
      continue;
    }
    lanes.packet[lanes.count] = at.packet;
    lanes.block[lanes.count++] = at.block++;
  }
}

INLINE void transpose_keys(Group& group) {  // packets beyond the group repeat its last
  Vector x[8];
  for (u32 i = 0; i < 8; ++i) {
    const Packet& packet = group.packet[i < group.count ? i : group.count - 1];
    x[i] = load(packet.key);
    group.counter[0][i] = static_cast<u32>(packet.counter);
    group.counter[1][i] = static_cast<u32>(packet.counter >> 32);
  }
  transpose(x);
  for (int w = 0; w < 8; ++w) store(group.key[w], x[w]);
}

// --- Poly1305 ---

INLINE void absorb(Poly& p, const u8* octets) {
  u64 m[2];
  __builtin_memcpy(m, octets, 16);
  absorb(p, m[0], m[1]);
}

// The last octets, padded with zeros, and the block of lengths (RFC 8439 §2.8: additional data, none; text).
INLINE void absorb_end(Poly& p, const u8* text, u32 length, u32 at) {
  if (at < length) {
    u64 m[2] = {0, 0};
    __builtin_memcpy(m, text + at, length - at);
    absorb(p, m[0], m[1]);
  }
  absorb(p, 0, length);
}

INLINE void finish(const Poly& p, const u64* one_time, u64* tag) {  // h mod 2^130 - 5, plus s mod 2^128
  // h < 2 p: it is >= p exactly if h + 5 reaches 2^130, and then h + 5 - 2^130 is the result. Carries by intrinsics:
  // gcc made a branch of (sum < summand), as aead_constant_time_test showed.
  unsigned long long g0, g1, g2, low, high;
  unsigned char c = _addcarry_u64(0, p.h0, 5, &g0);
  c = _addcarry_u64(c, p.h1, 0, &g1);
  _addcarry_u64(c, p.h2, 0, &g2);
  const u64 reaches = u64{0} - ((g2 >> 2) & 1);
  c = _addcarry_u64(0, (p.h0 & ~reaches) | (g0 & reaches), one_time[2], &low);
  _addcarry_u64(c, (p.h1 & ~reaches) | (g1 & reaches), one_time[3], &high);
  tag[0] = low, tag[1] = high;
}

// Packets a and b (b may be a, and is then computed twice): as far as both go side by side, then the longer.
template <bool sealing>
NOINLINE void poly_pair(Group& group, u32 a, u32 b) {
  const Packet& pa = group.packet[a];
  const Packet& pb = group.packet[b];
  const u8* const ta = sealing ? pa.out : pa.text;
  const u8* const tb = sealing ? pb.out : pb.text;
  Poly x = poly_start(group.one_time[a][0], group.one_time[a][1]),
       y = poly_start(group.one_time[b][0], group.one_time[b][1]);
  const u32 both = (pa.length < pb.length ? pa.length : pb.length) / 16 * 16;
  u32 at = 0;
  for (; at < both; at += 16) absorb(x, ta + at), absorb(y, tb + at);
  u32 at_b = at;
  for (; at + 16 <= pa.length; at += 16) absorb(x, ta + at);
  for (; at_b + 16 <= pb.length; at_b += 16) absorb(y, tb + at_b);
  absorb_end(x, ta, pa.length, at);
  absorb_end(y, tb, pb.length, at_b);
  finish(x, group.one_time[a], group.tag[a]);
  finish(y, group.one_time[b], group.tag[b]);
}

template <bool sealing>
NOINLINE void poly_one(Group& group, u32 p) {
  const Packet& packet = group.packet[p];
  const u8* const text = sealing ? packet.out : packet.text;
  Poly x = poly_start(group.one_time[p][0], group.one_time[p][1]);
  u32 at = 0;
  for (; at + 16 <= packet.length; at += 16) absorb(x, text + at);
  absorb_end(x, text, packet.length, at);
  finish(x, group.one_time[p], group.tag[p]);
}

template <bool sealing>
INLINE void poly1305(Group& group) {
  u32 p = 0;
  for (; p + 1 < group.count; p += 2) poly_pair<sealing>(group, p, p + 1);
  if (p < group.count) poly_one<sealing>(group, p);
}

// --- groups ---

// Step 1 and, as far as it comes along, 2.
template <bool sealing>
INLINE void one_time_keys(Group& group, Position& at) {
  transpose_keys(group);
  group.waiting = 0;
  Lanes lanes;
  for (u32 p = 0; p < group.count; ++p) lanes.packet[p] = p, lanes.block[p] = 0;
  lanes.count = group.count;
  fill(lanes, group, at);
  pass<!sealing>(group, lanes);
}

INLINE void cipher_all(Group& group, Position& at) {
  for (;;) {
    Lanes lanes;
    fill(lanes, group, at);
    if (lanes.count == 0) return;
    for (u32 i = lanes.count; i < kLanes; ++i) lanes.packet[i] = lanes.packet[0], lanes.block[i] = 0;
    pass<false>(group, lanes);
  }
}

INLINE void seal_group(Group& group) {
  Position at;
  one_time_keys<true>(group, at);
  cipher_all(group, at);
  poly1305<true>(group);
  for (u32 p = 0; p < group.count; ++p) {
    __builtin_memcpy(group.packet[p].out + group.packet[p].length, group.tag[p], kTag);
  }
}

// The difference of two tags, without a branch until all 128 bits are one bit.
INLINE bool tag_matches(const Group& group, u32 p) {
  u64 sent[2];
  __builtin_memcpy(sent, group.packet[p].text + group.packet[p].length, kTag);
  return ((sent[0] ^ group.tag[p][0]) | (sent[1] ^ group.tag[p][1])) == 0;
}

INLINE void open_group(Group& group) {
  Position at;
  one_time_keys<false>(group, at);
  poly1305<false>(group);
  for (u32 p = 0; p < group.count; ++p) group.packet[p].wanted = tag_matches(group, p);
  for (u32 i = 0; i < group.waiting; ++i) {
    const Packet& packet = group.packet[group.waiting_packet[i]];
    if (packet.wanted) cipher(group, packet, group.waiting_block[i], group.stream[i]);
  }
  cipher_all(group, at);
}

INLINE void wipe(Group& group) {
  u8* const from = reinterpret_cast<u8*>(group.key);
  u8* const to = reinterpret_cast<u8*>(group.waiting_packet);
  for (u8* at = from; at < to; at += 32) store(at, _mm256_setzero_si256());
  __asm__ volatile("" : : "r"(&group) : "memory");
}
static_assert((offsetof(Group, waiting_packet) - offsetof(Group, key)) % 32 == 0, "wiped in whole registers");

// Registers, and the stack below: callees spilled there, and a pass keeps its rows there.
constexpr u32 kTrace = 2560;  // more than the deepest chain of callees' frames: see -fstack-usage
NOINLINE void leave_no_trace() {
  alignas(32) u8 below[kTrace];
  for (u32 i = 0; i < kTrace; i += 32) store(below + i, _mm256_setzero_si256());
  __asm__ volatile("" : : "r"(below) : "memory");
  __asm__ volatile("vzeroall"
                   :
                   :
                   : "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10", "xmm11",
                     "xmm12", "xmm13", "xmm14", "xmm15");
}

// The order of up to 32 jobs by length: rank = how many are smaller. Keys differ in their low bits, so ranks do.
INLINE void sort_by_length(const u32* length, u32 count, u8* order) {
  std::int32_t key[kMaxSorted], rank[kMaxSorted] = {};
  bool sorted = true;
  for (u32 i = 0; i < count; ++i) {
    key[i] = static_cast<std::int32_t>(length[i] << 5 | i);
    order[i] = static_cast<u8>(i);
    sorted &= i == 0 || length[i - 1] <= length[i];
  }
  if (sorted) return;
  for (u32 i = count; i < kMaxSorted; ++i) key[i] = 0x7fffffff;
  for (u32 j = 0; j < count; ++j) {
    for (u32 i = 0; i < kMaxSorted; ++i) rank[i] += key[j] < key[i];
  }
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
  packet = {job.key,
            job.counter,
            reinterpret_cast<const u8*>(reinterpret_cast<std::uintptr_t>(job.body) - job.head_length),
            job.head,
            job.destination,
            text_length(job),
            job.head_length,
            job.head_length + job.body_length,
            0,
            0,
            0,
            true};
  find_full_blocks(packet);
}
INLINE void describe(Packet& packet, const OpenJob& job) {
  const u32 length = job.length - kTag;
  packet = {job.key, job.counter, job.source, nullptr, job.destination, length, 0, length, 0, 0, 0, true};
  find_full_blocks(packet);
}

NOINLINE void seal_some(Group& group, SealJob* jobs, u32 count) {
  u32 length[kMaxSorted];
  u8 order[kMaxSorted];
  for (u32 i = 0; i < count; ++i) length[i] = text_length(jobs[i]);
  sort_by_length(length, count, order);
  for (u32 done = 0; done < count; done += group.count) {
    group.count = count - done < kMaxGroup ? count - done : kMaxGroup;
    for (u32 i = 0; i < group.count; ++i) describe(group.packet[i], jobs[order[done + i]]);
    seal_group(group);
  }
}

NOINLINE void open_some(Group& group, OpenJob* jobs, u32 count) {
  u32 length[kMaxSorted];
  u8 order[kMaxSorted], kept[kMaxSorted];
  u32 n = 0;
  for (u32 i = 0; i < count; ++i) {
    jobs[i].authentic = false;
    if (jobs[i].length < kTag) continue;  // cannot hold a tag
    length[n] = jobs[i].length;
    kept[n++] = static_cast<u8>(i);
  }
  sort_by_length(length, n, order);
  for (u32 done = 0; done < n; done += group.count) {
    group.count = n - done < kMaxGroup ? n - done : kMaxGroup;
    for (u32 i = 0; i < group.count; ++i) describe(group.packet[i], jobs[kept[order[done + i]]]);
    open_group(group);
    for (u32 i = 0; i < group.count; ++i) jobs[kept[order[done + i]]].authentic = group.packet[i].wanted;
  }
}

void seal(SealJob* jobs, std::size_t count) noexcept {
  if (count == 0) return;
  Group group;
  for (std::size_t done = 0; done < count; done += kMaxSorted) {
    seal_some(group, jobs + done, static_cast<u32>(count - done < kMaxSorted ? count - done : kMaxSorted));
  }
  wipe(group);
  leave_no_trace();
}

void open(OpenJob* jobs, std::size_t count) noexcept {
  if (count == 0) return;
  Group group;
  for (std::size_t done = 0; done < count; done += kMaxSorted) {
    open_some(group, jobs + done, static_cast<u32>(count - done < kMaxSorted ? count - done : kMaxSorted));
  }
  wipe(group);
  leave_no_trace();
}

}  // namespace

const AeadKernels kAeadAvx2 = {"avx2", cpu_has_avx2, seal, open};

// The text's Poly1305 as AEAD computes it, with the one-time key given.
void poly1305_avx2_for_test(unsigned variant, const u8* one_time, const u8* text, u32 length, u8* tag) {
  Group group;
  group.count = 2;
  for (u32 p = 0; p < 2; ++p) {
    group.packet[p].text = text;
    group.packet[p].length = length;
    __builtin_memcpy(group.one_time[p], one_time, 32);
  }
  if (variant == 0) {
    poly_one<false>(group, 1);
  } else {
    poly_pair<false>(group, 0, 1);
  }
  __builtin_memcpy(tag, group.tag[1], kTag);
}

}  // namespace wireplane
