// Fuzz: a device that reads its file again and again, each time otherwise.
//
// The input is a program that writes files, line by line, right lines and wrong ones; where a file ends it is read.
// Claims: a file of right lines is taken, one with wrong lines refused, and the errors name the file, the first wrong
// line and its key; what was taken, printed and read again says the same; a reload leaves the device as a fresh start
// with the new file would (but for endpoints that the new file leaves open); what is the same in both files is touched
// by no change.
#include <algorithm>

#include "control/config.h"
#include "control/noise/base64.h"
#include "dataplane/base/check.h"
#include "tests/fuzz/oracle.h"
#include "tests/fuzz/program.h"

namespace wireplane {
namespace {

using fuzz::Operands;

enum Kind : std::uint8_t { kInterfaceLine, kPeer, kPeerLine, kWrong, kReload, kChange, kKinds };
constexpr std::uint8_t kGrammar[kKinds] = {2, 1, 3, 2, 1, 3};
constexpr unsigned kPeers = 5;

std::uint32_t no_interfaces(std::string_view) { return 0; }

std::string key_text(std::uint8_t which) {
  SecretKey key;
  key.fill()[0] = static_cast<std::uint8_t>(which * 8);
  key.fill()[31] = 64;
  return std::string{to_base64(key).view()};
}

// A file as a person keeps it: lines by section.
struct Lines {
  std::vector<std::string> interface { "PrivateKey = " + key_text(9) };
  std::vector<std::pair<unsigned, std::vector<std::string>>> peers;
  std::optional<std::pair<std::string, std::string>> wrong;  // key, line; in the last section

  [[nodiscard]] std::string text(std::size_t& wrong_line) const {
    std::string all = "# by hand\n[Interface]\n";
    std::size_t line = 2;
    const auto add = [&](const std::string& one) {
      all += one + '\n';
      ++line;
    };
    for (const std::string& one : interface) add(one);
    for (const auto& [who, settings] : peers) {
      add("[Peer]");
      add("PublicKey = " + key_text(static_cast<std::uint8_t>(who)));
      for (const std::string& one : settings) add(one);
    }
    if (wrong) add(wrong->second);
    wrong_line = line;
    return all;
  }
};

// Is a network given twice? That is refused: whose it is would depend on the order of lines.
bool ambiguous(const Lines& lines) {
  std::vector<Prefix> all;
  for (const auto& [who, settings] : lines.peers)
    for (const std::string& line : settings) {
      if (!line.starts_with("AllowedIPs")) continue;
      std::string word;
      for (const char c : line.substr(line.find('=') + 1) + ',') {
        if (c != ',' && c != ' ') {
          word += c;
          continue;
        }
        if (const auto prefix = parse_prefix(word)) all.push_back(*prefix);
        word.clear();
      }
    }
  std::ranges::sort(all);
  return std::ranges::adjacent_find(all) != all.end();
}

std::string key_of(const std::string& line) { return line.substr(0, line.find(' ')); }

// A line of this key, in place of one that is there.
void put(std::vector<std::string>& lines, const std::string& line) {
  const bool list = key_of(line) == "AllowedIPs";
  for (std::string& old : lines)
    if (!list && key_of(old) == key_of(line)) return static_cast<void>(old = line);
  lines.push_back(line);
}

std::string printed(const FileConfig& file) {
  std::string text = "[Interface]\n";
  const DeviceChange& device = file.device;
  if (device.private_key) text += "PrivateKey = " + std::string{to_base64(*device.private_key).view()} + '\n';
  if (device.listen_port) text += "ListenPort = " + std::to_string(*device.listen_port) + '\n';
  if (device.fwmark) text += "FwMark = " + std::to_string(*device.fwmark) + '\n';
  if (file.mtu) text += "MTU = " + std::to_string(*file.mtu) + '\n';
  for (const Prefix& address : file.addresses) text += "Address = " + to_text(address) + '\n';
  for (const PeerChange& peer : device.peers) {
    text += "[Peer]\nPublicKey = " + std::string{to_base64(peer.public_key).view()} + '\n';
    if (peer.preshared_key) text += "PresharedKey = " + std::string{to_base64(*peer.preshared_key).view()} + '\n';
    if (peer.endpoint) text += "Endpoint = " + to_text(*peer.endpoint) + '\n';
    if (peer.persistent_keepalive_s)
      text += "PersistentKeepalive = " + std::to_string(*peer.persistent_keepalive_s) + '\n';
    if (peer.group) text += "Group = " + (*peer.group >> 31 != 0 ? "friends" : std::to_string(*peer.group)) + '\n';
    for (const AllowedIpChange& ip : peer.allowed_ips) text += "AllowedIPs = " + to_text(ip.prefix) + '\n';
  }
  return text;
}

bool nothing(const DeviceChange& change) {
  return !change.private_key && !change.listen_port && !change.fwmark && !change.replace_peers && change.peers.empty();
}

FileConfig parsed(const std::string& text) {
  auto file = parse_config(text, "fuzz.conf", resolve_never, no_interfaces);
  if (!file) std::fprintf(stderr, "%s\n%s\n", text.c_str(), file.error().front().text().c_str());
  WG_CHECK(static_cast<bool>(file));
  return std::move(*file);
}

class World {
 public:
  ~World() { reload(); }

  void play(Kind kind, Operands o) {
    switch (kind) {
      case kInterfaceLine: {
        static const char* const kLines[] = {"ListenPort = 51820",   "ListenPort = 0", "ListenPort = 65535",
                                             "FwMark = 0x10",        "FwMark = off",   "MTU = 1280",
                                             "Address = 10.0.0.1/24"};
        const unsigned which = o.below(10);
        if (which < 7)
          put(lines_.interface, kLines[which]);
        else
          put(lines_.interface, "PrivateKey = " + key_text(static_cast<std::uint8_t>(9 + which)));
        return;
      }
      case kPeer: {  // comes, or goes
        const unsigned who = o.below(kPeers);
        const auto there = std::ranges::find(lines_.peers, who, [](const auto& peer) { return peer.first; });
        if (there == lines_.peers.end())
          lines_.peers.insert(lines_.peers.begin() + static_cast<std::ptrdiff_t>(o.u8() % (lines_.peers.size() + 1)),
                              {who, {}});
        else
          lines_.peers.erase(there);
        return;
      }
      case kPeerLine: {
        if (lines_.peers.empty()) return;
        auto& settings = lines_.peers[o.u8() % lines_.peers.size()].second;
        static const char* const kLines[] = {"Endpoint = 192.0.2.1:51820",
                                             "Endpoint = [2001:db8::1]:1",
                                             "PersistentKeepalive = off",
                                             "PersistentKeepalive = 25",
                                             "Group = 1",
                                             "Group = friends",
                                             "AllowedIPs = 10.0.0.0/8",
                                             "AllowedIPs = 10.1.0.0/16, fd00::/64",
                                             "AllowedIPs = 10.2.3.4",
                                             "AllowedIPs = 0.0.0.0/0, ::/0",
                                             "AllowedIPs = 10.1.2.3/16",
                                             "AllowedIPs ="};
        const unsigned which = o.below(13);
        const std::string line = which < 12 ? kLines[which] : "PresharedKey = " + key_text(o.u8());
        return put(settings, line);
      }
      case kWrong: {
        static const std::pair<const char*, const char*> kInInterface[] = {{"ListenPort", "ListenPort = 65536"},
                                                                           {"PostUp", "PostUp = true"},
                                                                           {"FwMark", "FwMark = -1"},
                                                                           {"Nonsense", "Nonsense = 1"}};
        static const std::pair<const char*, const char*> kInPeer[] = {{"AllowedIPs", "AllowedIPs = 10.0.0.0/33"},
                                                                      {"Endpoint", "Endpoint = 192.0.2.1"},
                                                                      {"PresharedKey", "PresharedKey = short"},
                                                                      {"ListenPort", "ListenPort = 1"}};
        lines_.wrong = (lines_.peers.empty() ? kInInterface : kInPeer)[o.below(4)];
        return reload();
      }
      case kReload:
        return reload();
      case kChange: {  // a line goes
        std::vector<std::string>& of =
            lines_.peers.empty() ? lines_.interface : lines_.peers[o.u8() % lines_.peers.size()].second;
        if (of.size() > (lines_.peers.empty() ? 1u : 0u)) of.pop_back();
        return;
      }
      case kKinds:
        return;
    }
  }

 private:
  void reload() {
    std::size_t wrong_line = 0;
    const std::string text = lines_.text(wrong_line);
    if (lines_.wrong && ambiguous(lines_)) return lines_.wrong.reset();
    if (lines_.wrong) {
      const auto refused = parse_config(text, "fuzz.conf", resolve_never, no_interfaces);
      WG_CHECK(!refused);
      const std::vector<ConfigError>& errors = refused.error();
      WG_CHECK(errors.front().file == "fuzz.conf" && errors.front().line == wrong_line &&
               errors.front().key == lines_.wrong->first);
      lines_.wrong.reset();
      return;
    }
    if (ambiguous(lines_)) {
      const auto refused = parse_config(text, "fuzz.conf", resolve_never, no_interfaces);
      WG_CHECK(!refused && refused.error().front().key == "AllowedIPs");
      return;
    }
    FileConfig next = parsed(text);
    const FileConfig again = parsed(printed(next)), twin = parsed(text);
    WG_CHECK(nothing(difference(next, again)) && nothing(difference(again, next)) && nothing(difference(next, twin)));
    WG_CHECK(unchangeable(next, twin).empty() && again.mtu == next.mtu && again.addresses == next.addresses);

    FakeDevice fresh;
    WG_CHECK(static_cast<bool>(fresh.apply(parsed(text).device)));
    if (!now_) {
      WG_CHECK(static_cast<bool>(device_.apply(parsed(text).device)));
    } else {
      DeviceChange change = difference(*now_, next);
      check_needed(change, next);
      WG_CHECK(!change.replace_peers && static_cast<bool>(device_.apply(std::move(change))));
    }
    WG_CHECK(fuzz::peers_of(device_) == fuzz::peers_of(fresh));
    WG_CHECK(device_.device.listen_port == fresh.device.listen_port && device_.device.fwmark == fresh.device.fwmark);
    WG_CHECK(std::ranges::equal(device_.device.private_key.expose(), fresh.device.private_key.expose()));
    for (const PeerChange& peer : next.device.peers)
      if (peer.endpoint) WG_CHECK(device_.find(peer.public_key)->view.endpoint == peer.endpoint);
    now_ = std::move(next);
  }

  // A peer that is there already comes up only if something about it differs.
  void check_needed(const DeviceChange& change, const FileConfig& next) {
    for (const PeerChange& one : change.peers) {
      FakeDevice::FakePeer* there = device_.find(one.public_key);
      const auto named = std::ranges::find(next.device.peers, one.public_key, &PeerChange::public_key);
      WG_CHECK(one.remove == (named == next.device.peers.end()));
      if (there == nullptr || one.remove) continue;
      WG_CHECK(!one.replace_allowed_ips);
      if (one.preshared_key)
        WG_CHECK(!std::ranges::equal(one.preshared_key->expose(), there->view.preshared_key.expose()));
      if (one.persistent_keepalive_s) WG_CHECK(*one.persistent_keepalive_s != there->view.persistent_keepalive_s);
      if (one.group) WG_CHECK(*one.group != there->view.group);
    }
  }

  Lines lines_;
  FakeDevice device_;
  std::optional<FileConfig> now_;
};

}  // namespace
}  // namespace wireplane

WIREPLANE_FUZZ_PROGRAMS(wireplane::kGrammar)

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace wireplane;
  return fuzz::play_in_new<World>({data, size}, 200, kKinds);
}
