// blake2s.h: the one hash of the handshake, plain, keyed, as HMAC, and as the chain of keys drawn from it.
// spec: wg §5.4 (Hash, Mac, Hmac, Kdf_n); RFC 7693; RFC 2104; Noise §4.3 (HKDF)
//
//   t0 = Hmac(key, input);  t1 = Hmac(t0, 0x1);  t2 = Hmac(t0, t1 | 0x2);  t3 = Hmac(t0, t2 | 0x3)
//
// A thin layer over libb2. Every intermediate state is wiped: what goes in may be a chaining key. Cost: about 0.3 us
// for two blocks; a Kdf is three to five HMACs of which the second and later share the key's prepared blocks.
#pragma once
#include <array>
#include <cstdint>
#include <initializer_list>
#include <span>

#include "dataplane/base/secret.h"
#include "dataplane/wire/messages.h"

namespace wireplane {

using Octets = std::span<const std::uint8_t>;
using Digest = std::array<std::uint8_t, 32>;
using Parts = std::initializer_list<Octets>;  // hashed as if they lay behind each other

void blake2s(std::span<std::uint8_t> digest, Parts parts);              // 1 to 32 octets of digest
void keyed_blake2s(std::span<std::uint8_t> digest, Octets key, Parts);  // 1 to 32 of key as well
void hmac_blake2s(std::span<std::uint8_t, 32> digest, Octets key, Parts parts);

[[nodiscard]] Digest hash(Parts parts);          // wg: Hash
[[nodiscard]] Mac mac(Octets key, Parts parts);  // wg: Mac, 16 octets

// wg: Kdf_n(key, input). `key` may be one of the results: it is read before any is written.
void kdf1(SecretKey& t1, Octets key, Octets input);
void kdf2(SecretKey& t1, SecretKey& t2, Octets key, Octets input);
void kdf3(SecretKey& t1, SecretKey& t2, SecretKey& t3, Octets key, Octets input);

[[nodiscard]] bool equal_in_constant_time(Octets one, Octets other);  // of equal length, else false at once

}  // namespace wireplane
