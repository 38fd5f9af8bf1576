#include "control/embed/thrifty_pool.h"

#include <sys/mman.h>

#include <algorithm>
#include <array>
#include <new>

#include "drivers/train_buffers.h"

namespace wireplane {

ThriftyPool::ThriftyPool(std::size_t buffers, std::size_t data_room)
    : count_{buffers},
      data_room_{data_room},
      stride_{(kHeadroom + data_room + kTailroom + kCacheLine - 1) / kCacheLine * kCacheLine} {
  void* memory = ::mmap(nullptr, count_ * stride_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) throw std::bad_alloc{};
  ::madvise(memory, count_ * stride_, MADV_NOHUGEPAGE);
  memory_ = static_cast<std::uint8_t*>(memory);
  descriptors_ = std::make_unique<Buffer[]>(count_);
  free_.reserve(count_);
  for (std::size_t i = count_; i-- != 0;) {
    Buffer& buffer = descriptors_[i];
    buffer.memory = memory_ + i * stride_;
    buffer.pool = this;
    buffer.native = nullptr;
    buffer.size = static_cast<std::uint32_t>(stride_);
    buffer.references.store(1, std::memory_order_relaxed);
    free_.push_back(&buffer);
  }
}

ThriftyPool::~ThriftyPool() { ::munmap(memory_, count_ * stride_); }

std::size_t ThriftyPool::take(Buffer** out, std::size_t count) {
  const std::lock_guard lock{mutex_};
  count = std::min(count, free_.size());
  std::copy_n(free_.end() - static_cast<std::ptrdiff_t>(count), count, out);  // the top of the stack goes out last
  free_.resize(free_.size() - count);
  return count;
}

void ThriftyPool::give(Buffer* const* buffers, std::size_t count) {
  const std::lock_guard lock{mutex_};
  free_.insert(free_.end(), buffers, buffers + count);  // reserved: nothing is allocated
}

std::size_t ThriftyPool::available() const {
  const std::lock_guard lock{mutex_};
  return free_.size();
}

namespace {

// As in BufferCache::release, B1: the last one to let go sees what every other holder wrote. One holder is the usual
// case: no lock prefix, and nothing is written.
bool let_go(Buffer& buffer) {
  if (buffer.references.load(std::memory_order_acquire) == 1) return true;
  if (buffer.references.fetch_sub(1, std::memory_order_acq_rel) != 1) return false;
  buffer.references.store(1, std::memory_order_relaxed);
  return true;
}

}  // namespace

void release(Buffer* buffer) {
  if (let_go(*buffer)) buffer->pool->give(&buffer, 1);
}

void release(Buffer* const* buffers, std::size_t count) {
  std::array<Buffer*, 64> free;
  std::size_t freed = 0;
  for (std::size_t i = 0; i < count;) {
    const std::size_t some = sharing(buffers + i, count - i, [](const Buffer* buffer) { return buffer; });
    if (some > 1) let_go_of_some(*buffers[i], some - 1);
    if (let_go(*buffers[i])) free[freed++] = buffers[i];
    i += some;
  }
  if (freed != 0) free[0]->pool->give(free.data(), freed);
}

}  // namespace wireplane
