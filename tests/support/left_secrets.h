// left_secrets.h: does memory still hold what should have been wiped? Secrets to look for, and a stack that can be
// searched.
#pragma once
#include <pthread.h>
#include <sys/mman.h>

#include <array>
#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "dataplane/base/check.h"
#include "dataplane/base/secret.h"

namespace wireplane::test {

// What to look for. Kept as its complement, so that the list itself is never found.
class Needles {
 public:
  void add(const char* name, std::span<const std::uint8_t> secret) {
    for (std::size_t half = 0; half + 16 <= secret.size(); half += 16) {
      Needle needle{name, {}};
      for (std::size_t i = 0; i < 16; ++i) needle.complement[i] = static_cast<std::uint8_t>(~secret[half + i]);
      needles_.push_back(needle);
    }
  }
  void add(const char* name, const SecretKey& secret) { add(name, secret.expose()); }
  [[nodiscard]] std::size_t count() const { return needles_.size(); }

  // The names of those found, each once. Reads where AddressSanitizer thinks no one should.
  [[nodiscard]] __attribute__((no_sanitize("address"))) std::string found_in(const std::uint8_t* memory,
                                                                             std::size_t size) const {
    std::string names;
    for (const Needle& needle : needles_) {
      const std::uint8_t first = static_cast<std::uint8_t>(~needle.complement[0]);
      for (std::size_t at = 0; at + 16 <= size; ++at) {
        if (memory[at] != first) continue;
        std::size_t same = 1;
        while (same < 16 && memory[at + same] == static_cast<std::uint8_t>(~needle.complement[same])) ++same;
        if (same < 16) continue;
        names += std::string{needle.name} + " at " + std::to_string(at) + "; ";
        break;
      }
    }
    return names;
  }

 private:
  struct Needle {
    const char* name;
    std::array<std::uint8_t, 16> complement;
  };
  std::vector<Needle> needles_;
};

// Runs `work` on a stack that can be searched afterwards. The thread's own data lie at the top of the same memory.
class SearchableStack {
 public:
  SearchableStack()
      : memory_{static_cast<std::uint8_t*>(
            mmap(nullptr, kSize, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0))} {
    WG_CHECK(memory_ != MAP_FAILED);
  }
  ~SearchableStack() { munmap(memory_, kSize); }
  SearchableStack(const SearchableStack&) = delete;
  SearchableStack& operator=(const SearchableStack&) = delete;

  void run(const std::function<void()>& work) {
    pthread_attr_t attributes;
    WG_CHECK(pthread_attr_init(&attributes) == 0 && pthread_attr_setstack(&attributes, memory_, kSize) == 0);
    pthread_t thread;
    const auto body = [](void* argument) -> void* {
      (*static_cast<const std::function<void()>*>(argument))();
      return nullptr;
    };
    WG_CHECK(pthread_create(&thread, &attributes, body, const_cast<std::function<void()>*>(&work)) == 0);
    WG_CHECK(pthread_join(thread, nullptr) == 0);
    pthread_attr_destroy(&attributes);
  }
  [[nodiscard]] const std::uint8_t* memory() const { return memory_; }
  static constexpr std::size_t kSize = 1 << 20;

 private:
  std::uint8_t* memory_;
};

}  // namespace wireplane::test
