// fault.h: one-line faults, one a row of the protocol checklist, that prove that the row's test can fail.
//
// Built only with -DWIREPLANE_SEEDED_FAULTS=ON; then WG_FAULT=P12 in the environment switches row 12's fault on. In
// every other build seeded_fault() is the constant false, and the compiler removes the branch.
#pragma once

namespace wireplane {

#ifdef WIREPLANE_SEEDED_FAULTS
[[nodiscard]] bool seeded_fault(int row);  // reads the environment once
#else
[[nodiscard]] constexpr bool seeded_fault(int) { return false; }
#endif

}  // namespace wireplane
