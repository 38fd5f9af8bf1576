// A process without memory keeps its streams: usrsctp takes its memory from malloc() unseen, so it must not be called
// when there is none. Method: address space is limited and eaten up, but for so many octets, while two nodes talk over
// streams, open and close some; then all is there again, and they must understand each other. Nothing is thrown.
#include <gtest/gtest.h>
#include <malloc.h>
#include <sys/resource.h>

#include <array>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "control/embed/node.h"
#include "tests/support/nodes.h"

namespace wireplane {
namespace {

using test::loopback;
using test::open;
using test::SteadyClock;

// All the memory there is, but for `but_for` octets or so.
class Hog {
 public:
  explicit Hog(std::size_t but_for) {
    std::size_t now = 0;
    if (std::FILE* const file = std::fopen("/proc/self/statm", "r")) {
      if (std::fscanf(file, "%zu", &now) != 1) now = 0;
      std::fclose(file);
    }
    ::getrlimit(RLIMIT_AS, &before_);
    rlimit tight = before_;
    tight.rlim_cur = now * 4096 + (4 << 20);
    ::setrlimit(RLIMIT_AS, &tight);
    for (std::size_t size = 1 << 20; size >= 32;)
      if (auto* block = static_cast<Block*>(std::malloc(size)))
        *block = {first_, size}, first_ = block;
      else
        size /= 2;
    for (std::size_t given = 0; given < but_for && first_ != nullptr;) given += give();
  }
  ~Hog() {
    ::setrlimit(RLIMIT_AS, &before_);
    while (first_ != nullptr) give();
  }
  Hog(const Hog&) = delete;
  Hog& operator=(const Hog&) = delete;

 private:
  struct Block {
    Block* next;
    std::size_t size;
  };
  std::size_t give() {
    Block* const block = first_;
    const std::size_t size = block->size;
    first_ = block->next;
    std::free(block);
    return size;
  }
  rlimit before_{};
  Block* first_ = nullptr;
};

struct Codes {  // what was said, without memory to say it in
  std::array<unsigned, 256> seen{};
  template <class T>
  bool note(const Result<T>& result) {
    if (!result) ++seen[static_cast<unsigned>(result.error().code) % 256];
    return static_cast<bool>(result);
  }
};

TEST(StreamMemory, AProcessWithoutMemoryKeepsItsStreams) {
  const auto a = open({.peers = 8, .queue = 64}), b = open({.peers = 8, .queue = 64});
  ASSERT_TRUE(b->add_peer(a->key()));
  const Connection ab = *a->connect(b->key_text(), loopback(*b));
  Codes codes;
  unsigned refused = 0;
  for (const std::size_t left : {0, 100, 1'000, 4'000, 16'000, 30'000, 60'000, 100'000, 300'000, 0})
    for (int round = 0; round < 4; ++round) {
      auto opened = ab.open_stream();
      for (int i = 0; !opened && opened.error().code == EMFILE && i < 5000;
           ++i) {  // what was closed is still under way
        static_cast<void>(!a->wait(1ms));
        static_cast<void>(!b->wait(1ms));
        while (b->accept_stream()) continue;
        opened = ab.open_stream();
      }
      ASSERT_TRUE(opened) << opened.error().what << ": " << left << " octets left, round " << round;
      Stream ours = *opened, theirs;
      {
        static const std::array<std::uint8_t, 5'000> words{1};
        static std::array<std::uint8_t, 5'000> room;
        const Hog hog{left};
        for (int i = 0; i < 40; ++i) {
          refused += !codes.note(ours.write(std::span{words}.first(i % 8 == 7 ? 5'000 : 50)));
          static_cast<void>(codes.note(a->process()));
          static_cast<void>(codes.note(b->process()));
          if (i % 5 == round) {
            if (auto accepted = b->accept_stream(); codes.note(accepted)) theirs = *accepted;
            if (auto another = ab.open_stream(); codes.note(another))
              static_cast<void>(codes.note(another->write(words)));
          }
          if (theirs) static_cast<void>(codes.note(theirs.read(room)));
          if (i == 30 && round == 2) static_cast<void>(codes.note(ours.finish()));
        }
      }
      ours = theirs = {};
      bool understood = false;
      Stream fresh;
      const auto end = SteadyClock::now() + std::chrono::seconds{20};
      for (int i = 0; !understood && SteadyClock::now() < end; ++i) {
        if (!fresh || (i % 500 == 499))
          if (auto again = ab.open_stream()) fresh = *again;
        if (fresh) static_cast<void>(!fresh.write(std::array<std::uint8_t, 3>{7, 7, 7}));
        static_cast<void>(!a->wait(1ms));
        static_cast<void>(!b->wait(1ms));
        while (auto accepted = b->accept_stream()) {
          std::array<std::uint8_t, 3> room{};
          const auto got = accepted->read(room);
          understood = understood || (got && got->octets == 3 && room[2] == 7);
        }
      }
      ASSERT_TRUE(understood) << left << " octets left, round " << round;
    }
  for (unsigned code = 0; code < codes.seen.size(); ++code) {
    if (codes.seen[code] == 0) continue;
    std::printf("%u times: %s\n", codes.seen[code], std::strerror(static_cast<int>(code)));
    EXPECT_TRUE(code == EAGAIN || code == ENOMEM || code == ECONNRESET || code == EPIPE || code == EMFILE ||
                code == EHOSTUNREACH)
        << code;
  }
  EXPECT_GT(refused, 100u);
}

}  // namespace
}  // namespace wireplane
