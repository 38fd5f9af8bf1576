// What a reload changes, and what it cannot.
#include <algorithm>
#include <unordered_map>
#include <unordered_set>

#include "control/config.h"

namespace wireplane {
namespace {

bool same_secret(const std::optional<SecretKey>& a, const std::optional<SecretKey>& b) {
  static const SecretKey kNone;
  const auto x = (a ? *a : kNone).expose(), y = (b ? *b : kNone).expose();
  std::uint8_t differ = 0;  // no early exit: the time tells nothing
  for (std::size_t i = 0; i < x.size(); ++i) differ |= static_cast<std::uint8_t>(x[i] ^ y[i]);
  return differ == 0;
}

std::optional<SecretKey> duplicate_or_none(const std::optional<SecretKey>& key) {
  return key ? key->duplicate() : SecretKey{};
}

std::vector<Prefix> sorted(const std::vector<AllowedIpChange>& changes) {
  std::vector<Prefix> prefixes;
  prefixes.reserve(changes.size());
  for (const AllowedIpChange& change : changes) prefixes.push_back(change.prefix);
  std::sort(prefixes.begin(), prefixes.end());
  return prefixes;
}

PeerChange as_new(const PeerChange& peer) {
  PeerChange change;
  change.public_key = peer.public_key;
  change.preshared_key = duplicate_or_none(peer.preshared_key);
  change.endpoint = peer.endpoint;
  change.persistent_keepalive_s = peer.persistent_keepalive_s.value_or(0);
  change.replace_allowed_ips = true;
  change.allowed_ips = peer.allowed_ips;
  change.group = peer.group.value_or(0);
  return change;
}

// Single prefixes come and go, so that traffic of those that stay is never without a route.
void differ_allowed_ips(PeerChange& change, const PeerChange& now, const PeerChange& next) {
  const auto had = sorted(now.allowed_ips), has = sorted(next.allowed_ips);
  std::vector<Prefix> gone, fresh;
  std::set_difference(had.begin(), had.end(), has.begin(), has.end(), std::back_inserter(gone));
  std::set_difference(has.begin(), has.end(), had.begin(), had.end(), std::back_inserter(fresh));
  for (const Prefix& prefix : gone) change.allowed_ips.push_back({.prefix = prefix, .remove = true});
  for (const Prefix& prefix : fresh) change.allowed_ips.push_back({.prefix = prefix, .remove = false});
}

// False: the peer stays as it is.
bool differ_peer(PeerChange& change, const PeerChange& now, const PeerChange& next) {
  change.public_key = next.public_key;
  bool differs = false;
  if (!same_secret(now.preshared_key, next.preshared_key)) {
    change.preshared_key = duplicate_or_none(next.preshared_key);
    differs = true;
  }
  if (next.endpoint && now.endpoint != next.endpoint) {
    change.endpoint = next.endpoint;
    differs = true;
  }
  if (now.persistent_keepalive_s.value_or(0) != next.persistent_keepalive_s.value_or(0)) {
    change.persistent_keepalive_s = next.persistent_keepalive_s.value_or(0);
    differs = true;
  }
  if (now.group.value_or(0) != next.group.value_or(0)) {
    change.group = next.group.value_or(0);
    differs = true;
  }
  differ_allowed_ips(change, now, next);
  return differs || !change.allowed_ips.empty();
}

}  // namespace

DeviceChange difference(const FileConfig& now, const FileConfig& next) {
  DeviceChange change;
  if (!same_secret(now.device.private_key, next.device.private_key))
    change.private_key = duplicate_or_none(next.device.private_key);
  if (now.device.listen_port.value_or(0) != next.device.listen_port.value_or(0))
    change.listen_port = next.device.listen_port.value_or(0);
  if (now.device.fwmark.value_or(0) != next.device.fwmark.value_or(0)) change.fwmark = next.device.fwmark.value_or(0);

  std::unordered_map<PublicKey, const PeerChange*> had;
  had.reserve(now.device.peers.size());
  for (const PeerChange& peer : now.device.peers) had.emplace(peer.public_key, &peer);
  std::unordered_set<PublicKey> has;
  has.reserve(next.device.peers.size());
  for (const PeerChange& peer : next.device.peers) has.insert(peer.public_key);

  for (const PeerChange& peer : now.device.peers)  // first, so that their allowed IPs and places are free
    if (!has.contains(peer.public_key)) {
      change.peers.emplace_back().public_key = peer.public_key;
      change.peers.back().remove = true;
    }
  for (const PeerChange& peer : next.device.peers) {
    const auto before = had.find(peer.public_key);
    PeerChange one;
    if (before == had.end()) {
      change.peers.push_back(as_new(peer));
    } else if (differ_peer(one, *before->second, peer)) {
      change.peers.push_back(std::move(one));
    }
  }
  return change;
}

std::vector<ConfigError> unchangeable(const FileConfig& now, const FileConfig& next) {
  std::vector<ConfigError> errors;
  const auto require = [&](bool same, const char* key) {
    if (!same)
      errors.push_back({.file = next.file,
                        .line = 0,
                        .key = key,
                        .expected = "expected as it was at start: a reload cannot change it, restart instead"});
  };
  require(now.addresses == next.addresses, "Address");
  require(now.mtu == next.mtu, "MTU");
  require(now.table_use == next.table_use && now.table == next.table, "Table");
  const EngineSettings &a = now.engine, &b = next.engine;
  require(a.workers == b.workers, "Workers");
  require(a.outer == b.outer, "Outer");
  require(a.inner == b.inner, "Inner");
  require(a.poll == b.poll, "Poll");
  require(a.peers == b.peers, "Peers");
  require(a.sessions == b.sessions, "Sessions");
  require(a.buffers == b.buffers, "Buffers");
  require(a.outer_addresses == b.outer_addresses, "OuterAddress");
  require(a.outer_gateways == b.outer_gateways, "OuterGateway");
  require(a.outer_vlan == b.outer_vlan, "OuterVlan");
  require(a.outer_mtu == b.outer_mtu, "OuterMtu");
  require(a.inner_gateways == b.inner_gateways, "InnerGateway");
  require(a.capture == b.capture, "Capture");
  require(a.keylog == b.keylog, "Keylog");
  require(a.user == b.user, "User");
  return errors;
}

}  // namespace wireplane
