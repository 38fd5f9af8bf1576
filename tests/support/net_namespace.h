// net_namespace.h: a network of a test's own: nothing leaks in from the machine, nothing leaks out.
//
// Needs root (CAP_SYS_ADMIN for unshare). The calling thread moves into a new, empty network namespace, whose loopback
// is brought up; sockets and interfaces stay in the namespace they were made in. At the end the thread moves back.
#pragma once
#include <fcntl.h>
#include <gtest/gtest.h>
#include <net/if.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <string>

namespace wireplane {

class NetNamespace {
 public:
  NetNamespace() : before_{::open("/proc/thread-self/ns/net", O_RDONLY | O_CLOEXEC)} {
    entered_ = before_ >= 0 && ::unshare(CLONE_NEWNET) == 0;
    error_ = errno;
    if (entered_) {
      own_ = ::open("/proc/thread-self/ns/net", O_RDONLY | O_CLOEXEC);
      bring_up("lo");
    }
  }
  ~NetNamespace() {
    leave();
    for (const int fd : {before_, own_})
      if (fd >= 0) ::close(fd);
  }
  NetNamespace(const NetNamespace&) = delete;
  NetNamespace& operator=(const NetNamespace&) = delete;

  explicit operator bool() const { return entered_; }
  [[nodiscard]] std::string why_not() const {
    return std::string{"no network namespace (needs root): "} + std::strerror(error_);
  }

  void enter() const { static_cast<void>(::setns(own_, CLONE_NEWNET)); }
  void leave() const { static_cast<void>(::setns(before_, CLONE_NEWNET)); }
  [[nodiscard]] int fd() const { return own_; }

  // A command of the host (ip, ethtool ...), run inside; true: it succeeded.
  static bool run(const std::string& command) { return std::system((command + " >/dev/null").c_str()) == 0; }

  // Moves an interface of the thread's namespace into this one.
  [[nodiscard]] bool take_in(const std::string& interface) const {
    return run("ip link set " + interface + " netns /proc/" + std::to_string(::getpid()) + "/fd/" +
               std::to_string(own_));
  }

  static bool bring_up(const char* interface) {
    const int fd = ::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    ifreq request{};
    std::strncpy(request.ifr_name, interface, IFNAMSIZ - 1);
    bool ok = ::ioctl(fd, SIOCGIFFLAGS, &request) == 0;
    request.ifr_flags = static_cast<short>(request.ifr_flags | IFF_UP);
    ok = ok && ::ioctl(fd, SIOCSIFFLAGS, &request) == 0;
    ::close(fd);
    return ok;
  }

 private:
  int before_ = -1, own_ = -1;
  int error_ = 0;
  bool entered_ = false;
};

}  // namespace wireplane

// First line of a test that needs one.
#define WG_OWN_NETWORK_OR_SKIP(name) \
  ::wireplane::NetNamespace name;    \
  if (!name) GTEST_SKIP() << name.why_not()
