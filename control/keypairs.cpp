#include "control/keypairs.h"

#include <utility>

#include "dataplane/base/fault.h"

namespace wireplane {
namespace {

void leave(std::vector<SessionRef>& gone, std::optional<SessionRef>& place) {
  if (place) gone.push_back(*std::exchange(place, std::nullopt));
}

}  // namespace

std::vector<SessionRef> Keypairs::derived(const SessionRef& fresh, bool as_initiator) {
  std::vector<SessionRef> gone;
  if (as_initiator) {
    leave(gone, previous);
    if (next) {
      previous = std::exchange(next, std::nullopt);
      leave(gone, current);
    } else {
      previous = current;
    }
    if (seeded_fault(27)) leave(gone, previous);
    current = fresh;
  } else {
    leave(gone, next);
    if (!seeded_fault(28)) leave(gone, previous);
    next = fresh;
  }
  return gone;
}

std::vector<SessionRef> Keypairs::confirmed(Serial serial) {
  std::vector<SessionRef> gone;
  if (!next || next->serial != serial) return gone;
  leave(gone, previous);
  previous = current;
  current = std::exchange(next, std::nullopt);
  return gone;
}

std::vector<SessionRef> Keypairs::clear() {
  std::vector<SessionRef> gone;
  leave(gone, previous);
  leave(gone, current);
  leave(gone, next);
  return gone;
}

}  // namespace wireplane
