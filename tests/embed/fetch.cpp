// Fetches a page by HTTP from behind any WireGuard peer, a stock one for instance, without privileges:
//
//   embed_fetch THEIR_KEY ADDRESS:PORT OUR_INNER_ADDRESS http://INNER_ADDRESS[:PORT]/PATH FILE <our_private_key
//
// FILE may be `-`. What took how long goes to standard error.
#include <chrono>
#include <fstream>
#include <iostream>

#include "control/address_text.h"
#include "control/embed/ip_stack.h"
#include "control/noise/base64.h"

using namespace wireplane;

namespace {

struct Failed {
  std::string why;
};
template <class T>
T must(Result<T> result) {
  if (!result) throw Failed{result.error().what};
  return std::move(*result);
}

struct Url {
  std::string host, path;
  IpEndpoint at;
};
Url parse_url(const std::string& text) {
  const std::string scheme = "http://";
  if (!text.starts_with(scheme)) throw Failed{"expected http://ADDRESS[:PORT]/PATH"};
  const std::size_t slash = std::min(text.find('/', scheme.size()), text.size());
  Url url{text.substr(scheme.size(), slash - scheme.size()), text.substr(slash), {}};
  if (url.path.empty()) url.path = "/";
  const bool port = url.host.rfind(':') != std::string::npos && url.host.back() != ']';
  url.at = must(parse_ip_endpoint(port ? url.host : url.host + ":80"));
  return url;
}

// One read, however long it takes; empty: the server has finished.
std::span<const std::uint8_t> read_some(IpStack& stack, TcpSocket& socket, std::span<std::uint8_t> into) {
  socket.deadline(15s);
  for (;;) {
    const auto got = socket.read(into);
    if (got) return into.first(*got);
    if (got.error().code != EAGAIN) throw Failed{got.error().what};
    must(stack.wait(1s));
  }
}

// What the header says of the page's length; -1: until the server finishes.
long long page_length(const std::string& header) {
  if (header.size() < 12 || header.substr(9, 3) != "200") throw Failed{header.substr(0, header.find('\r'))};
  std::string lower = header;
  std::ranges::transform(lower, lower.begin(), [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  if (lower.find("\r\ntransfer-encoding:") != std::string::npos)
    throw Failed{"a transfer encoding: not for this example"};
  const std::size_t at = lower.find("\r\ncontent-length:");
  return at == std::string::npos ? -1 : std::stoll(lower.substr(at + 17));
}

void fetch(IpStack& stack, const Url& url, std::ostream& out) {
  using Clock = std::chrono::steady_clock;
  const auto since = [begun = Clock::now()] { return std::chrono::duration<double>(Clock::now() - begun).count(); };
  TcpSocket socket = must(stack.connect(url.at));
  // Taken at once, and sent when the connection is made; Connection: close, and a short one is sure to fit.
  must(socket.write("GET " + url.path + " HTTP/1.1\r\nHost: " + url.host + "\r\nConnection: close\r\n\r\n"));
  std::vector<std::uint8_t> memory(1 << 17);
  std::string header;
  double first = 0;
  std::size_t end;
  while ((end = header.find("\r\n\r\n")) == std::string::npos) {
    const auto some = read_some(stack, socket, memory);
    if (some.empty() || header.size() > 65536) throw Failed{"the server sent no header"};
    if (header.empty()) first = since();
    header.append(some.begin(), some.end());
  }
  const long long expected = page_length(header);
  std::string page = header.substr(end + 4);
  long long have = static_cast<long long>(page.size());
  out << page;
  while (expected < 0 || have < expected) {
    const auto some = read_some(stack, socket, memory);
    if (some.empty()) break;
    have += static_cast<long long>(some.size());
    out.write(reinterpret_cast<const char*>(some.data()), static_cast<std::streamsize>(some.size()));
  }
  if (!out || (expected >= 0 && have != expected)) throw Failed{"the page is incomplete"};
  const double all = since();
  std::cerr << have << " octets, the first after " << first * 1e3 << " ms, all after " << all
            << " s: " << static_cast<double>(have) * 8e-6 / all << " Mbit/s\n";
}

}  // namespace

int main(int count, char** words) try {
  if (count != 6) throw Failed{"expected THEIR_KEY ADDRESS:PORT OUR_INNER_ADDRESS URL FILE"};
  std::string key;
  std::cin >> key;
  auto private_key = secret_key_from_base64(key);
  const auto their_key = public_key_from_base64(words[1]);
  const auto endpoint = parse_endpoint(words[2], interface_index_of_host);
  const auto ours = parse_address(words[3]);
  if (!private_key || !their_key || !endpoint || !ours) throw Failed{"expected keys in base64, ADDRESS:PORT, ADDRESS"};
  const auto node = must(Node::open({.private_key = std::move(*private_key)}));
  must(node->add_peer(*their_key,
                      {.endpoint = endpoint, .allowed_ips = {*parse_prefix("0.0.0.0/0"), *parse_prefix("::/0")}}));
  const auto stack = must(IpStack::open(*node, {.addresses = {*ours}}));
  if (std::string_view{words[5]} == "-") {
    fetch(*stack, parse_url(words[4]), std::cout);
  } else {
    std::ofstream file{words[5], std::ios::binary};
    fetch(*stack, parse_url(words[4]), file);
  }
  static_cast<void>(!stack->wait(10ms));  // the end of the connection is on its way
  return 0;
} catch (const Failed& failed) {
  std::cerr << failed.why << '\n';
  return 1;
}
