// x25519.h: Curve25519 key agreement, over libsodium.
// spec: wg §5.4 (DH, DH-Generate); RFC 7748
//
// A result of all zeros says that the other side's point has low order, so that the "shared secret" holds nothing of
// ours: dh() refuses it, as every step of a handshake must (P20). Cost: about 50 us an operation.
#pragma once
#include <cstdint>

#include "dataplane/base/entropy.h"
#include "dataplane/base/secret.h"
#include "dataplane/base/types.h"

namespace wireplane {

void clamp(SecretKey& secret);  // RFC 7748 §5: what decodeScalar25519 makes of any 32 octets
[[nodiscard]] SecretKey generate_secret_key(Entropy& entropy);  // clamped
[[nodiscard]] PublicKey public_key(const SecretKey& secret);
[[nodiscard]] bool dh(SecretKey& shared, const SecretKey& ours, const PublicKey& theirs);  // false: all zero, none

// How many multiplications this thread has done: a message that must be refused cheaply proves it with this (P6).
[[nodiscard]] std::uint64_t x25519_calls();

}  // namespace wireplane
