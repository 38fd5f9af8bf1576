// uapi_socket.h: where wg(8) finds the device: a UNIX socket per device, served without threads and without waiting.
// spec: wireguard.com/xplatform, "Interface"
//
//   accept -> read -> UapiParser -> apply, one part a step  --.
//                        |                                             +-> reply -> write -> next request
//                        '--> dump, some peers a step ----------'
//
// Owner: control's thread. It polls fds(), hands over what poll said, and calls step() as long as it answers that there
// is more to do. Nothing here waits; a million peers are loaded or dumped in steps well below a millisecond. Bounded:
// so many clients, each with so much input and output; a client that does not go on within its deadline is closed.
#pragma once
#include <poll.h>

#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "control/configurable.h"
#include "control/uapi.h"
#include "dataplane/base/time.h"

namespace wireplane {

constexpr const char* kUapiDirectory = "/var/run/wireguard";  // where wg(8) looks
[[nodiscard]] std::string uapi_socket_path(const std::string& name, const std::string& directory = kUapiDirectory);

struct UapiServerLimits {
  std::size_t clients = 16;
  Duration idle = 30s;            // nothing came and nothing went
  Duration request = 300s;        // from a request's first octet to the last octet of its reply
  Duration accept_again = 100ms;  // after no client could be taken for want of descriptors or memory
  std::size_t dump_at_most = 64;  // peers a step and client
  UapiLimits parser = {};
};

class UapiServer {
 public:
  using Report = std::function<std::string()>;  // one JSON document, for `wireplane show`; may be empty

  // Listens at `path`. A socket that nobody answers is a dead device's and is replaced; one that answers is not
  // touched.
  [[nodiscard]] static Result<std::unique_ptr<UapiServer>> listen(const std::string& path, Configurable& device,
                                                                  Report report = {}, UapiServerLimits limits = {});
  ~UapiServer();  // closes all, removes the socket file if it is still ours (and the directory lets us)
  UapiServer(const UapiServer&) = delete;
  UapiServer& operator=(const UapiServer&) = delete;

  void add_fds(std::vector<pollfd>& fds) const;  // what to poll for
  void handle(std::span<const pollfd> fds,
              Instant now);  // what poll said; descriptors that are not ours are passed over
  // Goes on with what is under way, closes who is late. True: call again without waiting.
  bool step(Instant now);
  [[nodiscard]] Instant next_deadline() const;  // when step() is due at the latest; Instant::max(): never
  [[nodiscard]] bool removed() const;           // someone deleted our socket: by the spec a wish that we end
  [[nodiscard]] std::size_t clients() const { return clients_.size(); }

 private:
  class Client;
  UapiServer(int fd, std::string path, Configurable& device, Report report, UapiServerLimits limits);
  void accept_all(Instant now);

  int fd_;
  std::string path_;
  std::uint64_t device_number_ = 0, inode_ = 0;  // of our socket file
  Configurable& device_;
  Report report_;
  UapiServerLimits limits_;
  std::vector<std::unique_ptr<Client>> clients_;
  std::optional<Instant> accept_at_;  // until then who knocks waits in the kernel's queue
};

}  // namespace wireplane
