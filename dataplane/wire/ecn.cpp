#include "dataplane/wire/ecn.h"

#include "dataplane/base/fault.h"

namespace wireplane {

Drop carry_mark(std::uint8_t* inner, Ecn outer) {
  const Ecn before = ecn_of_packet(inner);
  if (seeded_fault(40)) return Drop::kNone;
  if (before == Ecn::kNotEct) return outer == Ecn::kCe ? Drop::kEcnForged : Drop::kNone;
  if (before == Ecn::kCe) return Drop::kNone;
  if (outer == Ecn::kCe) set_ecn(inner, Ecn::kCe);
  if (outer == Ecn::kEct1 && before == Ecn::kEct0) set_ecn(inner, Ecn::kEct1);
  return Drop::kNone;
}

}  // namespace wireplane
