// leaving.h: how a child of fork() ends: at once, without the parent's exit handlers and threads, which a sanitizer
// would miss; but what it covered counts.
#pragma once
#include <sys/syscall.h>
#include <unistd.h>

extern "C" int __llvm_profile_write_file(void) __attribute__((weak));  // the coverage build's

namespace wireplane::test {

[[noreturn]] inline void leave_child(int code) {
  if (__llvm_profile_write_file != nullptr) static_cast<void>(__llvm_profile_write_file());
  ::syscall(SYS_exit_group, code);
  __builtin_unreachable();
}

}  // namespace wireplane::test
