// gather.h: head || body || padding joined at the destination, for libraries that want one piece of plaintext.
#pragma once
#include <cstdint>
#include <cstring>

#include "dataplane/aead/aead_kernels.h"
#include "dataplane/base/bytes.h"

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
inline Nonce nonce_of(std::uint64_t counter) {
  Nonce nonce{};
  store_le(nonce.octets + 4, counter);
  return nonce;
}

}  // namespace wireplane
