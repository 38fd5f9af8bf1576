// cpu.h: what the processor can do and the system saves (CPUID and XCR0). Asked once a kernel, at start.
#pragma once

namespace wireplane {

[[nodiscard]] bool cpu_has_avx2();         // AVX2, BMI2, and XCR0 saves the upper halves of ymm
[[nodiscard]] bool cpu_has_avx512_ifma();  // AVX-512 F, VL, BW, DQ, IFMA and BMI2, and XCR0 saves zmm and the masks

}  // namespace wireplane
