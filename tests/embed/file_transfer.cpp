// Files by key, over a stream: `embed_file_transfer receive` prints its key and address, and is told the sender's key;
// `embed_file_transfer send FILE KEY ADDRESS:PORT` prints its own key first. Progress goes to the standard error.
//
// On the stream: size as 16 hexadecimal digits, the octets, finish; back come the digits of what was received, finish.
#include <array>
#include <chrono>
#include <cinttypes>
#include <cstdio>
#include <fstream>
#include <iostream>
#include <string>
#include <vector>

#include "control/embed/node.h"

using namespace wireplane;

namespace {

constexpr Duration kPatience = 30s;
constexpr std::size_t kDigits = 16, kPiece = 64 << 10;

int fail(const Error& error) {
  std::cerr << error.what << '\n';
  return 1;
}

std::string digits(std::uint64_t number) {
  std::array<char, kDigits + 1> text;
  std::snprintf(text.data(), text.size(), "%016" PRIx64, number);
  return text.data();
}

std::span<const std::uint8_t> octets_of(std::string_view text) {
  return {reinterpret_cast<const std::uint8_t*>(text.data()), text.size()};
}

class Progress {
 public:
  explicit Progress(std::uint64_t all) : all_{all} {}
  void add(std::uint64_t count) {
    done_ += count;
    if (done_ < told_ + all_ / 10 && done_ != all_) return;
    told_ = done_;
    const std::chrono::duration<double> took = std::chrono::steady_clock::now() - begun_;
    std::cerr << 100 * done_ / std::max<std::uint64_t>(all_, 1) << " %, "
              << static_cast<double>(done_) / 1e6 / took.count() << " MB/s\n";
  }
  [[nodiscard]] std::uint64_t done() const { return done_; }

 private:
  const std::uint64_t all_;
  std::uint64_t done_ = 0, told_ = 0;
  const std::chrono::steady_clock::time_point begun_ = std::chrono::steady_clock::now();
};

Result<std::uint64_t> read_number(Stream& stream) {
  std::array<std::uint8_t, kDigits> text;
  for (std::size_t have = 0; have < kDigits;) {
    const auto got = stream.read(std::span{text}.subspan(have), kPatience);
    if (!got) return got.error();
    have += got->octets;
    if (got->finished && have < kDigits) return Error{"the peer finished early"};
  }
  return std::stoull(std::string{text.begin(), text.end()}, nullptr, 16);
}

int send(Node& node, const std::string& name, const std::string& key, const std::string& endpoint) {
  std::ifstream file{name, std::ios::binary | std::ios::ate};
  if (!file) return fail({"cannot read " + name});
  Progress progress{static_cast<std::uint64_t>(file.tellg())};
  const std::string size = digits(static_cast<std::uint64_t>(file.tellg()));
  file.seekg(0);
  const auto peer = node.connect(key, endpoint);
  if (!peer) return fail(peer.error());
  auto stream = peer->open_stream();
  if (!stream) return fail(stream.error());
  if (const Status sent = stream->write_all(octets_of(size), kPatience); !sent) return fail(sent.error());
  std::vector<char> piece(kPiece);
  while (file.read(piece.data(), kPiece), file.gcount() > 0) {
    const auto count = static_cast<std::size_t>(file.gcount());
    if (const Status sent = stream->write_all(octets_of({piece.data(), count}), kPatience); !sent)
      return fail(sent.error());
    progress.add(count);
  }
  if (const Status finished = stream->finish(); !finished) return fail(finished.error());
  const auto received = read_number(*stream);
  if (!received) return fail(received.error());
  return digits(*received) == size ? 0 : fail({"the peer got " + digits(*received)});
}

int receive(Node& node) {
  std::string key;
  std::cin >> key;
  if (const auto peer = node.add_peer(key); !peer) return fail(peer.error());
  auto stream = node.accept_stream(kPatience);
  if (!stream) return fail(stream.error());
  const auto size = read_number(*stream);
  if (!size) return fail(size.error());
  Progress progress{*size};
  std::vector<std::uint8_t> room(kPiece);
  for (bool finished = false; !finished;) {
    const auto got = stream->read(room, kPatience);
    if (!got) return fail(got.error());
    std::cout.write(reinterpret_cast<const char*>(room.data()), static_cast<std::streamsize>(got->octets));
    progress.add(got->octets);
    finished = got->finished;
  }
  std::cout.flush();
  if (const Status told = stream->write_all(octets_of(digits(progress.done())), kPatience); !told)
    return fail(told.error());
  static_cast<void>(!stream->finish());
  for (int i = 0; i < 10; ++i) static_cast<void>(!node.wait(50ms));  // the answer is on its way
  return progress.done() == *size ? 0 : fail({"the peer promised " + digits(*size)});
}

}  // namespace

int main(int count, char** arguments) {
  const std::vector<std::string> words{arguments, arguments + count};
  const auto node = Node::open();
  if (!node) return fail(node.error());
  std::cerr << (*node)->key_text() << " 127.0.0.1:" << (*node)->port() << std::endl;
  if (words.size() == 2 && words[1] == "receive") return receive(**node);
  if (words.size() == 5 && words[1] == "send") return send(**node, words[2], words[3], words[4]);
  return fail({"usage: receive, or send FILE KEY ADDRESS:PORT"});
}
