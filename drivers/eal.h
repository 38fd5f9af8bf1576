// eal.h: DPDK's environment, once a process, and its packet memory as our BufferPool. Only for the ethdev module.
//
//   rte_mbuf 128 | Buffer (private area) | headroom 128 | data room | tailroom 48 |
//
// A Buffer in our hands is an mbuf with one reference, outside of the pool. Without huge pages EAL runs on ordinary
// memory, sized at its start.
#pragma once
#include <rte_mbuf.h>
#include <rte_mempool.h>

#include <string>
#include <vector>

#include "dataplane/base/buffer_pool.h"
#include "dataplane/base/result.h"

namespace wireplane {

// The first call starts EAL; later ones check nothing and succeed. `pci`: PCI addresses that EAL may touch.
[[nodiscard]] Status start_eal(const std::vector<std::string>& pci, const std::vector<std::string>& extra,
                               std::size_t memory_octets);
[[nodiscard]] bool eal_has_huge_pages();

// Gives the calling thread one of DPDK's per-thread caches, until it ends. Cheap after the first call.
void register_this_thread();

class MempoolBuffers final : public BufferPool {
 public:
  [[nodiscard]] static Result<std::unique_ptr<MempoolBuffers>> create(std::size_t buffers, std::size_t data_room);
  [[nodiscard]] static std::size_t memory_octets(std::size_t buffers, std::size_t data_room);
  ~MempoolBuffers() override;

  [[nodiscard]] std::size_t take(Buffer** out, std::size_t count) override;
  void give(Buffer* const* buffers, std::size_t count) override;
  [[nodiscard]] std::size_t capacity() const override { return capacity_; }
  [[nodiscard]] std::size_t available() const override { return rte_mempool_avail_count(pool_); }
  [[nodiscard]] std::size_t data_room() const override { return data_room_; }

  // Buffers that a driver has lost, by their place in the pool's memory as af_xdp counts it: back into the pool. How
  // many there were.
  std::size_t give_back_lost(const std::vector<std::uint64_t>& places);

  [[nodiscard]] rte_mempool* native() const { return pool_; }
  [[nodiscard]] static Buffer* buffer_of(rte_mbuf* mbuf) { return static_cast<Buffer*>(rte_mbuf_to_priv(mbuf)); }
  [[nodiscard]] static rte_mbuf* mbuf_of(const Buffer* buffer) { return static_cast<rte_mbuf*>(buffer->native); }

 private:
  MempoolBuffers(rte_mempool* pool, std::size_t buffers, std::size_t data_room);
  rte_mempool* pool_;
  std::size_t capacity_, data_room_;
};

}  // namespace wireplane
