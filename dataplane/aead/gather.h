// gather.h: head || body || padding joined at the destination, for libraries that want one piece of plaintext.
#pragma once
#include <cstdint>

#include "dataplane/aead/aead_kernels.h"

namespace wireplane {

std::uint32_t gather_plaintext(const SealJob& job);  // returns its length

struct Nonce {  // wg §5.4.6: 4 zero octets, then the counter, little-endian
  std::uint8_t octets[12];
};
Nonce nonce_of(std::uint64_t counter);

}  // namespace wireplane
