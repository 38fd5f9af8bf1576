// identity.h: who we are and who they are, with what can be computed once instead of once a handshake.
// spec: wg §5.4 (static keys), §5.4.4 and §5.4.7 (the labels of mac1 and of the cookie's key)
#pragma once
#include <array>
#include <cstdint>

#include "dataplane/base/secret.h"
#include "dataplane/base/types.h"

namespace wireplane {

// Both follow from a public key alone: a relay may compute them too (P51). They are not secret, but they are keys.
struct Mac1Key {
  std::array<std::uint8_t, 32> octets;
};  // Hash("mac1----" | public key of whoever reads the message)
struct CookieKey {
  std::array<std::uint8_t, 32> octets;
};  // Hash("cookie--" | public key of whoever sends the cookie)

[[nodiscard]] Mac1Key mac1_key_of(const PublicKey& reader);
[[nodiscard]] CookieKey cookie_key_of(const PublicKey& sender);

struct LocalIdentity {
  SecretKey secret;  // clamped
  PublicKey public_key;
  Mac1Key mac1_key;
  CookieKey cookie_key;
};

struct RemoteIdentity {
  PublicKey public_key;
  SecretKey psk;            // all zero: none
  SecretKey static_static;  // DH(our secret, their public key): spares each handshake one of its multiplications
  bool usable = false;      // static_static is not all zero; else the peer is configured but never handshakes (P20)
  Mac1Key mac1_key;
  CookieKey cookie_key;
};

[[nodiscard]] LocalIdentity make_local_identity(SecretKey secret);
// Again after either static key changes; a new psk may also be moved into an identity in use.
[[nodiscard]] RemoteIdentity make_remote_identity(const LocalIdentity& us, const PublicKey& them, SecretKey psk);

}  // namespace wireplane
