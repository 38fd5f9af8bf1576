#include "dataplane/base/buffer_pool.h"

#include <sys/mman.h>

#include <new>

namespace wireplane {
namespace {

constexpr std::size_t kHugePage = std::size_t{2} << 20;

std::size_t round_up(std::size_t value, std::size_t to) { return (value + to - 1) / to * to; }

}  // namespace

MemoryPool::MemoryPool(std::size_t buffers, std::size_t data_room)
    : count_{buffers},
      data_room_{data_room},
      stride_{round_up(kHeadroom + data_room + kTailroom, kCacheLine)},
      mapped_{round_up(buffers * stride_, kHugePage)},
      free_{std::bit_ceil(buffers)} {
  void* memory = ::mmap(nullptr, mapped_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) throw std::bad_alloc{};
  ::madvise(memory, mapped_, MADV_HUGEPAGE);  // a wish: without it everything works, with more TLB misses
  memory_ = static_cast<std::uint8_t*>(memory);
  descriptors_ = std::make_unique<Buffer[]>(count_);
  for (std::size_t i = 0; i < count_; ++i) {
    Buffer& buffer = descriptors_[i];
    buffer.memory = memory_ + i * stride_;
    buffer.pool = this;
    buffer.native = nullptr;
    buffer.size = static_cast<std::uint32_t>(stride_);
    buffer.references.store(1, std::memory_order_relaxed);
    WG_CHECK(free_.push(&buffer));
  }
}

MemoryPool::~MemoryPool() { ::munmap(memory_, mapped_); }

std::size_t MemoryPool::take(Buffer** out, std::size_t count) {
  std::size_t taken = 0;
  while (taken < count && free_.pop(out[taken])) ++taken;
  return taken;
}

void MemoryPool::give(Buffer* const* buffers, std::size_t count) {
  // As many places as buffers: a full ring means that another thread has taken a buffer out of this very place and has
  // not yet said so (it was interrupted there). It will.
  for (std::size_t i = 0; i < count; ++i)
    while (!free_.push(buffers[i])) __builtin_ia32_pause();
}

}  // namespace wireplane
