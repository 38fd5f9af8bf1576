#include "control/keypairs.h"

#include <utility>

#include "dataplane/base/fault.h"

namespace wireplane {
namespace {

void leave(std::vector<SessionRef>& gone, std::optional<SessionRef>& place) {
  if (place) gone.push_back(*std::exchange(place, std::nullopt));
}

// Room for all who could leave: without memory nobody has left.
std::vector<SessionRef> nobody_yet() {
  std::vector<SessionRef> gone;
  gone.reserve(3);
  return gone;
}

}  // namespace

std::vector<SessionRef> Keypairs::derived(const SessionRef& fresh, bool as_initiator) {
  std::vector<SessionRef> gone = nobody_yet();
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
  std::vector<SessionRef> gone = nobody_yet();
  if (!next || next->serial != serial) return gone;
  leave(gone, previous);
  previous = current;
  current = std::exchange(next, std::nullopt);
  return gone;
}

std::vector<SessionRef> Keypairs::clear() {
  std::vector<SessionRef> gone = nobody_yet();
  leave(gone, previous);
  leave(gone, current);
  leave(gone, next);
  return gone;
}

}  // namespace wireplane
