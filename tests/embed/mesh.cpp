// A thousand nodes in one process and one thread: `embed_mesh [NODES]`.
//
// Each node knows six others, three clockwise and three back; each says something to each, and the program ends when
// all have heard from all they know. No node has a thread: one epoll set over their descriptors says whose turn it is.
#include <sys/epoll.h>
#include <sys/resource.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <fstream>
#include <iostream>
#include <set>
#include <string>

#include "control/embed/node.h"

using namespace wireplane;

namespace {

constexpr std::array<std::size_t, 3> kSteps{1, 7, 31};
constexpr std::size_t kDescriptorsANode = 5;  // socket, epoll, timer, eventfd, memory of the keys

struct Member {
  std::unique_ptr<Node> node;
  std::vector<NodePeer> peers;
  std::set<PublicKey> heard_from;
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

bool open_all(std::vector<Member>& mesh) {
  for (Member& member : mesh) {
    auto opened = Node::open({.ipv6 = false, .peers = 8, .queue = 16, .socket_buffer_octets = 1 << 16});
    if (!opened) return std::cerr << opened.error().what << '\n', false;
    member.node = std::move(*opened);
  }
  for (std::size_t i = 0; i < mesh.size(); ++i)
    for (const std::size_t step : kSteps)
      for (const std::size_t j : {(i + step) % mesh.size(), (i + mesh.size() - step) % mesh.size()}) {
        const Node& other = *mesh[j].node;
        const auto peer = mesh[i].node->add_peer(other.key_text(), "127.0.0.1:" + std::to_string(other.port()));
        if (!peer) return std::cerr << peer.error().what << '\n', false;
        mesh[i].peers.push_back(*peer);
      }
  return true;
}

void speak(Member& member) {
  const std::array<std::uint8_t, 100> words{};
  for (const NodePeer& peer : member.peers)
    if (!member.heard_from.contains(peer.key)) static_cast<void>(!member.node->send(peer, words));
}

}  // namespace

int main(int count, char** arguments) {
  const auto begun = std::chrono::steady_clock::now();
  const std::size_t wanted = count > 1 ? std::stoul(arguments[1]) : 1000;
  const std::size_t nodes = std::min(wanted, (descriptors_allowed() - 64) / kDescriptorsANode);
  if (nodes < wanted) std::cout << "the limit of descriptors allows " << nodes << " nodes only (ulimit -Hn)\n";
  std::vector<Member> mesh(nodes);
  if (!open_all(mesh)) return 1;

  const int all = ::epoll_create1(EPOLL_CLOEXEC);
  for (std::size_t i = 0; i < nodes; ++i) {
    epoll_event event{};
    event.events = EPOLLIN;
    event.data.u64 = i;
    ::epoll_ctl(all, EPOLL_CTL_ADD, mesh[i].node->fd(), &event);
    speak(mesh[i]);
  }
  std::size_t complete = 0;
  auto again = begun + std::chrono::seconds{5};
  while (complete < nodes && std::chrono::steady_clock::now() - begun < std::chrono::seconds{90}) {
    std::array<epoll_event, 256> ready;
    const int woken = ::epoll_wait(all, ready.data(), static_cast<int>(ready.size()), 100);
    for (int w = 0; w < woken; ++w) {
      Member& member = mesh[ready[static_cast<std::size_t>(w)].data.u64];
      if (!member.node->process()) return 1;
      const bool before = member.heard_from.size() == member.peers.size();
      member.node->receive([&](const Received& in) {
        if (member.heard_from.insert(in.from.key).second)
          static_cast<void>(!member.node->send(in.from, in.octets));  // so that the other has heard from us, too
      });
      complete += !before && member.heard_from.size() == member.peers.size();
    }
    if (std::chrono::steady_clock::now() > again) {  // datagrams may be lost: what was not answered is said again
      again += std::chrono::seconds{5};
      for (Member& member : mesh) speak(member);
    }
  }
  const std::chrono::duration<double> took = std::chrono::steady_clock::now() - begun;
  std::cout << complete << " of " << nodes << " nodes have heard from all six they know, after " << took.count()
            << " s; " << held_kib() / nodes << " KiB a node\n";
  return complete == nodes ? 0 : 1;
}
