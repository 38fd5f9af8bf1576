#include "control/cli/host_setup.h"

#include <algorithm>
#include <cerrno>

namespace wireplane {
namespace {

constexpr std::uint32_t kMarkAsWgQuick = 51820;

std::set<Prefix> allowed_ips(const FileConfig& config) {
  std::set<Prefix> all;
  for (const PeerChange& peer : config.device.peers)
    for (const AllowedIpChange& ip : peer.allowed_ips) all.insert(ip.prefix);
  return all;
}

bool is_there(const Status& status) { return status || status.error().code == EEXIST; }

}  // namespace

Result<HostSetup> HostSetup::open(std::uint32_t interface) {
  Result<Netlink> netlink = Netlink::open();
  if (!netlink) return netlink.error();
  return HostSetup{std::move(*netlink), interface};
}

std::uint32_t HostSetup::mark_needed(const FileConfig& config) {
  if (config.table_use != TableUse::kAuto) return 0;
  const std::set<Prefix> all = allowed_ips(config);
  if (std::ranges::none_of(all, [](const Prefix& prefix) { return prefix.length == 0; })) return 0;
  const std::uint32_t own = config.device.fwmark.value_or(0);
  return own != 0 ? own : kMarkAsWgQuick;
}

Status HostSetup::apply(const FileConfig& config) {
  for (const Prefix& address : config.addresses) {
    if (addresses_.contains(address)) continue;
    if (Status added = netlink_.add_address(interface_, address.address, address.length); !is_there(added))
      return added;
    addresses_.insert(address);
  }
  if (config.table_use == TableUse::kOff) return Nothing{};
  return add_routes(config, mark_needed(config));
}

Status HostSetup::add_routes(const FileConfig& config, std::uint32_t mark) {
  const std::set<Prefix> wanted = allowed_ips(config);
  const auto route_of = [&](const Prefix& prefix) {
    const bool apart = config.table_use == TableUse::kAuto && prefix.length == 0;
    const std::uint32_t table = config.table_use == TableUse::kNumber ? config.table : apart ? mark : kMainTable;
    return KernelRoute{.destination = prefix.address,
                       .prefix_length = prefix.length,
                       .interface = interface_,
                       .gateway = {},
                       .source = {},
                       .table = table};
  };
  for (const Prefix& prefix : wanted) {
    if (routes_.contains(prefix)) continue;
    if (Status added = netlink_.add_route(route_of(prefix)); !is_there(added)) return added;
    if (prefix.length == 0 && mark != 0)
      if (Status ruled = add_default_rules(prefix.address.family, mark); !ruled) return ruled;
  }
  for (const Prefix& prefix : routes_)
    if (!wanted.contains(prefix))
      static_cast<void>(netlink_.remove_route(route_of(prefix)));  // gone already is as good
  routes_ = wanted;
  return Nothing{};
}

Status HostSetup::add_default_rules(Address::Family family, std::uint32_t mark) {
  const KernelRule ours{.family = family, .not_fwmark = mark, .table = mark};
  const KernelRule specific_first{.family = family, .suppress_prefix_length = 0};
  for (const KernelRule& rule : {ours, specific_first}) {
    if (Status added = netlink_.add_rule(rule); !is_there(added)) return added;
    rules_.push_back(rule);
  }
  return Nothing{};
}

void HostSetup::undo() {
  for (const KernelRule& rule : rules_) static_cast<void>(netlink_.remove_rule(rule));
  rules_.clear();
}

}  // namespace wireplane
