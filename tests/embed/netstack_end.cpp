// One end of bench/compare/netstack.sh, on our library: `embed_netstack_end server|client MEGABYTES [WORKERS]`.
//
// Prints its line (key, address:port), reads the other's. The server answers each connection by the one octet that it
// begins with: 's' one octet, 'b' so many megabytes, 'q' ends it. The client measures the time from connect to the
// first octet, with the tunnel's handshake (cold) and without (warm, median of 21), and a transfer; both tell what
// processor time the transfer took and how much memory they held at most, as a line of JSON. The twin on wireguard-go's
// netstack is bench/compare/netstack/main.go.
#include <sys/resource.h>

#include <algorithm>
#include <fstream>
#include <iostream>
#include <thread>

#include "control/address_text.h"
#include "control/embed/ip_stack.h"
#include "control/noise/base64.h"

using namespace wireplane;

namespace {

using Clock = std::chrono::steady_clock;
struct Failed {
  std::string why;
};
template <class T>
T must(Result<T> result) {
  if (!result) throw Failed{result.error().what};
  return std::move(*result);
}

double cpu() {
  rusage used{};
  ::getrusage(RUSAGE_SELF, &used);
  const auto seconds = [](const timeval& time) {
    return static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_usec) / 1e6;
  };
  return seconds(used.ru_utime) + seconds(used.ru_stime);
}
std::size_t peak_kib() {
  std::ifstream status{"/proc/self/status"};
  for (std::string line; std::getline(status, line);)
    if (line.starts_with("VmHWM:")) return std::stoul(line.substr(6));
  return 0;
}
double since(Clock::time_point begun) { return std::chrono::duration<double>(Clock::now() - begun).count(); }

template <class Operation>
auto patiently(IpStack& stack, Operation operation) {  // what EAGAIN delays
  for (;;) {
    auto result = operation();
    if (result || result.error().code != EAGAIN) return must(std::move(result));
    must(stack.wait(10s));
  }
}

double serve(IpStack& stack, std::size_t count) {
  TcpListener listener = must(stack.listen(80));
  std::vector<std::uint8_t> block(1 << 16);
  for (double busy = 0;;) {
    TcpSocket socket = patiently(stack, [&] { return listener.accept(); });
    std::array<std::uint8_t, 1> request{};
    patiently(stack, [&] { return socket.read(request); });
    if (request[0] == 'q') {
      socket.close();
      for (int i = 0; i < 5; ++i) must(stack.wait(10ms));
      return busy;
    }
    const double begun = cpu();
    for (std::size_t left = request[0] == 'b' ? count : 1; left != 0;)
      left -= patiently(stack, [&] { return socket.write(std::span{block}.first(std::min(left, block.size()))); });
    static_cast<void>(!socket.finish());
    while (patiently(stack, [&] { return socket.read(block); }) != 0) {
    }
    if (request[0] == 'b') busy += cpu() - begun;
  }
}

struct Answer {
  double first = 0, all = 0;
  std::size_t octets = 0;
};
Answer ask(IpStack& stack, char request) {
  static std::vector<std::uint8_t> into(1 << 16);
  Answer answer;
  const auto begun = Clock::now();
  TcpSocket socket = must(stack.connect("10.88.0.2:80"));
  must(socket.write({&request, 1}));
  while (const std::size_t got = patiently(stack, [&] { return socket.read(into); })) {
    if (answer.octets == 0) answer.first = since(begun);
    answer.octets += got;
  }
  answer.all = since(begun);
  return answer;
}

}  // namespace

int main(int count, char** words) try {
  if (count < 3) throw Failed{"expected server or client, and MEGABYTES"};
  const bool server = std::string_view{words[1]} == "server";
  const std::size_t octets = std::stoul(words[2]) * 1'000'000;
  const auto node = must(Node::open({.workers = count > 3 ? static_cast<unsigned>(std::stoul(words[3])) : 0}));
  const auto stack = must(IpStack::open(*node, {.addresses = {*parse_address(server ? "10.88.0.2" : "10.88.0.1")}}));
  std::cout << node->key_text() << " 127.0.0.1:" << node->port() << std::endl;
  std::string key, endpoint;
  std::cin >> key >> endpoint;
  must(node->add_peer(public_key_from_base64(key).value(),
                      {.endpoint = parse_endpoint(endpoint, interface_index_of_host),
                       .allowed_ips = {*parse_prefix(server ? "10.88.0.1/32" : "10.88.0.2/32")}}));
  if (server) {
    const double busy = serve(*stack, octets);
    std::cerr << R"({"end":"wireplane/server","cpu_s":)" << busy << R"(,"peak_kib":)" << peak_kib() << "}\n";
    return 0;
  }
  std::this_thread::sleep_for(300ms);  // the server knows us by now: an initiation that came too early costs 5 s
  const double cold = ask(*stack, 's').first;
  std::vector<double> warm;
  for (int i = 0; i < 21; ++i) warm.push_back(ask(*stack, 's').first);
  std::ranges::sort(warm);
  const double before = cpu();
  const Answer bulk = ask(*stack, 'b');
  const double busy = cpu() - before;
  if (bulk.octets != octets) throw Failed{"incomplete"};
  std::cerr << R"({"end":"wireplane/client","first_cold_ms":)" << cold * 1e3 << R"(,"first_warm_ms":)"
            << warm[warm.size() / 2] * 1e3 << R"(,"bulk_s":)" << bulk.all << R"(,"cpu_s":)" << busy << R"(,"peak_kib":)"
            << peak_kib() << "}\n";
  ask(*stack, 'q');
  must(stack->wait(20ms));
  return 0;
} catch (const Failed& failed) {
  std::cerr << failed.why << '\n';
  return 1;
}
