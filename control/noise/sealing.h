// sealing.h: the two AEADs of the handshake, one message at a time, over libsodium.
// spec: wg §5.4 (Aead, Xaead); RFC 8439; draft-irtf-cfrg-xchacha
//
// The data plane's batched kernels (dataplane/aead) do not serve here: they have no associated data. `sealed` is 16
// octets longer than the text. A refused message leaves the text's place zero.
#pragma once
#include <array>
#include <cstdint>
#include <span>

#include "control/noise/blake2s.h"
#include "dataplane/base/secret.h"

namespace wireplane {

// Counter 0, for a key that seals one message in its life.
void seal_once(std::span<std::uint8_t> sealed, const SecretKey& key, Octets text, Octets associated);
[[nodiscard]] bool open_once(std::span<std::uint8_t> text, const SecretKey& key, Octets sealed, Octets associated);

// A nonce of 24 octets is long enough to be drawn at random.
using LongNonce = std::span<const std::uint8_t, 24>;
void xseal(std::span<std::uint8_t> sealed, std::span<const std::uint8_t, 32> key, LongNonce nonce, Octets text,
           Octets associated);
[[nodiscard]] bool xopen(std::span<std::uint8_t> text, std::span<const std::uint8_t, 32> key, LongNonce nonce,
                         Octets sealed, Octets associated);

}  // namespace wireplane
