#include "control/noise/base64.h"

#include <sodium.h>

namespace wireplane {
namespace {

using KeyOctets = std::span<std::uint8_t, 32>;

Base64Key base64_of(std::span<const std::uint8_t, 32> octets) {
  Base64Key text;
  sodium_bin2base64(text.fill().data(), text.fill().size(), octets.data(), octets.size(),
                    sodium_base64_VARIANT_ORIGINAL);
  return text;
}

HexKey hex_of(std::span<const std::uint8_t, 32> octets) {
  HexKey text;
  sodium_bin2hex(text.fill().data(), text.fill().size(), octets.data(), octets.size());
  return text;
}

bool read_base64(KeyOctets octets, std::string_view text) {
  std::size_t count = 0;
  return text.size() == 44 &&
         sodium_base642bin(octets.data(), octets.size(), text.data(), text.size(), nullptr, &count, nullptr,
                           sodium_base64_VARIANT_ORIGINAL) == 0 &&
         count == octets.size();
}

bool read_hex(KeyOctets octets, std::string_view text) {
  std::size_t count = 0;
  return text.size() == 64 &&
         sodium_hex2bin(octets.data(), octets.size(), text.data(), text.size(), nullptr, &count, nullptr) == 0 &&
         count == octets.size();
}

template <bool (*kRead)(KeyOctets, std::string_view)>
std::optional<PublicKey> public_key_from(std::string_view text) {
  PublicKey key;
  if (!kRead(key.octets, text)) return std::nullopt;
  return key;
}

template <bool (*kRead)(KeyOctets, std::string_view)>
std::optional<SecretKey> secret_key_from(std::string_view text) {
  SecretKey key;
  if (!kRead(key.fill(), text)) return std::nullopt;
  return key;
}

}  // namespace

Base64Key to_base64(const PublicKey& key) { return base64_of(key.octets); }
Base64Key to_base64(const SecretKey& key) { return base64_of(key.expose()); }
HexKey to_hex(const PublicKey& key) { return hex_of(key.octets); }
HexKey to_hex(const SecretKey& key) { return hex_of(key.expose()); }

std::optional<PublicKey> public_key_from_base64(std::string_view text) { return public_key_from<read_base64>(text); }
std::optional<SecretKey> secret_key_from_base64(std::string_view text) { return secret_key_from<read_base64>(text); }
std::optional<PublicKey> public_key_from_hex(std::string_view text) { return public_key_from<read_hex>(text); }
std::optional<SecretKey> secret_key_from_hex(std::string_view text) { return secret_key_from<read_hex>(text); }

}  // namespace wireplane
