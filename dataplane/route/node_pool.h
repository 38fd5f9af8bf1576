// node_pool.h: memory for a trie's nodes and buckets: blocks of 32 octets or whole cache lines, from chunks that grow
// with it.
//
// Why not malloc: a large table's lookups wait for memory, and on small pages mostly for page tables; chunks of 2 MiB
// that ask for huge pages nearly halve a lookup among a million prefixes (README.md). And a bucket of 32 octets costs
// 32. Blocks of lines begin with one, and those of two or more at an even one: a processor fetches both at once.
// What comes back joins what is free beside it (boundary tags: Knuth, TAOCP 1, 2.5), and the smallest that holds a
// block is cut for it: a table that changes its shape needs other sizes, and what it leaves would lie idle otherwise.
// Owner: control, alone: also what is retired comes back on its thread. Chunks stay until the last block has come back.
// Under AddressSanitizer each block is the heap's, so that a use after its time is seen, and in a list of the pool's,
// so that one in use counts as reachable: a Ref's tag hides its address from LeakSanitizer.
#pragma once
#include <sys/mman.h>

#include <algorithm>
#include <array>
#include <bit>
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

  static constexpr std::size_t kPlenty = std::size_t{32} << 20;

  explicit NodePool(std::size_t plenty = kPlenty) : plenty_{plenty} {}
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
    const auto from = reinterpret_cast<std::uintptr_t>(memory);
    if (live_ == 0)
      release();
    else
      join_and_put(from, from + rounded(size));
#endif
  }
  // Memory taken from the system.
  [[nodiscard]] std::size_t octets() const { return reserved_; }
  // So much is taken that nodes are to be small rather than quick.
  [[nodiscard]] bool dear() const { return reserved_ >= plenty_; }

 private:
  static constexpr std::size_t kFirstChunk = 4096, kHugePage = std::size_t{1} << 21;
  static std::size_t rounded(std::size_t size) { return size <= kHalf ? kHalf : (size + kLine - 1) / kLine * kLine; }
  static std::uintptr_t aligned(std::uintptr_t at, std::size_t to) { return (at + to - 1) & ~(to - 1); }

  // A free piece begins with this and ends with its size.
  struct Free {
    Free *next, *before;  // `before` is not kept in a list's first: its cold neighbour need not be touched to take it
    std::size_t size;
  };
  static_assert(sizeof(Free) + sizeof(std::size_t) <= kHalf);

  // What a chunk of a huge page begins with: which of its halves of lines are the first or the last of a free piece.
  struct Map {
    std::array<std::uint64_t, kHugePage / kHalf / 64> words;
    static std::size_t half(std::uintptr_t at) { return at % kHugePage / kHalf; }
    [[nodiscard]] bool has(std::uintptr_t at) const { return (words[half(at) / 64] >> half(at) % 64 & 1) != 0; }
    void set(std::uintptr_t at) { words[half(at) / 64] |= std::uint64_t{1} << half(at) % 64; }
    void clear(std::uintptr_t at) { words[half(at) / 64] &= ~(std::uint64_t{1} << half(at) % 64); }
  };
  // Null: a small chunk's; those were there first.
  [[nodiscard]] Map* map_of(std::uintptr_t at) const {
    for (const auto& [chunk, size] : chunks_) {
      if (size == kHugePage) return reinterpret_cast<Map*>(at & ~(kHugePage - 1));
      if (at - reinterpret_cast<std::uintptr_t>(chunk) < size) return nullptr;
    }
    return nullptr;
  }

  // Free pieces are kept by the largest block that can be cut from them: half a line, a line, two, three ...
  static constexpr std::size_t kBins = kLargest / kLine + 1;
  static std::size_t bin_of(std::uintptr_t from, std::uintptr_t to) {
    if (const std::uintptr_t pair = aligned(from, kPair); pair + kPair <= to)
      return std::min((to - pair) / kLine, kBins - 1);
    return aligned(from, kLine) + kLine <= to ? 1 : 0;
  }
  void put(Map* map, std::uintptr_t from, std::uintptr_t to) {
    if (from == to) return;
    const std::size_t bin = bin_of(from, to);
    auto* piece = new (reinterpret_cast<void*>(from)) Free{free_[bin], nullptr, to - from};
    if (piece->next != nullptr) piece->next->before = piece;
    free_[bin] = piece;
    filled_ |= std::uint32_t{1} << bin;
    if (map != nullptr) {
      size_before(to) = to - from;
      map->set(from);
      map->set(to - kHalf);
    }
  }
  void remove(Map* map, Free* piece) {
    const auto from = reinterpret_cast<std::uintptr_t>(piece), to = from + piece->size;
    if (Free*& first = free_[bin_of(from, to)]; first == piece) {
      first = piece->next;
      if (first == nullptr) filled_ &= ~(std::uint32_t{1} << bin_of(from, to));
    } else {
      piece->before->next = piece->next;
      if (piece->next != nullptr) piece->next->before = piece->before;
    }
    if (map != nullptr) {
      map->clear(from);
      map->clear(to - kHalf);
    }
  }
  static std::size_t& size_before(std::uintptr_t end) {
    return *reinterpret_cast<std::size_t*>(end - sizeof(std::size_t));
  }

  void join_and_put(std::uintptr_t from, std::uintptr_t to) {
    Map* const map = map_of(from);
    if (map != nullptr) {  // neither the map nor the chunk's last half of a line is ever free
      if (map->has(to)) {
        auto* const after = reinterpret_cast<Free*>(to);
        to += after->size;
        remove(map, after);
      }
      if (map->has(from - kHalf)) {
        from -= size_before(from);
        remove(map, reinterpret_cast<Free*>(from));
      }
    }
    put(map, from, to);
  }
  void* take_rounded(std::size_t size) {
    const std::size_t bin = size / kLine;
    if (filled_ >> bin == 0) add_chunk();
    Free* const piece = free_[bin + static_cast<std::size_t>(std::countr_zero(filled_ >> bin))];
    const auto from = reinterpret_cast<std::uintptr_t>(piece), to = from + piece->size;
    Map* const map = map_of(from);
    remove(map, piece);
    const std::uintptr_t block = aligned(from, std::min(size, kPair));
    put(map, from, block);
    put(map, block + size, to);
    return reinterpret_cast<void*>(block);
  }
  void add_chunk() {
    const std::size_t size =
        std::clamp(std::size_t{1} << (63 - __builtin_clzll(reserved_ | 1)), kFirstChunk, kHugePage);
    chunks_.reserve(chunks_.size() + 1 < chunks_.capacity() ? 0 : 2 * chunks_.size() + 8);
    void* chunk = size == kHugePage ? map_huge_page() : std::aligned_alloc(kFirstChunk, size);
    if (chunk == nullptr) throw std::bad_alloc{};
    chunks_.push_back({chunk, size});
    reserved_ += size;
    const auto at = reinterpret_cast<std::uintptr_t>(chunk);
    if (size == kHugePage)
      put(static_cast<Map*>(chunk), at + sizeof(Map), at + size - kHalf);
    else
      put(nullptr, at, at + size);
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
    filled_ = 0;
    reserved_ = 0;
  }

#ifdef WG_POOL_IS_HEAP
  struct Lent {  // the line before a block
    Lent *before, *next;
  } lent_{&lent_, &lent_};
#endif
  std::array<Free*, kBins> free_{};
  std::uint32_t filled_{};  // which of them hold something
  std::vector<std::pair<void*, std::size_t>> chunks_;
  std::size_t plenty_, reserved_{}, live_{};
};

}  // namespace wireplane::route
