// Goal: a node with thirty peers and traffic costs its application less than 2 MiB of memory.
// Method: thirty nodes in a child process speak to one in this process, which answers each; what this process holds
// (RssAnon and RssShmem of /proc/self/status) is compared with what it held before there was a node: what the first
// node of a process costs once (self-tests of the ciphers, tables of libraries) counts, too.
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <chrono>
#include <cstdlib>
#include <fstream>
#include <iostream>
#include <string>

#include "control/embed/node.h"

using namespace wireplane;

namespace {

constexpr int kPeers = 30;
constexpr std::size_t kDatagrams = 3000, kMostKib = 2048, kKey = 44, kLine = 80;

std::size_t kib_of(const std::string& name) {
  std::ifstream status{"/proc/self/status"};
  for (std::string line; std::getline(status, line);)
    if (line.starts_with(name)) return std::stoul(line.substr(line.find(':') + 1));
  return 0;
}
std::size_t held_kib() { return kib_of("RssAnon") + kib_of("RssShmem"); }

std::string read_exactly(int fd, std::size_t count) {
  std::string text(count, ' ');
  for (std::size_t have = 0; have < count;) {
    const ssize_t got = ::read(fd, text.data() + have, count - have);
    if (got <= 0) std::exit(1);
    have += static_cast<std::size_t>(got);
  }
  return text;
}
void write_all(int fd, const std::string& text) {
  if (::write(fd, text.data(), text.size()) != static_cast<ssize_t>(text.size())) std::exit(1);
}

// The child: tells its keys, is told the other's key and endpoint, and speaks until it is killed.
[[noreturn]] void be_the_peers(int in, int out) {
  std::vector<std::unique_ptr<Node>> nodes;
  for (int i = 0; i < kPeers; ++i) {
    nodes.push_back(std::move(*Node::open({.peers = 1, .queue = 16})));
    write_all(out, nodes.back()->key_text());
  }
  const std::string line = read_exactly(in, kLine);
  std::vector<NodePeer> peers;
  for (const auto& node : nodes)
    peers.push_back(*node->add_peer(line.substr(0, kKey), line.substr(kKey + 1, line.find(' ', kKey + 1) - kKey - 1)));
  const std::array<std::uint8_t, 1000> payload{};
  for (;;) {
    for (std::size_t i = 0; i < nodes.size(); ++i) {
      static_cast<void>(!nodes[i]->send(peers[i], payload));
      static_cast<void>(!nodes[i]->process());
      nodes[i]->receive([](const Received&) {});
    }
    ::usleep(5000);
  }
}

}  // namespace

int main() {
  int to_child[2], to_us[2];
  if (::pipe(to_child) != 0 || ::pipe(to_us) != 0) return 1;
  const pid_t child = ::fork();
  if (child == 0) be_the_peers(to_child[0], to_us[1]);

  const std::size_t before = held_kib();
  const auto node = std::move(*Node::open());
  const std::size_t empty = held_kib() - before;
  for (int i = 0; i < kPeers; ++i)
    if (!node->add_peer(read_exactly(to_us[0], kKey))) return 1;
  std::string line = node->key_text() + " 127.0.0.1:" + std::to_string(node->port()) + ' ';
  line.resize(kLine, ' ');
  write_all(to_child[1], line);
  std::size_t datagrams = 0;
  const auto end = std::chrono::steady_clock::now() + std::chrono::seconds{30};
  while (datagrams < kDatagrams && std::chrono::steady_clock::now() < end) {
    static_cast<void>(!node->wait(10ms));
    datagrams += node->receive([&](const Received& in) { static_cast<void>(!node->send(in.from, in.octets)); }, 1000);
  }
  const std::size_t busy = held_kib() - before;
  ::kill(child, SIGKILL);
  ::waitpid(child, nullptr, 0);
  std::cout << "a node: " << empty << " KiB; with " << kPeers << " peers after " << datagrams << " datagrams: " << busy
            << " KiB\n";
  return datagrams >= kDatagrams && busy < kMostKib ? 0 : 1;
}
