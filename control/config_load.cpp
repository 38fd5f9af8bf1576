// What config.h needs of the host: reading the file, and names of hosts.
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <memory>

#include "control/config.h"
#include "control/secret_text.h"

namespace wireplane {
namespace {

constexpr std::size_t kLargestFile = 1u << 30;  // a million peers are about 200 MB

Endpoint endpoint_of(const addrinfo& found) {
  Endpoint endpoint;
  if (found.ai_family == AF_INET) {
    sockaddr_in in;
    std::memcpy(&in, found.ai_addr, sizeof in);
    std::uint8_t octets[4];
    std::memcpy(octets, &in.sin_addr, sizeof octets);
    endpoint.remote = Address::v4(octets);
    endpoint.port = ntohs(in.sin_port);
  } else if (found.ai_family == AF_INET6) {
    sockaddr_in6 in;
    std::memcpy(&in, found.ai_addr, sizeof in);
    endpoint.remote = Address::v6(in.sin6_addr.s6_addr);
    endpoint.interface = in.sin6_scope_id;
    endpoint.port = ntohs(in.sin6_port);
  }
  return endpoint;
}

struct File {
  int fd;
  ~File() {
    if (fd >= 0) close(fd);
  }
};

// 0, or an errno value
int read_all(int fd, std::size_t expected, SecretText& text) {
  text.reserve(expected + 1);
  for (;;) {
    const std::size_t old = text.size(), room = std::max<std::size_t>(text.capacity() - old, 4096);
    if (old > kLargestFile) return EFBIG;
    text.resize(old + room);
    const ssize_t count = read(fd, text.data() + old, room);
    const int error = errno;
    text.resize(old + static_cast<std::size_t>(std::max<ssize_t>(count, 0)));
    if (count < 0 && error != EINTR) return error;
    if (count == 0) return 0;
  }
}

std::vector<ConfigError> whole_file(const std::string& path, std::string what) {
  return {{.file = path, .line = 0, .key = {}, .expected = std::move(what)}};
}

}  // namespace

Result<Endpoint> resolve_by_host(const std::string& host, std::uint16_t port) {
  addrinfo hints{};
  hints.ai_family = AF_UNSPEC;
  hints.ai_socktype = SOCK_DGRAM;
  hints.ai_protocol = IPPROTO_UDP;
  addrinfo* found = nullptr;
  const int trouble = getaddrinfo(host.c_str(), std::to_string(port).c_str(), &hints, &found);
  const std::unique_ptr<addrinfo, void (*)(addrinfo*)> held{found, freeaddrinfo};
  if (trouble != 0)
    return Error{host + ": " + (trouble == EAI_SYSTEM ? std::strerror(errno) : gai_strerror(trouble)), EHOSTUNREACH};
  for (const addrinfo* each = found; each != nullptr; each = each->ai_next)
    if (const Endpoint endpoint = endpoint_of(*each); endpoint.valid()) return endpoint;
  return Error{host + ": neither IPv4 nor IPv6", EAFNOSUPPORT};
}

Result<Endpoint> resolve_never(const std::string&, std::uint16_t port) {
  const std::uint8_t octets[4] = {0, 0, 0, 1};
  return Endpoint{.remote = Address::v4(octets), .local = {}, .interface = 0, .port = port};
}

ConfigResult load_config(const std::string& path, const Resolver& resolver) {
  const File file{open(path.c_str(), O_RDONLY | O_CLOEXEC)};
  struct stat facts {};
  if (file.fd < 0 || fstat(file.fd, &facts) != 0)
    return whole_file(path, std::string{"expected a file that can be read: "} + std::strerror(errno));
  if (S_ISDIR(facts.st_mode)) return whole_file(path, "expected a file, but this is a directory");
  SecretText text;
  if (const int error = read_all(file.fd, S_ISREG(facts.st_mode) ? static_cast<std::size_t>(facts.st_size) : 0, text);
      error != 0)
    return whole_file(path, std::string{"expected a file that can be read: "} + std::strerror(error));
  auto parsed = parse_config(text, path, resolver);
  if (parsed && S_ISREG(facts.st_mode) && (facts.st_mode & 077) != 0)
    parsed->warnings.push_back(
        {.file = path,
         .line = 0,
         .key = {},
         .expected = "others than its owner may read or change this file, which holds keys; use chmod 600"});
  return parsed;
}

}  // namespace wireplane
