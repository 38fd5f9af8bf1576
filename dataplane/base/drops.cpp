#include "dataplane/base/drops.h"

namespace wireplane {

std::string_view metric(Drop reason) {
  switch (reason) {
#define X(name, text, why) \
  case Drop::name:         \
    return text;
    WG_DROPS(X)
#undef X
    case Drop::kNone:
    case Drop::kCount:
      break;
  }
  return "none";
}

std::string_view explanation(Drop reason) {
  switch (reason) {
#define X(name, text, why) \
  case Drop::name:         \
    return why;
    WG_DROPS(X)
#undef X
    case Drop::kNone:
    case Drop::kCount:
      break;
  }
  return "not dropped";
}

}  // namespace wireplane
