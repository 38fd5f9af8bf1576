// portable.cpp: libsodium behind the AEAD contract, a packet at a time: runs everywhere, and is the reference.
#include <sodium.h>

#include <cstring>

#include "dataplane/aead/aead_kernels.h"
#include "dataplane/aead/gather.h"

namespace wireplane {
namespace {

constexpr std::uint32_t kTag = 16;

bool available() { return sodium_init() >= 0; }

void seal(SealJob* jobs, std::size_t count) noexcept {
  for (std::size_t i = 0; i < count; ++i) {
    const SealJob& job = jobs[i];
    const std::uint32_t length = gather_plaintext(job);
    const Nonce nonce = nonce_of(job.counter);
    crypto_aead_chacha20poly1305_ietf_encrypt_detached(job.destination, job.destination + length, nullptr,
                                                       job.destination, length, nullptr, 0, nullptr, nonce.octets,
                                                       job.key);
  }
}

void open(OpenJob* jobs, std::size_t count) noexcept {
  for (std::size_t i = 0; i < count; ++i) {
    OpenJob& job = jobs[i];
    if (job.length < kTag) {  // cannot carry a tag; ingress has refused it long before
      job.authentic = false;
      continue;
    }
    const Nonce nonce = nonce_of(job.counter);
    // libsodium verifies first and zeroes the destination when it refuses.
    job.authentic = crypto_aead_chacha20poly1305_ietf_decrypt_detached(
                        job.destination, nullptr, job.source, job.length - kTag, job.source + job.length - kTag,
                        nullptr, 0, nonce.octets, job.key) == 0;
  }
}

}  // namespace

const AeadKernels kAeadPortable = {"portable", available, seal, open};

}  // namespace wireplane
