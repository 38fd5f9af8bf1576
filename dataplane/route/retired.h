// retired.h: blocks that only readers of an old root may still see, until their grace period is over.
//
// One callback waits at a time and frees all that was retired before it was given away; what is retired meanwhile waits
// for the next one. So a change costs no allocation of its own here, and a hook without memory costs only time: the
// next change tries again.
#pragma once
#include <functional>
#include <memory>
#include <new>
#include <span>
#include <utility>
#include <vector>

#include "dataplane/route/edit.h"
#include "dataplane/route/node_pool.h"

namespace wireplane::route {

class Retired : public std::enable_shared_from_this<Retired> {
 public:
  using Hook = std::function<void(std::function<void()> free)>;

  explicit Retired(Hook hook) : hook_{std::move(hook)} {}
  ~Retired() { free(waiting_), free(later_); }
  Retired(const Retired&) = delete;
  Retired& operator=(const Retired&) = delete;

  [[nodiscard]] NodePool& pool() { return pool_; }
  // Room for so many blocks: the only thing here that may fail.
  void reserve(std::size_t more) {
    if (later_.capacity() - later_.size() < more) later_.reserve(2 * later_.size() + more);
  }
  void retire(std::span<const Block> blocks) noexcept {
    later_.insert(later_.end(), blocks.begin(), blocks.end());
    if (!hook_)
      free(later_);
    else if (!under_way_)
      begin();
  }
  // No reader is left; the hook may be gone before what it took over is run.
  void close() { hook_ = nullptr; }

 private:
  void begin() noexcept {
    waiting_.swap(later_);
    under_way_ = true;
    try {
      hook_([self = shared_from_this()] { self->passed(); });
    } catch (const std::bad_alloc&) {
      under_way_ = false;
      waiting_.swap(later_);
    }
  }
  void passed() {
    under_way_ = false;
    free(waiting_);
    if (!hook_)
      free(later_);
    else if (!later_.empty())
      begin();
  }
  void free(std::vector<Block>& blocks) noexcept {
    for (const Block& block : blocks) pool_.give_back(block.memory, block.octets);
    if (constexpr std::size_t kKept = 1024; blocks.capacity() > kKept)
      std::vector<Block>{}.swap(blocks);
    else
      blocks.clear();
  }

  Hook hook_;
  NodePool pool_;
  std::vector<Block> waiting_, later_;  // for the callback under way; for the one after it
  bool under_way_ = false;
};

}  // namespace wireplane::route
