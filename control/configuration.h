// configuration.h: what can be configured, and what can be seen of it, as plain data.
//
//   file (wg-quick's format) --parse--> FileConfig --.
//                                                    +--> DeviceChange --Device::apply--> running state
//   wg set/setconf/syncconf --UAPI set---------------'
//   wg show, wireplane show <--UAPI get, JSON-- DeviceView, PeerView <--Device::for_each_peer-- running state
//
// A change says only what is to differ: absent fields stay as they are (the UAPI's own rule).
#pragma once
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "dataplane/base/endpoint.h"
#include "dataplane/base/result.h"
#include "dataplane/base/secret.h"
#include "dataplane/base/time.h"
#include "dataplane/base/types.h"

namespace wireplane {

struct Prefix {
  Address address;        // host bits are zero
  std::uint8_t length{};  // 0..32 or 0..128
  friend auto operator<=>(const Prefix&, const Prefix&) = default;
};

struct AllowedIpChange {
  Prefix prefix;
  bool remove = false;  // "-ip" of the UAPI; else added, or moved here from the peer that had it
};

struct PeerChange {
  PublicKey public_key;
  bool remove = false;
  bool update_only = false;                // nothing happens if the peer does not exist
  std::optional<SecretKey> preshared_key;  // all zero: none
  std::optional<Endpoint> endpoint;
  std::optional<std::uint16_t> persistent_keepalive_s;  // 0: off
  bool replace_allowed_ips = false;
  std::vector<AllowedIpChange> allowed_ips;
  std::optional<std::uint32_t> group;  // Forward = groups: peers of one group reach each other; 0: none
};

struct DeviceChange {
  std::optional<SecretKey> private_key;      // all zero: none (the device falls silent)
  std::optional<std::uint16_t> listen_port;  // 0: any free one
  std::optional<std::uint32_t> fwmark;       // 0: none
  bool replace_peers = false;
  std::vector<PeerChange> peers;
};

struct PeerView {
  PublicKey public_key;
  SecretKey preshared_key;
  std::optional<Endpoint> endpoint;
  std::uint16_t persistent_keepalive_s = 0;
  std::vector<Prefix> allowed_ips;
  std::uint32_t group = 0;
  Duration last_handshake{};  // wall clock, since 1970; 0: never
  std::uint64_t received_octets = 0, sent_octets = 0;
};

struct DeviceView {
  SecretKey private_key;  // all zero: none
  PublicKey public_key;
  std::uint16_t listen_port = 0;
  std::uint32_t fwmark = 0;
  std::size_t peers = 0;
};

}  // namespace wireplane
