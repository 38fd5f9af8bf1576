#include "drivers/train_buffers.h"

namespace wireplane {
namespace {

constexpr std::size_t kSize = kHeadroom + TrainBuffers::kRoom + kTailroom;
constexpr std::size_t kStride = (kSize + 4095) / 4096 * 4096 + 64;  // not all beginnings in one set of the cache

}  // namespace

TrainBuffers::TrainBuffers(std::size_t count)
    : count_{count}, memory_{count * kStride}, descriptors_{std::make_unique<Buffer[]>(count)} {
  for (std::size_t i = 0; i < count_; ++i) {
    Buffer& buffer = descriptors_[i];
    buffer.memory = static_cast<std::uint8_t*>(memory_.get()) + i * kStride;
    buffer.pool = this;
    buffer.native = nullptr;
    buffer.size = kSize;
    buffer.references.store(1, std::memory_order_relaxed);
  }
}

// T1 acquire: pairs with whoever dropped a reference (acq_rel): what was read of the last train has been read.
Buffer* TrainBuffers::take() {
  for (std::size_t i = 0; i < count_; ++i) {
    std::atomic<std::uint32_t>& references = descriptors_[i].references;
    std::uint32_t free = 1;
    if (references.load(std::memory_order_relaxed) == free &&
        references.compare_exchange_strong(free, 2, std::memory_order_acquire))
      return &descriptors_[i];
  }
  return nullptr;
}

std::size_t TrainBuffers::take(Buffer** out, std::size_t count) {
  std::size_t taken = 0;
  while (taken < count && (out[taken] = take()) != nullptr) ++taken;
  return taken;
}

std::size_t TrainBuffers::available() const {
  std::size_t count = 0;
  for (std::size_t i = 0; i < count_; ++i) count += descriptors_[i].references.load(std::memory_order_relaxed) == 1;
  return count;
}

}  // namespace wireplane
