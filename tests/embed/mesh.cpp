// A thousand nodes in one process and one thread: `embed_mesh [NODES [PEERS [CHURNS]]]`, 1000, 6 and 0 if not said.
//
// Each node knows PEERS others, half of them clockwise and half back; each says something to each, and the program goes
// on when all have heard from all they know. Then they churn: CHURNS times a node forgets one of its peers (as does the
// other), meets another one instead, and speaks to it; it ends when those have all answered. No node has a thread: one
// epoll set over their descriptors says whose turn it is.
#include <sys/epoll.h>
#include <sys/resource.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <ctime>
#include <fstream>
#include <iostream>
#include <map>
#include <random>
#include <set>
#include <string>
#include <vector>

#include "control/embed/node.h"

using namespace wireplane;
using Clock = std::chrono::steady_clock;

namespace {

constexpr std::size_t kDescriptorsANode = 5;  // socket, epoll, timer, eventfd, memory of the keys
constexpr std::array<std::uint8_t, 100> kQuestion{1}, kAnswer{0};
constexpr auto kMostTime = std::chrono::seconds{600};

struct Member {
  std::unique_ptr<Node> node;
  std::map<std::size_t, NodePeer> peers;  // by number in the mesh
  std::set<PublicKey> silent;             // have not been heard
};

std::size_t descriptors_allowed() {
  rlimit limit{};
  ::getrlimit(RLIMIT_NOFILE, &limit);
  limit.rlim_cur = limit.rlim_max;  // an unprivileged process may go up to its hard limit
  ::setrlimit(RLIMIT_NOFILE, &limit);
  return limit.rlim_cur;
}

std::size_t held_kib() {
  std::ifstream status{"/proc/self/status"};
  std::size_t kib = 0;
  for (std::string line; std::getline(status, line);)
    if (line.starts_with("RssAnon") || line.starts_with("RssShmem")) kib += std::stoul(line.substr(line.find(':') + 1));
  return kib;
}

double cpu_seconds() { return static_cast<double>(std::clock()) / CLOCKS_PER_SEC; }

class Mesh {
 public:
  Mesh(std::size_t nodes, std::size_t peers) : members_(nodes), peers_{peers}, all_{::epoll_create1(EPOLL_CLOEXEC)} {}

  bool open() {
    for (Member& member : members_) {
      auto opened = Node::open({.ipv6 = false, .peers = peers_ + 8, .queue = 16, .socket_buffer_octets = 1 << 16});
      if (!opened) return std::cerr << opened.error().what << '\n', false;
      member.node = std::move(*opened);
      epoll_event event{};
      event.events = EPOLLIN;
      event.data.u64 = static_cast<std::size_t>(&member - members_.data());
      ::epoll_ctl(all_, EPOLL_CTL_ADD, member.node->fd(), &event);
    }
    const std::size_t nodes = members_.size();
    for (std::size_t i = 0; i < nodes; ++i)
      for (std::size_t k = 1; k <= peers_ / 2; ++k) {
        const std::size_t j = (i + k * k) % nodes;  // 1, 4, 9 ... further
        if (j == i || members_[i].peers.contains(j)) continue;
        if (!meet(i, j)) return false;
        if (i % 8 == 7 && k == peers_ / 2) turn(0);
      }
    return true;
  }

  bool meet(std::size_t i, std::size_t j) {
    for (const auto& [from, to] : {std::pair{i, j}, std::pair{j, i}}) {
      const Node& other = *members_[to].node;
      const auto peer = members_[from].node->add_peer(other.key_text(), "127.0.0.1:" + std::to_string(other.port()));
      if (!peer) return std::cerr << peer.error().what << '\n', false;
      members_[from].peers.emplace(to, *peer);
      if (members_[from].silent.insert(peer->key).second) ++silent_;
    }
    speak(i, j);
    return true;
  }

  bool churn(std::mt19937& chance) {
    const std::size_t i = chance() % members_.size(), j = chance() % members_.size();
    if (i == j || members_[i].peers.contains(j) || members_[i].peers.empty()) return true;
    const std::size_t old =
        std::next(members_[i].peers.begin(), static_cast<long>(chance() % members_[i].peers.size()))->first;
    if (members_[j].peers.size() >= peers_ + 7) return true;
    for (const auto& [from, to] : {std::pair{i, old}, std::pair{old, i}}) {
      Member& member = members_[from];
      silent_ -= member.silent.erase(member.peers.at(to).key);
      if (const Status gone = member.node->remove_peer(member.peers.at(to).key); !gone) return false;
      member.peers.erase(to);
    }
    return meet(i, j);
  }

  void speak(std::size_t i, std::size_t j) {
    static_cast<void>(!members_[i].node->send(members_[i].peers.at(j), kQuestion));
  }

  // Serves whoever has something to do, waiting at most so long for it.
  void turn(int at_most_ms) {
    std::array<epoll_event, 256> ready;
    const int woken = ::epoll_wait(all_, ready.data(), static_cast<int>(ready.size()), at_most_ms);
    for (int w = 0; w < woken; ++w) {
      Member& member = members_[ready[static_cast<std::size_t>(w)].data.u64];
      static_cast<void>(!member.node->process());
      member.node->receive([&](const Received& in) {
        silent_ -= member.silent.erase(in.from.key);
        if (in.octets[0] == kQuestion[0]) static_cast<void>(!member.node->send(in.from, kAnswer));
      });
    }
  }

  // Until all have heard from all they know. Datagrams may be lost: what was not answered is said again.
  bool settle(Clock::time_point until) {
    auto again = Clock::now() + std::chrono::seconds{6};
    while (silent_ != 0 && Clock::now() < until) {
      turn(100);
      if (Clock::now() < again) continue;
      again += std::chrono::seconds{6};
      for (std::size_t i = 0; i < members_.size(); ++i)
        for (const auto& [j, peer] : members_[i].peers)
          if (members_[i].silent.contains(peer.key)) speak(i, j);
    }
    return silent_ == 0;
  }

  [[nodiscard]] std::size_t silent() const { return silent_; }

 private:
  std::vector<Member> members_;
  const std::size_t peers_;
  const int all_;
  std::size_t silent_ = 0;
};

}  // namespace

int main(int count, char** arguments) {
  const auto argument = [&](int at, std::size_t otherwise) {
    return count > at ? std::stoul(arguments[at]) : otherwise;
  };
  const auto begun = Clock::now();
  const std::size_t wanted = argument(1, 1000), peers = argument(2, 6), churns = argument(3, 0);
  const std::size_t nodes = std::min(wanted, (descriptors_allowed() - 64) / kDescriptorsANode);
  if (nodes < wanted) {
    std::cerr << "the limit of descriptors allows " << nodes << " nodes only: ulimit -Hn says less than "
              << 64 + kDescriptorsANode * wanted << '\n';
    return 1;
  }
  Mesh mesh{nodes, peers};
  const auto tell = [&](const char* what) {
    const std::chrono::duration<double> took = Clock::now() - begun;
    std::cout << what << " after " << took.count() << " s and " << cpu_seconds() << " s of CPU; " << held_kib() / nodes
              << " KiB a node; " << mesh.silent() << " not heard" << std::endl;
  };
  if (!mesh.open()) return 1;
  bool complete = mesh.settle(begun + kMostTime);
  tell("all of them have heard from all they know");
  std::mt19937 chance{1};
  for (std::size_t i = 0; i < churns && complete; ++i) {
    if (!mesh.churn(chance)) return 1;
    mesh.turn(0);
  }
  complete = complete && mesh.settle(begun + kMostTime);
  if (churns != 0) tell("and from those they met since,");
  return complete ? 0 : 1;
}
