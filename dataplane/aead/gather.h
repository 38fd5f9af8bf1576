// gather.h: head || body || padding joined at the destination, for libraries that want one piece of plaintext.
#pragma once
#include <cstdint>
#include <cstring>

#include "dataplane/aead/aead_kernels.h"

namespace wireplane {

inline std::uint32_t gather_plaintext(const SealJob& job) {  // returns its length
  std::uint8_t* const body = job.destination + job.head_length;
  if (job.body_length != 0 && job.body != body) std::memmove(body, job.body, job.body_length);
  if (job.head_length != 0) std::memcpy(job.destination, job.head, job.head_length);
  if (job.padding != 0) std::memset(body + job.body_length, 0, job.padding);
  return job.head_length + job.body_length + job.padding;
}

struct Nonce {  // wg §5.4.6: 4 zero octets, then the counter, little-endian
  std::uint8_t octets[12];
};
inline Nonce nonce_of(
    std::uint64_t counter) {  // in the pieces that it is copied in: else each copy waits for its stores
  const std::uint64_t low = counter << 32;
  const auto high = static_cast<std::uint32_t>(counter >> 32);
  Nonce nonce;
  std::memcpy(nonce.octets, &low, sizeof low);
  std::memcpy(nonce.octets + sizeof low, &high, sizeof high);
  return nonce;
}

}  // namespace wireplane
