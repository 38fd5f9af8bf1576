#include "control/config.h"

#include <algorithm>
#include <span>
#include <unordered_map>
#include <utility>

#include "control/noise/base64.h"
#include "dataplane/base/time.h"

namespace wireplane {
namespace {

constexpr std::uint32_t kSmallestMtu = 68;        // RFC 791: what every IPv4 link carries; Linux' own limit for a TUN
constexpr std::uint32_t kLargestOuterMtu = 9702;  // what drivers agree on for jumbo frames
constexpr std::uint32_t kMostWorkers = 64;        // a worker's number is the low six bits of a receiver index
constexpr std::uint32_t kMostPeers = 1u << 24;

char lower(char letter) { return letter >= 'A' && letter <= 'Z' ? static_cast<char>(letter - 'A' + 'a') : letter; }

bool same_name(std::string_view a, std::string_view b) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end(), [](char x, char y) { return lower(x) == lower(y); });
}

std::string_view trimmed(std::string_view text) {
  constexpr std::string_view kBlank = " \t\r\v\f";
  const std::size_t first = text.find_first_not_of(kBlank);
  if (first == text.npos) return {};
  return text.substr(first, text.find_last_not_of(kBlank) - first + 1);
}

struct PrefixHash {
  std::size_t operator()(const Prefix& prefix) const {
    const auto* octets = reinterpret_cast<const char*>(prefix.address.octets.data());
    return std::hash<std::string_view>{}({octets, 16}) * 31 + prefix.length;
  }
};

// One pass over the text. Each key has one function, which returns what it expected, or nothing if it was content.
class Parser {
 public:
  Parser(std::string_view file, const Resolver& resolver, const InterfaceIndex& interface_index)
      : resolver_{resolver}, interface_index_{interface_index} {
    out_.file = file;
    out_.device.replace_peers = true;
  }

  void read(std::string_view text);
  ConfigResult finish();

 private:
  using Trouble = std::optional<std::string>;
  using Reader = Trouble (Parser::*)(std::string_view value);
  struct Key {
    std::string_view name;
    Reader read;
    bool repeatable = false;
  };
  enum class Section { kNone, kUnknown, kInterface, kPeer, kEngine };
  static constexpr std::pair<Section, std::string_view> kSections[] = {
      {Section::kInterface, "[Interface]"}, {Section::kPeer, "[Peer]"}, {Section::kEngine, "[Engine]"}};
  static std::span<const Key> keys_of(Section section);
  static std::string_view alternative_to(std::string_view key);

  void read_line(std::string_view line);
  void open_section(std::string_view header);
  void close_peer();
  void read_pair(std::string_view key, std::string_view value);
  void fail(std::size_t line, std::string_view key, std::string expected);
  [[nodiscard]] std::string first_given_in(std::size_t line) const {
    return " (first given in line " + std::to_string(line) + ")";
  }

  template <class Item>
  Trouble read_list(std::string_view value, Item&& item);
  template <class T>
  static bool read_number(std::string_view value, T& field, T least, T most);

  Trouble private_key(std::string_view value);
  Trouble listen_port(std::string_view value);
  Trouble fwmark(std::string_view value);
  Trouble address(std::string_view value);
  Trouble mtu(std::string_view value);
  Trouble table(std::string_view value);

  Trouble public_key(std::string_view value);
  Trouble preshared_key(std::string_view value);
  Trouble allowed_ips(std::string_view value);
  Trouble endpoint(std::string_view value);
  Trouble persistent_keepalive(std::string_view value);
  Trouble group(std::string_view value);

  Trouble workers(std::string_view value);
  Trouble outer(std::string_view value);
  Trouble inner(std::string_view value);
  Trouble forward(std::string_view value);
  Trouble poll(std::string_view value);
  Trouble peers(std::string_view value);
  Trouble sessions(std::string_view value);
  Trouble buffers(std::string_view value);
  Trouble outer_address(std::string_view value);
  Trouble gateways(std::string_view value, std::vector<Address>& gateways);
  Trouble outer_gateway(std::string_view value);
  Trouble inner_gateway(std::string_view value);
  Trouble outer_vlan(std::string_view value);
  Trouble outer_mtu(std::string_view value);
  Trouble router_address(std::string_view value);
  Trouble capture(std::string_view value);
  Trouble keylog(std::string_view value);
  Trouble user(std::string_view value);

  PeerChange& peer() { return out_.device.peers.back(); }

  const Resolver& resolver_;
  const InterfaceIndex& interface_index_;
  FileConfig out_;
  std::vector<ConfigError> errors_;
  Section section_ = Section::kNone;
  std::size_t line_ = 0, section_line_ = 0, interface_line_ = 0, engine_line_ = 0;
  std::string_view key_;                               // the one being read, as the file has it
  std::vector<std::pair<Reader, std::size_t>> given_;  // keys of this section, and where
  bool peer_has_key_ = false;
  std::unordered_map<PublicKey, std::size_t> peer_lines_;
  std::unordered_map<Prefix, std::size_t, PrefixHash> prefix_lines_;
  std::unordered_map<std::uint32_t, std::string> group_names_;
};

// Arrays, which nothing destroys: a reload's thread may still read them while the process ends.
std::span<const Parser::Key> Parser::keys_of(Section section) {
  static const Key kInterface[] = {
      {"PrivateKey", &Parser::private_key},
      {"ListenPort", &Parser::listen_port},
      {"FwMark", &Parser::fwmark},
      {"Address", &Parser::address, true},
      {"MTU", &Parser::mtu},
      {"Table", &Parser::table},
  };
  static const Key kPeer[] = {
      {"PublicKey", &Parser::public_key},
      {"PresharedKey", &Parser::preshared_key},
      {"AllowedIPs", &Parser::allowed_ips, true},
      {"Endpoint", &Parser::endpoint},
      {"PersistentKeepalive", &Parser::persistent_keepalive},
      {"Group", &Parser::group},
  };
  static const Key kEngine[] = {
      {"Workers", &Parser::workers},
      {"Outer", &Parser::outer},
      {"Inner", &Parser::inner},
      {"Forward", &Parser::forward},
      {"Poll", &Parser::poll},
      {"Peers", &Parser::peers},
      {"Sessions", &Parser::sessions},
      {"Buffers", &Parser::buffers},
      {"OuterAddress", &Parser::outer_address, true},
      {"OuterGateway", &Parser::outer_gateway, true},
      {"OuterVlan", &Parser::outer_vlan},
      {"OuterMtu", &Parser::outer_mtu},
      {"InnerGateway", &Parser::inner_gateway, true},
      {"RouterAddress", &Parser::router_address, true},
      {"Capture", &Parser::capture},
      {"Keylog", &Parser::keylog},
      {"User", &Parser::user},
  };
  switch (section) {
    case Section::kInterface:
      return kInterface;
    case Section::kPeer:
      return kPeer;
    case Section::kEngine:
      return kEngine;
    default:
      return {};
  }
}

// What wg-quick does by running programs of the host, and what to do instead.
std::string_view Parser::alternative_to(std::string_view key) {
  static constexpr std::pair<std::string_view, std::string_view> kRefused[] = {
      {"DNS",
       "no DNS here: wireplane does not change the host's resolver; use resolvectl or resolvconf, or the unit that "
       "starts it"},
      {"PreUp", "no PreUp here: wireplane runs no commands; use ExecStartPre= in a systemd drop-in"},
      {"PostUp", "no PostUp here: wireplane runs no commands; use ExecStartPost= in a systemd drop-in"},
      {"PreDown", "no PreDown here: wireplane runs no commands; use ExecStop= in a systemd drop-in"},
      {"PostDown", "no PostDown here: wireplane runs no commands; use ExecStopPost= in a systemd drop-in"},
      {"SaveConfig",
       "no SaveConfig here: wireplane never writes its configuration; use `wg showconf NAME > FILE` when wanted"},
  };
  for (const auto& [name, advice] : kRefused)
    if (same_name(key, name)) return advice;
  return {};
}

void Parser::read(std::string_view text) {
  if (text.starts_with("\xef\xbb\xbf")) text.remove_prefix(3);  // what some editors put in front of UTF-8
  if (text.starts_with("\xff\xfe") || text.starts_with("\xfe\xff"))
    return fail(1, {}, "expected UTF-8 or ASCII, but the file is UTF-16");
  while (!text.empty() && errors_.size() < kMostErrors) {
    const std::size_t end = text.find('\n');
    ++line_;
    read_line(text.substr(0, end));
    text.remove_prefix(end == text.npos ? text.size() : end + 1);
  }
}

void Parser::read_line(std::string_view line) {
  if (line.find('\0') != line.npos) return fail(line_, {}, "expected text, but there is a zero octet");
  line = trimmed(line.substr(0, line.find('#')));
  if (line.empty()) return;
  if (line.front() == '[') return open_section(line);
  const std::size_t equals = line.find('=');
  if (equals == line.npos) return fail(line_, {}, "expected \"Key = value\", \"[Section]\" or \"# comment\"");
  read_pair(trimmed(line.substr(0, equals)), trimmed(line.substr(equals + 1)));
}

void Parser::open_section(std::string_view header) {
  if (section_ == Section::kPeer) close_peer();
  given_.clear();
  section_line_ = line_;
  if (same_name(header, "[Interface]")) {
    section_ = Section::kInterface;
    if (interface_line_ != 0) fail(line_, header, "expected one [Interface] section" + first_given_in(interface_line_));
    if (interface_line_ == 0) interface_line_ = line_;
  } else if (same_name(header, "[Engine]")) {
    section_ = Section::kEngine;
    if (engine_line_ != 0) fail(line_, header, "expected one [Engine] section" + first_given_in(engine_line_));
    if (engine_line_ == 0) engine_line_ = line_;
  } else if (same_name(header, "[Peer]")) {
    section_ = Section::kPeer;
    peer_has_key_ = false;
    out_.device.peers.emplace_back();
    peer().replace_allowed_ips = true;
  } else {
    section_ = Section::kUnknown;
    fail(line_, header, "expected [Interface], [Peer] or [Engine]");
  }
}

void Parser::close_peer() {
  const auto tried = [](const auto& entry) { return entry.first == &Parser::public_key; };
  if (!peer_has_key_ && std::none_of(given_.begin(), given_.end(), tried))
    fail(section_line_, "[Peer]", "expected a PublicKey in this section");
}

void Parser::read_pair(std::string_view key, std::string_view value) {
  if (section_ == Section::kUnknown) return;  // told already
  if (section_ == Section::kNone)
    return fail(line_, key, "expected a section, such as [Interface], before the first key");
  const std::span<const Key> keys = keys_of(section_);
  const auto found = std::find_if(keys.begin(), keys.end(), [&](const Key& k) { return same_name(k.name, key); });
  if (found == keys.end()) {
    if (const auto advice = alternative_to(key); !advice.empty()) return fail(line_, key, std::string{advice});
    for (const auto& [other, header] : kSections)
      for (const Key& known : keys_of(other))
        if (same_name(known.name, key))
          return fail(line_, key, "expected in section " + std::string{header} + ", not in this one");
    std::string names;
    for (const Key& known : keys) names.append(names.empty() ? "" : ", ").append(known.name);
    return fail(line_, key, "no such key in this section; expected one of " + names);
  }
  const auto before = std::find_if(given_.begin(), given_.end(), [&](const auto& g) { return g.first == found->read; });
  if (before != given_.end() && !found->repeatable)
    return fail(line_, key, "expected once in a section" + first_given_in(before->second));
  if (before == given_.end()) given_.emplace_back(found->read, line_);
  key_ = key;
  if (auto trouble = (this->*found->read)(value)) fail(line_, key, std::move(*trouble));
}

// A name is shown as the file has it; but a key of a peer that stands where a name should is not shown at all.
void Parser::fail(std::size_t line, std::string_view key, std::string expected) {
  if (errors_.size() >= kMostErrors) return;
  const bool a_name = key.size() <= 24 && key.find_first_of("+/=0123456789") == key.npos;
  errors_.push_back({.file = out_.file,
                     .line = line,
                     .key = a_name ? std::string{key} : "(not a name)",
                     .expected = std::move(expected)});
}

ConfigResult Parser::finish() {
  if (section_ == Section::kPeer) close_peer();
  if (interface_line_ == 0 && errors_.empty()) fail(0, "[Interface]", "expected this section, with a PrivateKey");
  if (interface_line_ != 0 && !out_.device.private_key) {
    const bool told =
        std::any_of(errors_.begin(), errors_.end(), [](const auto& e) { return same_name(e.key, "PrivateKey"); });
    if (!told) fail(interface_line_, "[Interface]", "expected a PrivateKey in this section");
  }
  if (!errors_.empty()) return std::move(errors_);
  auto& routers = out_.engine.router_addresses;
  for (const bool v4 : {true, false}) {
    const auto of_family = [v4](const Address& a) { return a.is_v4() == v4; };
    if (std::any_of(routers.begin(), routers.end(), of_family)) continue;
    const auto own = std::find_if(out_.addresses.begin(), out_.addresses.end(),
                                  [&](const Prefix& p) { return of_family(p.address); });
    if (own != out_.addresses.end()) routers.push_back(own->address);
  }
  return std::move(out_);
}

// ---- values ----

template <class Item>
Parser::Trouble Parser::read_list(std::string_view value, Item&& item) {
  while (!value.empty()) {
    const std::size_t comma = value.find(',');
    if (auto trouble = item(trimmed(value.substr(0, comma)))) return trouble;
    if (comma == value.npos) break;
    value.remove_prefix(comma + 1);
    if (trimmed(value).empty()) return "expected another item after the comma";
  }
  return std::nullopt;
}

template <class T>
bool Parser::read_number(std::string_view value, T& field, T least, T most) {
  const auto number = parse_decimal<T>(value, most);
  if (!number || *number < least) return false;
  field = *number;
  return true;
}

constexpr const char* kKeyExpected = "expected a key: 44 letters of base64, as `wg genkey` or `wg pubkey` print them";

Parser::Trouble Parser::private_key(std::string_view value) {
  auto key = secret_key_from_base64(value);
  if (!key) return kKeyExpected;
  if (key->is_zero()) return "expected a key that is not all zero";
  out_.device.private_key = std::move(*key);
  return std::nullopt;
}

Parser::Trouble Parser::listen_port(std::string_view value) {
  std::uint16_t port = 0;
  if (!read_number<std::uint16_t>(value, port, 0, 65535)) return "expected a port, 0 to 65535 (0: any free one)";
  out_.device.listen_port = port;
  return std::nullopt;
}

Parser::Trouble Parser::fwmark(std::string_view value) {
  std::uint32_t mark = 0;
  if (value.starts_with("0x") || value.starts_with("0X")) {
    const auto digits = value.substr(2);
    const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), mark, 16);
    if (error != std::errc{} || end != digits.data() + digits.size())
      return "expected off, or a number of 32 bits such as 51820 or 0xca6c";
  } else if (!same_name(value, "off") && !read_number<std::uint32_t>(value, mark, 0, UINT32_MAX)) {
    return "expected off, or a number of 32 bits such as 51820 or 0xca6c";
  }
  out_.device.fwmark = mark;
  return std::nullopt;
}

Parser::Trouble Parser::address(std::string_view value) {
  if (value.empty()) return "expected an address such as 10.0.0.1/24 or fd00::1/64";
  return read_list(value, [this](std::string_view item) -> Trouble {
    const auto own = parse_address_with_length(item);
    if (!own)
      return "expected an address such as 10.0.0.1/24 or fd00::1/64, but found \"" + std::string{item.substr(0, 60)} +
             '"';
    if (std::find(out_.addresses.begin(), out_.addresses.end(), *own) != out_.addresses.end())
      return "expected each address once, but found " + to_text(*own) + " again";
    out_.addresses.push_back(*own);
    return std::nullopt;
  });
}

Parser::Trouble Parser::mtu(std::string_view value) {
  std::uint32_t octets = 0;
  if (!read_number<std::uint32_t>(value, octets, kSmallestMtu, kMaxAllowedMtu))
    return "expected a number of octets, 68 to 65535";
  out_.mtu = octets;
  return std::nullopt;
}

Parser::Trouble Parser::table(std::string_view value) {
  if (same_name(value, "auto")) return std::nullopt;
  if (same_name(value, "off")) {
    out_.table_use = TableUse::kOff;
    return std::nullopt;
  }
  if (!read_number<std::uint32_t>(value, out_.table, 1, UINT32_MAX))
    return "expected auto, off, or the number of a routing table, 1 to 4294967295";
  out_.table_use = TableUse::kNumber;
  return std::nullopt;
}

Parser::Trouble Parser::public_key(std::string_view value) {
  const auto key = public_key_from_base64(value);
  if (!key) return kKeyExpected;
  peer_has_key_ = true;
  peer().public_key = *key;
  const auto [entry, fresh] = peer_lines_.emplace(*key, line_);
  if (!fresh) return "expected each peer once" + first_given_in(entry->second);
  return std::nullopt;
}

Parser::Trouble Parser::preshared_key(std::string_view value) {
  auto key = secret_key_from_base64(value);
  if (!key) return "expected a key: 44 letters of base64, as `wg genpsk` prints them";
  peer().preshared_key = std::move(*key);
  return std::nullopt;
}

Parser::Trouble Parser::allowed_ips(std::string_view value) {
  return read_list(value, [this](std::string_view item) -> Trouble {  // empty: none, as wg(8) has it
    bool host_bits = false;
    const auto prefix = parse_prefix(item, &host_bits);
    if (!prefix)
      return "expected a network such as 10.0.0.0/24 or fd00::/64, but found \"" + std::string{item.substr(0, 60)} +
             '"';
    const auto [entry, fresh] = prefix_lines_.emplace(*prefix, line_);
    if (!fresh)
      return "expected each network once in all peers, but found " + to_text(*prefix) + " again" +
             first_given_in(entry->second);
    if (host_bits && out_.warnings.size() < kMostErrors)
      out_.warnings.push_back({.file = out_.file,
                               .line = line_,
                               .key = std::string{key_},
                               .expected = std::string{item} + " has host bits; taken as " + to_text(*prefix)});
    peer().allowed_ips.push_back({.prefix = *prefix, .remove = false});
    return std::nullopt;
  });
}

Parser::Trouble Parser::endpoint(std::string_view value) {
  constexpr const char* kExpected =
      "expected address:port, such as 192.0.2.1:51820, [2001:db8::1]:51820, [fe80::1%eth0]:51820 or host.example:51820";
  if (const auto numeric = parse_endpoint(value, interface_index_)) {
    peer().endpoint = *numeric;
    return std::nullopt;
  }
  const std::size_t colon = value.rfind(':');
  if (value.empty() || value.front() == '[' || colon == value.npos || colon == 0) return kExpected;
  const std::string host{value.substr(0, colon)};
  const auto port = parse_decimal<std::uint16_t>(value.substr(colon + 1));
  const bool a_name =
      host.size() <= 253 &&
      host.find_first_not_of("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._") == host.npos &&
      host.find_first_not_of("0123456789.") != host.npos;  // digits and dots alone: a damaged address
  if (!port || *port == 0 || !a_name) return kExpected;
  auto resolved = resolver_(host, *port);
  if (!resolved) return "expected a host name that can be resolved: " + resolved.error().what;
  peer().endpoint = *resolved;
  return std::nullopt;
}

Parser::Trouble Parser::persistent_keepalive(std::string_view value) {
  std::uint16_t seconds = 0;
  if (!same_name(value, "off") && !read_number<std::uint16_t>(value, seconds, 0, 65535))
    return "expected off, or seconds, 0 to 65535";
  peer().persistent_keepalive_s = seconds;
  return std::nullopt;
}

Parser::Trouble Parser::group(std::string_view value) {
  const auto number = group_number(value);
  if (!number) return "expected a number, 1 to 2147483647, or a name of letters, digits, - _ and .";
  const auto [entry, fresh] = group_names_.emplace(*number, value);
  if (!fresh && entry->second != value && *number >> 31 != 0)
    return "expected another name: this one collides with " + entry->second;
  peer().group = *number;
  return std::nullopt;
}

Parser::Trouble Parser::workers(std::string_view value) {
  if (same_name(value, "auto") || read_number<std::uint32_t>(value, out_.engine.workers, 1, kMostWorkers))
    return std::nullopt;
  return "expected auto, or a number, 1 to 64";
}

Parser::Trouble Parser::outer(std::string_view value) {
  if (value.empty()) return "expected udp, or a DPDK device such as 0000:01:00.0 or net_af_xdp0,iface=eth0";
  out_.engine.outer = same_name(value, "udp") ? "udp" : value;
  return std::nullopt;
}

Parser::Trouble Parser::inner(std::string_view value) {
  if (value.empty()) return "expected tun, none, or a DPDK device such as 0000:01:00.1";
  out_.engine.inner = same_name(value, "tun") ? "tun" : same_name(value, "none") ? "none" : value;
  return std::nullopt;
}

Parser::Trouble Parser::forward(std::string_view value) {
  if (same_name(value, "none"))
    out_.engine.forward = Forward::kNone;
  else if (same_name(value, "all"))
    out_.engine.forward = Forward::kAll;
  else if (same_name(value, "groups"))
    out_.engine.forward = Forward::kGroups;
  else
    return "expected none, all or groups";
  return std::nullopt;
}

Parser::Trouble Parser::poll(std::string_view value) {
  if (same_name(value, "adaptive"))
    out_.engine.poll = Poll::kAdaptive;
  else if (same_name(value, "busy"))
    out_.engine.poll = Poll::kBusy;
  else
    return "expected adaptive or busy";
  return std::nullopt;
}

Parser::Trouble Parser::peers(std::string_view value) {
  if (read_number<std::uint32_t>(value, out_.engine.peers, 1, kMostPeers)) return std::nullopt;
  return "expected how many peers there may be, 1 to 16777216";
}

Parser::Trouble Parser::sessions(std::string_view value) {
  if (read_number<std::uint32_t>(value, out_.engine.sessions, 1, 4 * kMostPeers)) return std::nullopt;
  return "expected how many sessions there may be, 1 to 67108864 (a busy peer has up to 3)";
}

Parser::Trouble Parser::buffers(std::string_view value) {
  if (read_number<std::uint32_t>(value, out_.engine.buffers, 256, kMostPeers)) return std::nullopt;
  return "expected how many packet buffers there are, 256 to 16777216";
}

Parser::Trouble Parser::outer_address(std::string_view value) {
  return read_list(value, [this](std::string_view item) -> Trouble {
    const auto own = parse_address_with_length(item);
    if (!own)
      return "expected an address with its network's length, such as 192.0.2.10/24, but found \"" +
             std::string{item.substr(0, 60)} + '"';
    out_.engine.outer_addresses.push_back(*own);
    return std::nullopt;
  });
}

Parser::Trouble Parser::gateways(std::string_view value, std::vector<Address>& gateways) {
  return read_list(value, [&](std::string_view item) -> Trouble {
    const auto gateway = parse_address(item);
    if (!gateway) return "expected an address such as 192.0.2.1, but found \"" + std::string{item.substr(0, 60)} + '"';
    gateways.push_back(*gateway);
    return std::nullopt;
  });
}

Parser::Trouble Parser::outer_gateway(std::string_view value) { return gateways(value, out_.engine.outer_gateways); }
Parser::Trouble Parser::inner_gateway(std::string_view value) { return gateways(value, out_.engine.inner_gateways); }

Parser::Trouble Parser::outer_vlan(std::string_view value) {
  if (same_name(value, "off") || read_number<std::uint32_t>(value, out_.engine.outer_vlan, 1, 4094))
    return std::nullopt;
  return "expected off, or the identifier of an 802.1Q VLAN, 1 to 4094";
}

Parser::Trouble Parser::outer_mtu(std::string_view value) {
  if (read_number<std::uint32_t>(value, out_.engine.outer_mtu, kSmallestMtu, kLargestOuterMtu)) return std::nullopt;
  return "expected the MTU of the outer link, 68 to 9702";
}

Parser::Trouble Parser::router_address(std::string_view value) {
  return read_list(value, [this](std::string_view item) -> Trouble {
    const auto own = parse_address(item);
    if (!own) return "expected an address such as 10.0.0.1, but found \"" + std::string{item.substr(0, 60)} + '"';
    out_.engine.router_addresses.push_back(*own);
    return std::nullopt;
  });
}

Parser::Trouble Parser::capture(std::string_view value) {
  if (value.empty()) return "expected the path of a pcap file to write";
  out_.engine.capture = value;
  return std::nullopt;
}

Parser::Trouble Parser::keylog(std::string_view value) {
  if (value.empty()) return "expected the path of a file to write session keys to";
  out_.engine.keylog = value;
  return std::nullopt;
}

Parser::Trouble Parser::user(std::string_view value) {
  if (value.empty() || value.size() > 32 || value.find_first_of(" \t:/") != value.npos)
    return "expected the name of a user to become after start";
  out_.engine.user = value;
  return std::nullopt;
}

}  // namespace

std::string ConfigError::text() const {
  std::string out = file;
  if (line != 0) out += ':' + std::to_string(line);
  out += ": ";
  if (!key.empty()) out += key + ": ";
  return out + expected;
}

ConfigResult parse_config(std::string_view text, const std::string& file, const Resolver& resolver,
                          const InterfaceIndex& interface_index) {
  Parser parser{file, resolver, interface_index};
  parser.read(text);
  return parser.finish();
}

std::optional<std::uint32_t> group_number(std::string_view text) {
  constexpr std::uint32_t kNamed = 1u << 31;  // numbers below are a file's own, numbers above are names
  if (const auto number = parse_decimal<std::uint32_t>(text))
    return *number != 0 && *number < kNamed ? number : std::nullopt;
  if (text.empty() || text.size() > 64) return std::nullopt;
  std::uint32_t hash = 2166136261u;  // FNV-1a
  for (const char letter : text) {
    const bool fits = (letter >= 'a' && letter <= 'z') || (letter >= 'A' && letter <= 'Z') ||
                      (letter >= '0' && letter <= '9') || letter == '-' || letter == '_' || letter == '.';
    if (!fits) return std::nullopt;
    hash = (hash ^ static_cast<std::uint8_t>(letter)) * 16777619u;
  }
  if (text.find_first_not_of("0123456789") == text.npos) return std::nullopt;  // a number, but one that does not fit
  return hash | kNamed;
}

}  // namespace wireplane
