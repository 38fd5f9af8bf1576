// `wireplane show`: what wg(8) would tell (get=1), and what it has no words for (wireplane=1). Peers are told as they
// come, one by one: a million of them need no memory here. Private and preshared keys are never shown.
#include <sodium.h>

#include <charconv>
#include <chrono>
#include <ctime>
#include <iomanip>
#include <nlohmann/json.hpp>
#include <ostream>
#include <sstream>

#include "control/cli/cli.h"
#include "control/cli/uapi_client.h"
#include "control/noise/base64.h"
#include "dataplane/base/drops.h"

namespace wireplane {
namespace {

using Json = nlohmann::ordered_json;

std::uint64_t number_of(std::string_view text) {
  std::uint64_t value = 0;
  std::from_chars(text.data(), text.data() + text.size(), value);
  return value;
}

std::string base64_of(std::string_view hex) {
  const auto key = public_key_from_hex(hex);
  return key ? std::string{to_base64(*key).view()} : "(unreadable)";
}

std::string public_of(std::string_view private_hex) {
  const auto secret = secret_key_from_hex(private_hex);
  PublicKey key;
  if (!secret) return "(none)";
  static_cast<void>(crypto_scalarmult_base(key.octets.data(), secret->expose().data()));  // cannot fail
  return std::string{to_base64(key).view()};
}

// 3725 -> "1 hour, 2 minutes, 5 seconds"
std::string duration_text(std::uint64_t seconds) {
  constexpr std::pair<std::uint64_t, const char*> kUnits[] = {
      {86400, "day"}, {3600, "hour"}, {60, "minute"}, {1, "second"}};
  std::string text;
  for (const auto& [size, name] : kUnits) {
    const std::uint64_t count = seconds / size;
    seconds %= size;
    if (count == 0) continue;
    text += (text.empty() ? "" : ", ") + std::to_string(count) + ' ' + name + (count == 1 ? "" : "s");
  }
  return text.empty() ? "now" : text;
}

std::string octets_text(std::uint64_t octets) {
  constexpr const char* kUnits[] = {"B", "KiB", "MiB", "GiB", "TiB", "PiB"};
  double value = static_cast<double>(octets);
  std::size_t unit = 0;
  for (; value >= 1024 && unit + 1 < std::size(kUnits); ++unit) value /= 1024;
  std::ostringstream text;
  text << std::fixed << std::setprecision(unit == 0 ? 0 : 2) << value << ' ' << kUnits[unit];
  return text.str();
}

struct ShownDevice {
  std::string public_key = "(none)";
  std::uint64_t listen_port = 0, fwmark = 0;
};

struct ShownPeer {
  std::string public_key, endpoint;
  bool preshared_key = false;
  std::vector<std::string> allowed_ips;
  std::uint64_t handshake_s = 0, handshake_ns = 0, sent = 0, received = 0, keepalive = 0;
};

// Reads a get reply; calls `device` once, then `peer` for each.
class GetReader {
 public:
  GetReader(std::function<void(const ShownDevice&)> device, std::function<void(const ShownPeer&)> peer)
      : tell_device_{std::move(device)}, tell_peer_{std::move(peer)} {}

  void line(std::string_view line) {
    const std::size_t equals = line.find('=');
    if (equals == line.npos) return;
    const std::string_view key = line.substr(0, equals), value = line.substr(equals + 1);
    if (key == "public_key") {
      flush();
      peer_ = ShownPeer{};
      peer_.public_key = base64_of(value);
      in_peer_ = true;
    } else if (in_peer_) {
      of_peer(key, value);
    } else {
      of_device(key, value);
    }
  }
  void flush() {  // and at the end
    if (in_peer_) tell_peer_(peer_);
    if (!told_device_) tell_device_(device_);
    told_device_ = true;
    in_peer_ = false;
  }

 private:
  void of_device(std::string_view key, std::string_view value) {
    if (key == "private_key") device_.public_key = public_of(value);
    if (key == "listen_port") device_.listen_port = number_of(value);
    if (key == "fwmark") device_.fwmark = number_of(value);
  }
  void of_peer(std::string_view key, std::string_view value) {
    if (key == "preshared_key") peer_.preshared_key = value.find_first_not_of('0') != value.npos;
    if (key == "endpoint") peer_.endpoint = value;
    if (key == "allowed_ip") peer_.allowed_ips.emplace_back(value);
    if (key == "last_handshake_time_sec") peer_.handshake_s = number_of(value);
    if (key == "last_handshake_time_nsec") peer_.handshake_ns = number_of(value);
    if (key == "tx_bytes") peer_.sent = number_of(value);
    if (key == "rx_bytes") peer_.received = number_of(value);
    if (key == "persistent_keepalive_interval") peer_.keepalive = number_of(value);
  }

  std::function<void(const ShownDevice&)> tell_device_;
  std::function<void(const ShownPeer&)> tell_peer_;
  ShownDevice device_;
  ShownPeer peer_;
  bool told_device_ = false, in_peer_ = false;
};

// ---- for machines ----

Json json_of(const ShownPeer& peer) {
  Json out{{"public_key", peer.public_key}, {"preshared_key", peer.preshared_key}};
  out["endpoint"] = peer.endpoint.empty() ? Json{} : Json(peer.endpoint);
  out["allowed_ips"] = peer.allowed_ips;
  out["latest_handshake"] = static_cast<double>(peer.handshake_s) + static_cast<double>(peer.handshake_ns) * 1e-9;
  out["received_octets"] = peer.received;
  out["sent_octets"] = peer.sent;
  out["persistent_keepalive_s"] = peer.keepalive;
  return out;
}

Status show_json(const std::string& name, const std::string& path, const std::string& engine, std::ostream& out) {
  bool first = true;
  GetReader reader{
      [&](const ShownDevice& device) {
        const Json head{{"name", name},
                        {"public_key", device.public_key},
                        {"listen_port", device.listen_port},
                        {"fwmark", device.fwmark}};
        const std::string text = head.dump();
        out << text.substr(0, text.size() - 1) << ",\"engine\":" << engine << ",\"peers\":[";
      },
      [&](const ShownPeer& peer) { out << (std::exchange(first, false) ? "\n" : ",\n") << json_of(peer).dump(); }};
  const Status asked = ask_device(path, "get=1\n\n", [&](std::string_view line) { reader.line(line); });
  if (!asked) return asked;
  reader.flush();
  out << "]}\n";
  return Nothing{};
}

// ---- for people ----

void show_workers(const Json& workers, std::ostream& out) {
  if (workers.empty()) return;
  out << "  workers:\n    " << std::setw(3) << "#" << std::setw(6) << "core" << std::setw(7) << "load" << std::setw(16)
      << "received" << std::setw(16) << "sent" << std::setw(12) << "sessions" << '\n';
  for (const Json& worker : workers) {
    const int core = worker.value("core", -1);
    const int percent = static_cast<int>(worker.value("load", 0.0) * 100 + 0.5);
    out << "    " << std::setw(3) << worker.value("number", 0) << std::setw(6)
        << (core < 0 ? "any" : std::to_string(core)) << std::setw(7) << (std::to_string(percent) + '%') << std::setw(16)
        << worker.value("received_packets", std::uint64_t{0}) << std::setw(16)
        << worker.value("sent_packets", std::uint64_t{0}) << std::setw(12) << worker.value("sessions", std::uint64_t{0})
        << '\n';
  }
}

void show_tables(const Json& tables, std::ostream& out) {
  if (!tables.empty()) out << "  tables:\n";
  for (const Json& table : tables) {
    const std::uint64_t used = table.value("used", std::uint64_t{0}), size = table.value("size", std::uint64_t{0});
    out << "    " << std::left << std::setw(20) << table.value("name", "?") << std::right << std::setw(12) << used
        << (size == 0 ? std::string{} : " of " + std::to_string(size))
        << (size != 0 && used >= size - size / 8 ? "  (nearly full)" : "") << '\n';
  }
}

void show_ports(const Json& ports, std::ostream& out) {
  for (const Json& port : ports) {
    out << "  " << port.value("side", "?") << " port: " << port.value("name", "?") << '\n';
    const Json counters =
        port.value("counters", Json::object());  // named: a range over a temporary's parts would dangle
    for (const auto& [name, value] : counters.items())
      if (value != 0)
        out << "    " << std::left << std::setw(28) << name << std::right << std::setw(12) << value << '\n';
  }
}

void show_drops(const Json& drops, std::ostream& out) {
  bool any = false;
  for (std::size_t i = 1; i < kDropCount; ++i) {
    const auto reason = static_cast<Drop>(i);
    const std::uint64_t count = drops.value(std::string{metric(reason)}, std::uint64_t{0});
    if (count == 0) continue;
    if (!std::exchange(any, true)) out << "  drops:\n";
    out << "    " << std::left << std::setw(24) << metric(reason) << std::right << std::setw(12) << count << "  "
        << explanation(reason) << '\n';
  }
  if (!any) out << "  drops: none\n";
}

void show_engine(const std::string& text, std::ostream& out) {
  const Json engine = Json::parse(text, nullptr, false);
  if (!engine.is_object()) return;  // another implementation's device: it has no such words
  out << "  version: " << engine.value("version", "?") << ", AEAD: " << engine.value("aead", "?")
      << ", forward: " << engine.value("forward", "?")
      << ", up: " << duration_text(static_cast<std::uint64_t>(engine.value("uptime_s", 0.0))) << '\n';
  show_workers(engine.value("workers", Json::array()), out);
  show_tables(engine.value("tables", Json::array()), out);
  show_ports(engine.value("ports", Json::array()), out);
  show_drops(engine.value("drops", Json::object()), out);
}

void show_peer(const ShownPeer& peer, std::uint64_t now_s, std::ostream& out) {
  out << "\npeer: " << peer.public_key << '\n';
  if (peer.preshared_key) out << "  preshared key: (hidden)\n";
  if (!peer.endpoint.empty()) out << "  endpoint: " << peer.endpoint << '\n';
  out << "  allowed ips: ";
  if (peer.allowed_ips.empty()) out << "(none)";
  for (std::size_t i = 0; i < peer.allowed_ips.size(); ++i) out << (i == 0 ? "" : ", ") << peer.allowed_ips[i];
  out << '\n';
  if (peer.handshake_s != 0) {
    const std::uint64_t age = now_s - std::min(now_s, peer.handshake_s);
    out << "  latest handshake: " << duration_text(age) << (age == 0 ? "" : " ago") << '\n';
  }
  if (peer.received != 0 || peer.sent != 0)
    out << "  transfer: " << octets_text(peer.received) << " received, " << octets_text(peer.sent) << " sent\n";
  if (peer.keepalive != 0) out << "  persistent keepalive: every " << duration_text(peer.keepalive) << '\n';
}

Status show_text(const std::string& name, const std::string& path, const std::string& engine, std::ostream& out) {
  const auto now_s = static_cast<std::uint64_t>(std::time(nullptr));
  GetReader reader{[&](const ShownDevice& device) {
                     out << "device: " << name << "\n  public key: " << device.public_key << '\n';
                     if (device.listen_port != 0) out << "  listening port: " << device.listen_port << '\n';
                     if (device.fwmark != 0) out << "  fwmark: 0x" << std::hex << device.fwmark << std::dec << '\n';
                     show_engine(engine, out);
                   },
                   [&](const ShownPeer& peer) { show_peer(peer, now_s, out); }};
  const Status asked = ask_device(path, "get=1\n\n", [&](std::string_view line) { reader.line(line); });
  if (asked) reader.flush();
  return asked;
}

// What the device says of its engine, or null where it has no such words.
std::string engine_of(const std::string& path) {
  std::string document;
  const Status asked = ask_device(path, "wireplane=1\n\n", [&](std::string_view line) { document.append(line); });
  const Json parsed = asked ? Json::parse(document, nullptr, false) : Json{};
  return parsed.is_object() ? parsed.dump(-1, ' ', false, Json::error_handler_t::replace) : "null";
}

}  // namespace

int show_command(const std::string& name, bool json, const Commands& commands) {
  const bool all = name.empty();
  const std::vector<std::string> names = all ? device_names(commands.socket_directory) : std::vector{name};
  if (!all && !valid_name(name)) {
    *commands.err << "wireplane show: expected the name of a device, 1 to 15 letters, digits or _=+.-\n";
    return kExitUsage;
  }
  if (names.empty() && !json)
    *commands.err << "wireplane show: no device runs here (no socket in " << commands.socket_directory << ")\n";
  int exit = kExitDone;
  std::size_t shown = 0;
  if (json && all) *commands.out << '[';
  for (const std::string& each : names) {
    const std::string path = uapi_socket_path(each, commands.socket_directory);
    const std::string engine = engine_of(path);
    if (shown != 0) *commands.out << (json ? "," : "\n");
    const Status status =
        json ? show_json(each, path, engine, *commands.out) : show_text(each, path, engine, *commands.out);
    if (status) {
      ++shown;
    } else {
      *commands.err << "wireplane show: " << each << ": " << status.error().what << '\n';
      exit = kExitFailed;
    }
  }
  if (json && all) *commands.out << "]\n";
  return exit;
}

}  // namespace wireplane
