#include "control/noise/cookie.h"

#include <algorithm>
#include <array>

#include "control/noise/sealing.h"
#include "dataplane/base/bytes.h"
#include "dataplane/base/check.h"
#include "dataplane/base/fault.h"

namespace wireplane {
namespace {

// Where the parts of a handshake message lie, seen from its end; both types agree on that and on the sender's place.
template <class Octet>
struct Tail {
  std::span<Octet> before_mac1, before_mac2;
  std::span<Octet, sizeof(Mac)> mac1, mac2;
};

template <class Octet>
Tail<Octet> tail_of(std::span<Octet> message) {
  WG_CHECK(message.size() == sizeof(InitiationMessage) || message.size() == sizeof(ResponseMessage));
  const auto macs = message.template last<sizeof(Macs)>();
  return {message.first(message.size() - sizeof(Macs)), message.first(message.size() - sizeof(Mac)),
          macs.template first<sizeof(Mac)>(), macs.template last<sizeof(Mac)>()};
}
static_assert(offsetof(InitiationMessage, sender) == 4 && offsetof(ResponseMessage, sender) == 4);

}  // namespace

void write_mac1(std::span<std::uint8_t> message, const Mac1Key& reader) {
  const auto tail = tail_of(message);
  std::ranges::copy(mac(reader.octets, {tail.before_mac1}), tail.mac1.begin());
}

bool mac1_valid(Octets message, const Mac1Key& reader) {
  const auto tail = tail_of(message);
  return equal_in_constant_time(mac(reader.octets, {tail.before_mac1}), tail.mac1) || seeded_fault(6);
}

bool CookieChecker::mac2_valid(Octets message, const Endpoint& source, Instant now) const {
  if (!secret_fresh(now)) return false;
  const auto tail = tail_of(message);
  Mac cookie = cookie_for(source);
  const bool valid = equal_in_constant_time(mac(cookie, {tail.before_mac2}), tail.mac2);
  wipe(cookie.data(), cookie.size());
  return valid;
}

// spec: wg §5.4.7
void CookieChecker::make_reply(CookieReplyMessage& reply, Octets message, const Endpoint& source,
                               const LocalIdentity& us, Instant now, Entropy& entropy) {
  if (!secret_fresh(now)) {
    entropy.fill(secret_.fill());
    secret_made_ = now;
  }
  const auto tail = tail_of(message);
  reply = CookieReplyMessage{};
  store_le(reply.type.data(), static_cast<std::uint32_t>(MessageType::kCookieReply));
  std::copy_n(message.begin() + offsetof(InitiationMessage, sender), reply.receiver.size(), reply.receiver.begin());
  if (!seeded_fault(11)) entropy.fill(reply.nonce);
  Mac cookie = cookie_for(source);
  xseal(reply.sealed_cookie, us.cookie_key.octets, reply.nonce, cookie, tail.mac1);
  wipe(cookie.data(), cookie.size());
}

bool CookieChecker::secret_fresh(Instant now) const {
  return secret_made_.has_value() && now - *secret_made_ < kCookieSecretMaxAge;
}

Mac CookieChecker::cookie_for(const Endpoint& source) const {
  std::array<std::uint8_t, 2> port{};
  if (!seeded_fault(10)) store_be16(port.data(), source.port);
  return mac(secret_.expose(), {Octets{source.remote.octets}.first(source.remote.is_v4() ? 4 : 16), port});
}

void CookieJar::write_macs(std::span<std::uint8_t> message, const RemoteIdentity& them, Instant now) {
  write_mac1(message, them.mac1_key);
  const auto tail = tail_of(message);
  waiting_mac1_.emplace();
  std::ranges::copy(tail.mac1, waiting_mac1_->begin());
  if (received_ && now - *received_ >= kCookieSecretMaxAge - kCookieSecretLatency) forget_cookie();
  const Mac mac2 = received_ ? mac(cookie_, {tail.before_mac2}) : Mac{};
  std::ranges::copy(mac2, tail.mac2.begin());
}

bool CookieJar::accept(const CookieReplyMessage& reply, const RemoteIdentity& them, Instant now) {
  if (!waiting_mac1_) return false;
  Mac cookie;
  if (!xopen(cookie, them.cookie_key.octets, reply.nonce, reply.sealed_cookie, *waiting_mac1_)) return false;
  cookie_ = cookie;
  wipe(cookie.data(), cookie.size());
  received_ = now;
  if (!seeded_fault(12)) waiting_mac1_.reset();
  return true;
}

void CookieJar::forget() {
  forget_cookie();
  waiting_mac1_.reset();
}

void CookieJar::forget_cookie() {
  wipe(cookie_.data(), cookie_.size());
  received_.reset();
}

}  // namespace wireplane
