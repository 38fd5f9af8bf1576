#include "drivers/tun_port.h"

#include <fcntl.h>
#include <linux/if.h>
#include <linux/if_tun.h>
#include <sys/ioctl.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "drivers/file_descriptor.h"
#include "drivers/netlink.h"
#include "drivers/received.h"

extern "C" unsigned if_nametoindex(const char*) noexcept;  // <net/if.h> and <linux/if.h> do not go together

namespace wireplane {
namespace {

constexpr unsigned kMaxQueues = 256;  // the kernel's MAX_TAP_QUEUES

Error failed(const std::string& what) {
  const int code = errno;
  return Error{"tun: " + what + ": " + std::strerror(code), code};
}

// Attaches one more queue; `name` is what was asked for, and then what it is.
Result<FileDescriptor> attach(std::string& name, bool several) {
  FileDescriptor fd{::open("/dev/net/tun", O_RDWR | O_NONBLOCK | O_CLOEXEC)};
  if (!fd) return failed("opening /dev/net/tun (is the tun module there?)");
  ifreq request{};
  std::strncpy(request.ifr_name, name.c_str(), IFNAMSIZ - 1);
  request.ifr_flags = static_cast<short>(IFF_TUN | IFF_NO_PI | (several ? IFF_MULTI_QUEUE : 0));
  if (::ioctl(fd.get(), TUNSETIFF, &request) != 0) return failed("creating " + (name.empty() ? "a device" : name));
  name = request.ifr_name;
  return fd;
}

}  // namespace

class TunPort final : public Port {
 public:
  explicit TunPort(FileDescriptor fd) : fd_{std::move(fd)} {}
  ~TunPort() override {
    if (spare_ != nullptr) spare_->pool->give(&spare_, 1);
  }

  void receive(Burst& burst, WorkerContext& context) override;
  std::size_t send(Burst& burst, WorkerContext& context) override;
  void wake_fds(std::vector<int>& fds) const override { fds.push_back(fd_.get()); }

 private:
  FileDescriptor fd_;
  Buffer* spare_ = nullptr;  // waits for the next packet
};

void TunPort::receive(Burst& burst, WorkerContext& context) {
  for (std::size_t room = receive_room(burst); room > 0;) {
    if (spare_ == nullptr) spare_ = context.buffers.take();
    if (spare_ == nullptr) return;  // packets wait in the interface's queue
    const std::size_t data_room = spare_->pool->data_room();
    // The kernel cuts what does not fit without a word: one octet of the tailroom tells.
    const ssize_t length = ::read(fd_.get(), spare_->memory + kHeadroom, data_room + 1);
    if (length <= 0) return;  // nothing there, or the interface is gone
    --room;
    if (static_cast<std::size_t>(length) > data_room) {
      context.refuse(Drop::kTruncated);
      continue;
    }
    add_received(burst, std::exchange(spare_, nullptr), static_cast<std::size_t>(length), Origin::kHost);
  }
}

std::size_t TunPort::send(Burst& burst, WorkerContext& context) {
  std::size_t sent = 0;
  for (Packet& packet : burst) {
    // EIO: the interface is down. EINVAL: neither IPv4 nor IPv6. EAGAIN: the kernel is short of memory.
    if (::write(fd_.get(), packet.data, packet.length) == static_cast<ssize_t>(packet.length)) {
      ++sent;
      context.release(packet);
    } else {
      context.drop(packet, Drop::kInnerSend);
    }
  }
  burst.clear();
  return sent;
}

TunDevice::TunDevice() = default;
TunDevice::~TunDevice() = default;

Result<std::unique_ptr<TunDevice>> TunDevice::open(const TunOptions& options) {
  if (options.queues == 0 || options.queues > kMaxQueues)
    return Error{"tun: expected 1 to " + std::to_string(kMaxQueues) + " queues, got " + std::to_string(options.queues),
                 EINVAL};
  if (options.name.size() >= IFNAMSIZ)
    return Error{"tun: an interface name has at most 15 characters: \"" + options.name + "\"", EINVAL};
  std::unique_ptr<TunDevice> device{new TunDevice};
  device->name_ = options.name;
  for (unsigned i = 0; i < options.queues; ++i) {
    auto fd = attach(device->name_, options.queues > 1);
    if (!fd) return fd.error();
    device->ports_.push_back(std::make_unique<TunPort>(std::move(*fd)));
  }
  device->interface_ = ::if_nametoindex(device->name_.c_str());
  auto netlink = Netlink::open();
  if (!netlink) return netlink.error();
  const Status set = netlink->set_link(device->interface_, options.up, options.mtu);
  if (!set) return set.error();
  return device;
}

Port& TunDevice::queue(unsigned worker) { return *ports_.at(worker); }

std::string TunDevice::describe() const { return "tun " + name_ + " x" + std::to_string(queues()); }

}  // namespace wireplane
