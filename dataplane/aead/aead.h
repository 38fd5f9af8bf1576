// aead.h: ChaCha20-Poly1305 (RFC 8439 §2.8) over bursts of packets: the contract, and who serves it.
//
// One call a burst. Every job has its own key and counter; the nonce is 4 zero octets and the little-endian counter,
// there is no additional data (wg §5.4.6). A kernel forms its own groups. Kernel files include only aead_kernels.h.
#pragma once
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "dataplane/aead/aead_kernels.h"

namespace wireplane {

class Aead {
 public:
  // The kernel for this processor: the best whose CPU features are there (CPUID and XCR0) and whose self-test on RFC
  // 8439 vectors passes. WG_AEAD=name in the environment forces one; an unknown or unusable name is an error that says
  // which exist. Chosen once, at the first call; later calls return the same. `chosen()` never fails: portable is
  // always there.
  static const Aead& chosen();
  // A kernel by name, or nullptr: for tests and benches that compare all of them.
  static const Aead* find(std::string_view name);
  // All that can run here (CPU features present, self-test passed), best first.
  static std::span<const Aead* const> usable();
  // What was decided and why, a line a kernel: "avx512: chosen", "avx2: no (self-test failed)". For logs.
  static std::vector<std::string> report();
  // Empty, or what is wrong with WG_AEAD. The program that reads its environment should stop with it; chosen() has then
  // fallen back to the best kernel, loudly.
  static std::string complaint();
  // The test every kernel must pass before it is used; false at the first difference from RFC 8439 or the portable
  // kernel.
  static bool self_test(const AeadKernels& kernels);

  explicit constexpr Aead(const AeadKernels& kernels) : kernels_{&kernels} {}
  [[nodiscard]] const AeadKernels& kernels() const { return *kernels_; }
  [[nodiscard]] const char* name() const { return kernels_->name; }
  void seal(SealJob* jobs, std::size_t count) const noexcept { kernels_->seal(jobs, count); }
  void open(OpenJob* jobs, std::size_t count) const noexcept { kernels_->open(jobs, count); }

 private:
  const AeadKernels* kernels_;
};

}  // namespace wireplane
