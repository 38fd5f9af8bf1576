// rounds.h: ChaCha20's double rounds of two states in all 32 registers, as assembly: what double_pass.h is made of, and
// what bench/aead_port_limit.cpp times alone.
#pragma once

// clang-format off
// Every operation works in place on a fixed register; state two's registers are those of state one plus 16. A STEP is a
// quarter of a quarter round, for four columns or diagonals.
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
// clang-format on
