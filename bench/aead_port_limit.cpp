// aead_port_limit.cpp: aead/port_limit/<size>: what ChaCha20-Poly1305 would cost if nothing but its own vector
// operations took time, measured in the same run as the kernels.
//
// Two loops of independent instructions are timed: one with ChaCha20's mix (add, xor, rotate, one third each), one of
// vpmadd52. From them: ChaCha20 needs 1020 operations for 16 blocks (20 rounds of 48, 60 for the final addition and the
// xor with the text; transposing is not counted), Poly1305 across packets needs for 4 blocks in 8 lanes 72 vpmadd52 and
// 62 other operations (24 shuffles, 24 to split words into limbs, 14 to fold and carry), which run beside the
// multiplications where ports allow: the larger of the two counts. A packet has ceil(n / 64) + 1 ChaCha20 blocks and
// ceil(n / 16) + 1 Poly1305 blocks.
//
// aead/register_limit/<size>: nearer to what can be had. All chains that 32 registers hold are those of two ChaCha20
// states, eight quarter rounds, and they do not keep a processor's pipes as full as independent instructions do: a
// third loop of double rounds of two states is timed. And the 64 shuffles that transpose 16 blocks are counted, as
// fully overlapped. Stores (a 64-octet store takes a Zen 4 two cycles) fit beside.
#include <algorithm>
#include <string>

#include "bench/bench.h"
#include "dataplane/aead/avx512/rounds.h"
#include "dataplane/aead/cpu.h"

namespace wireplane::bench {
namespace {

// clang-format off
#define WG_MIX                                                                                                          \
  "vpaddd %%zmm16, %%zmm0, %%zmm0\n\tvpaddd %%zmm16, %%zmm1, %%zmm1\n\tvpaddd %%zmm16, %%zmm2, %%zmm2\n\t"        \
  "vpaddd %%zmm16, %%zmm3, %%zmm3\n\tvpxord %%zmm16, %%zmm4, %%zmm4\n\tvpxord %%zmm16, %%zmm5, %%zmm5\n\t"        \
  "vpxord %%zmm16, %%zmm6, %%zmm6\n\tvpxord %%zmm16, %%zmm7, %%zmm7\n\tvprold $7, %%zmm8, %%zmm8\n\t"             \
  "vprold $7, %%zmm9, %%zmm9\n\tvprold $7, %%zmm10, %%zmm10\n\tvprold $7, %%zmm11, %%zmm11\n\t"
#define WG_MULTIPLY                                                                                                     \
  "vpmadd52luq %%zmm16, %%zmm17, %%zmm0\n\tvpmadd52luq %%zmm16, %%zmm17, %%zmm1\n\t"                                \
  "vpmadd52luq %%zmm16, %%zmm17, %%zmm2\n\tvpmadd52luq %%zmm16, %%zmm17, %%zmm3\n\t"                                \
  "vpmadd52luq %%zmm16, %%zmm17, %%zmm4\n\tvpmadd52luq %%zmm16, %%zmm17, %%zmm5\n\t"                                \
  "vpmadd52luq %%zmm16, %%zmm17, %%zmm6\n\tvpmadd52luq %%zmm16, %%zmm17, %%zmm7\n\t"                                \
  "vpmadd52luq %%zmm16, %%zmm17, %%zmm8\n\tvpmadd52luq %%zmm16, %%zmm17, %%zmm9\n\t"                                \
  "vpmadd52luq %%zmm16, %%zmm17, %%zmm10\n\tvpmadd52luq %%zmm16, %%zmm17, %%zmm11\n\t"
#define WG_CLOBBERS                                                                                                     \
  "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10", "xmm11"
#define WG_ALL_CLOBBERS                                                                                                 \
  WG_CLOBBERS, "xmm12", "xmm13", "xmm14", "xmm15", "xmm16", "xmm17", "xmm18", "xmm19", "xmm20", "xmm21", "xmm22",       \
  "xmm23", "xmm24", "xmm25", "xmm26", "xmm27", "xmm28", "xmm29", "xmm30", "xmm31"
// clang-format on

constexpr double kOperations = 12 * 8;  // in one turn of each loop

__attribute__((target("avx512f"), noinline)) void double_rounds(int turns) {
  for (int i = 0; i < turns; ++i) __asm__ volatile(WG_BOTH : : : WG_ALL_CLOBBERS);
}

void port_limit(benchmark::State& state, double octets, bool in_registers) {
  constexpr int kTurns = 200;
  double mix_ns = 1e18, multiply_ns = 1e18, rounds_ns = 1e18;  // the best turn: a limit is not an average
  for (auto _ : state) {
    const std::uint64_t begin = __rdtsc();
    for (int i = 0; i < kTurns; ++i) {
      __asm__ volatile(WG_MIX WG_MIX WG_MIX WG_MIX WG_MIX WG_MIX WG_MIX WG_MIX : : : WG_CLOBBERS);
    }
    const std::uint64_t middle = __rdtsc();
    for (int i = 0; i < kTurns; ++i) {
      __asm__ volatile(WG_MULTIPLY WG_MULTIPLY WG_MULTIPLY WG_MULTIPLY WG_MULTIPLY WG_MULTIPLY WG_MULTIPLY WG_MULTIPLY
                       :
                       :
                       : WG_CLOBBERS);
    }
    const std::uint64_t end = __rdtsc();
    double_rounds(kTurns);
    rounds_ns = std::min(rounds_ns, static_cast<double>(__rdtsc() - end));
    mix_ns = std::min(mix_ns, static_cast<double>(middle - begin));
    multiply_ns = std::min(multiply_ns, static_cast<double>(end - middle));
  }
  const double each = kTurns * kOperations * Meter::tsc_per_ns();
  mix_ns /= each, multiply_ns /= each;  // of one operation
  const double blocks = static_cast<double>((static_cast<int>(octets) + 63) / 64 + 1);
  const double poly_blocks = static_cast<double>((static_cast<int>(octets) + 15) / 16 + 1);
  const double rounds = 10 * rounds_ns / (kTurns * Meter::tsc_per_ns()) / 32;  // of one block
  const double chacha = blocks * (in_registers ? rounds + (60 + 64) * mix_ns / 16 : 1020 * mix_ns / 16);
  const double poly = poly_blocks / 32 * std::max(72 * multiply_ns, (72 + 62) * mix_ns);
  Meter::set(state, chacha + poly, 1, octets);
}

const int registered = [] {
  if (!cpu_has_avx512_ifma()) return 0;
  for (const int size : {0, 16, 64, 128, 256, 512, 1024, 1280, 1420, 8192}) {
    benchmark::RegisterBenchmark(("aead/port_limit/" + std::to_string(size)).c_str(),
                                 [size](benchmark::State& state) { port_limit(state, size, false); });
    benchmark::RegisterBenchmark(("aead/register_limit/" + std::to_string(size)).c_str(),
                                 [size](benchmark::State& state) { port_limit(state, size, true); });
  }
  return 0;
}();

}  // namespace
}  // namespace wireplane::bench
