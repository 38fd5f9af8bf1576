// Chat by key: `embed_chat PORT [THEIR_KEY [ADDRESS:PORT]]`; without a key it prints its own and waits to be told one.
//
// Lines of the terminal go to the peer, the peer's lines to the terminal. One poll() over both: the node is driven from
// the program's own loop. The key is kept in ./chat.key, so that whoever knows us finds us again.
#include <poll.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <fstream>
#include <iostream>
#include <string>

#include "control/embed/node.h"
#include "control/noise/base64.h"

using namespace wireplane;

namespace {

SecretKey kept_key() {
  std::ifstream file{"chat.key"};
  std::string text;
  file >> text;
  std::optional<SecretKey> key = secret_key_from_base64(text);
  wipe(text.data(), text.size());
  return key ? std::move(*key) : SecretKey{};
}

void keep_key(const Node& node) {
  ::umask(077);
  std::ofstream{"chat.key"} << to_base64(node.private_key()).view() << '\n';
}

void tell(const NodeEvent& event) {
  static constexpr std::array kWords{"connected", "moved", "lost"};
  std::cout << "* " << kWords[static_cast<std::size_t>(event.kind)] << std::endl;
}

int fail(const Error& error) {
  std::cerr << error.what << '\n';
  return 1;
}

}  // namespace

int main(int count, char** words) {
  NodeOptions options;
  options.private_key = kept_key();
  options.listen_port = static_cast<std::uint16_t>(count > 1 ? std::stoi(words[1]) : 0);
  options.on_event = tell;
  const auto opened = Node::open(std::move(options));
  if (!opened) return fail(opened.error());
  Node& node = **opened;
  keep_key(node);
  std::cout << "* " << node.key_text() << " port " << node.port() << std::endl;
  std::string key = count > 2 ? words[2] : "";
  if (key.empty()) std::getline(std::cin, key);
  const auto peer = node.add_peer(key, count > 3 ? words[3] : "");
  if (!peer) return fail(peer.error());

  std::array<pollfd, 2> polled{{{node.fd(), POLLIN, 0}, {STDIN_FILENO, POLLIN, 0}}};
  for (std::array<std::uint8_t, 1024> line;;) {
    ::poll(polled.data(), polled.size(), -1);
    if (!node.process()) return 1;
    node.receive([](const Received& in) {
      std::cout << "> " << std::string{in.octets.begin(), in.octets.end()} << std::flush;
    });
    if (polled[1].revents == 0) continue;
    const ssize_t got = ::read(STDIN_FILENO, line.data(), line.size());
    if (got <= 0) break;
    if (const Status sent = node.send(*peer, std::span{line}.first(static_cast<std::size_t>(got))); !sent)
      std::cerr << sent.error().what << '\n';
  }
  for (int i = 0; i < 10; ++i) static_cast<void>(!node.wait(100ms));  // what was said last is on its way
  return 0;
}
