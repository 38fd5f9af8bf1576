// oracle.h: what a configuration means, said as slowly and plainly as possible: maps and linear searches.
#pragma once
#include <algorithm>
#include <cstring>
#include <optional>
#include <string>
#include <vector>

#include "dataplane/base/bytes.h"
#include "tests/support/fake_device.h"

namespace wireplane::fuzz {

inline bool contains(const Prefix& prefix, const Address& address) {
  if (prefix.address.family != address.family) return false;
  const std::size_t whole = prefix.length / 8;
  if (std::memcmp(prefix.address.octets.data(), address.octets.data(), whole) != 0) return false;
  const unsigned differ = whole == 16 ? 0 : prefix.address.octets[whole] ^ address.octets[whole];
  return differ >> (8 - prefix.length % 8) == 0;
}

// Whose an inner address is: the owner of the longest prefix that contains it.
inline std::optional<PublicKey> owner_of(const FakeDevice& model, const Address& address) {
  std::optional<PublicKey> best;
  int length = -1;
  for (const auto& [prefix, key] : model.owners) {
    if (!contains(prefix, address) || int{prefix.length} <= length) continue;
    length = prefix.length;
    best = key;
  }
  return best;
}

// A peer's configuration as text, without its endpoint, which moves by itself.
inline std::string text_of(const PeerView& peer) {
  std::string text(reinterpret_cast<const char*>(peer.public_key.octets.data()), 32);
  text.append(reinterpret_cast<const char*>(peer.preshared_key.expose().data()), 32);
  text += std::to_string(peer.persistent_keepalive_s) + ' ' + std::to_string(peer.group);
  auto sorted = peer.allowed_ips;
  std::sort(sorted.begin(), sorted.end());
  for (const Prefix& prefix : sorted) text += ' ' + to_text(prefix);
  return text;
}
inline std::vector<std::string> peers_of(const Configurable& device) {
  std::vector<std::string> peers;
  device.for_each_peer([&](const PeerView& peer) { peers.push_back(text_of(peer)); });
  std::sort(peers.begin(), peers.end());
  return peers;
}

inline PeerChange copy_of(const PeerChange& from) {
  PeerChange to;
  to.public_key = from.public_key;
  to.remove = from.remove;
  to.update_only = from.update_only;
  if (from.preshared_key) to.preshared_key = from.preshared_key->duplicate();
  to.endpoint = from.endpoint;
  to.persistent_keepalive_s = from.persistent_keepalive_s;
  to.replace_allowed_ips = from.replace_allowed_ips;
  to.allowed_ips = from.allowed_ips;
  to.group = from.group;
  return to;
}

}  // namespace wireplane::fuzz
