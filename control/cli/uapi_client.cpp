#include "control/cli/uapi_client.h"

#include <dirent.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <memory>

#include "control/secret_text.h"

namespace wireplane {
namespace {

constexpr timeval kPatience{.tv_sec = 20, .tv_usec = 0};

struct Connection {
  int fd;
  ~Connection() {
    if (fd >= 0) close(fd);
  }
};

Error trouble(const std::string& what) {
  const int code = errno;
  return {what + ": " + std::strerror(code), code};
}

Status connect_and_ask(int fd, const std::string& path, std::string_view request) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.size() >= sizeof address.sun_path) return Error{path + ": path too long", ENAMETOOLONG};
  std::memcpy(address.sun_path, path.c_str(), path.size() + 1);
  setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &kPatience, sizeof kPatience);
  setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &kPatience, sizeof kPatience);
  if (fd < 0 || connect(fd, reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0) return trouble(path);
  if (send(fd, request.data(), request.size(), MSG_NOSIGNAL) != static_cast<ssize_t>(request.size()))
    return trouble(path);
  return Nothing{};
}

}  // namespace

Status ask_device(const std::string& socket_path, std::string_view request,
                  const std::function<void(std::string_view line)>& line) {
  const Connection connection{socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0)};
  if (Status asked = connect_and_ask(connection.fd, socket_path, request); !asked) return asked;
  SecretText waiting;
  auto octets = std::make_unique<std::array<char, 65536>>();
  for (;;) {
    const ssize_t count = recv(connection.fd, octets->data(), octets->size(), 0);
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) return trouble(socket_path);
    if (count == 0) return Error{socket_path + ": the device ended its reply early", EPROTO};
    waiting.append(octets->data(), static_cast<std::size_t>(count));
    wipe(octets->data(), static_cast<std::size_t>(count));
    std::size_t begin = 0;
    for (std::size_t end; (end = waiting.find('\n', begin)) != waiting.npos; begin = end + 1) {
      const std::string_view one = std::string_view{waiting}.substr(begin, end - begin);
      if (!one.starts_with("errno=")) {
        line(one);
        continue;
      }
      const int code = std::abs(std::atoi(one.data() + 6));
      if (code == 0) return Nothing{};
      return Error{socket_path + ": the device answered: " + std::strerror(code), code};
    }
    waiting.erase(0, begin);
  }
}

std::vector<std::string> device_names(const std::string& directory) {
  constexpr std::string_view kSuffix = ".sock";
  std::vector<std::string> names;
  struct Close {
    void operator()(DIR* d) const { closedir(d); }
  };
  const std::unique_ptr<DIR, Close> opened{opendir(directory.c_str())};
  if (!opened) return names;
  while (const dirent* entry = readdir(opened.get())) {
    const std::string_view name = entry->d_name;
    if (name.size() > kSuffix.size() && name.ends_with(kSuffix))
      names.emplace_back(name.substr(0, name.size() - kSuffix.size()));
  }
  std::sort(names.begin(), names.end());
  return names;
}

}  // namespace wireplane
