// buffer_pool.h: the memory packets live in. One pool an engine, its size fixed at start; a cache a worker.
//
//   Buffer descriptor --> |<- kHeadroom ->|<------- data room ------->|<- kTailroom ->|
//                         outer headers    the datagram                 padding, tag
//
// A burst holds Packet views into Buffers; one Buffer may carry many Packets (a super-packet), hence the count. The
// pool is anonymous memory (MemoryPool here), or an rte_mempool with the descriptor in the mbuf's private area
// (drivers/ethdev).
#pragma once
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>

#include "dataplane/base/ring.h"

namespace wireplane {

constexpr std::size_t kHeadroom = 128;  // Ethernet + VLAN + IPv6 + UDP + our 16: 82; DPDK's own is 128
constexpr std::size_t kTailroom = 48;   // padding 15 + tag 16, and room for a kernel's last masked store

class BufferPool;

struct Buffer {
  std::uint8_t* memory;  // size octets
  BufferPool* pool;      // where it goes when the last reference is dropped
  void* native;          // the driver's own descriptor (rte_mbuf), or null
  std::uint32_t size;    // headroom, data room and tailroom
  std::atomic<std::uint32_t> references;
};

class BufferPool {
 public:
  virtual ~BufferPool() = default;
  // Any thread; in bulk. take: how many were there (each with one reference). give: their references are already gone.
  [[nodiscard]] virtual std::size_t take(Buffer** out, std::size_t count) = 0;
  virtual void give(Buffer* const* buffers, std::size_t count) = 0;
  [[nodiscard]] virtual std::size_t capacity() const = 0;
  [[nodiscard]] virtual std::size_t available() const = 0;  // a guess while others work; without what caches hold
  [[nodiscard]] virtual std::size_t data_room() const = 0;  // octets between headroom and tailroom
};

// Anonymous memory, huge pages where the host gives them.
class MemoryPool final : public BufferPool {
 public:
  MemoryPool(std::size_t buffers, std::size_t data_room);
  ~MemoryPool() override;
  MemoryPool(const MemoryPool&) = delete;
  MemoryPool& operator=(const MemoryPool&) = delete;

  [[nodiscard]] std::size_t take(Buffer** out, std::size_t count) override;
  void give(Buffer* const* buffers, std::size_t count) override;
  [[nodiscard]] std::size_t capacity() const override { return count_; }
  [[nodiscard]] std::size_t available() const override { return free_.size(); }
  [[nodiscard]] std::size_t data_room() const override { return data_room_; }

 private:
  std::size_t count_, data_room_, stride_, mapped_;
  std::uint8_t* memory_;
  std::unique_ptr<Buffer[]> descriptors_;
  MpmcRing<Buffer*> free_;
};

// A worker's own few hundred buffers, so that the shared ring is visited once in kBulk packets. Not thread-safe.
class BufferCache {
 public:
  explicit BufferCache(BufferPool& pool) : pool_{&pool} {}
  ~BufferCache() { drain(); }
  BufferCache(const BufferCache&) = delete;
  BufferCache& operator=(const BufferCache&) = delete;

  [[nodiscard]] Buffer* take() {  // null: the pool is empty
    if (held_ == 0) held_ = pool_->take(buffers_, kBulk);
    return held_ == 0 ? nullptr : buffers_[--held_];
  }
  void release(Buffer* buffer) {  // drops one reference
    // B1 acq_rel: the last one to let go sees what every other holder wrote. One holder is the usual case: nothing is
    // written, because the descriptors of two buffers are in one line, and the other may be in another worker's hands.
    if (buffer->references.load(std::memory_order_acquire) != 1) [[unlikely]] {
      if (buffer->references.fetch_sub(1, std::memory_order_acq_rel) != 1) return;
      buffer->references.store(1, std::memory_order_relaxed);
    }
    if (held_ == kSize) flush(kBulk);
    buffers_[held_++] = buffer;
  }
  void drain() { flush(held_); }  // before the worker sleeps for long, and at its end
  [[nodiscard]] BufferPool& pool() const { return *pool_; }

 private:
  static constexpr std::size_t kBulk = 64, kSize = 256;
  void flush(std::size_t count) {
    held_ -= count;
    if (count != 0) pool_->give(buffers_ + held_, count);
  }
  BufferPool* pool_;
  std::size_t held_ = 0;
  Buffer* buffers_[kSize];
};

}  // namespace wireplane
