// cookie.h: the two macs that end a handshake message, and the cookie by which a loaded responder makes strangers prove
// that they receive where they send from.
// spec: wg §5.3 (why), §5.4.4 (macs), §5.4.7 (cookie reply); PROTOCOL P6, P8, P10-P12
//
//   initiation or response      ... | mac1 = Mac(Hash("mac1----" | reader), all before) | mac2 = Mac(cookie, all
//   before) cookie reply                nonce | Xaead(Hash("cookie--" | replier), nonce, cookie, associated: the mac1
//   answered) cookie                      Mac(secret, source address | source port); the secret is renewed every 120 s
//
// Owner: control. CookieChecker is the responder's, one a device; CookieJar the initiator's, one a peer. A responder of
// an initiation sends messages with macs too: its jar serves both. Cost: one keyed hash of two blocks a mac.
#pragma once
#include <cstdint>
#include <optional>
#include <span>

#include "control/noise/blake2s.h"
#include "control/noise/identity.h"
#include "dataplane/base/endpoint.h"
#include "dataplane/base/entropy.h"
#include "dataplane/base/secret.h"
#include "dataplane/base/time.h"
#include "dataplane/wire/messages.h"

namespace wireplane {

// A handshake message as octets: an initiation or a response, nothing else.
template <class Message>
[[nodiscard]] std::span<std::uint8_t> octets_of(Message& msg) {
  static_assert(
      requires { msg.macs; }, "only initiations and responses carry macs");
  return {reinterpret_cast<std::uint8_t*>(&msg), sizeof msg};
}
template <class Message>
[[nodiscard]] Octets octets_of(const Message& msg) {
  static_assert(
      requires { msg.macs; }, "only initiations and responses carry macs");
  return {reinterpret_cast<const std::uint8_t*>(&msg), sizeof msg};
}

void write_mac1(std::span<std::uint8_t> message, const Mac1Key& reader);
[[nodiscard]] bool mac1_valid(Octets message, const Mac1Key& reader);

class CookieChecker {
 public:
  // What follows from our public key is passed in by reference each time, so that a new identity needs no new checker.
  [[nodiscard]] bool mac2_valid(Octets message, const Endpoint& source, Instant now) const;
  // Answers `message`, whose mac1 has been checked. The reply goes back to `source`, and to it alone.
  void make_reply(CookieReplyMessage& reply, Octets message, const Endpoint& source, const LocalIdentity& us,
                  Instant now, Entropy& entropy);

 private:
  [[nodiscard]] bool secret_fresh(Instant now) const;
  [[nodiscard]] Mac cookie_for(const Endpoint& source) const;

  SecretKey secret_;
  std::optional<Instant> secret_made_;  // none: no cookie was ever given
};

class CookieJar {
 public:
  CookieJar() = default;
  CookieJar(CookieJar&&) = default;
  CookieJar& operator=(CookieJar&&) = default;
  ~CookieJar() { forget(); }

  // The last step of writing an initiation or a response to `them`: mac1, and mac2 if we hold a cookie of theirs.
  void write_macs(std::span<std::uint8_t> message, const RemoteIdentity& them, Instant now);
  // True: the cookie is kept for the next message. It is not sent at once and moves no endpoint: that is up to nobody
  // (P12). False: it answers nothing that still waits for an answer, or its tag is wrong; nothing has changed.
  [[nodiscard]] bool accept(const CookieReplyMessage& reply, const RemoteIdentity& them, Instant now);
  void forget();

 private:
  void forget_cookie();

  std::optional<Mac> waiting_mac1_;  // of the last message sent, as long as no cookie has answered it
  Mac cookie_{};
  std::optional<Instant> received_;  // none: no cookie
};

}  // namespace wireplane
