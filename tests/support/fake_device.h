// fake_device.h: a Configurable that only remembers: what wg(8) expects of a device, as the kernel does it, in a few
// lines.
#pragma once
#include <algorithm>
#include <deque>
#include <map>
#include <optional>
#include <string>
#include <unordered_map>
#include <vector>

#include "control/address_text.h"
#include "control/configurable.h"

namespace wireplane {

inline PeerView copy_of(const PeerView& from) {
  PeerView to;
  to.public_key = from.public_key;
  to.preshared_key = from.preshared_key.duplicate();
  to.endpoint = from.endpoint;
  to.persistent_keepalive_s = from.persistent_keepalive_s;
  to.allowed_ips = from.allowed_ips;
  to.group = from.group;
  to.last_handshake = from.last_handshake;
  to.received_octets = from.received_octets;
  to.sent_octets = from.sent_octets;
  return to;
}

class FakeDevice final : public Configurable {
 public:
  struct FakePeer {
    PeerView view;
    unsigned incarnation = 0;  // another one: the peer was removed and came anew, its session is lost
  };

  Status check(const DeviceChange&) const override { return Nothing{}; }

  Status apply(DeviceChange change) override {
    ++applied;
    if (fail_after && applied > *fail_after) return Error{"no room", 12};
    if (change.private_key) device.private_key = std::move(*change.private_key);
    if (change.listen_port) device.listen_port = *change.listen_port;
    if (change.fwmark) device.fwmark = *change.fwmark;
    if (change.replace_peers) slots.clear(), places.clear(), owners.clear();
    for (PeerChange& peer : change.peers) apply_peer(peer);
    return Nothing{};
  }

  DeviceView view() const override {
    DeviceView out;
    out.private_key = device.private_key.duplicate();
    out.listen_port = device.listen_port;
    out.fwmark = device.fwmark;
    out.peers = peers();
    return out;
  }
  void for_each_peer(const Visit& visit) const override {
    for (const auto& slot : slots)
      if (slot) visit(slot->view);
  }
  std::size_t dump_some(std::size_t cursor, std::size_t at_most, const Visit& visit) const override {
    for (; cursor < slots.size() && at_most > 0; ++cursor) {
      if (!slots[cursor]) continue;
      visit(slots[cursor]->view);
      ++visited;
      --at_most;
    }
    return cursor >= slots.size() ? kEnd : cursor;
  }

  [[nodiscard]] std::size_t peers() const { return places.size(); }
  [[nodiscard]] FakePeer* find(const PublicKey& key) {
    const auto place = places.find(key);
    return place == places.end() ? nullptr : &*slots[place->second];
  }

  DeviceView device;
  std::deque<std::optional<FakePeer>> slots;
  std::unordered_map<PublicKey, std::size_t> places;  // of a peer in slots
  std::map<Prefix, PublicKey> owners;
  std::optional<unsigned> fail_after;
  unsigned applied = 0, incarnations = 0;
  mutable std::size_t visited = 0;

 private:
  void apply_peer(PeerChange& change) {
    FakePeer* peer = find(change.public_key);
    if (change.remove) return remove(change.public_key);
    if (peer == nullptr) {
      if (change.update_only) return;
      places[change.public_key] = slots.size();
      peer = &*slots.emplace_back(FakePeer{{}, ++incarnations});
      peer->view.public_key = change.public_key;
    }
    if (change.preshared_key) peer->view.preshared_key = std::move(*change.preshared_key);
    if (change.endpoint) peer->view.endpoint = change.endpoint;
    if (change.persistent_keepalive_s) peer->view.persistent_keepalive_s = *change.persistent_keepalive_s;
    if (change.group) peer->view.group = *change.group;
    if (change.replace_allowed_ips)
      for (const Prefix& prefix : std::vector{peer->view.allowed_ips}) disown(*peer, prefix);
    for (const AllowedIpChange& ip : change.allowed_ips) apply_allowed_ip(*peer, ip);
  }
  void apply_allowed_ip(FakePeer& peer, const AllowedIpChange& ip) {
    const auto owner = owners.find(ip.prefix);
    const bool ours = owner != owners.end() && owner->second == peer.view.public_key;
    if (ip.remove) {
      if (ours) disown(peer, ip.prefix);
      return;
    }
    if (ours) return;
    if (owner != owners.end()) disown(*find(owner->second), ip.prefix);  // it moves here
    owners[ip.prefix] = peer.view.public_key;
    peer.view.allowed_ips.push_back(ip.prefix);
  }
  void disown(FakePeer& peer, const Prefix& prefix) {
    std::erase(peer.view.allowed_ips, prefix);
    owners.erase(prefix);
  }
  void remove(const PublicKey& key) {
    const auto place = places.find(key);
    if (place == places.end()) return;
    for (const Prefix& prefix : slots[place->second]->view.allowed_ips) owners.erase(prefix);
    slots[place->second].reset();
    places.erase(place);
  }
};

// What is configured, as one text to compare; no counters. Sorted by key.
inline std::string state_of(const Configurable& device) {
  std::vector<std::string> peers;
  device.for_each_peer([&](const PeerView& peer) {
    std::string text(reinterpret_cast<const char*>(peer.public_key.octets.data()), 32);
    text.append(reinterpret_cast<const char*>(peer.preshared_key.expose().data()), 32);
    text += (peer.endpoint ? to_text(*peer.endpoint) : "-") + ' ' + std::to_string(peer.persistent_keepalive_s) + ' ' +
            std::to_string(peer.group);
    auto sorted = peer.allowed_ips;
    std::sort(sorted.begin(), sorted.end());
    for (const Prefix& prefix : sorted) text += ' ' + to_text(prefix);
    peers.push_back(text);
  });
  std::sort(peers.begin(), peers.end());
  const DeviceView view = device.view();
  std::string all(reinterpret_cast<const char*>(view.private_key.expose().data()), 32);
  all += std::to_string(view.listen_port) + ' ' + std::to_string(view.fwmark);
  for (const std::string& peer : peers) all += '\n' + peer;
  return all;
}

}  // namespace wireplane
