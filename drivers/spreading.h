// spreading.h: will a NIC spread peers over workers? What it hashes decides, and the operator should know before the
// load comes.
#pragma once
#include <string>

namespace wireplane {

// A warning with its remedy, or nothing. `addresses`, `ports`: what the device's RSS hashes; neither: it does not say,
// or who sends chooses the queue.
[[nodiscard]] inline std::string spreading_warning(const std::string& device, unsigned queues, bool addresses,
                                                   bool ports) {
  if (queues < 2 || ports || !addresses) return {};
  return device +
         ": its receive-side scaling hashes addresses, not UDP ports: all peers behind one address (a carrier's "
         "NAT, a load balancer) share one of its " +
         std::to_string(queues) +
         " queues and so one worker. Remedy: `ethtool -N IFACE rx-flow-hash udp4 sdfn` (and udp6) before binding it, "
         "or "
         "firmware that hashes UDP ports; with few source addresses, Workers = 1 loses nothing";
}

}  // namespace wireplane
