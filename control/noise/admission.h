// admission.h: whether a handshake message deserves arithmetic. The first thing done with an initiation or a response.
// spec: wg §5.3; the Linux kernel's wg_cookie_validate_packet; PROTOCOL P6-P8, P13
//
//   mac1 wrong                                -> kBadMac1      silent: who does not know our public key learns nothing
//   not under load                            -> kNone         mac2 is not even looked at
//   under load, mac2 missing or wrong         -> kCookieSent   the caller answers with CookieChecker::make_reply
//   under load, mac2 right, source too eager  -> kRateLimited  silent
//   under load, mac2 right                    -> kNone
//
// What "under load" means, and for how long, is the caller's to say. Cost: one keyed hash, or three and a SipHash.
#pragma once
#include "control/noise/cookie.h"
#include "control/noise/rate_limiter.h"
#include "dataplane/base/drops.h"

namespace wireplane {

[[nodiscard]] Drop admit(Octets message, const Endpoint& source, bool under_load, const LocalIdentity& us,
                         const CookieChecker& cookies, RateLimiter& limiter, Instant now);

}  // namespace wireplane
