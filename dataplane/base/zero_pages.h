// zero_pages.h: memory of a size known at start: zero, touched when first used, on huge pages where it is large.
//
// A table among which packets of a million peers jump about waits mostly for page tables when its pages are small; a
// small one, of a node inside an application, must not cost a huge page.
#pragma once
#include <sys/mman.h>

#include <cstddef>
#include <new>
#include <utility>

namespace wireplane {

// A wish: without huge pages all works, more slowly.
inline void wish_for_huge_pages(void* memory, std::size_t octets) {
  constexpr std::size_t kLarge = std::size_t{16} << 20;
  if (octets >= kLarge) ::madvise(memory, octets, MADV_HUGEPAGE);
}

class ZeroPages {
 public:
  explicit ZeroPages(std::size_t octets)
      : octets_{octets},
        memory_{::mmap(nullptr, octets, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0)} {
    if (memory_ == MAP_FAILED) throw std::bad_alloc{};
    wish_for_huge_pages(memory_, octets_);
  }
  ~ZeroPages() {
    if (memory_ != nullptr) ::munmap(memory_, octets_);
  }
  ZeroPages(ZeroPages&& from) noexcept : octets_{from.octets_}, memory_{std::exchange(from.memory_, nullptr)} {}
  ZeroPages& operator=(ZeroPages&&) = delete;

  [[nodiscard]] void* get() const { return memory_; }

 private:
  std::size_t octets_;
  void* memory_;
};

}  // namespace wireplane
