#include "dataplane/base/fault.h"

#ifdef WIREPLANE_SEEDED_FAULTS
#include <cstdlib>

namespace wireplane {

bool seeded_fault(int row) {
  static const int chosen = [] {
    const char* name = std::getenv("WG_FAULT");
    return name != nullptr && name[0] == 'P' ? std::atoi(name + 1) : 0;
  }();
  return row == chosen;
}

}  // namespace wireplane
#endif
