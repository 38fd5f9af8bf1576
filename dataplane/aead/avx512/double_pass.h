// double_pass.h: thirty-two ChaCha20 blocks in all 32 registers: the kernel's inline assembly.
#pragma once
#include "dataplane/aead/avx512/group.h"
#include "dataplane/aead/avx512/rounds.h"

namespace wireplane {
namespace {  // of the one kernel file that includes this

constexpr u32 kSigma[4] = {0x61707865, 0x3320646e, 0x79622d32, 0x6b206574};  // "expand 32-byte k"

// clang-format off
// Two states fill all 32 registers, and while one waits for its rotates (one or two pipes) the other adds. Compilers move
// and spill registers here although none is missing, and lose a tenth of the cipher's speed (README.md); so the rounds
// are written out in rounds.h.
//
// What follows the rounds, a state's *tail* (add the start, transpose, join with the text), needs other pipes than rounds
// do, and registers. So the states are two double rounds apart, and each one's tail stands between rounds of the other:
//
//                  one call                               the next
//   first state  | 2 double rounds | 8 of both | tail    | 2 double rounds | ..
//   second state | tail of before  |           | 2       | tail            | ..
//
// The second state waits for its tail in memory (Late). During the 8, what will be joined is fetched into the first cache.

// Where a state starts from, and what its blocks are joined with. WG_LANES: sixteen columns of a table for each state, and
// an address a lane.
#define WG_LOAD(i, from, at) "vmovdqa64 " #at "(%[" #from "]), %%zmm" #i "\n\t"
#define WG_ADD_START(i, from, at) "vpaddd " #at "(%[" #from "]), %%zmm" #i ", %%zmm" #i "\n\t"
#define WG_CONSTANT(i, at) "vpbroadcastd " #at "(%[sigma]), %%zmm" #i "\n\t"
#define WG_ADD_CONSTANT(i, at) "vpaddd " #at "(%[sigma])%{1to16%}, %%zmm" #i ", %%zmm" #i "\n\t"
#define WG_ZERO(i) "vpxord %%zmm" #i ", %%zmm" #i ", %%zmm" #i "\n\t"
#define WG_KEEP(i, word) "vmovdqa64 %%zmm" #i ", 64*" #word "(%[late])\n\t"
#define WG_LANES_FIRST_START                                                                                      \
  WG_CONSTANT(0, 0) WG_CONSTANT(1, 4) WG_CONSTANT(2, 8) WG_CONSTANT(3, 12) WG_ZERO(13)                            \
  WG_LOAD(4, table0, 0) WG_LOAD(5, table0, 128) WG_LOAD(6, table0, 256) WG_LOAD(7, table0, 384)                   \
  WG_LOAD(8, table0, 512) WG_LOAD(9, table0, 640) WG_LOAD(10, table0, 768) WG_LOAD(11, table0, 896)               \
  WG_LOAD(12, block, 0) WG_LOAD(14, table0, 1024) WG_LOAD(15, table0, 1152)
#define WG_LANES_SECOND_START                                                                                     \
  WG_CONSTANT(16, 0) WG_CONSTANT(17, 4) WG_CONSTANT(18, 8) WG_CONSTANT(19, 12) WG_ZERO(29)                        \
  WG_LOAD(20, table1, 0) WG_LOAD(21, table1, 128) WG_LOAD(22, table1, 256) WG_LOAD(23, table1, 384)               \
  WG_LOAD(24, table1, 512) WG_LOAD(25, table1, 640) WG_LOAD(26, table1, 768) WG_LOAD(27, table1, 896)             \
  WG_LOAD(28, block, 64) WG_LOAD(30, table1, 1024) WG_LOAD(31, table1, 1152)
#define WG_LANES_ADD_12_TO_15 WG_ADD_START(12, block, 0) WG_ADD_START(14, table0, 1024) WG_ADD_START(15, table0, 1152)
#define WG_LANES_ADD_0_TO_7                                                                                       \
  WG_ADD_CONSTANT(0, 0) WG_ADD_CONSTANT(1, 4) WG_ADD_CONSTANT(2, 8) WG_ADD_CONSTANT(3, 12)                        \
  WG_ADD_START(4, table0, 0) WG_ADD_START(5, table0, 128) WG_ADD_START(6, table0, 256) WG_ADD_START(7, table0, 384)
#define WG_LANES_ADD_8_TO_11                                                                                      \
  WG_ADD_START(8, table0, 512) WG_ADD_START(9, table0, 640) WG_ADD_START(10, table0, 768) WG_ADD_START(11, table0, 896)
#define WG_LANES_ADD_16_TO_23                                                                                     \
  WG_ADD_CONSTANT(16, 0) WG_ADD_CONSTANT(17, 4) WG_ADD_CONSTANT(18, 8) WG_ADD_CONSTANT(19, 12)                    \
  WG_ADD_START(20, table1, 0) WG_ADD_START(21, table1, 128) WG_ADD_START(22, table1, 256) WG_ADD_START(23, table1, 384)
#define WG_LANES_ADD_24_TO_31                                                                                     \
  WG_ADD_START(24, table1, 512) WG_ADD_START(25, table1, 640) WG_ADD_START(26, table1, 768)                       \
  WG_ADD_START(27, table1, 896) WG_ADD_START(28, block, 64) WG_ADD_START(30, table1, 1024)                        \
  WG_ADD_START(31, table1, 1152)
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
  "mov $-16, %%rax\n\t.p2align 5\n1:\n\t"                                                                          \
  KIND##_PREFETCH WG_PREFETCH_AHEAD WG_BOTH "add $2, %%rax\n\tjnz 1b\n\t"                                         \
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

// Sixteen columns of a table for each state, and the block numbers of both.
struct Starts {
  const u32 *table0, *table1, *block;
};
INLINE Starts halves(const Table& table) { return {table.word[0], table.word[0] + kLanes, table.block}; }

// The first state is joined with the texts of `lanes`, `at` added; the key stream of the second, whose texts `right` has,
// is left in `late`. What was there is joined with the texts of `behind`.
INLINE void chacha20_of_lanes(const Starts& starts, const Lanes& lanes, const Lanes& right, u64 at, Late& late,
                              const Behind& behind, const Ahead* ahead) {
  __asm__ volatile(WG_CIPHER(WG_LANES)
                   :
                   : [table0] "r"(starts.table0), [table1] "r"(starts.table1), [block] "r"(starts.block),
                     [lanes] "r"(&lanes), [right] "r"(&right), [ahead] "r"(ahead), [at] "r"(at),
                     [late] "r"(&late), [late_lanes] "r"(behind.lanes), [late_at] "r"(behind.at), [sigma] "r"(kSigma),
                     [from] "i"(__builtin_offsetof(Lanes, from)), [to] "i"(__builtin_offsetof(Lanes, to))
                   : WG_CLOBBERS);
}
// The same for two runs: the first's text is at `text`.
INLINE void chacha20_of_runs(const Runs& runs, const u8* key0, const u8* key1, const u8* text, u8* out,
                             const Lanes& right, Late& late, const Behind& behind, const Ahead* ahead) {
  __asm__ volatile(WG_CIPHER(WG_RUNS)
                   :
                   : [runs] "r"(&runs), [key0] "r"(key0), [key1] "r"(key1), [text] "r"(text), [out] "r"(out),
                     [right] "r"(&right), [ahead] "r"(ahead), [late] "r"(&late), [late_lanes] "r"(behind.lanes), [late_at] "r"(behind.at), [sigma] "r"(kSigma),
                     [from] "i"(__builtin_offsetof(Lanes, from)), [to] "i"(__builtin_offsetof(Lanes, to))
                   : WG_CLOBBERS);
}

// The first eight words of 32 blocks, as they are: of the left half in x[0..7], of the right half in x[8..15].
INLINE void chacha20_first_words(const Starts& starts, Vector* x) {
  __asm__ volatile(
      WG_LANES_FIRST_START WG_LANES_SECOND_START
      "mov $10, %%eax\n\t.p2align 5\n1:\n\t" WG_BOTH "dec %%eax\n\tjnz 1b\n\t"
      WG_LANES_ADD_0_TO_7
      WG_KEEP(0, 0) WG_KEEP(1, 1) WG_KEEP(2, 2) WG_KEEP(3, 3) WG_KEEP(4, 4) WG_KEEP(5, 5) WG_KEEP(6, 6) WG_KEEP(7, 7)
      WG_LANES_ADD_16_TO_23
      WG_KEEP(16, 8) WG_KEEP(17, 9) WG_KEEP(18, 10) WG_KEEP(19, 11) WG_KEEP(20, 12) WG_KEEP(21, 13) WG_KEEP(22, 14)
      WG_KEEP(23, 15)
      :
      : [table0] "r"(starts.table0), [table1] "r"(starts.table1), [block] "r"(starts.block), [late] "r"(x),
        [sigma] "r"(kSigma)
      : WG_CLOBBERS);
}
// clang-format on

}  // namespace
}  // namespace wireplane
