// check.h: a broken invariant is our bug and stops the program, in release too. Never for input: bad input is counted.
#pragma once
#include <cstdio>
#include <cstdlib>

namespace wireplane {

[[noreturn]] inline void check_failed(const char* condition, const char* file, int line) {
  std::fprintf(stderr, "%s:%d: broken invariant: %s\n", file, line, condition);
  std::abort();
}

}  // namespace wireplane

#define WG_CHECK(condition) \
  ((condition) ? static_cast<void>(0) : ::wireplane::check_failed(#condition, __FILE__, __LINE__))

#ifdef NDEBUG  // WG_DCHECK is for what costs a cycle per packet
#define WG_DCHECK(condition) static_cast<void>(0)
#else
#define WG_DCHECK(condition) WG_CHECK(condition)
#endif
