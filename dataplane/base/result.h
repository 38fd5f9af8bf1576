// result.h: a value, or the reason why there is none. For operations that can fail; a bad packet is a Drop instead.
#pragma once
#include <string>
#include <utility>
#include <variant>

#include "dataplane/base/check.h"

namespace wireplane {

// What was tried and why it failed, for a person to read; `code` is an errno value for those who answer a program.
struct Error {
  std::string what;
  int code = 0;
};

template <class T, class E = Error>
class [[nodiscard]] Result {
 public:
  Result(T held) : held_{std::in_place_index<0>, std::move(held)} {}
  Result(E why) : held_{std::in_place_index<1>, std::move(why)} {}

  explicit operator bool() const { return held_.index() == 0; }
  T& operator*() & { return value(); }
  const T& operator*() const& { return value(); }
  T&& operator*() && { return std::move(value()); }
  T* operator->() { return &value(); }
  const T* operator->() const { return &value(); }

  T& value() {
    WG_CHECK(held_.index() == 0);
    return *std::get_if<0>(&held_);
  }
  const T& value() const {
    WG_CHECK(held_.index() == 0);
    return *std::get_if<0>(&held_);
  }
  const E& error() const {
    WG_CHECK(held_.index() == 1);
    return *std::get_if<1>(&held_);
  }

 private:
  std::variant<T, E> held_;
};

struct Nothing {};
using Status = Result<Nothing>;  // success carries nothing

}  // namespace wireplane
