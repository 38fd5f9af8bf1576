// node_address.h: a node's inner address follows from its public key, so that two nodes exchange keys and nothing else.
//
//   fd | first 15 octets of BLAKE2s-256("wireplane address v1" | public key)          one IPv6 /128 in fd00::/8
//
// fd00::/8 is for local use (RFC 4193), so a host routes it nowhere by itself, and a stock WireGuard peer takes such an
// address like any other. 120 bits of a hash: nobody finds a second key for an address that is in use. The label is
// part of the format: another derivation would carry another one. Cost: one hash, about 0.3 us.
#pragma once
#include "dataplane/base/endpoint.h"
#include "dataplane/base/types.h"

namespace wireplane {

[[nodiscard]] Address address_of(const PublicKey& key);

}  // namespace wireplane
