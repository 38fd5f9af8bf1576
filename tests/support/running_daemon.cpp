#include "tests/support/running_daemon.h"

#include <fcntl.h>
#include <netinet/in.h>
#include <sched.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <thread>

#include "control/address_text.h"
#include "control/cli/daemon.h"
#include "control/cli/uapi_client.h"
#include "control/noise/base64.h"
#include "control/noise/x25519.h"

namespace wireplane::test {
namespace {

using SteadyClock = std::chrono::steady_clock;

template <class Reached>
bool wait_until(Reached reached, std::chrono::milliseconds at_most) {
  const auto end = SteadyClock::now() + at_most;
  for (;;) {
    if (reached()) return true;
    if (SteadyClock::now() > end) return false;
    std::this_thread::sleep_for(std::chrono::milliseconds{5});
  }
}

}  // namespace

// The test program's own thread moves: what it starts (threads of nodes, the daemon) is there, too.
bool DaemonLab::make_namespaces() {
  if (!network_) return why_not_ = network_.why_not(), false;
  if (::unshare(CLONE_NEWNS) != 0 || ::mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0 ||
      ::mount("tmpfs", "/run", "tmpfs", 0, "mode=755") != 0)
    return why_not_ = std::string{"no mount namespace (needs root): "} + std::strerror(errno), false;
  std::filesystem::create_directories(kUapiDirectory);
  return true;
}

DaemonLab::DaemonLab() {
  if (!make_namespaces()) return;
  directory = "/run/wireplane-test";
  std::filesystem::create_directories(directory);
  std::filesystem::permissions(directory, std::filesystem::perms{0755});
  file = directory + "/wg0.conf";
  socket_path = uapi_socket_path("wg0");
  SystemEntropy entropy;
  secret_ = generate_secret_key(entropy);
  key = public_key(secret_);
  echo_fd_ = ::socket(AF_INET6, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
  sockaddr_in6 any{};
  any.sin6_family = AF_INET6;
  any.sin6_port = htons(kDatagramPort);
  ready_ = ::bind(echo_fd_, reinterpret_cast<sockaddr*>(&any), sizeof any) == 0;
  if (!ready_) why_not_ = std::string{"no UDP socket: "} + std::strerror(errno);
}

DaemonLab::~DaemonLab() {
  kill_hard();
  if (echo_fd_ >= 0) ::close(echo_fd_);
}

void DaemonLab::write_config(const std::vector<const Node*>& peers, const std::string& engine,
                             const std::string& more) {
  std::ostringstream text;
  text << "[Interface]\nPrivateKey = " << to_base64(secret_).view() << "\nListenPort = " << port
       << "\nAddress = " << to_text(address_of(key)) << "/128\n"
       << interface_lines << "[Engine]\nWorkers = 1\nPeers = 64\nBuffers = 1024\n"
       << engine << '\n';
  for (const Node* node : peers)
    text << "[Peer]\nPublicKey = " << node->key_text() << "\nAllowedIPs = " << to_text(node->address()) << "/128\n";
  text << more << '\n';
  const std::string fresh = file + ".new";  // a daemon that reads meanwhile finds the old one or the new one
  std::ofstream{fresh} << text.str();
  ::chmod(fresh.c_str(), 0600);
  std::filesystem::rename(fresh, file);
}

void DaemonLab::remove_config() const { std::filesystem::remove(file); }

bool DaemonLab::start(const std::string& error_output) {
  std::fflush(nullptr);
  const std::string output = error_output.empty() ? directory + "/log" : error_output;
  pid_ = ::fork();
  if (pid_ == 0) {
    const int fd = ::open(output.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0644);
    ::dup2(fd, STDERR_FILENO);
    ::dup2(fd, STDOUT_FILENO);
    RunOptions options;
    options.file = file;
    options.name = "wg0";
    std::exit(run_daemon(options));
  }
  return wait_until([this] { return !ask("get=1\n\n").empty() || !running(); }, std::chrono::seconds{20}) && running();
}

bool DaemonLab::running() const {
  siginfo_t ended{};
  return pid_ > 0 && ::waitid(P_PID, static_cast<id_t>(pid_), &ended, WEXITED | WNOHANG | WNOWAIT) == 0 &&
         ended.si_pid == 0;
}

void DaemonLab::hang_up() const { ::kill(pid_, SIGHUP); }

void DaemonLab::kill_hard() {
  if (pid_ <= 0) return;
  ::kill(pid_, SIGKILL);
  ::waitpid(pid_, nullptr, 0);
  pid_ = -1;
}

int DaemonLab::end() {
  if (pid_ <= 0) return -1;
  ::kill(pid_, SIGTERM);
  int status = -1;
  const bool ended = wait_until([&] { return ::waitpid(pid_, &status, WNOHANG) == pid_; }, std::chrono::seconds{20});
  if (!ended) {
    kill_hard();
    return -1;
  }
  pid_ = -1;
  return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

std::string DaemonLab::log() const {
  std::stringstream text;
  text << std::ifstream{directory + "/log"}.rdbuf();
  return text.str();
}

std::size_t DaemonLab::logged(const std::string& what) const {
  const std::string text = log();
  std::size_t count = 0;
  for (std::size_t at = text.find(what); at != text.npos; at = text.find(what, at + 1)) ++count;
  return count;
}

bool DaemonLab::logs(const std::string& what, std::size_t times) const {
  return wait_until([&] { return logged(what) >= times; }, std::chrono::seconds{20});
}

std::string DaemonLab::ask(const std::string& request) const {
  std::string answer;
  const Status asked = ask_device(socket_path, request, [&](std::string_view line) { answer.append(line) += '\n'; });
  return asked ? answer + "." : "";
}

NodePeerOptions DaemonLab::at() const {
  NodePeerOptions options;
  const std::uint8_t loopback[4] = {127, 0, 0, 1};
  options.endpoint = Endpoint{.remote = Address::v4(loopback), .local = {}, .interface = 0, .port = port};
  return options;
}

// What has come out of the TUN goes back into it.
void DaemonLab::answer() const {
  char octets[2048];
  sockaddr_in6 from{};
  for (;;) {
    socklen_t length = sizeof from;
    const ssize_t count = ::recvfrom(echo_fd_, octets, sizeof octets, 0, reinterpret_cast<sockaddr*>(&from), &length);
    if (count < 0) return;
    static_cast<void>(
        ::sendto(echo_fd_, octets, static_cast<std::size_t>(count), 0, reinterpret_cast<sockaddr*>(&from), length));
  }
}

std::size_t DaemonLab::echoes(Node& node, const NodePeer& daemon, std::size_t count,
                              std::chrono::milliseconds patience) {
  std::size_t back = 0;
  for (std::size_t i = 0; i < count; ++i) {
    const std::uint8_t payload[8] = {1, 2, 3, 4, static_cast<std::uint8_t>(i)};
    bool heard = false;
    static_cast<void>(node.send(daemon, payload));
    static_cast<void>(wait_until(
        [&] {
          static_cast<void>(node.wait(1ms));
          answer();
          node.receive([&](const Received& in) {
            heard = heard || (in.octets.size() == sizeof payload && in.octets[4] == static_cast<std::uint8_t>(i));
          });
          return heard;
        },
        patience));
    back += heard ? 1 : 0;
  }
  return back;
}

void DaemonTest::refuses(const std::string& because) {
  EXPECT_FALSE(lab.start()) << lab.log();
  EXPECT_NE(lab.log().find(because), std::string::npos) << because << "\n--- in ---\n" << lab.log();
  EXPECT_EQ(lab.end(), kExitFailed);
}

std::string output_of(const std::string& command) {
  std::string text;
  std::array<char, 4096> octets{};
  if (std::FILE* pipe = ::popen(command.c_str(), "r")) {
    while (std::fgets(octets.data(), octets.size(), pipe) != nullptr) text += octets.data();
    ::pclose(pipe);
  }
  return text;
}

std::string peer_text(const std::string& allowed, std::uint8_t number) {
  PublicKey key;
  key.octets[0] = number;
  return "[Peer]\nPublicKey = " + std::string{to_base64(key).view()} + "\nAllowedIPs = " + allowed + "\n";
}

}  // namespace wireplane::test
