// host_setup.h: what wg-quick does around an interface: its addresses, and routes to what peers are allowed (Table).
//
//   Table = auto     a route for each allowed IP; a default route (/0) goes to a table of its own that packets without
//   our
//                    fwmark look up, so that the outer datagrams themselves do not (as wg-quick does)
//   Table = off      no routes         Table = N   all routes into table N
//
// Routes go with the interface; rules are removed by undo().
#pragma once
#include <set>
#include <vector>

#include "control/config.h"
#include "drivers/netlink.h"

namespace wireplane {

class HostSetup {
 public:
  [[nodiscard]] static Result<HostSetup> open(std::uint32_t interface);

  // The fwmark a default route needs with Table = auto; 0: none needed. The device's own FwMark is taken if it has one.
  [[nodiscard]] static std::uint32_t mark_needed(const FileConfig& config);
  // Makes addresses and routes so; what is there already stays. After a reload: adds what is new, removes routes that
  // are old.
  Status apply(const FileConfig& config);
  void undo();

 private:
  HostSetup(Netlink netlink, std::uint32_t interface) : netlink_{std::move(netlink)}, interface_{interface} {}
  Status add_routes(const FileConfig& config, std::uint32_t mark);
  Status add_default_rules(Address::Family family, std::uint32_t mark);

  Netlink netlink_;
  std::uint32_t interface_;
  std::set<Prefix> addresses_;
  std::set<Prefix> routes_;
  std::vector<KernelRule> rules_;
};

}  // namespace wireplane
