// train_buffers.h: buffers for whole trains: datagrams that lie as they pass the kernel, one behind the other.
//
//   Buffer, 64 KiB --> |headroom|16 text tag|16 text tag|16 text tag| ...     a Packet each, a reference each
//
// So a train is one piece of memory to the kernel, and nobody copies it. Each datagram's header and tag are its own;
// beyond them begins its neighbour: such packets may be opened, sealed and read in place, not grow.
//
// The pool keeps one reference of each buffer for itself, so that whoever lets go of a packet needs to know nothing of
// this: a buffer with one reference is free. Few, touched only as far as they are used, the first ones first. A packet
// that somebody keeps holds its whole train; who finds none free does as if there were no such buffers.
#pragma once
#include <memory>

#include "dataplane/base/buffer_pool.h"
#include "dataplane/base/zero_pages.h"

namespace wireplane {

class TrainBuffers final : public BufferPool {
 public:
  static constexpr std::size_t kRoom = 65'536;  // more than a train has

  explicit TrainBuffers(std::size_t count);

  // With one reference, the caller's; null: none is free. Any thread.
  [[nodiscard]] Buffer* take();
  [[nodiscard]] std::size_t take(Buffer** out, std::size_t count) override;
  void give(Buffer* const*, std::size_t) override {}  // the last reference is ours: nobody drops it
  [[nodiscard]] std::size_t capacity() const override { return count_; }
  [[nodiscard]] std::size_t available() const override;
  [[nodiscard]] std::size_t data_room() const override { return kRoom; }

 private:
  const std::size_t count_;
  ZeroPages memory_;
  std::unique_ptr<Buffer[]> descriptors_;
};

// Drops references of a buffer that has more than these.
inline void let_go_of_some(Buffer& buffer, std::size_t references) {
  buffer.references.fetch_sub(static_cast<std::uint32_t>(references), std::memory_order_acq_rel);
}

// How many of `count` things from `first` on, one at least, share the buffer of the first.
template <class T, class BufferOf>
std::size_t sharing(const T* first, std::size_t count, BufferOf buffer_of) {
  std::size_t n = 1;
  while (n < count && buffer_of(first[n]) == buffer_of(first[0])) ++n;
  return n;
}

}  // namespace wireplane
