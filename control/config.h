// config.h: the configuration file: wg-quick's format, and a section of ours.
//
//   [Interface]  PrivateKey ListenPort FwMark Address MTU Table
//   [Peer]       PublicKey PresharedKey AllowedIPs Endpoint PersistentKeepalive Group(*)
//   [Engine](*)  Workers Outer Inner Forward Poll Peers Sessions Buffers OuterAddress OuterGateway RouterAddress
//                OuterVlan OuterMtu InnerGateway Capture Keylog User        (*) not wg-quick's
//
// Names are read whatever their case, as wg-quick does; '#' begins a comment; CRLF and a byte order mark are tolerated.
// A file is right as a whole or not taken: every fault is told with file, line, key and what was expected, the first
// kMostErrors of them at once. What wg-quick would do with a shell (PostUp, DNS ...) is refused, naming the
// alternative.
#pragma once
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "control/address_text.h"
#include "control/configuration.h"
#include "dataplane/base/forward.h"

namespace wireplane {

struct ConfigError {
  std::string file;
  std::size_t line = 0;                    // 0: the file as a whole
  std::string key;                         // as the file has it; a section in brackets; empty: none
  std::string expected;                    // a sentence
  [[nodiscard]] std::string text() const;  // "wg0.conf:7: ListenPort: expected ..."
};
constexpr std::size_t kMostErrors = 20;

enum class Poll { kAdaptive, kBusy };
enum class TableUse { kAuto, kOff, kNumber };

struct EngineSettings {
  std::uint32_t workers = 0;  // 0: as many as cores allow
  std::string outer = "udp";  // or a DPDK device string
  std::string inner = "tun";  // "none", or a DPDK device string
  Forward forward = Forward::kNone;
  Poll poll = Poll::kAdaptive;
  std::uint32_t peers = 0;  // limits; 0: the engine's own
  std::uint32_t sessions = 0;
  std::uint32_t buffers = 0;
  std::vector<Prefix> outer_addresses;  // of a device port: ours, host bits kept
  std::vector<Address> outer_gateways;
  std::uint32_t outer_vlan = 0;           // 802.1Q identifier of outer frames on a device port; 0: untagged
  std::uint32_t outer_mtu = 0;            // of a device port's link; 0: as the device comes
  std::vector<Address> inner_gateways;    // of a device port inside: who leads off its link
  std::vector<Address> router_addresses;  // sources of our ICMP errors; by default the first Address of each family
  std::string capture;                    // pcap file; empty: none
  std::string keylog;                     // file for session keys; empty: none
  std::string user;                       // to become after start; empty: stay
  friend bool operator==(const EngineSettings&, const EngineSettings&) = default;
};

struct FileConfig {
  std::string file;
  DeviceChange device;            // replace_peers is set: the file says all there is
  std::vector<Prefix> addresses;  // host bits kept
  std::optional<std::uint32_t> mtu;
  TableUse table_use = TableUse::kAuto;
  std::uint32_t table = 0;
  EngineSettings engine;
  std::vector<ConfigError> warnings;  // taken, but perhaps not what was meant
};

// A name and a port as an endpoint (the host's resolver, at start and reload only), or what went wrong.
using Resolver = std::function<Result<Endpoint>(const std::string& host, std::uint16_t port)>;
[[nodiscard]] Result<Endpoint> resolve_by_host(const std::string& host, std::uint16_t port);
[[nodiscard]] Result<Endpoint> resolve_never(const std::string& host,
                                             std::uint16_t port);  // takes any name, as 0.0.0.1

using ConfigResult = Result<FileConfig, std::vector<ConfigError>>;
[[nodiscard]] ConfigResult parse_config(std::string_view text, const std::string& file, const Resolver& resolver,
                                        const InterfaceIndex& interface_index = interface_index_of_host);
[[nodiscard]] ConfigResult load_config(const std::string& path, const Resolver& resolver);

// A reload. What the new file says otherwise than the old one, and nothing else: peers that stand in both with equal
// settings are not in it, an endpoint that the file did not change stays where the peer roamed to.
// Neither file's keys are moved out. Peers that came by `wg set` stay.
[[nodiscard]] DeviceChange difference(const FileConfig& now, const FileConfig& next);
// What a reload cannot change (it needs a restart), as errors that name the settings; empty: the reload may go on.
[[nodiscard]] std::vector<ConfigError> unchangeable(const FileConfig& now, const FileConfig& next);

// A group's number stands for itself; a name gets one that is the same in every file and every run.
[[nodiscard]] std::optional<std::uint32_t> group_number(std::string_view text);

}  // namespace wireplane
