// ethdev_xdp.h: the kernel's filter before an af_xdp device: what is ours comes to us, the rest stays the kernel's.
//
//   frame -> untagged, UDP to our port, or a fragment or extended packet that may be -> the socket of its queue
//         -> everything else, ARP and neighbour discovery included                  -> the kernel's stack
//   with a VLAN: its frames, all of them -> the socket; the rest -> the kernel's stack
//
// DPDK's own program takes every frame and would cut the host off from its link: once the sockets stand, ours replaces
// it. It goes with the device, or with the process.
// Fragments of other programs' datagrams come to us, too: they say no port. Owner: control.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "dataplane/base/result.h"
#include "drivers/file_descriptor.h"

namespace wireplane {

class XdpFilter {
 public:
  XdpFilter() = default;

  // The AF_XDP sockets of this process; those that open() is given are the ones that a device's opening added.
  [[nodiscard]] static std::vector<int> sockets();

  // `sockets[i]` is that of queue i.
  [[nodiscard]] static Result<XdpFilter> open(const std::string& interface, std::uint16_t vlan,
                                              const std::vector<int>& sockets);
  Status take(std::uint16_t port);  // 0: nothing yet
  [[nodiscard]] explicit operator bool() const { return static_cast<bool>(map_); }

 private:
  std::uint32_t interface_ = 0;
  std::uint16_t vlan_ = 0;
  FileDescriptor map_;   // queue -> socket
  FileDescriptor link_;  // the attached program
};

// The buffers that a socket's fill ring holds: DPDK's driver puts 2,048 of the engine's there and forgets them when it
// closes the device. A view of the ring, kept from when the socket was young: later the kernel does not show it any
// more.
class XdpFillRing {
 public:
  [[nodiscard]] static XdpFillRing map(int socket);
  XdpFillRing(XdpFillRing&& from) noexcept;
  XdpFillRing& operator=(XdpFillRing&& from) noexcept;
  ~XdpFillRing();
  [[nodiscard]] std::vector<std::uint64_t> addresses() const;  // within the socket's memory; of a closed socket only

 private:
  XdpFillRing() = default;
  std::uint8_t* memory_ = nullptr;  // null: nothing is known
  std::size_t size_ = 0, entries_ = 0, producer_ = 0, consumer_ = 0, descriptors_ = 0;
};

}  // namespace wireplane
