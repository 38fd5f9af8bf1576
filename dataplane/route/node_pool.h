// node_pool.h: memory for a trie's nodes and buckets: blocks of 32 octets or whole cache lines, from chunks that grow
// with it.
//
// Why not malloc: a large table's lookups wait for memory, and on small pages mostly for page tables; chunks of 2 MiB
// that ask for huge pages nearly halve a lookup among a million prefixes (README.md). And a bucket of 32 octets costs
// 32. Blocks of lines begin with one, and those of two or more at an even one: a processor fetches both at once.
// Owner: control, alone: also what is retired comes back on its thread. Chunks stay until the last block has come back.
// Under AddressSanitizer each block is the heap's, so that a use after its time is seen, and in a list of the pool's,
// so that one in use counts as reachable: a Ref's tag hides its address from LeakSanitizer.
#pragma once
#include <sys/mman.h>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <new>
#include <utility>
#include <vector>

#include "dataplane/base/check.h"

#if defined(__SANITIZE_ADDRESS__)
#define WG_POOL_IS_HEAP 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define WG_POOL_IS_HEAP 1
#endif
#endif

namespace wireplane::route {

class NodePool {
 public:
  static constexpr std::size_t kLine = 64, kHalf = kLine / 2, kPair = 2 * kLine, kLargest = 17 * kLine;

  NodePool() = default;
  ~NodePool() { release(); }
  NodePool(const NodePool&) = delete;
  NodePool& operator=(const NodePool&) = delete;

  [[nodiscard]] void* take(std::size_t size) {
    WG_CHECK(size <= kLargest);
#ifdef WG_POOL_IS_HEAP
    auto* lent = new (::operator new (kLine + rounded(size), std::align_val_t{kLine})) Lent{&lent_, lent_.next};
    lent->next->before = lent->before->next = lent;
    void* block = reinterpret_cast<std::uint8_t*>(lent) + kLine;
    reserved_ += rounded(size);
#else
    void* block = take_rounded(rounded(size));
#endif
    WG_CHECK(reinterpret_cast<std::uintptr_t>(block) >> 48 == 0);  // a Ref's address is no longer
    ++live_;
    return block;
  }
  void give_back(void* memory, std::size_t size) {
    --live_;
#ifdef WG_POOL_IS_HEAP
    reserved_ -= rounded(size);
    auto* lent = reinterpret_cast<Lent*>(static_cast<std::uint8_t*>(memory) - kLine);
    lent->next->before = lent->before;
    lent->before->next = lent->next;
    ::operator delete (lent, std::align_val_t{kLine});
#else
    put(memory, rounded(size));
    if (live_ == 0) release();
#endif
  }
  // Memory taken from the system.
  [[nodiscard]] std::size_t octets() const { return reserved_; }

 private:
  static constexpr std::size_t kFirstChunk = 4096, kHugePage = std::size_t{1} << 21;
  struct Block {
    Block* next;
  };

  static std::size_t rounded(std::size_t size) { return size <= kHalf ? kHalf : (size + kLine - 1) / kLine * kLine; }
  void put(void* memory, std::size_t size) {
    Block*& head = free_[size / kHalf];
    head = new (memory) Block{head};
  }
  void* take_rounded(std::size_t size) {
    if (Block* block = free_[size / kHalf]; block != nullptr) {
      free_[size / kHalf] = block->next;
      return block;
    }
    if (left_ < size + kLine + kHalf) add_chunk();
    if (size >= kLine && left_ % kLine != 0) put(carve(kHalf), kHalf);
    if (size > kLine && left_ % kPair != 0) put(carve(kLine), kLine);
    return carve(size);
  }
  std::uint8_t* carve(std::size_t size) {
    std::uint8_t* block = next_;
    next_ += size;
    left_ -= size;
    return block;
  }
  void add_chunk() {
    const std::size_t size =
        std::clamp(std::size_t{1} << (63 - __builtin_clzll(reserved_ | 1)), kFirstChunk, kHugePage);
    chunks_.reserve(chunks_.size() + 1 < chunks_.capacity() ? 0 : 2 * chunks_.size() + 8);
    void* chunk = size == kHugePage ? map_huge_page() : std::aligned_alloc(kFirstChunk, size);
    if (chunk == nullptr) throw std::bad_alloc{};
    chunks_.push_back({chunk, size});
    while (left_ != 0) put(carve(kHalf), kHalf);  // what is left of the one before
    next_ = static_cast<std::uint8_t*>(chunk);
    left_ = size;
    reserved_ += size;
  }
  // Not malloc's: what malloc has used before is on small pages, and stays there. Null: no memory.
  static void* map_huge_page() {
    void* both = ::mmap(nullptr, 2 * kHugePage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (both == MAP_FAILED) return nullptr;
    auto* from = static_cast<std::uint8_t*>(both);
    const std::size_t before = (0 - reinterpret_cast<std::uintptr_t>(from)) % kHugePage;
    if (before != 0) ::munmap(from, before);
    ::munmap(from + before + kHugePage, kHugePage - before);
    (void)::madvise(from + before, kHugePage, MADV_HUGEPAGE);  // a wish
    return from + before;
  }
  void release() {
    for (const auto& [chunk, size] : chunks_)
      if (size == kHugePage)
        ::munmap(chunk, size);
      else
        std::free(chunk);
    chunks_.clear();
    free_ = {};
    next_ = nullptr;
    left_ = reserved_ = 0;
  }

#ifdef WG_POOL_IS_HEAP
  struct Lent {  // the line before a block
    Lent *before, *next;
  } lent_{&lent_, &lent_};
#endif
  std::array<Block*, kLargest / kHalf + 1> free_{};
  std::vector<std::pair<void*, std::size_t>> chunks_;
  std::uint8_t* next_{};
  std::size_t left_{}, reserved_{}, live_{};
};

}  // namespace wireplane::route
