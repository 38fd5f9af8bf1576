// The real wg(8) against our socket: show, set, setconf, addconf, syncconf; and the same commands against wireguard-go.
// Needs root and wg(8): the test moves into namespaces of its own, so that /run/wireguard and the network are its
// alone.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <spawn.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <fstream>
#include <random>
#include <set>
#include <sstream>

#include "control/noise/base64.h"
#include "control/uapi_socket.h"
#include "tests/support/fake_device.h"

extern char** environ;

namespace wireplane {
namespace {

std::string read_file(const std::string& path) {
  std::ostringstream text;
  text << std::ifstream{path}.rdbuf();
  return text.str();
}

std::string key(std::uint8_t number) {  // as a private key it is clamped already
  PublicKey octets;
  octets.octets.fill(number);
  octets.octets[0] = 8;
  octets.octets[31] = 64;
  return std::string{to_base64(octets).view()};
}

// Why there can be no namespaces of our own; empty: this process lives in them from now on.
std::string enter_namespaces() {
  static const std::string why = [] {
    if (unshare(CLONE_NEWNS | CLONE_NEWNET) != 0)
      return std::string{"no namespaces of our own (needs root): "} + std::strerror(errno);
    if (mount("none", "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0 ||
        mount("none", "/run", "tmpfs", 0, nullptr) != 0)
      return std::string{"no /run of our own: "} + std::strerror(errno);
    return std::string{};
  }();
  return why;
}

bool on_path(const std::string& program) {
  return access(("/usr/bin/" + program).c_str(), X_OK) == 0 || access(("/usr/sbin/" + program).c_str(), X_OK) == 0;
}

struct Outcome {
  int status = -1;
  std::string out, err;
};

class WgTool : public testing::Test {
 protected:
  void SetUp() override {
    if (!on_path("wg")) GTEST_SKIP() << "wg(8) is not installed: left out";
    if (const std::string why = enter_namespaces(); !why.empty()) GTEST_SKIP() << why;
    auto server = UapiServer::listen(uapi_socket_path("conf0"), device_);
    ASSERT_TRUE(server) << server.error().what;
    server_ = std::move(*server);
  }
  void TearDown() override {
    if (rival_ > 0) {
      kill(rival_, SIGTERM);
      waitpid(rival_, nullptr, 0);
    }
  }

  static pid_t start(const std::vector<std::string>& command, const std::string& out, const std::string& err) {
    std::vector<char*> arguments;
    for (const std::string& word : command) arguments.push_back(const_cast<char*>(word.c_str()));
    arguments.push_back(nullptr);
    posix_spawn_file_actions_t files;
    posix_spawn_file_actions_init(&files);
    posix_spawn_file_actions_addopen(&files, 1, out.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0600);
    posix_spawn_file_actions_addopen(&files, 2, err.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0600);
    pid_t pid = -1;
    if (posix_spawnp(&pid, arguments[0], &files, nullptr, arguments.data(), environ) != 0) pid = -1;
    posix_spawn_file_actions_destroy(&files);
    return pid;
  }
  // Runs wg(8) and serves it meanwhile, as control's loop would.
  Outcome wg(std::vector<std::string> command) {
    command.insert(command.begin(), "wg");
    const pid_t pid = start(command, "/run/out", "/run/err");
    Outcome outcome;
    int status = 0;
    while (pid > 0 && waitpid(pid, &status, WNOHANG) == 0) {
      std::vector<pollfd> fds;
      server_->add_fds(fds);
      poll(fds.data(), fds.size(), 1);
      server_->handle(fds, now_ += 1ms);
      while (server_->step(now_)) {
      }
    }
    outcome.status = WIFEXITED(status) ? WEXITSTATUS(status) : -1;
    outcome.out = read_file("/run/out");
    outcome.err = read_file("/run/err");
    return outcome;
  }
  void wg_must(const std::vector<std::string>& command) {
    const Outcome outcome = wg(command);
    ASSERT_EQ(outcome.status, 0) << testing::PrintToString(command) << ": " << outcome.err;
  }
  static std::string file(const std::string& name, const std::string& text) {
    std::ofstream{"/run/" + name} << text;
    return "/run/" + name;
  }
  // A device as `wg show NAME dump` tells it, without what traffic changes; peers and allowed IPs sorted.
  std::string dump_of(const std::string& name) {
    const Outcome outcome = wg({"show", name, "dump"});
    EXPECT_EQ(outcome.status, 0) << outcome.err;
    std::istringstream lines{outcome.out};
    std::string first, line;
    std::getline(lines, first);
    std::set<std::string> peers;
    while (std::getline(lines, line)) {
      std::vector<std::string> fields(8);
      std::istringstream columns{line};
      for (std::string& field : fields) std::getline(columns, field, '\t');
      std::istringstream ips{fields[3]};
      std::set<std::string> sorted;
      for (std::string ip; std::getline(ips, ip, ',');) sorted.insert(ip);
      std::string all;
      for (const std::string& ip : sorted) all += ip + ' ';
      peers.insert(fields[0] + ' ' + fields[1] + ' ' + fields[2] + ' ' + all + fields[7]);
    }
    for (const std::string& peer : peers) first += '\n' + peer;
    return first;
  }
  unsigned incarnation_of(std::uint8_t number) {
    const auto* peer = device_.find(*public_key_from_base64(key(number)));
    return peer == nullptr ? 0 : peer->incarnation;
  }

  FakeDevice device_;
  std::unique_ptr<UapiServer> server_;
  Instant now_{1h};
  pid_t rival_ = -1;
};

// Goal: wg(8) finds the device and shows what it has.
TEST_F(WgTool, ShowsTheDevice) {
  wg_must({"set", "conf0", "private-key", file("private", key(1)), "listen-port", "51820", "fwmark", "0xca6c", "peer",
           key(2), "preshared-key", file("psk", key(3)), "endpoint", "[2001:db8::1]:7", "persistent-keepalive", "25",
           "allowed-ips", "10.0.0.0/8,fd00::/64"});
  EXPECT_EQ(wg({"show", "interfaces"}).out, "conf0\n");
  const std::string config = wg({"showconf", "conf0"}).out;
  EXPECT_EQ(config, "[Interface]\nListenPort = 51820\nFwMark = 0xca6c\nPrivateKey = " + key(1) +
                        "\n\n[Peer]\nPublicKey = " + key(2) + "\nPresharedKey = " + key(3) +
                        "\nAllowedIPs = 10.0.0.0/8, fd00::/64\nEndpoint = [2001:db8::1]:7\nPersistentKeepalive = 25\n");
}

// Goal: setconf replaces, addconf adds, and `wg set` changes one peer alone; allowed IPs move; a peer is removed.
// proves: PROTOCOL.md 8 (replace_peers, replace_allowed_ips, moving an allowed-ip between peers)
TEST_F(WgTool, SetSetconfAndAddconfDoWhatTheyDoWithTheKernel) {
  wg_must({"setconf", "conf0",
           file("a", "[Interface]\nPrivateKey = " + key(1) + "\nListenPort = 7\n[Peer]\nPublicKey = " + key(2) +
                         "\nAllowedIPs = 10.0.0.2/32\n[Peer]\nPublicKey = " + key(3) +
                         "\nAllowedIPs = 10.0.0.3/32, 10.3.0.0/16\n")});
  EXPECT_EQ(device_.peers(), 2u);
  const unsigned second = incarnation_of(2);
  wg_must({"addconf", "conf0", file("b", "[Peer]\nPublicKey = " + key(4) + "\nAllowedIPs = 10.3.0.0/16\n")});
  EXPECT_EQ(device_.peers(), 3u);
  EXPECT_EQ(incarnation_of(2), second);
  EXPECT_EQ(wg({"show", "conf0", "allowed-ips"}).out,
            key(2) + "\t10.0.0.2/32\n" + key(3) + "\t10.0.0.3/32\n" + key(4) + "\t10.3.0.0/16\n");
  wg_must({"set", "conf0", "peer", key(3), "remove", "peer", key(2), "allowed-ips", "10.5.0.0/16"});
  EXPECT_EQ(wg({"show", "conf0", "allowed-ips"}).out, key(2) + "\t10.5.0.0/16\n" + key(4) + "\t10.3.0.0/16\n");
  EXPECT_EQ(incarnation_of(2), second);
  wg_must({"setconf", "conf0", file("c", "[Interface]\n")});
  EXPECT_EQ(device_.peers(), 0u);
  EXPECT_EQ(device_.device.listen_port, 0);
  EXPECT_TRUE(device_.device.private_key.is_zero());
}

// Goal: syncconf with an unchanged file changes nothing; with a changed one it disturbs only whom the change names.
// proves: PROTOCOL.md 8 (peers not reset on a no-op syncconf)
TEST_F(WgTool, SyncconfLeavesUnchangedPeersAlone) {
  auto config = [](const std::string& port, const std::string& third) {
    return "[Interface]\nPrivateKey = " + key(1) + "\nListenPort = " + port + "\n[Peer]\nPublicKey = " + key(2) +
           "\nPresharedKey = " + key(9) + "\nAllowedIPs = 10.0.0.2/32\nEndpoint = 192.0.2.1:1\n" + third;
  };
  const std::string third = "[Peer]\nPublicKey = " + key(3) + "\nAllowedIPs = 10.0.0.3/32\n";
  wg_must({"setconf", "conf0", file("a", config("7", third))});
  const std::string before = state_of(device_);
  const unsigned second = incarnation_of(2);
  wg_must({"syncconf", "conf0", file("a", config("7", third))});
  EXPECT_EQ(state_of(device_), before);
  EXPECT_EQ(incarnation_of(2), second);
  wg_must({"syncconf", "conf0", file("b", config("8", ""))});
  EXPECT_EQ(device_.peers(), 1u);
  EXPECT_EQ(device_.device.listen_port, 8);
  EXPECT_EQ(incarnation_of(2), second);
}

// Goal: what the device cannot do, wg(8) tells in the host's words.
// proves: PROTOCOL.md 8 (errno values)
TEST_F(WgTool, TellsTheDevicesErrors) {
  device_.fail_after = 0;
  const Outcome outcome = wg({"set", "conf0", "listen-port", "1"});
  EXPECT_EQ(outcome.status, 1);
  EXPECT_EQ(outcome.err, "Unable to modify interface: Cannot allocate memory\n");
}

// Goal: a large file is loaded and dumped whole.
TEST_F(WgTool, CarriesManyPeers) {
  std::string text = "[Interface]\nPrivateKey = " + key(1) + "\n";
  for (unsigned i = 0; i < 20000; ++i) {
    PublicKey number;
    std::memcpy(number.octets.data(), &i, sizeof i);
    number.octets[30] = 1;
    text += "[Peer]\nPublicKey = " + std::string{to_base64(number).view()} + "\nAllowedIPs = 10." +
            std::to_string(i >> 8) + "." + std::to_string(i & 255) + ".0/24\n";
  }
  wg_must({"setconf", "conf0", file("many", text)});
  EXPECT_EQ(device_.peers(), 20000u);
  const std::string peers = wg({"show", "conf0", "peers"}).out;
  EXPECT_EQ(std::count(peers.begin(), peers.end(), '\n'), 20000);
}

// Goal: whatever one tells wg(8), our device ends in the state in which wireguard-go ends.
// Method: the same random commands for both, on a seed; after each the two dumps are equal.
TEST_F(WgTool, AgreesWithWireguardGo) {
  if (!on_path("wireguard-go")) GTEST_SKIP() << "wireguard-go is not installed: left out";
  rival_ = start({"wireguard-go", "-f", "rival0"}, "/run/rival.out", "/run/rival.err");
  for (int i = 0; i < 300 && access("/run/wireguard/rival0.sock", F_OK) != 0; ++i) usleep(10'000);
  if (access("/run/wireguard/rival0.sock", F_OK) != 0)
    GTEST_SKIP() << "wireguard-go does not start here: " << read_file("/run/rival.err");
  const char* seed_text = std::getenv("WG_SEED");
  const std::uint64_t seed = seed_text != nullptr ? std::strtoull(seed_text, nullptr, 10) : 1;
  std::mt19937_64 random{seed};
  auto one_of = [&](std::initializer_list<std::string> words) { return *(words.begin() + random() % words.size()); };
  for (const char* name : {"conf0", "rival0"}) wg_must({"set", name, "listen-port", "5001"});  // else any free one
  for (int i = 0; i < 60; ++i) {
    std::vector<std::string> command;
    if (random() % 5 == 0) {
      std::string text = "[Interface]\nPrivateKey = " + key(static_cast<std::uint8_t>(1 + random() % 2)) +
                         "\nListenPort = " + one_of({"5001", "5002"}) + "\n";
      for (std::uint8_t peer = 10; peer < 14; ++peer)
        if (random() % 2)
          text += "[Peer]\nPublicKey = " + key(peer) + "\nAllowedIPs = 10.0." + std::to_string(peer) + ".0/24" +
                  one_of({"", ", 10.7.0.0/16"}) + "\n";
      command = {one_of({"setconf", "addconf", "syncconf"}), "DEVICE", file("random", text)};
    } else {
      command = {"set", "DEVICE"};
      if (random() % 4 == 0) command.insert(command.end(), {"fwmark", one_of({"0", "0x10", "77"})});
      for (std::uint64_t peers = random() % 3; peers > 0; --peers) {
        command.insert(command.end(), {"peer", key(static_cast<std::uint8_t>(10 + random() % 4))});
        if (random() % 6 == 0) {
          command.emplace_back("remove");
          continue;
        }
        if (random() % 3 == 0)
          command.insert(command.end(), {"preshared-key", one_of({"/dev/null", file("psk", key(9))})});
        if (random() % 3 == 0) command.insert(command.end(), {"endpoint", one_of({"127.0.0.1:9", "[::1]:9"})});
        if (random() % 3 == 0) command.insert(command.end(), {"persistent-keepalive", one_of({"off", "25", "65535"})});
        if (random() % 2 == 0)
          command.insert(command.end(),
                         {"allowed-ips", one_of({"", "10.0.0.0/8", "10.0.0.7/8,fd00::1/64", "0.0.0.0/0,::/0"})});
      }
      if (command.size() == 2) continue;
    }
    for (const char* name : {"conf0", "rival0"}) {
      command[1] = name;
      wg_must(command);
    }
    ASSERT_EQ(dump_of("conf0"), dump_of("rival0"))
        << "WG_SEED=" << seed << ", command " << i << ": " << testing::PrintToString(command);
  }
  EXPECT_GT(device_.applied, 20u);
}

}  // namespace
}  // namespace wireplane
