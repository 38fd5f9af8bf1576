// poly1305_scalar.h: one block of Poly1305 (RFC 8439 §2.5) in general registers, on BMI2. For kernel files only; all of
// it is static and inlined, so that nothing here is emitted with one file's instruction set and kept for another's.
//
//   h = h0 + 2^64 h1 + 2^128 h2, between blocks h2 <= 4; with the next block, h < 2^131. r is clamped: r0, r1 < 2^60,
//   and r1 is a multiple of 4, so that 2^128 r1 = 2^130 r1/4 = 5 r1/4 = r1 + r1/4 =: s1 < 2^61, exactly.
//
//     d0 = h0 r0 + h1 s1            weight 1         < 2^126
//     d1 = h0 r1 + h1 r0 + h2 s1    weight 2^64      < 2^126
//     d2 = h2 r0                    weight 2^128     < 2^63; what lies above 2^130 comes back times 5
//
// Inline assembly, because carries are what compilers keep badly: gcc 12 stores and reloads them, at 22 to 35 cycles a
// block in C or with intrinsics, against 12 (README.md).
#pragma once
#include <cstdint>

namespace wireplane {
namespace {

struct Poly {
  std::uint64_t h0, h1, h2, r0, r1, s1;
};

static inline __attribute__((always_inline)) Poly poly_start(std::uint64_t low, std::uint64_t high) {
  const std::uint64_t r0 = low & 0x0ffffffc0fffffff, r1 = high & 0x0ffffffc0ffffffc;  // clamp
  return {0, 0, 0, r0, r1, r1 + (r1 >> 2)};
}

// clang-format off
// h = (h + block) r. h0-h2, d0-d2, t0-t2: registers; low, high, r0, r1, s1: registers or memory; rdx is used. h2_word: h2's lower
// half. The new h0 and h1 are in d0 and d1.
#define WG_POLY1305_BLOCK(low, high, h0, h1, h2, h2_word, r0, r1, s1, d0, d1, d2, t0, t1, t2)                        \
  "addq " low ", " h0 "\n\t"                                                                                        \
  "adcq " high ", " h1 "\n\t"                                                                                       \
  "adcq $1, " h2 "\n\t"                                                                                             \
  "movq " h0 ", %%rdx\n\t"                                                                                          \
  "mulxq " r0 ", " d0 ", " d1 "\n\t"  /* h0 r0 */                                                                   \
  "mulxq " r1 ", " t0 ", " d2 "\n\t"  /* h0 r1 */                                                                   \
  "movq " h1 ", %%rdx\n\t"                                                                                          \
  "mulxq " s1 ", " t1 ", " t2 "\n\t"  /* h1 s1 */                                                                   \
  "addq " t1 ", " d0 "\n\t"                                                                                         \
  "adcq " t2 ", " d1 "\n\t"                                                                                         \
  "mulxq " r0 ", " t1 ", " t2 "\n\t"  /* h1 r0 */                                                                   \
  "addq " t1 ", " t0 "\n\t"                                                                                         \
  "adcq " t2 ", " d2 "\n\t"                                                                                         \
  "movq " s1 ", " t1 "\n\t"                                                                                         \
  "imulq " h2 ", " t1 "\n\t"          /* h2 s1 */                                                                   \
  "imulq " r0 ", " h2 "\n\t"          /* h2 r0 */                                                                   \
  "addq " t1 ", " t0 "\n\t"                                                                                         \
  "adcq " h2 ", " d2 "\n\t"                                                                                         \
  "addq " t0 ", " d1 "\n\t"                                                                                         \
  "adcq $0, " d2 "\n\t"                                                                                             \
  "movq " d2 ", " t1 "\n\t"                                                                                         \
  "movq " d2 ", " h2 "\n\t"                                                                                         \
  "andq $-4, " d2 "\n\t"                                                                                            \
  "shrq $2, " t1 "\n\t"                                                                                             \
  "andl $3, " h2_word "\n\t"                                                                                        \
  "addq " t1 ", " d2 "\n\t"           /* 5 (d2 / 4) */                                                              \
  "addq " d2 ", " d0 "\n\t"                                                                                         \
  "adcq $0, " d1 "\n\t"                                                                                             \
  "adcq $0, " h2 "\n\t"

static inline __attribute__((always_inline)) void absorb(Poly& p, std::uint64_t low, std::uint64_t high) {
  std::uint64_t d0, d1, d2, t0, t1, t2;
  __asm__(WG_POLY1305_BLOCK("%[low]", "%[high]", "%[h0]", "%[h1]", "%[h2]", "%k[h2]", "%[r0]", "%[r1]", "%[s1]", "%[d0]", "%[d1]", "%[d2]",
                            "%[t0]", "%[t1]", "%[t2]")
          : [h0] "+&r"(p.h0), [h1] "+&r"(p.h1), [h2] "+&r"(p.h2), [d0] "=&r"(d0), [d1] "=&r"(d1), [d2] "=&r"(d2), [t0] "=&r"(t0),
            [t1] "=&r"(t1), [t2] "=&r"(t2)
          : [low] "rm"(low), [high] "rm"(high), [r0] "rm"(p.r0), [r1] "rm"(p.r1), [s1] "rm"(p.s1)
          : "rdx", "cc");
  p.h0 = d0;
  p.h1 = d1;
}

// Two packets' Poly1305, carried along by a cipher's loop: general registers have nothing to do while vectors are ciphered, so
// that a few blocks a turn are absorbed in its shadow. A Follower is what the loop needs of one packet. The assembly below knows
// the offsets; it has the Followers in rdi, keeps the first one's h in r8-r10, the second's in r11, rbx and rcx, and uses rax,
// rdx, rsi and r12-r15.
struct Follower {
  const std::uint8_t* text;  // the next block
  Poly poly;
  std::uint64_t blocks;  // whole ones from there on
};
struct Followers {
  Follower of[2];
  std::uint64_t with, without;  // turns of the loop that absorb blocks of both, and then turns that do not
};
static_assert(sizeof(Follower) == 64 && sizeof(Followers) == 144);
#define WG_FOLLOWERS_WITH "128(%%rdi)"
#define WG_FOLLOWERS_WITHOUT "136(%%rdi)"
#define WG_FOLLOW(base, at, h0, h1, h2, h2_word)                                                                     \
  "movq " #base "(%%rdi), %%rax\n\t"                                                                                \
  WG_POLY1305_BLOCK(#at "(%%rax)", #at "+8(%%rax)", h0, h1, h2, h2_word, #base "+32(%%rdi)", #base "+40(%%rdi)",     \
                    #base "+48(%%rdi)", "%%rsi", "%%r12", "%%r13", "%%rax", "%%r14", "%%r15")                        \
  "movq %%rsi, " h0 "\n\tmovq %%r12, " h1 "\n\t"
#define WG_FOLLOW_FIRST(at) WG_FOLLOW(0, at, "%%r8", "%%r9", "%%r10", "%%r10d")
#define WG_FOLLOW_SECOND(at) WG_FOLLOW(64, at, "%%r11", "%%rbx", "%%rcx", "%%ecx")
#define WG_FOLLOWERS_ADVANCE(octets) "addq $" #octets ", 0(%%rdi)\n\taddq $" #octets ", 64(%%rdi)\n\t"
#define WG_FOLLOWERS_LOAD                                                                                            \
  "movq 8(%%rdi), %%r8\n\tmovq 16(%%rdi), %%r9\n\tmovq 24(%%rdi), %%r10\n\t"                                     \
  "movq 72(%%rdi), %%r11\n\tmovq 80(%%rdi), %%rbx\n\tmovq 88(%%rdi), %%rcx\n\t"
#define WG_FOLLOWERS_STORE                                                                                           \
  "movq %%r8, 8(%%rdi)\n\tmovq %%r9, 16(%%rdi)\n\tmovq %%r10, 24(%%rdi)\n\t"                                     \
  "movq %%r11, 72(%%rdi)\n\tmovq %%rbx, 80(%%rdi)\n\tmovq %%rcx, 88(%%rdi)\n\t"
#define WG_FOLLOWERS_CLOBBERS "rax", "rbx", "rcx", "rdx", "rsi", "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15"
// clang-format on

}  // namespace
}  // namespace wireplane
