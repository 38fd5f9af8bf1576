// Memory that is not there: each allocation of a node's and a stream's life fails once, one after the other, and then
// all from there on. Whatever it was, the application gets ENOMEM or another reason, nothing is thrown or lost, and
// when there is memory again, the nodes go on. (usrsctp's own memory is not among it: it comes from malloc() directly;
// embed_sctp_memory_test.cpp.)
#include <gtest/gtest.h>

#include <array>
#include <cerrno>
#include <cstdlib>
#include <new>
#include <string>
#include <utility>
#include <vector>

#include "control/embed/node.h"

namespace {

// Of this thread: how many allocations still succeed; less than 0: all of them.
thread_local long left_to_succeed = -1;
thread_local bool fails_once = true, failed = false;

bool fails_now() {
  if (left_to_succeed < 0) return false;
  if (left_to_succeed != 0) {
    --left_to_succeed;
    return false;
  }
  if (fails_once) left_to_succeed = -1;
  failed = true;
  return true;
}

}  // namespace

#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wpragmas"
#pragma GCC diagnostic ignored "-Wunknown-warning-option"
#pragma GCC diagnostic ignored "-Wmismatched-new-delete"  // these are both ends of it
void* operator new(std::size_t size) {
  void* memory = fails_now() ? nullptr : std::malloc(size == 0 ? 1 : size);
  if (memory == nullptr) throw std::bad_alloc{};
  return memory;
}
void* operator new(std::size_t size, std::align_val_t alignment) {
  const auto align = static_cast<std::size_t>(alignment);
  void* memory = fails_now() ? nullptr : std::aligned_alloc(align, (size + align - 1) / align * align);
  if (memory == nullptr) throw std::bad_alloc{};
  return memory;
}
void* operator new[](std::size_t size) { return operator new(size); }
void* operator new[](std::size_t size, std::align_val_t alignment) { return operator new(size, alignment); }
void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, std::size_t) noexcept { std::free(memory); }
void operator delete(void* memory, std::align_val_t) noexcept { std::free(memory); }
void operator delete(void* memory, std::size_t, std::align_val_t) noexcept { std::free(memory); }
void operator delete[](void* memory) noexcept { std::free(memory); }
void operator delete[](void* memory, std::size_t) noexcept { std::free(memory); }
void operator delete[](void* memory, std::align_val_t) noexcept { std::free(memory); }
void operator delete[](void* memory, std::size_t, std::align_val_t) noexcept { std::free(memory); }
#pragma GCC diagnostic pop

#if defined(__SANITIZE_THREAD__)
// usrsctp starts a thread that sleeps for ever (sctp_stack.h); where new and delete are ours, TSan counts it as lost.
extern "C" const char* __tsan_default_options() { return "report_thread_leaks=0"; }
#endif

namespace wireplane {
namespace {

NodeOptions small() { return {.ipv6 = false, .peers = 8, .queue = 64, .socket_buffer_octets = 1 << 16}; }

// What two nodes do in their lives. Ends at the first failure; true: none.
struct Life {
  Life(Node& first, Node& second) : a{first}, b{second} { codes.reserve(1000); }
  Node &a, &b;
  std::vector<int> codes{};  // what was said instead of done
  const std::string key = b.key_text(), there = "127.0.0.1:" + std::to_string(b.port());

  template <class T>
  bool good(const Result<T>& result) {
    if (!result) codes.push_back(result.error().code);
    return static_cast<bool>(result);
  }
  template <class Reached>
  bool until(Reached reached) {
    for (int turn = 0; turn < 40; ++turn) {
      if (reached()) return true;
      static_cast<void>(good(a.process()));
      static_cast<void>(good(b.process()));
    }
    return false;
  }
  bool live() {
    if (!good(b.add_peer(a.key()))) return false;
    const auto peer = a.connect(key, there);
    if (!good(peer)) return false;
    const std::array<std::uint8_t, 100> octets{1};
    if (!good(a.send(*peer, octets))) return false;
    auto stream = peer->open_stream(Stream::Kind::kMessages);
    if (!good(stream) || !good(stream->write(octets))) return false;
    stream->set_deadline(10s);
    Stream accepted;
    std::size_t datagrams = 0;
    const bool arrived = until([&] {
      datagrams += b.receive([](const Received&) {});
      if (!accepted)
        if (auto got = b.accept_stream(); got && got->peer().key == a.key())
          accepted = *got;  // else of an earlier life
      return accepted && datagrams != 0;
    });
    if (!arrived) return false;
    std::array<std::uint8_t, 200> room;
    if (!until([&] {
          const auto got = accepted.read(room);
          return got && got->octets == 100;
        }))
      return false;
    if (!good(accepted.write(octets)) || !good(accepted.finish())) return false;
    if (!until([&] { return static_cast<bool>(stream->read(room)); })) return false;
    if (!good(stream->finish())) return false;
    NodeEvent event;
    while (a.next_event(event)) continue;
    stream = accepted = {};
    return good(a.remove_peer(b.key())) && good(b.remove_peer(a.key()));
  }
};

void exhaust(bool once, long step) {
  bool complete = false;
  long tried = 0, lost = 0;
  for (long at = 0; !complete; at += step, ++tried) {
    auto a = std::move(*Node::open(small())), b = std::move(*Node::open(small()));
    Life life{*a, *b};
    fails_once = once;
    failed = false;
    left_to_succeed = at;
    complete = life.live();
    left_to_succeed = -1;
    if (failed) complete = false;
    lost += failed && life.codes.empty();
    for (const int code : life.codes)
      EXPECT_TRUE(code == ENOMEM || code == ENOENT || code == EAGAIN || code == ECONNRESET || code == EPIPE)
          << code << " at " << at;
    ASSERT_LT(at, 100000);
    // Both can still be used: a third one speaks to each.
    for (Node* node : {a.get(), b.get()}) {
      static_cast<void>(!node->process());
      auto c = std::move(*Node::open(small()));
      Life other{*c, *node};
      ASSERT_TRUE(other.live()) << "after allocation " << at << (once ? " failed: " : " and all later ones failed: ")
                                << (other.codes.empty() ? 0 : other.codes.back());
    }
    for (Node* node : {a.get(), b.get()}) {
      for (int turn = 0; turn < 20; ++turn) {
        node->receive([](const Received&) {});
        static_cast<void>(!node->process());
      }
      node->receive([](const Received&) {});
      const NodeStats stats = node->stats();
      EXPECT_EQ(stats.queued_in + stats.queued_out, 0u);
    }
  }
  std::printf("%ld allocations failed, %ld without anybody being told\n", tried, lost);
  EXPECT_GT(tried * step, 80);
}

// Goal: also where a node has threads, it is opened or refused, and no thread is left behind.
TEST(EmbedMemory, ANodeWithThreadsIsOpenedOrRefused) {
  ASSERT_TRUE(Node::open(small()));  // what a process allocates once
  fails_once = true;
  long refused = 0;
  for (long at = 0;; ++at, ++refused) {
    failed = false;
    NodeOptions its = small();
    its.workers = 2;
    left_to_succeed = at;
    const auto node = Node::open(std::move(its));
    left_to_succeed = -1;
    if (!failed) break;
    if (!node) {
      EXPECT_EQ(node.error().code, ENOMEM) << at;
    }
    ASSERT_LT(at, 10000);
  }
  EXPECT_GT(refused, 20);
}

// Goal and method: the head of this file. A handshake or a datagram that lacked memory is lost, as in the network.
TEST(EmbedMemory, EachAllocationMayFailOnce) { exhaust(true, 1); }
TEST(EmbedMemory, AllAllocationsMayFailFromSomewhereOn) { exhaust(false, 1); }

// Goal: a node that cannot be opened for want of memory leaves nothing behind.
TEST(EmbedMemory, OpeningFailsWholly) {
  long at = 0;
  for (bool opened = false; !opened; ++at) {
    fails_once = true;
    left_to_succeed = at;
    const auto node = Node::open(small());
    left_to_succeed = -1;
    opened = static_cast<bool>(node);
    if (!opened) {
      EXPECT_EQ(node.error().code, ENOMEM) << at << ": " << node.error().what;
    }
    ASSERT_LT(at, 10000);
  }
  EXPECT_GT(at, 20);
}

}  // namespace
}  // namespace wireplane
