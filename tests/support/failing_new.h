// failing_new.h: operator new that fails when it is told to. For the one .cpp of a program that includes it.
//
//   { FailingNew fail{17}; device.apply(...); }    the 17th allocation of this thread, and all after it, find no memory
#pragma once
#include <cstdlib>
#include <new>

namespace wireplane::test {

inline thread_local long allocations_left = -1;  // -1: as many as one likes

class FailingNew {
 public:
  explicit FailingNew(long allowed) { allocations_left = allowed; }
  ~FailingNew() { allocations_left = -1; }
  [[nodiscard]] static bool ran_out() { return allocations_left == 0; }
};

inline void* allocate_or_fail(std::size_t size, std::size_t alignment) {
  if (allocations_left == 0) throw std::bad_alloc{};
  if (allocations_left > 0) --allocations_left;
  void* memory = alignment <= __STDCPP_DEFAULT_NEW_ALIGNMENT__
                     ? std::malloc(size == 0 ? 1 : size)
                     : std::aligned_alloc(alignment, (size + alignment - 1) / alignment * alignment);
  if (memory == nullptr) throw std::bad_alloc{};
  return memory;
}

}  // namespace wireplane::test

// All forms, so that a sanitizer's own never meets ours; not inlined, or the compiler sees free() meet new.
__attribute__((noinline)) void* operator new(std::size_t size) { return wireplane::test::allocate_or_fail(size, 1); }
__attribute__((noinline)) void* operator new[](std::size_t size) { return wireplane::test::allocate_or_fail(size, 1); }
__attribute__((noinline)) void* operator new(std::size_t size, std::align_val_t alignment) {
  return wireplane::test::allocate_or_fail(size, static_cast<std::size_t>(alignment));
}
__attribute__((noinline)) void* operator new[](std::size_t size, std::align_val_t alignment) {
  return wireplane::test::allocate_or_fail(size, static_cast<std::size_t>(alignment));
}
__attribute__((noinline)) void* operator new(std::size_t size, const std::nothrow_t&) noexcept {
  return wireplane::test::allocations_left == 0 ? nullptr : std::malloc(size == 0 ? 1 : size);
}
__attribute__((noinline)) void* operator new[](std::size_t size, const std::nothrow_t&) noexcept {
  return wireplane::test::allocations_left == 0 ? nullptr : std::malloc(size == 0 ? 1 : size);
}
__attribute__((noinline)) void operator delete(void* memory) noexcept { std::free(memory); }
__attribute__((noinline)) void operator delete[](void* memory) noexcept { std::free(memory); }
__attribute__((noinline)) void operator delete(void* memory, std::size_t) noexcept { std::free(memory); }
__attribute__((noinline)) void operator delete[](void* memory, std::size_t) noexcept { std::free(memory); }
__attribute__((noinline)) void operator delete(void* memory, std::align_val_t) noexcept { std::free(memory); }
__attribute__((noinline)) void operator delete[](void* memory, std::align_val_t) noexcept { std::free(memory); }
__attribute__((noinline)) void operator delete(void* memory, std::size_t, std::align_val_t) noexcept {
  std::free(memory);
}
__attribute__((noinline)) void operator delete[](void* memory, std::size_t, std::align_val_t) noexcept {
  std::free(memory);
}
__attribute__((noinline)) void operator delete(void* memory, const std::nothrow_t&) noexcept { std::free(memory); }
__attribute__((noinline)) void operator delete[](void* memory, const std::nothrow_t&) noexcept { std::free(memory); }
