#include "dataplane/wire/ecn.h"

#include "dataplane/base/fault.h"

namespace wireplane {

std::uint8_t outer_ds_for(const std::uint8_t* inner) {
  if (seeded_fault(40)) return ds_field(inner);
  return static_cast<std::uint8_t>(ecn_of_packet(inner));
}

Drop ecn_decapsulate(std::uint8_t* inner, std::uint8_t outer_ds) {
  const Ecn outer = ecn_of(outer_ds), before = ecn_of_packet(inner);
  if (seeded_fault(40)) return Drop::kNone;
  if (before == Ecn::kNotEct) return outer == Ecn::kCe ? Drop::kEcnForged : Drop::kNone;
  if (before == Ecn::kCe) return Drop::kNone;
  if (outer == Ecn::kCe) set_ecn(inner, Ecn::kCe);
  if (outer == Ecn::kEct1 && before == Ecn::kEct0) set_ecn(inner, Ecn::kEct1);
  return Drop::kNone;
}

}  // namespace wireplane
