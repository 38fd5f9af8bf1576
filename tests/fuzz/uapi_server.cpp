// Fuzz: several clients of one device's UAPI socket, whose requests come in pieces, between each other's, right and
// wrong.
//
//   clients 0..2 --pieces--> UapiServer --> a real Device          model: wireguard-go's rules, on maps
//
// A request is made of operands: a line each, chosen from right and wrong ones, so that the model knows what it means.
// Claims: each request is answered once, in order, with the errno that wireguard-go gives (EINVAL: a value or key;
// EPROTO: no key=value, or no such operation, and then the connection is closed); a wrong request changes nothing; a
// get says what the model holds and no more; nobody's pieces disturb another's.
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <set>

#include "control/log.h"
#include "control/noise/x25519.h"
#include "control/uapi_socket.h"
#include "dataplane/base/check.h"
#include "tests/fuzz/oracle.h"
#include "tests/fuzz/program.h"
#include "tests/support/sim.h"

namespace wireplane::test {
namespace {

using fuzz::Operands;

enum Kind : std::uint8_t { kSet, kGet, kPiece, kGarbage, kHangUp, kTime, kKinds };
constexpr std::uint8_t kGrammar[kKinds] = {16, 2, 3, 24, 1, 2};
constexpr unsigned kClients = 3;

std::string hex(std::span<const std::uint8_t> octets) {
  std::string text;
  for (const std::uint8_t octet : octets) {
    text += "0123456789abcdef"[octet >> 4];
    text += "0123456789abcdef"[octet & 15];
  }
  return text;
}

// Static keys: secrets 0 and 1 are the device's, and their public halves may be named as peers too.
struct Key {
  std::string secret, name;
};
const Key& key(unsigned which) {
  static const std::vector<Key> all = [] {
    std::vector<Key> made;
    SeededEntropy entropy{5};
    for (int i = 0; i < 5; ++i) {
      const SecretKey secret = generate_secret_key(entropy);
      made.push_back({hex(secret.expose()), hex(public_key(secret).octets)});
    }
    return made;
  }();
  return all[which % all.size()];
}
const std::string kNoKey(64, '0');

// ---- the model

struct PeerModel {
  std::string psk = kNoKey, endpoint, keepalive = "0";
  std::set<std::string> ips;
  bool operator==(const PeerModel&) const = default;
};
struct Model {
  std::string private_key, fwmark;
  std::optional<std::string> listen_port;  // none: whatever was free
  std::map<std::string, PeerModel> peers;
};

struct Line {
  std::string what, value;
  int error = 0;
};
class Lines {  // of one set request
 public:
  explicit Lines(Model& model) : model_{model} {}
  void device(const std::string& what, const std::string& value) {
    if (what == "private_key") {
      model_.private_key = value == kNoKey ? "" : value;
      for (unsigned i = 0; i < 5; ++i)
        if (key(i).secret == value) model_.peers.erase(key(i).name);
    }
    if (what == "listen_port") model_.listen_port = value == "0" ? std::nullopt : std::optional{value};
    if (what == "fwmark") model_.fwmark = value == "0" ? "" : value;
    if (what == "replace_peers") model_.peers.clear();
  }
  // All lines of one peer. What speaks of the peer as a whole counts wherever it stands.
  void peer(const std::string& name, const std::vector<Line>& lines) {
    for (unsigned i = 0; i < 5; ++i)
      if (key(i).name == name && key(i).secret == model_.private_key) return;  // ourselves
    const auto has = [&](const char* what) {
      return std::ranges::any_of(lines, [&](const Line& line) { return line.what == what; });
    };
    if (has("remove")) return static_cast<void>(model_.peers.erase(name));
    if (has("update_only") && !model_.peers.contains(name)) return;
    PeerModel& peer = model_.peers[name];
    auto from = lines.begin();
    for (auto line = lines.begin(); line != lines.end(); ++line)
      if (line->what == "replace_allowed_ips") from = line;
    if (has("replace_allowed_ips")) peer.ips.clear();
    for (auto line = lines.begin(); line != lines.end(); ++line) {
      const std::string& value = line->value;
      if (line->what == "preshared_key") peer.psk = value;
      if (line->what == "endpoint") peer.endpoint = value;
      if (line->what == "persistent_keepalive_interval") peer.keepalive = value;
      if (line->what != "allowed_ip" || line < from) continue;
      if (value[0] == '-') {
        peer.ips.erase(value.substr(1));
        continue;
      }
      for (auto& [other, theirs] : model_.peers) theirs.ips.erase(value);
      peer.ips.insert(value);
    }
  }

 private:
  Model& model_;
};

// ---- requests

// Of a device's part, of a peer's; whatever the number says.
Line device_line(unsigned n, Operands& o) {
  const std::uint8_t v = o.u8();
  switch (n % 8) {
    case 0:
    case 1:
      return {"private_key", v % 4 == 3 ? kNoKey : key(v % 4).secret};
    case 2:
      return {"listen_port", v % 4 == 3 ? "0" : std::to_string(51820 + v % 4)};
    case 3:
      return {"fwmark", std::to_string(v % 3)};
    case 4:
      return {"replace_peers", v % 8 == 7 ? "false" : "true", v % 8 == 7 ? EINVAL : 0};
    case 5:
      return {"private_key", v % 2 == 0 ? "00" : std::string(64, 'g'), EINVAL};
    case 6:
      return v % 2 == 0 ? Line{"listen_port", "65536", EINVAL} : Line{"allowed_ip", "10.0.0.0/8", EINVAL};
    default:
      return {"fwmark", v % 2 == 0 ? "-1" : "4294967296", EINVAL};
  }
}
Line peer_line(unsigned n, Operands& o) {
  static const char* const kIps[] = {"10.0.0.0/8",    "10.1.0.0/16", "10.1.2.3/32", "0.0.0.0/0", "::/0",
                                     "2001:db8::/32", "fd00::1/128", "10.0.0.0/9",  "fd00::/64", "192.0.2.0/24"};
  static const char* const kWrong[] = {"10.0.0.0/33", "10.0.0/8", "::/129", "10.0.0.0/", "", "-", "10.0.0.0/08"};
  static const char* const kEndpoints[] = {"192.0.2.1:51820", "[2001:db8::1]:1", "198.51.100.7:65535"};
  static const char* const kNowhere[] = {"192.0.2.1", "192.0.2.1:0x1", "[::1]", "example.org:1", ":1"};
  const std::uint8_t v = o.u8();
  switch (n % 16) {
    case 0:
    case 1:
    case 2:
      return {"allowed_ip", kIps[v % 10]};
    case 3:
      return {"allowed_ip", std::string{"-"} + kIps[v % 10]};
    case 4:
      return {"replace_allowed_ips", "true"};
    case 5:
      return {"preshared_key", v % 3 == 2 ? kNoKey : key(v).secret};
    case 6:
      return {"endpoint", kEndpoints[v % 3]};
    case 7:
      return {"persistent_keepalive_interval", std::to_string(v % 3 == 2 ? 65535 : v % 3)};
    case 8:
      return {"remove", "true"};
    case 9:
      return {"update_only", "true"};
    case 10:
      return {"protocol_version", "1"};
    case 11:
      if (v % 4 != 0) return {"allowed_ip", kIps[v % 10]};
      return {"allowed_ip", kWrong[v / 4 % 7], EINVAL};
    case 12:
      if (v % 4 != 0) return {"endpoint", kEndpoints[v % 3]};
      return {"endpoint", kNowhere[v / 4 % 5], EINVAL};
    case 13:
      if (v % 4 != 0) return {"protocol_version", "1"};
      return {"protocol_version", "2", EINVAL};
    case 14:
      if (v % 4 != 0) return {"update_only", "true"};
      return {v % 8 == 0 ? "private_key" : "nonsense", key(0).secret, EINVAL};
    default:
      if (v % 4 != 0) return {"replace_allowed_ips", "true"};
      return {"preshared_key", "zz", EINVAL};
  }
}

struct Request {
  std::string text;
  bool get = false;
  int error = 0;
  std::vector<Line> device{}, peers{};  // a peer begins with public_key
};

Request set_request(Operands& o) {
  Request request{.text = "set=1\n"};
  const auto add = [&](std::vector<Line>& to, Line line) {
    request.text += line.what + '=' + line.value + '\n';
    if (request.error == 0) request.error = line.error;
    to.push_back(std::move(line));
  };
  const unsigned shape = o.u8();
  for (unsigned n = shape % 3; n != 0; --n) {
    const unsigned which = o.u8();
    add(request.device, device_line(which % 32 < 27 ? which % 5 : which % 8, o));
  }
  while (!o.empty() && request.peers.size() < 64) {  // as many peers and allowed IPs as the server's limits allow
    const unsigned which = o.u8();
    if (which % 4 == 0 || request.peers.empty())
      add(request.peers, {"public_key", key(which / 4).name});
    else
      add(request.peers, peer_line(which / 4, o));
  }
  if (shape == 255 && request.error == 0) request.error = EPROTO, request.text += "no pair\n";
  if (shape == 254 && request.error == 0) request.error = EPROTO, request.text += std::string(2000, 'x') + '\n';
  request.text += '\n';
  return request;
}

// ---- the world

class World {
 public:
  World() {
    static const std::string directory = [] {
      char name[] = "/tmp/fuzz_uapi_XXXXXX";
      WG_CHECK(mkdtemp(name) != nullptr);
      return std::string{name};
    }();
    sim_.recording = false;
    path_ = directory + "/device.sock";
    UapiServerLimits limits;
    limits.dump_at_most = 2;
    limits.parser = {.line_octets = 1024, .peers = 64, .allowed_ips = 64, .peers_a_part = 3, .allowed_ips_a_part = 5};
    auto server = UapiServer::listen(path_, *node_.device, {}, limits);
    WG_CHECK(static_cast<bool>(server));
    server_ = std::move(*server);
    model_.listen_port = "51820";
  }
  ~World() {
    for (unsigned i = 0; i < kClients; ++i) {
      finish_pieces(i);
      ask(i, {.text = "get=1\n\n", .get = true}, 0);
    }
    for (Client& client : clients_)
      if (client.fd >= 0) close(client.fd);
    serve();
    WG_CHECK(server_->clients() == 0);
  }

  void play(Kind kind, Operands o) {
    const unsigned who = o.below(kClients);
    switch (kind) {
      case kSet:
        return ask(who, set_request(o), 0);
      case kGet:
        return ask(who, {.text = "get=1\n\n", .get = true}, 0);
      case kPiece: {  // of a request whose rest comes later
        const std::size_t cut = o.u8();
        return ask(who, set_request(o), 1 + cut);
      }
      case kGarbage: {
        finish_pieces(who);
        const std::string text(o.rest().begin(), o.rest().end());
        write(who, text + "\n\n");
        std::string reply = take_reply(who);
        return hang_up(who);  // whatever it meant: the next request begins anew
      }
      case kHangUp:
        return hang_up(who);
      case kTime:
        sim_.run_for(1ms * o.u8());
        return;
      case kKinds:
        return;
    }
  }

 private:
  struct Client {
    int fd = -1;
    std::optional<Request> begun;
    std::string rest;
  };

  void serve() {
    for (bool more = true; more;) {
      std::vector<pollfd> fds;
      server_->add_fds(fds);
      const int ready = poll(fds.data(), fds.size(), 0);
      if (ready > 0) server_->handle(fds, sim_.now());
      more = server_->step(sim_.now()) || ready > 0;
    }
    sim_.touch(node_);
    sim_.run_for(0ns);
  }
  Client& connected(unsigned who) {
    Client& client = clients_[who];
    if (client.fd >= 0) return client;
    client.fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    std::copy(path_.begin(), path_.end(), address.sun_path);
    WG_CHECK(connect(client.fd, reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0);
    return client;
  }
  void write(unsigned who, const std::string& text) {
    const Client& client = connected(who);
    WG_CHECK(send(client.fd, text.data(), text.size(), MSG_NOSIGNAL) == static_cast<ssize_t>(text.size()));
    serve();
  }
  std::string take_reply(unsigned who) {
    std::string reply(65536, '\0');
    const ssize_t count = recv(clients_[who].fd, reply.data(), reply.size(), 0);
    reply.resize(count > 0 ? static_cast<std::size_t>(count) : 0);
    return reply;
  }
  void hang_up(unsigned who) {
    Client& client = clients_[who];
    if (client.fd >= 0) close(client.fd);
    client = Client{};
    serve();
  }
  void finish_pieces(unsigned who) {
    Client& client = clients_[who];
    if (!client.begun) return;
    const Request request = std::move(*client.begun);
    client.begun.reset();
    write(who, client.rest);
    check(who, request);
  }

  // Sends it, all but `hold` octets (0: all), which come before the next request of this client.
  void ask(unsigned who, Request request, std::size_t hold) {
    finish_pieces(who);
    if (hold == 0) {
      write(who, request.text);
      return check(who, request);
    }
    const std::size_t cut = request.text.size() - std::min(hold, request.text.size() - 1);
    write(who, request.text.substr(0, cut));
    WG_CHECK(take_reply(who).empty());
    clients_[who].rest = request.text.substr(cut);
    clients_[who].begun = std::move(request);
  }

  void check(unsigned who, const Request& request) {
    const std::string reply = take_reply(who);
    if (request.get) return check_get(reply);
    WG_CHECK(reply == "errno=" + std::to_string(-request.error) + "\n\n");
    if (request.error != 0) return;
    Lines lines{model_};
    for (auto line = request.device.begin(); line != request.device.end(); ++line) {  // the last of a kind counts
      const auto again = [&](const Line& later) { return later.what == line->what; };
      if (std::none_of(line + 1, request.device.end(), again)) lines.device(line->what, line->value);
    }
    for (auto line = request.peers.begin(); line != request.peers.end();) {
      const std::string& name = (line++)->value;
      std::vector<Line> section;
      for (; line != request.peers.end() && line->what != "public_key"; ++line) section.push_back(*line);
      lines.peer(name, section);
    }
  }

  void check_get(const std::string& reply) {
    static const std::string end = "errno=0\n\n";
    WG_CHECK(reply.size() >= end.size() && reply.substr(reply.size() - end.size()) == end);
    Model said;
    said.listen_port = "";
    PeerModel* peer = nullptr;
    std::size_t at = 0;
    while (at < reply.size() - end.size()) {
      const std::size_t stop = reply.find('\n', at), equals = reply.find('=', at);
      WG_CHECK(equals < stop);
      const std::string what = reply.substr(at, equals - at), value = reply.substr(equals + 1, stop - equals - 1);
      at = stop + 1;
      if (what == "public_key") {
        const auto [place, fresh] = said.peers.try_emplace(value);
        WG_CHECK(fresh);
        peer = &place->second;
      } else if (peer == nullptr) {
        if (what == "private_key")
          said.private_key = value;
        else if (what == "listen_port")
          said.listen_port = value;
        else if (what == "fwmark")
          said.fwmark = value;
        else
          WG_CHECK(false && "a line nobody asked for");
      } else if (what == "preshared_key") {
        peer->psk = value;
      } else if (what == "endpoint") {
        peer->endpoint = value;
      } else if (what == "persistent_keepalive_interval") {
        peer->keepalive = value;
      } else if (what == "allowed_ip") {
        WG_CHECK(peer->ips.insert(value).second);
      } else {
        WG_CHECK(what == "protocol_version" || what.starts_with("last_handshake_time_") || what.ends_with("_bytes"));
      }
    }
    WG_CHECK(said.private_key == model_.private_key && said.fwmark == model_.fwmark && said.peers == model_.peers);
    if (model_.listen_port) WG_CHECK(said.listen_port == model_.listen_port);
  }

  static NodeOptions options() {
    NodeOptions o{.inner = false, .started = false};
    o.limits.buffers = 64;
    o.device.rate_limited_sources = 64;
    return o;
  }
  Sim sim_{1, {.delay = 1ms}, 64};
  Node& node_ = sim_.add(options());
  std::string path_;
  std::unique_ptr<UapiServer> server_;
  std::array<Client, kClients> clients_;
  Model model_;
};

}  // namespace
}  // namespace wireplane::test

WIREPLANE_FUZZ_PROGRAMS(wireplane::test::kGrammar)

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace wireplane::test;
  testing::FLAGS_gtest_break_on_failure = true;
  return wireplane::fuzz::play_in_new<World>({data, size}, 100, kKinds);
}
