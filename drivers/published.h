// published.h: an immutable value that one thread replaces while others read it.
//
// Hazard pointers (Michael 2004), one a reader: a reader says what it is about to follow, and looks again whether that
// is still the current one; the writer frees an old value when nobody says its name. For tables that change a few times
// a second and are read once a burst: two fenced stores a burst, and no reader is ever waited for.
#pragma once
#include <atomic>
#include <memory>
#include <vector>

#include "dataplane/base/ring.h"

namespace wireplane {

template <class T>
class Published {
 public:
  Published(unsigned readers, std::unique_ptr<const T> first)
      : current_{first.release()}, hazards_{std::make_unique<Hazard[]>(readers)}, readers_{readers} {}
  ~Published() { delete current_.load(); }
  Published(const Published&) = delete;
  Published& operator=(const Published&) = delete;

  class Guard {  // the value stays while this lives
   public:
    Guard(Published& from, unsigned reader) : hazard_{from.hazards_[reader].value} {
      do {
        value_ = from.current_.load(std::memory_order_acquire);
        // H1 seq_cst, pairs with H2: either the writer sees this hazard, or we see that the value was replaced.
        hazard_.store(value_, std::memory_order_seq_cst);
      } while (from.current_.load(std::memory_order_seq_cst) != value_);
    }
    // H3 release, pairs with H2: our reads are over before the writer may free.
    ~Guard() { hazard_.store(nullptr, std::memory_order_release); }
    Guard(const Guard&) = delete;
    Guard& operator=(const Guard&) = delete;
    const T& operator*() const { return *value_; }
    const T* operator->() const { return value_; }

   private:
    std::atomic<const T*>& hazard_;
    const T* value_;
  };
  [[nodiscard]] Guard read(unsigned reader) { return Guard{*this, reader}; }

  // The one writer.
  [[nodiscard]] const T& latest() const { return *current_.load(std::memory_order_relaxed); }
  void publish(std::unique_ptr<const T> next) {
    retired_.emplace_back(current_.exchange(next.release(), std::memory_order_seq_cst));
    static_cast<void>(collect());
  }
  // Frees what nobody reads any more; true: nothing old is left.
  bool collect() {
    std::erase_if(retired_, [this](const std::unique_ptr<const T>& old) { return !in_use(old.get()); });
    return retired_.empty();
  }

 private:
  struct alignas(kCacheLine) Hazard {
    std::atomic<const T*> value{nullptr};
  };
  [[nodiscard]] bool in_use(const T* old) const {
    for (unsigned i = 0; i < readers_; ++i)
      if (hazards_[i].value.load(std::memory_order_seq_cst) == old) return true;  // H2
    return false;
  }

  std::atomic<const T*> current_;
  std::unique_ptr<Hazard[]> hazards_;
  unsigned readers_;
  std::vector<std::unique_ptr<const T>> retired_;  // the writer's
};

}  // namespace wireplane
