// base64.h: keys as text: base64 as wg(8) writes them, lower-case hex as UAPI does.
//
// Strict: exactly the length of a key, no spaces, no missing padding, no bits behind its end. libsodium's coders take a
// time that does not depend on the octets. A text may be a secret's: it is wiped when left.
#pragma once
#include <array>
#include <cstdint>
#include <optional>
#include <span>
#include <string_view>

#include "dataplane/base/secret.h"
#include "dataplane/base/types.h"

namespace wireplane {

template <std::size_t kLength>
class KeyText {  // every copy wipes itself
 public:
  KeyText() = default;
  KeyText(const KeyText&) = default;
  KeyText& operator=(const KeyText&) = default;
  ~KeyText() { wipe(letters_.data(), letters_.size()); }
  [[nodiscard]] std::string_view view() const { return {letters_.data(), kLength}; }
  [[nodiscard]] std::span<char, kLength + 1> fill() { return letters_; }  // coders end with a zero

 private:
  std::array<char, kLength + 1> letters_{};
};
using Base64Key = KeyText<44>;
using HexKey = KeyText<64>;

[[nodiscard]] Base64Key to_base64(const PublicKey& key);
[[nodiscard]] Base64Key to_base64(const SecretKey& key);
[[nodiscard]] HexKey to_hex(const PublicKey& key);
[[nodiscard]] HexKey to_hex(const SecretKey& key);

[[nodiscard]] std::optional<PublicKey> public_key_from_base64(std::string_view text);
[[nodiscard]] std::optional<SecretKey> secret_key_from_base64(std::string_view text);
[[nodiscard]] std::optional<PublicKey> public_key_from_hex(std::string_view text);  // either case
[[nodiscard]] std::optional<SecretKey> secret_key_from_hex(std::string_view text);

}  // namespace wireplane
