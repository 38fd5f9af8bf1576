// keypairs.h: the three sessions a peer may have, and how a new one moves the others (P28).
// spec: wg §6.3; the Linux kernel's add_new_keypair and wg_noise_received_with_keypair
//
//   derived as initiator   next there:   previous <- next, current freed       current <- new      next <- none
//                          no next:      previous <- current                   current <- new
//   derived as responder                 previous freed, old next freed        next <- new
//   confirmed                            previous <- current (old one freed)   current <- next     next <- none
#pragma once
#include <optional>
#include <vector>

#include "dataplane/base/types.h"

namespace wireplane {

struct SessionRef {
  SessionSlot slot;
  Serial serial;
  ReceiverIndex self;
  friend bool operator==(const SessionRef&, const SessionRef&) = default;
};

struct Keypairs {
  std::optional<SessionRef> previous, current, next;

  // Each returns who has no place any more: the caller retires them.
  std::vector<SessionRef> derived(const SessionRef& fresh, bool as_initiator);
  std::vector<SessionRef> confirmed(Serial serial);  // nothing happens unless it names `next`
  std::vector<SessionRef> clear();
};

}  // namespace wireplane
