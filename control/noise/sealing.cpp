#include "control/noise/sealing.h"

#include <sodium.h>

#include "dataplane/base/check.h"
#include "dataplane/wire/messages.h"

namespace wireplane {
namespace {

constexpr std::array<std::uint8_t, crypto_aead_chacha20poly1305_ietf_NPUBBYTES> kCounterZero{};

}  // namespace

void seal_once(std::span<std::uint8_t> sealed, const SecretKey& key, Octets text, Octets associated) {
  WG_CHECK(sealed.size() == text.size() + kTagSize);
  crypto_aead_chacha20poly1305_ietf_encrypt(sealed.data(), nullptr, text.data(), text.size(), associated.data(),
                                            associated.size(), nullptr, kCounterZero.data(), key.expose().data());
}

bool open_once(std::span<std::uint8_t> text, const SecretKey& key, Octets sealed, Octets associated) {
  WG_CHECK(sealed.size() == text.size() + kTagSize);
  return crypto_aead_chacha20poly1305_ietf_decrypt(text.data(), nullptr, nullptr, sealed.data(), sealed.size(),
                                                   associated.data(), associated.size(), kCounterZero.data(),
                                                   key.expose().data()) == 0;
}

void xseal(std::span<std::uint8_t> sealed, std::span<const std::uint8_t, 32> key, LongNonce nonce, Octets text,
           Octets associated) {
  WG_CHECK(sealed.size() == text.size() + kTagSize);
  crypto_aead_xchacha20poly1305_ietf_encrypt(sealed.data(), nullptr, text.data(), text.size(), associated.data(),
                                             associated.size(), nullptr, nonce.data(), key.data());
}

bool xopen(std::span<std::uint8_t> text, std::span<const std::uint8_t, 32> key, LongNonce nonce, Octets sealed,
           Octets associated) {
  WG_CHECK(sealed.size() == text.size() + kTagSize);
  return crypto_aead_xchacha20poly1305_ietf_decrypt(text.data(), nullptr, nullptr, sealed.data(), sealed.size(),
                                                    associated.data(), associated.size(), nonce.data(),
                                                    key.data()) == 0;
}

}  // namespace wireplane
