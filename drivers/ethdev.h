// ethdev.h: DPDK ports: what can be asked for, and how the module behind it is loaded.
//
//   program --open_ethdev()--> dlopen wireplane_ethdev.so --> librte_*      only when an ethdev port is configured: the
//                                                                           program itself has no NEEDED librte_*
// A process has one EAL, started by the first call and never again; devices come and go. With any ethdev port, the
// engine's one pool is the set's: DPDK's packet memory, with our Buffer in each mbuf's private area.
#pragma once
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "dataplane/base/time.h"
#include "dataplane/port.h"
#include "drivers/neighbours.h"

namespace wireplane {

struct EthdevOptions {
  // As DPDK writes devices: "net_memif0,role=client,id=0,socket=/run/x" or a PCI address, "0000:3b:00.0".
  std::string device;
  unsigned queues = 1;                 // workers; the device may have fewer queues, or more
  std::vector<LinkAddress> addresses;  // ours on this link
  Address gateway_v4, gateway_v6;
  std::optional<MacAddress> gateway_mac;
  std::optional<MacAddress> mac;  // none: the device's own
  std::uint16_t vlan = 0;         // 802.1Q identifier of our frames; 0: untagged
  std::uint32_t mtu = 0;          // of the link; 0: as the device comes
  std::uint16_t listen_port = 0;  // outer only; 0: a random one
  // The kernel interface that the device shares, whose addresses, routes and neighbours it uses. Empty: taken from
  // "iface=" of an af_packet or af_xdp device; "none": none, even there.
  std::string kernel_interface;
};

struct EthdevSetOptions {
  std::optional<EthdevOptions> outer, inner;
  std::size_t buffers = 8192, data_room = 2048;
  std::vector<std::string> eal_arguments;  // added to ours
};

class EthdevSet {
 public:
  virtual ~EthdevSet() = default;  // after the engine: its pool is ours
  [[nodiscard]] virtual BufferPool& pool() = 0;
  [[nodiscard]] virtual std::unique_ptr<OuterDevice> take_outer() = 0;  // null: not asked for. Goes before the set
  [[nodiscard]] virtual std::unique_ptr<InnerDevice> take_inner() = 0;
  // Control, every 10 ms or so: next hops, interfaces that went and came.
  virtual Status poll(Instant now) = 0;
  // What happened since the last call that a person should know of, with the remedy, for the log.
  [[nodiscard]] virtual std::vector<std::string> take_news() = 0;
};

// Loads the module (from the program's directory, then the library directory) if it is not there, starts EAL likewise.
[[nodiscard]] Result<std::unique_ptr<EthdevSet>> open_ethdev(const EthdevSetOptions& options);

// The module's one door. Both sides come from one build: the names must agree, and kEthdevModuleVersion says so.
constexpr const char* kEthdevModuleName = "wireplane_ethdev.so";
constexpr const char* kEthdevModuleVersion = "wireplane-ethdev 2 " __VERSION__;
using OpenEthdevFunction = EthdevSet* (*)(const EthdevSetOptions& options, const char* version, Error& error);
constexpr const char* kOpenEthdevSymbol = "wireplane_open_ethdev";

// "net_af_packet0,iface=eth0,qpairs=2" -> "eth0"; only for drivers that share an interface with the kernel.
[[nodiscard]] std::string shared_interface_of(const std::string& device);

// What a process must still be allowed (capability(7)'s numbers) to open the device once more, when the kernel's
// interface behind it has gone and come back. Empty: it never has to.
[[nodiscard]] std::vector<int> capabilities_to_reopen(const std::string& device);

}  // namespace wireplane
