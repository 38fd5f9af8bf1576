// thrifty_pool.h: buffers of a node inside an application: as little memory as the traffic needs.
//
// The last buffer that came back is the next to be taken, and no huge pages are asked for: of a pool for the worst
// burst, an almost idle node touches a few pages (MemoryPool rotates through all of its buffers, and is faster between
// many cores). Any thread; the lock is taken once in a bulk of 64 packets.
#pragma once
#include <memory>
#include <mutex>
#include <vector>

#include "dataplane/base/buffer_pool.h"

namespace wireplane {

class ThriftyPool final : public BufferPool {
 public:
  ThriftyPool(std::size_t buffers, std::size_t data_room);
  ~ThriftyPool() override;
  ThriftyPool(const ThriftyPool&) = delete;
  ThriftyPool& operator=(const ThriftyPool&) = delete;

  [[nodiscard]] std::size_t take(Buffer** out, std::size_t count) override;
  void give(Buffer* const* buffers, std::size_t count) override;
  [[nodiscard]] std::size_t capacity() const override { return count_; }
  [[nodiscard]] std::size_t available() const override;
  [[nodiscard]] std::size_t data_room() const override { return data_room_; }

 private:
  const std::size_t count_, data_room_, stride_;
  std::uint8_t* memory_;
  std::unique_ptr<Buffer[]> descriptors_;
  mutable std::mutex mutex_;
  std::vector<Buffer*> free_;  // a stack; guarded by mutex_
};

// Drops one reference; back to its pool with the last. Any thread.
void release(Buffer* buffer);
void release(Buffer* const* buffers,
             std::size_t count);  // up to 64, of trains or of one pool, whose lock is taken once

}  // namespace wireplane
