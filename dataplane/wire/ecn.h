// ecn.h: congestion marks across the tunnel.
// spec: RFC 6040 §4.1 normal mode (in), §4.2 (out); P40
//
//   outer from inner:  ECN is copied, DSCP is not: it would tell an observer what kind of traffic the tunnel carries.
//
//   inner from outer:        outer Not-ECT   ECT(0)     ECT(1)     CE
//     inner Not-ECT              Not-ECT     Not-ECT!   Not-ECT!   drop!        ! = never sent by an honest ingress
//     inner ECT(0)               ECT(0)      ECT(0)     ECT(1)     CE
//     inner ECT(1)               ECT(1)      ECT(1)     ECT(1)     CE
//     inner CE                   CE          CE         CE!        CE
//
// Decision: the RFC, not parity with the Linux module. The module asks the same table and ignores its "drop", so that
// CE over a Not-ECT packet is delivered; we drop it and count it (Drop::kEcnForged): the only correct signal to a
// transport that does not speak ECN is a loss, and a router on the way that marks Not-ECT packets is broken or lying.
// The outer header is not authenticated, but who can set CE can also drop. On encapsulation the module sends CE as
// ECT(0) (RFC 3168); we copy it (RFC 6040).
#pragma once
#include <cstdint>

#include "dataplane/base/drops.h"
#include "dataplane/base/fault.h"
#include "dataplane/wire/inner_ip.h"

namespace wireplane {

enum class Ecn : std::uint8_t { kNotEct = 0, kEct1 = 1, kEct0 = 2, kCe = 3 };

[[nodiscard]] inline Ecn ecn_of(std::uint8_t ds) { return static_cast<Ecn>(ds & 3); }
[[nodiscard]] inline Ecn ecn_of_packet(const std::uint8_t* ip) { return ecn_of(ds_field(ip)); }
inline void set_ecn(std::uint8_t* ip, Ecn ecn) {
  set_ds_field(ip, static_cast<std::uint8_t>((ds_field(ip) & 0xfc) | static_cast<std::uint8_t>(ecn)));
}

// The outer TOS or traffic class of a data message around this inner packet; a keepalive's is 0.
[[nodiscard]] inline std::uint8_t outer_ds_for(const std::uint8_t* inner) {
  return seeded_fault(40) ? ds_field(inner) : static_cast<std::uint8_t>(ecn_of_packet(inner));
}

// Carries the outer header's mark into the inner packet. Drop::kNone, or Drop::kEcnForged with the packet unchanged.
[[nodiscard]] Drop carry_mark(std::uint8_t* inner, Ecn outer);  // the same, for an outer header that has one
[[nodiscard]] inline Drop ecn_decapsulate(std::uint8_t* inner, std::uint8_t outer_ds) {
  const Ecn outer = ecn_of(outer_ds);
  return outer == Ecn::kNotEct ? Drop::kNone : carry_mark(inner, outer);
}

}  // namespace wireplane
