// avx2.cpp: ChaCha20-Poly1305 for bursts, on AVX2 and BMI2.
//
// The plan is avx512.cpp's, with half the lanes: a *group* of up to eight packets, sorted by length, whatever their
// keys.
//
//   1 one-time keys   ChaCha20 block 0 of every packet, together
//   2 cipher          all other blocks of all packets from one list, eight lanes at a time
//   3 tags            Poly1305, two packets at once
//   seal does 1 2 3; open does 1, and then two packets at a time 3, compares, and 2 if they verified. No other
//   plaintext is ever written. What makes it fast is that 3 happens in 2's shadow: vectors cipher while general
//   registers *follow*, that is, absorb blocks of two packets that are ciphered already (seal) or come next (open); see
//   follow() and ten_double_rounds().
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
constexpr u32 kNobody = ~0u;
constexpr u32 kFollowAtLeast = 256;  // octets of a packet that is worth following

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
  u32 absorbed;  // octets that the packet's Poly has absorbed, whole blocks
  bool wanted;   // to be ciphered: in open, only what verified
};

// Which blocks a pass computes.
struct alignas(32) Lanes {
  u32 packet[kLanes];
  u32 block[kLanes];
  u32 count = 0;
};

// What the cipher's loop has at hand in memory. The assembly knows the offsets.
struct alignas(64) LoopMemory {
  Followers followers;
  u64 unused[6];
  __m256i word[4];  // 192: state words 8-11, of which registers hold two
  u8 rotate16[32];  // 320, 352: for vpshufb
  u8 rotate8[32];
};
static_assert(offsetof(LoopMemory, word) == 192 && offsetof(LoopMemory, rotate8) == 352);

struct alignas(64) Group {
  Packet packet[kMaxGroup];
  u32 count;
  u32 following[2];  // the followers' packets, or kNobody
  u32 next_to_follow;
  Lanes lanes;
  // All below is secret.
  LoopMemory loop;
  Poly poly[kMaxGroup];
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

// clang-format off
// Ten double rounds of eight blocks. In assembly, because sixteen state words and the rotates' two temporaries are two registers more
// than there are: words 8-11 take turns in ymm8 and ymm9, at two moves a word and double round; gcc 12 spills three times as much (68
// cycles a double round, 52 here). A PAIR is two quarter rounds side by side. Between them a block of each follower is absorbed, twice.
#define WG_EACH(op, source0, source1, to0, to1) op " " source0 ", " to0 ", " to0 "\n\t" op " " source1 ", " to1 ", " to1 "\n\t"
#define WG_Y(i) "%%ymm" #i
#define WG_ADD(a0, a1, b0, b1) WG_EACH("vpaddd", WG_Y(b0), WG_Y(b1), WG_Y(a0), WG_Y(a1))
#define WG_XOR(d0, d1, a0, a1) WG_EACH("vpxor", WG_Y(a0), WG_Y(a1), WG_Y(d0), WG_Y(d1))
#define WG_ROTATE_16(d0, d1) WG_EACH("vpshufb", "320(%%rdi)", "320(%%rdi)", WG_Y(d0), WG_Y(d1))
#define WG_ROTATE_8(d0, d1) WG_EACH("vpshufb", "352(%%rdi)", "352(%%rdi)", WG_Y(d0), WG_Y(d1))
#define WG_ROTATE(b0, b1, left, right)                                                                                        \
  "vpslld $" #left ", " WG_Y(b0) ", %%ymm10\n\tvpslld $" #left ", " WG_Y(b1) ", %%ymm11\n\t"                                  \
  WG_EACH("vpsrld", "$" #right, "$" #right, WG_Y(b0), WG_Y(b1)) WG_EACH("vpor", "%%ymm10", "%%ymm11", WG_Y(b0), WG_Y(b1))
#define WG_PAIR(a0, a1, b0, b1, c0, c1, d0, d1)                                                                               \
  WG_ADD(a0, a1, b0, b1) WG_XOR(d0, d1, a0, a1) WG_ROTATE_16(d0, d1)                                                          \
  WG_ADD(c0, c1, d0, d1) WG_XOR(b0, b1, c0, c1) WG_ROTATE(b0, b1, 12, 20)                                                     \
  WG_ADD(a0, a1, b0, b1) WG_XOR(d0, d1, a0, a1) WG_ROTATE_8(d0, d1)                                                           \
  WG_ADD(c0, c1, d0, d1) WG_XOR(b0, b1, c0, c1) WG_ROTATE(b0, b1, 7, 25)
#define WG_CHANGE(out0, out1, in0, in1)                                                                                       \
  "vmovdqa %%ymm8, " #out0 "(%%rdi)\n\tvmovdqa %%ymm9, " #out1 "(%%rdi)\n\t"                                                  \
  "vmovdqa " #in0 "(%%rdi), %%ymm8\n\tvmovdqa " #in1 "(%%rdi), %%ymm9\n\t"
#define WG_DOUBLE_ROUND(w0, w1, w2, w3)                                                                                       \
  WG_PAIR(0, 1, 4, 5, 8, 9, 12, 13) w0 WG_CHANGE(192, 224, 256, 288)    /* columns 0 and 1; from here words 10 and 11 */      \
  WG_PAIR(2, 3, 6, 7, 8, 9, 14, 15) w1                                                                                        \
  WG_PAIR(0, 1, 5, 6, 8, 9, 15, 12) w2 WG_CHANGE(256, 288, 192, 224)    /* diagonals 0 and 1; from here words 8 and 9 */      \
  WG_PAIR(2, 3, 7, 4, 8, 9, 13, 14) w3
#if defined(__SANITIZE_THREAD__)  // its calls between the loading of one register and of the next would overwrite the first
__attribute__((noinline, no_sanitize("thread"))) static
#else
INLINE
#endif
void ten_double_rounds(Vector x[16], LoopMemory& memory) {
  register Vector y0 __asm__("ymm0") = x[0], y1 __asm__("ymm1") = x[1], y2 __asm__("ymm2") = x[2], y3 __asm__("ymm3") = x[3];
  register Vector y4 __asm__("ymm4") = x[4], y5 __asm__("ymm5") = x[5], y6 __asm__("ymm6") = x[6], y7 __asm__("ymm7") = x[7];
  register Vector y8 __asm__("ymm8") = x[8], y9 __asm__("ymm9") = x[9], y12 __asm__("ymm12") = x[12], y13 __asm__("ymm13") = x[13];
  register Vector y14 __asm__("ymm14") = x[14], y15 __asm__("ymm15") = x[15];
  __asm__ volatile(
      "cmpq $0, " WG_FOLLOWERS_WITH "\n\tje 2f\n\t"
      WG_FOLLOWERS_LOAD
      ".p2align 5\n1:\n\t"
      WG_DOUBLE_ROUND(WG_FOLLOW_FIRST(0), WG_FOLLOW_SECOND(0), WG_FOLLOW_FIRST(16), WG_FOLLOW_SECOND(16))
      WG_FOLLOWERS_ADVANCE(32)
      "decq " WG_FOLLOWERS_WITH "\n\tjnz 1b\n\t"
      WG_FOLLOWERS_STORE
      "2:\n\tmovq " WG_FOLLOWERS_WITHOUT ", %%rax\n\ttestq %%rax, %%rax\n\tje 4f\n\t"
      ".p2align 5\n3:\n\t"
      WG_DOUBLE_ROUND("", "", "", "")
      "decq %%rax\n\tjnz 3b\n"
      "4:\n\t"
      : "+x"(y0), "+x"(y1), "+x"(y2), "+x"(y3), "+x"(y4), "+x"(y5), "+x"(y6), "+x"(y7), "+x"(y8), "+x"(y9), "+x"(y12), "+x"(y13),
        "+x"(y14), "+x"(y15)
      : "D"(&memory)
      : "memory", "cc", "xmm10", "xmm11", WG_FOLLOWERS_CLOBBERS);
  const Vector all[16] = {y0, y1, y2, y3, y4, y5, y6, y7, y8, y9, memory.word[2], memory.word[3], y12, y13, y14, y15};
  for (int i = 0; i < 16; ++i) x[i] = all[i];
}
// clang-format on

// Eight blocks; row[i] is block i's key stream. Lanes beyond the count compute something nobody reads. Meanwhile the
// followers absorb what followers.with says.
NOINLINE void chacha20_vertical(Group& group, const Lanes& lanes, u8 (*row)[64]) {
  const Vector who = load(lanes.packet);
  const auto of = [&](const u32* column) { return _mm256_permutevar8x32_epi32(load(column), who); };
  Vector x[16];
  for (int i = 0; i < 4; ++i) x[i] = _mm256_set1_epi32(static_cast<int>(kSigma[i]));
  for (int i = 0; i < 8; ++i) x[4 + i] = of(group.key[i]);
  x[12] = load(lanes.block);
  x[13] = _mm256_setzero_si256();
  x[14] = of(group.counter[0]), x[15] = of(group.counter[1]);
  group.loop.word[2] = x[10], group.loop.word[3] = x[11];
  group.loop.followers.without = 10 - group.loop.followers.with;
  ten_double_rounds(x, group.loop);
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

INLINE void fill(Lanes& lanes, const Group& group, Position& at, u32 end) {
  while (at.packet < end && lanes.count < kLanes) {
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

template <bool sealing>
INLINE const u8* ciphertext(const Packet& packet) {
  return sealing ? packet.out : packet.text;
}

// What is left of packets a and b: as far as both go side by side, then the longer.
template <bool sealing>
NOINLINE void poly_pair(Group& group, u32 a, u32 b) {
  const Packet& pa = group.packet[a];
  const Packet& pb = group.packet[b];
  const u8* const ta = ciphertext<sealing>(pa);
  const u8* const tb = ciphertext<sealing>(pb);
  Poly x = group.poly[a], y = group.poly[b];
  u32 at_a = pa.absorbed, at_b = pb.absorbed;
  for (; at_a + 16 <= pa.length && at_b + 16 <= pb.length; at_a += 16, at_b += 16) {
    absorb(x, ta + at_a), absorb(y, tb + at_b);
  }
  for (; at_a + 16 <= pa.length; at_a += 16) absorb(x, ta + at_a);
  for (; at_b + 16 <= pb.length; at_b += 16) absorb(y, tb + at_b);
  absorb_end(x, ta, pa.length, at_a);
  absorb_end(y, tb, pb.length, at_b);
  finish(x, group.one_time[a], group.tag[a]);
  finish(y, group.one_time[b], group.tag[b]);
}

template <bool sealing>
NOINLINE void poly_one(Group& group, u32 p) {
  const Packet& packet = group.packet[p];
  const u8* const text = ciphertext<sealing>(packet);
  Poly x = group.poly[p];
  u32 at = packet.absorbed;
  for (; at + 16 <= packet.length; at += 16) absorb(x, text + at);
  absorb_end(x, text, packet.length, at);
  finish(x, group.one_time[p], group.tag[p]);
}

INLINE void start_poly(Group& group) {
  for (u32 p = 0; p < group.count; ++p) {
    group.poly[p] = poly_start(group.one_time[p][0], group.one_time[p][1]);
    group.packet[p].absorbed = 0;
  }
}

INLINE void stop_following(Group& group, u32 k) {
  const u32 p = group.following[k];
  const Follower& follower = group.loop.followers.of[k];
  group.following[k] = kNobody;
  group.poly[p] = follower.poly;
  group.packet[p].absorbed = 16 * (group.packet[p].length / 16 - static_cast<u32>(follower.blocks));
}

// Before a pass: which two of the packets [next_to_follow, end) it absorbs blocks of, two of each a turn of its loop.
template <bool sealing>
INLINE void follow(Group& group, u32 end) {
  u64 turns = 10;
  for (u32 k = 0; k < 2; ++k) {
    Follower& follower = group.loop.followers.of[k];
    if (group.following[k] != kNobody && follower.blocks < 2) stop_following(group, k);
    while (group.following[k] == kNobody && group.next_to_follow < end) {
      const u32 p = group.next_to_follow++;
      const Packet& packet = group.packet[p];
      if (packet.length < kFollowAtLeast) continue;
      follower = {ciphertext<sealing>(packet), group.poly[p], packet.length / 16};
      group.following[k] = p;
    }
    const u64 most = group.following[k] == kNobody ? 0 : follower.blocks / 2;
    if (most < turns) turns = most;
  }
  group.loop.followers.with = turns;
  for (Follower& follower : group.loop.followers.of) follower.blocks -= 2 * turns;
}

// Tags of packets [first, end).
template <bool sealing>
INLINE void poly1305(Group& group, u32 first, u32 end) {
  for (u32 k = 0; k < 2; ++k) {
    if (group.following[k] >= first && group.following[k] < end) stop_following(group, k);
  }
  if (group.next_to_follow < end) group.next_to_follow = end;
  u32 p = first;
  for (; p + 1 < end; p += 2) poly_pair<sealing>(group, p, p + 1);
  if (p < end) poly_one<sealing>(group, p);
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
  fill(lanes, group, at, group.count);
  pass<!sealing>(group, lanes);
}

// Ciphers packets before `end`; a pass takes blocks of packets behind them, too (seal), or waits for those to be wanted
// (open). Meanwhile Poly1305 of others: seal follows packets that are ciphered, open those that come next.
template <bool sealing>
INLINE void cipher_until(Group& group, Position& at, u32 end) {
  Lanes& lanes = group.lanes;
  for (;;) {
    const u32 ciphered = at.packet;
    fill(lanes, group, at, sealing ? group.count : end);
    if (lanes.count == 0 || (lanes.count < kLanes && end < group.count)) return;
    for (u32 i = lanes.count; i < kLanes; ++i) lanes.packet[i] = lanes.packet[0], lanes.block[i] = 0;
    if (lanes.count > 4) follow<sealing>(group, sealing ? ciphered : group.count);
    pass<false>(group, lanes);
    lanes.count = 0;
  }
}

INLINE void start(Group& group) {
  group.following[0] = group.following[1] = kNobody;
  group.next_to_follow = 0;
  group.lanes.count = 0;
  group.loop.followers.with = 0;
}

INLINE void seal_group(Group& group) {
  Position at;
  start(group);
  one_time_keys<true>(group, at);
  start_poly(group);
  cipher_until<true>(group, at, group.count);
  poly1305<true>(group, 0, group.count);
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
  start(group);
  one_time_keys<false>(group, at);
  start_poly(group);
  u32 waiting = 0;
  for (u32 first = 0, end; first < group.count; first = end) {
    end = first + 2 < group.count ? first + 2 : group.count;
    poly1305<false>(group, first, end);
    for (u32 p = first; p < end; ++p) group.packet[p].wanted = tag_matches(group, p);
    for (; waiting < group.waiting && group.waiting_packet[waiting] < end; ++waiting) {
      const Packet& packet = group.packet[group.waiting_packet[waiting]];
      if (packet.wanted) cipher(group, packet, group.waiting_block[waiting], group.stream[waiting]);
    }
    cipher_until<false>(group, at, end);
  }
}

INLINE void wipe(Group& group) {
  u8* const from = reinterpret_cast<u8*>(&group.loop);
  u8* const to = reinterpret_cast<u8*>(group.waiting_packet);
  for (u8* at = from; at < to; at += 32) store(at, _mm256_setzero_si256());
  __asm__ volatile("" : : "r"(&group) : "memory");
}
static_assert((offsetof(Group, waiting_packet) - offsetof(Group, loop)) % 32 == 0, "wiped in whole registers");

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
            0,
            true};
  find_full_blocks(packet);
}
INLINE void describe(Packet& packet, const OpenJob& job) {
  const u32 length = job.length - kTag;
  packet = {job.key, job.counter, job.source, nullptr, job.destination, length, 0, length, 0, 0, 0, 0, true};
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

INLINE void prepare(LoopMemory& memory) {
  const __m128i by16 = _mm_setr_epi8(2, 3, 0, 1, 6, 7, 4, 5, 10, 11, 8, 9, 14, 15, 12, 13);
  const __m128i by8 = _mm_setr_epi8(3, 0, 1, 2, 7, 4, 5, 6, 11, 8, 9, 10, 15, 12, 13, 14);
  store(memory.rotate16, _mm256_broadcastsi128_si256(by16));
  store(memory.rotate8, _mm256_broadcastsi128_si256(by8));
}

void seal(SealJob* jobs, std::size_t count) noexcept {
  if (count == 0) return;
  Group group;
  prepare(group.loop);
  for (std::size_t done = 0; done < count; done += kMaxSorted) {
    seal_some(group, jobs + done, static_cast<u32>(count - done < kMaxSorted ? count - done : kMaxSorted));
  }
  wipe(group);
  leave_no_trace();
  __asm__ volatile("" : : : "memory");  // no tail call: after a jump its frame would lie where ours is, not below it
}

void open(OpenJob* jobs, std::size_t count) noexcept {
  if (count == 0) return;
  Group group;
  prepare(group.loop);
  for (std::size_t done = 0; done < count; done += kMaxSorted) {
    open_some(group, jobs + done, static_cast<u32>(count - done < kMaxSorted ? count - done : kMaxSorted));
  }
  wipe(group);
  leave_no_trace();
  __asm__ volatile("" : : : "memory");  // no tail call: after a jump its frame would lie where ours is, not below it
}

}  // namespace

const AeadKernels kAeadAvx2 = {"avx2", cpu_has_avx2, seal, open};

// The text's Poly1305 as AEAD computes it, with the one-time key given: alone, in a pair, and begun by following a
// cipher.
void poly1305_avx2_for_test(unsigned variant, const u8* one_time, const u8* text, u32 length, u8* tag) {
  Group group = {};
  group.count = 2;
  start(group);
  for (u32 p = 0; p < 2; ++p) {
    group.packet[p].text = text;
    group.packet[p].length = length;
    __builtin_memcpy(group.one_time[p], one_time, 32);
  }
  start_poly(group);
  if (variant == 0) {
    poly_one<false>(group, 1);
  } else {
    for (u32 pass = 0; variant == 2 && pass < 2; ++pass) {
      alignas(32) u8 row[kLanes][64];
      follow<false>(group, group.count);
      chacha20_vertical(group, group.lanes, row);
    }
    poly1305<false>(group, 0, 2);
  }
  __builtin_memcpy(tag, group.tag[1], kTag);
}

}  // namespace wireplane
