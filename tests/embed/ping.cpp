// Two of these, each given the other's line, exchange packets: no privileges, no interface, no configuration.
#include <iostream>

#include "control/embed/node.h"

using namespace wireplane;

int fail(const Error& error) {
  std::cerr << error.what << '\n';
  return 1;
}

int main() {
  const auto node = Node::open();
  if (!node) return fail(node.error());
  std::cout << (*node)->key_text() << " 127.0.0.1:" << (*node)->port() << std::endl;
  std::string key, endpoint;
  std::cin >> key >> endpoint;
  const auto peer = (*node)->add_peer(key, endpoint);
  if (!peer) return fail(peer.error());
  std::size_t heard = 0;
  for (int round = 0; round < 100 && (round < 20 || heard < 10); ++round) {
    const std::uint8_t ping[] = "ping";
    if (const Status sent = (*node)->send(*peer, ping); !sent) return fail(sent.error());
    if (const auto waiting = (*node)->wait(100ms); !waiting) return fail(waiting.error());
    heard += (*node)->receive([](const Received& in) { std::cerr << in.octets.data() << '\n'; });
  }
  return heard >= 10 ? 0 : 1;
}
