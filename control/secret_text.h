// secret_text.h: text that may hold keys: every block it ever lived in is wiped when it is given back.
// A string so short that it lies inside the object itself (15 letters) is too short for a key.
#pragma once
#include <cstddef>
#include <memory>
#include <string>

#include "dataplane/base/secret.h"

namespace wireplane {

template <class T>
struct WipingAllocator {
  using value_type = T;
  WipingAllocator() = default;
  template <class U>
  WipingAllocator(const WipingAllocator<U>&) {}
  [[nodiscard]] T* allocate(std::size_t count) { return std::allocator<T>{}.allocate(count); }
  void deallocate(T* block, std::size_t count) {
    wipe(block, count * sizeof(T));
    std::allocator<T>{}.deallocate(block, count);
  }
  template <class U>
  friend bool operator==(const WipingAllocator&, const WipingAllocator<U>&) {
    return true;
  }
};

using SecretText = std::basic_string<char, std::char_traits<char>, WipingAllocator<char>>;

}  // namespace wireplane
