#include "control/noise/identity.h"

#include <string_view>
#include <utility>

#include "control/noise/blake2s.h"
#include "control/noise/stack_scrub.h"
#include "control/noise/x25519.h"

namespace wireplane {
namespace {

Digest labelled(std::string_view label, const PublicKey& key) {
  return hash({{reinterpret_cast<const std::uint8_t*>(label.data()), label.size()}, key.octets});
}

}  // namespace

Mac1Key mac1_key_of(const PublicKey& reader) { return {labelled("mac1----", reader)}; }
CookieKey cookie_key_of(const PublicKey& sender) { return {labelled("cookie--", sender)}; }

LocalIdentity make_local_identity(SecretKey secret) {
  const StackScrub scrub;
  clamp(secret);
  const PublicKey ours = public_key(secret);
  return {std::move(secret), ours, mac1_key_of(ours), cookie_key_of(ours)};
}

RemoteIdentity make_remote_identity(const LocalIdentity& us, const PublicKey& them, SecretKey psk) {
  const StackScrub scrub;
  SecretKey shared;
  const bool usable = dh(shared, us.secret, them);
  return {them, std::move(psk), std::move(shared), usable, mac1_key_of(them), cookie_key_of(them)};
}

}  // namespace wireplane
