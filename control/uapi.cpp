#include "control/uapi.h"

#include <algorithm>
#include <cerrno>
#include <iterator>
#include <utility>

#include "control/noise/base64.h"

namespace wireplane {
namespace {

void append_line(SecretText& text, std::string_view key, std::string_view value) {
  text.append(key).append(1, '=').append(value).append(1, '\n');
}
void append_line(SecretText& text, std::string_view key, std::uint64_t value) {
  append_line(text, key, std::string_view{std::to_string(value)});
}

// decimal of `T`, and nothing else
template <class T>
bool read_number(std::optional<T>& field, std::string_view value) {
  const auto number = parse_decimal<T>(value);
  if (!number) return false;
  field = *number;
  return true;
}

bool read_true(bool& field, std::string_view value) {
  field = true;
  return value == "true";
}

bool read_key(std::optional<SecretKey>& field, std::string_view value) {
  auto key = secret_key_from_hex(value);
  if (!key) return false;
  field = std::move(*key);
  return true;
}

}  // namespace

UapiParser::UapiParser(UapiLimits limits, InterfaceIndex interface_index)
    : limits_{limits}, interface_index_{std::move(interface_index)} {}

void UapiParser::reset() {
  line_.clear();
  lines_ = peers_ = allowed_ips_ = allowed_ips_of_part_ = 0;
  complete_ = unknown_verb_ = line_too_long_ = false;
  verb_ = UapiVerb::kNone;
  error_ = 0;
  error_text_.clear();
  parts_.clear();
}

std::deque<DeviceChange> UapiParser::take_parts() { return std::exchange(parts_, {}); }

DeviceChange UapiParser::take_change() {
  DeviceChange whole = std::move(parts_.front());
  for (auto part = parts_.begin() + 1; part != parts_.end(); ++part)
    std::move(part->peers.begin(), part->peers.end(), std::back_inserter(whole.peers));
  parts_.clear();
  return whole;
}

std::size_t UapiParser::feed(std::string_view octets) {
  std::size_t taken = 0;
  while (taken < octets.size() && !complete_) {
    const std::size_t end = octets.find('\n', taken);
    const std::string_view piece = octets.substr(taken, end == octets.npos ? octets.npos : end - taken);
    taken += piece.size() + (end != octets.npos);
    if (line_.size() + piece.size() > limits_.line_octets) {
      line_too_long_ = true;  // what is wrong with it is told when its end comes
      line_.clear();
    }
    if (end == octets.npos) {
      if (!line_too_long_) line_.append(piece);
    } else if (line_too_long_) {
      ++lines_;
      line_too_long_ = false;
      if (verb_ == UapiVerb::kNone) unknown_verb_ = true;
      fail(EPROTO, "line too long", {});
    } else if (line_.empty()) {
      take_line(piece);
    } else {
      line_.append(piece);
      take_line(line_);
      line_.clear();
    }
  }
  return taken;
}

void UapiParser::take_line(std::string_view line) {
  ++lines_;
  if (line.empty()) {
    complete_ = verb_ != UapiVerb::kNone || unknown_verb_;
    if (!complete_) --lines_;  // empty lines between requests say nothing
    return;
  }
  if (verb_ == UapiVerb::kNone && !unknown_verb_) return take_verb(line);
  if (error_ != 0) return;  // only its end is of interest
  const std::size_t equals = line.find('=');
  if (equals == line.npos) return fail(EPROTO, "line is not key=value", {});
  take_pair(line.substr(0, equals), line.substr(equals + 1));
}

void UapiParser::take_verb(std::string_view line) {
  if (line == "get=1") {
    verb_ = UapiVerb::kGet;
  } else if (line == "set=1") {
    verb_ = UapiVerb::kSet;
    parts_.emplace_back();
  } else if (line == "wireplane=1") {
    verb_ = UapiVerb::kWireplane;
  } else {
    unknown_verb_ = true;
    fail(EPROTO, "a request begins with get=1 or set=1", {});
  }
}

void UapiParser::take_pair(std::string_view key, std::string_view value) {
  if (verb_ != UapiVerb::kSet) return fail(EINVAL, "a get request has no lines", key);
  if (key == "public_key") return take_public_key(value);
  const bool known = peers_ == 0 ? take_device(key, value) : take_peer(key, value);
  if (!known) fail(EINVAL, "unknown key, or its value cannot be read", key);
}

bool UapiParser::take_device(std::string_view key, std::string_view value) {
  DeviceChange& device = parts_.front();
  if (key == "private_key") return read_key(device.private_key, value);
  if (key == "listen_port") return read_number(device.listen_port, value);
  if (key == "fwmark") return read_number(device.fwmark, value);
  if (key == "replace_peers") return read_true(device.replace_peers, value);
  return false;
}

void UapiParser::take_public_key(std::string_view value) {
  const auto key = public_key_from_hex(value);
  if (!key) return fail(EINVAL, "a key is 64 hexadecimal digits", "public_key");
  if (peers_ >= limits_.peers) return fail(E2BIG, "more peers than one request may hold", "public_key");
  ++peers_;
  add_peer(*key);
  section_part_ = parts_.size() - 1;
  section_peer_ = parts_.back().peers.size() - 1;
}

// The current peer's lines may have gone on in further parts: what speaks of the peer as a whole speaks of all of them.
template <class Change>
void UapiParser::change_section(Change change) {
  for (std::size_t part = section_part_, peer = section_peer_; part < parts_.size(); ++part, peer = 0)
    for (; peer < parts_[part].peers.size(); ++peer) change(parts_[part].peers[peer]);
}

PeerChange& UapiParser::add_peer(const PublicKey& key) {
  if (parts_.back().peers.size() >= limits_.peers_a_part || allowed_ips_of_part_ >= limits_.allowed_ips_a_part) {
    parts_.emplace_back();
    allowed_ips_of_part_ = 0;
  }
  PeerChange& peer = parts_.back().peers.emplace_back();
  peer.public_key = key;
  return peer;
}

bool UapiParser::take_peer(std::string_view key, std::string_view value) {
  PeerChange& peer = parts_.back().peers.back();
  if (key == "allowed_ip") {
    take_allowed_ip(value);
    return true;
  }
  if (key == "preshared_key") return read_key(peer.preshared_key, value);
  if (key == "persistent_keepalive_interval") return read_number(peer.persistent_keepalive_s, value);
  if (key == "remove") {
    change_section([](PeerChange& change) { change.remove = true; });
    return read_true(peer.remove, value);
  }
  if (key == "update_only") {
    change_section([](PeerChange& change) { change.update_only = true; });
    return read_true(peer.update_only, value);
  }
  if (key == "protocol_version") return value == "1";
  if (key == "replace_allowed_ips") {
    change_section([](PeerChange& change) { change.allowed_ips.clear(); });  // what stood before it is replaced as well
    return read_true(peer.replace_allowed_ips, value);
  }
  if (key == "endpoint") {
    peer.endpoint = parse_endpoint(value, interface_index_);
    return peer.endpoint.has_value();
  }
  return false;
}

void UapiParser::take_allowed_ip(std::string_view value) {
  const bool remove = !value.empty() && value.front() == '-';
  if (!value.empty() && (value.front() == '-' || value.front() == '+')) value.remove_prefix(1);
  const auto prefix = value.find('/') == value.npos ? std::nullopt : parse_prefix(value);
  if (!prefix) return fail(EINVAL, "expected address/length", "allowed_ip");
  if (allowed_ips_ >= limits_.allowed_ips)
    return fail(E2BIG, "more allowed IPs than one request may hold", "allowed_ip");
  ++allowed_ips_;
  ++allowed_ips_of_part_;
  PeerChange* peer = &parts_.back().peers.back();
  if (allowed_ips_of_part_ > limits_.allowed_ips_a_part && !peer->remove) {  // the peer goes on in the next part
    peer = &add_peer(PublicKey{peer->public_key});
    peer->update_only = true;  // it exists by then, or is not to
    allowed_ips_of_part_ = 1;
  }
  peer->allowed_ips.push_back({.prefix = *prefix, .remove = remove});
}

void UapiParser::fail(int code, std::string_view what, std::string_view key) {
  if (error_ != 0) return;
  error_ = code;
  error_text_ = "line " + std::to_string(lines_) + ": ";
  if (!key.empty()) error_text_.append(key.substr(0, 40)).append(": ");
  error_text_.append(what);
  parts_.clear();  // nothing of it will be applied
}

// ---- the other way ----

namespace {

void append_peer_change(SecretText& text, const PeerChange& peer) {
  append_line(text, "public_key", to_hex(peer.public_key).view());
  if (peer.remove) append_line(text, "remove", "true");
  if (peer.update_only) append_line(text, "update_only", "true");
  if (peer.preshared_key) append_line(text, "preshared_key", to_hex(*peer.preshared_key).view());
  if (peer.endpoint) append_line(text, "endpoint", to_text(*peer.endpoint));
  if (peer.persistent_keepalive_s) append_line(text, "persistent_keepalive_interval", *peer.persistent_keepalive_s);
  if (peer.replace_allowed_ips) append_line(text, "replace_allowed_ips", "true");
  for (const AllowedIpChange& ip : peer.allowed_ips)
    append_line(text, "allowed_ip", std::string{ip.remove ? "-" : ""}.append(to_text(ip.prefix)));
}

}  // namespace

void append_uapi(SecretText& text, const DeviceChange& change) {
  if (change.private_key) append_line(text, "private_key", to_hex(*change.private_key).view());
  if (change.listen_port) append_line(text, "listen_port", *change.listen_port);
  if (change.fwmark) append_line(text, "fwmark", *change.fwmark);
  if (change.replace_peers) append_line(text, "replace_peers", "true");
  for (const PeerChange& peer : change.peers) append_peer_change(text, peer);
}

void append_uapi(SecretText& text, const DeviceView& device) {
  if (!device.private_key.is_zero()) append_line(text, "private_key", to_hex(device.private_key).view());
  if (device.listen_port != 0) append_line(text, "listen_port", device.listen_port);
  if (device.fwmark != 0) append_line(text, "fwmark", device.fwmark);
}

void append_uapi(SecretText& text, const PeerView& peer) {
  const auto seconds = std::chrono::duration_cast<std::chrono::seconds>(peer.last_handshake);
  append_line(text, "public_key", to_hex(peer.public_key).view());
  append_line(text, "preshared_key", to_hex(peer.preshared_key).view());
  append_line(text, "protocol_version", "1");
  if (peer.endpoint && peer.endpoint->valid()) append_line(text, "endpoint", to_text(*peer.endpoint));
  append_line(text, "last_handshake_time_sec", static_cast<std::uint64_t>(seconds.count()));
  append_line(text, "last_handshake_time_nsec", static_cast<std::uint64_t>((peer.last_handshake - seconds).count()));
  append_line(text, "tx_bytes", peer.sent_octets);
  append_line(text, "rx_bytes", peer.received_octets);
  append_line(text, "persistent_keepalive_interval", peer.persistent_keepalive_s);
  for (const Prefix& prefix : peer.allowed_ips) append_line(text, "allowed_ip", to_text(prefix));
}

void append_uapi_errno(SecretText& text, int code) {
  append_line(text, "errno", std::to_string(-code));
  text.append(1, '\n');
}

}  // namespace wireplane
