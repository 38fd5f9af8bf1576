#include "control/noise/x25519.h"

#include <sodium.h>

#include "dataplane/base/check.h"
#include "dataplane/base/fault.h"

namespace wireplane {
namespace {

thread_local std::uint64_t calls = 0;

void count_call() {
  static const bool ready = sodium_init() >= 0;  // chooses the fastest of its implementations, once
  WG_CHECK(ready);
  ++calls;
}

}  // namespace

void clamp(SecretKey& secret) {
  const auto octets = secret.fill();
  octets[0] = static_cast<std::uint8_t>(octets[0] & 248);
  octets[31] = static_cast<std::uint8_t>((octets[31] & 127) | 64);
}

SecretKey generate_secret_key(Entropy& entropy) {
  SecretKey secret;
  entropy.fill(secret.fill());
  clamp(secret);
  return secret;
}

PublicKey public_key(const SecretKey& secret) {
  count_call();
  PublicKey result;
  WG_CHECK(crypto_scalarmult_curve25519_base(result.octets.data(), secret.expose().data()) == 0);
  return result;
}

bool dh(SecretKey& shared, const SecretKey& ours, const PublicKey& theirs) {
  count_call();
  const bool computed =
      crypto_scalarmult_curve25519(shared.fill().data(), ours.expose().data(), theirs.octets.data()) == 0;
  const bool sound = computed && !shared.is_zero();
  if (!sound) shared.clear();
  return sound || seeded_fault(20);
}

std::uint64_t x25519_calls() { return calls; }

}  // namespace wireplane
