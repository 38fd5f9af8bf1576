#include "control/noise/admission.h"

#include "dataplane/base/fault.h"

namespace wireplane {

Drop admit(Octets message, const Endpoint& source, bool under_load, const LocalIdentity& us,
           const CookieChecker& cookies, RateLimiter& limiter, Instant now) {
  if (!mac1_valid(message, us.mac1_key)) return Drop::kBadMac1;
  if (!under_load && !seeded_fault(7)) return Drop::kNone;
  if (!cookies.mac2_valid(message, source, now)) return seeded_fault(8) ? Drop::kNone : Drop::kCookieSent;
  if (!limiter.allow(source.remote, now)) return Drop::kRateLimited;
  return Drop::kNone;
}

}  // namespace wireplane
