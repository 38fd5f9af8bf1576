#include "dataplane/aead/cpu.h"

#include <cpuid.h>

#include <cstdint>

namespace wireplane {
namespace {

struct Leaf {
  unsigned eax{}, ebx{}, ecx{}, edx{};
};

Leaf cpuid(unsigned leaf, unsigned subleaf) {
  Leaf l;
  if (__get_cpuid_count(leaf, subleaf, &l.eax, &l.ebx, &l.ecx, &l.edx) == 0) return {};
  return l;
}

// Which register files the system saves on a context switch. A processor's feature alone is not enough: with zmm
// unsaved, another thread's secrets and ours would mix.
std::uint64_t saved_registers() {
  constexpr unsigned kOsxsave = 1u << 27;
  if ((cpuid(1, 0).ecx & kOsxsave) == 0) return 0;
  std::uint32_t low, high;
  __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return std::uint64_t{high} << 32 | low;
}

constexpr std::uint64_t kYmmState = 0x06, kZmmState = 0xe6;  // XCR0: sse, avx; and opmask, zmm 0-15 high, zmm 16-31
constexpr unsigned kAvx2 = 1u << 5, kBmi2 = 1u << 8;         // CPUID.7.0:EBX
constexpr unsigned kAvx512 = 1u << 16 | 1u << 17 | 1u << 21 | 1u << 30 | 1u << 31;  // F, DQ, IFMA, BW, VL

bool has(unsigned ebx, std::uint64_t state) {
  return (cpuid(7, 0).ebx & ebx) == ebx && (saved_registers() & state) == state;
}

}  // namespace

bool cpu_has_avx2() { return has(kAvx2 | kBmi2, kYmmState); }
bool cpu_has_avx512_ifma() { return has(kAvx2 | kBmi2 | kAvx512, kZmmState); }

}  // namespace wireplane
