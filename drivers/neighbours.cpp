#include "drivers/neighbours.h"

#include <net/if.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "dataplane/base/bytes.h"

namespace wireplane {
namespace {

constexpr std::size_t kWantedRing = 256;
constexpr std::size_t kMaxAsked = 1024;  // remembered questions
constexpr std::uint64_t kMacBits = (std::uint64_t{1} << 48) - 1;

Address masked(Address address, std::uint8_t length) {
  for (unsigned i = 0; i < address.octets.size(); ++i) {
    const unsigned begin = i * 8;
    if (begin >= length)
      address.octets[i] = 0;
    else if (begin + 8 > length)
      address.octets[i] = static_cast<std::uint8_t>(address.octets[i] & 0xff << (begin + 8 - length));
  }
  return address;
}

bool is_link_local(const Address& a) { return a.is_v6() && a.octets[0] == 0xfe && (a.octets[1] & 0xc0) == 0x80; }

std::uint64_t word_of(const MacAddress& mac) {
  std::uint64_t word = 0;
  for (const std::uint8_t octet : mac) word = word << 8 | octet;
  return word;
}
MacAddress mac_of(std::uint64_t word) {
  MacAddress mac;
  for (std::size_t i = mac.size(); i-- > 0; word >>= 8) mac[i] = static_cast<std::uint8_t>(word);
  return mac;
}

}  // namespace

// ---- the table

NextHops::NextHops(Sources sources)
    : own_{std::move(sources.own)},
      neighbours_{std::move(sources.neighbours)},
      used_{std::make_unique<std::atomic<bool>[]>(neighbours_.size())} {
  std::ranges::sort(neighbours_, {}, &KernelNeighbour::address);
  // Longest prefix first; of equal destinations, the lowest metric first, and binary search finds the first.
  std::ranges::stable_sort(sources.routes, [](const KernelRoute& a, const KernelRoute& b) {
    return std::tuple{b.prefix_length, a.destination, a.priority} <
           std::tuple{a.prefix_length, b.destination, b.priority};
  });
  for (const KernelRoute& route : sources.routes) {
    auto& lengths = lengths_[route.destination.is_v4() ? 0 : 1];
    if (lengths.empty() || lengths.back().length != route.prefix_length) lengths.push_back({route.prefix_length, {}});
    lengths.back().routes.push_back(route);
  }
}

const KernelRoute* NextHops::route_to(const Address& to) const {
  for (const Length& length : lengths_[to.is_v4() ? 0 : 1]) {
    const Address wanted = masked(to, length.length);
    const auto found = std::ranges::lower_bound(length.routes, wanted, {}, &KernelRoute::destination);
    if (found != length.routes.end() && found->destination == wanted) return &*found;
  }
  return nullptr;
}

std::size_t NextHops::neighbour(const Address& address) const {
  const auto found = std::ranges::lower_bound(neighbours_, address, {}, &KernelNeighbour::address);
  return found != neighbours_.end() && found->address == address ? static_cast<std::size_t>(found - neighbours_.begin())
                                                                 : neighbours_.size();
}

Address NextHops::source_for(const KernelRoute& route, const Address& to, const Address& wanted) const {
  if (wanted.family == to.family && is_own(wanted)) return wanted;  // P37
  if (!route.source.none()) return route.source;
  for (const Address& own : own_)
    if (own.family == to.family && is_link_local(own) == is_link_local(to)) return own;
  return own_of(to.family);
}

NextHops::Found NextHops::find(const Address& to, const Address& wanted, Hop& hop) const {
  const KernelRoute* route = route_to(to);
  if (route == nullptr) return Found::kNoRoute;
  hop.source = source_for(*route, to, wanted);
  if (hop.source.none()) return Found::kNoRoute;
  hop.next = route->gateway.none() ? to : route->gateway;
  const std::size_t place = neighbour(hop.next);
  if (place == neighbours_.size()) return Found::kNoNeighbour;
  hop.mac = neighbours_[place].mac;
  if (!used_[place].load(std::memory_order_relaxed)) used_[place].store(true, std::memory_order_relaxed);
  return Found::kReady;
}

bool NextHops::is_own(const Address& address) const { return std::ranges::find(own_, address) != own_.end(); }

Address NextHops::own_of(Address::Family family) const {
  Address link_local;
  for (const Address& own : own_) {
    if (own.family != family) continue;
    if (!is_link_local(own)) return own;
    link_local = own;
  }
  return link_local;
}

std::vector<Address> NextHops::take_used() const {
  std::vector<Address> used;
  for (std::size_t i = 0; i < neighbours_.size(); ++i)
    if (used_[i].exchange(false, std::memory_order_relaxed)) used.push_back(neighbours_[i].address);
  return used;
}

void NextHops::mark_used(const std::vector<Address>& addresses) const {
  for (const Address& address : addresses)
    if (const std::size_t place = neighbour(address); place != neighbours_.size())
      used_[place].store(true, std::memory_order_relaxed);
}

std::vector<Address> NextHops::gateways_without_mac() const {
  std::vector<Address> missing;
  for (const auto& lengths : lengths_)
    for (const Length& length : lengths)
      for (const KernelRoute& route : length.routes)
        if (!route.gateway.none() && neighbour(route.gateway) == neighbours_.size()) missing.push_back(route.gateway);
  return missing;
}

// ---- who was heard

HeardMacs::HeardMacs(std::uint64_t secret)
    : secret_{secret}, places_{std::make_unique<std::atomic<std::uint64_t>[]>(kPlaces)} {}

std::uint64_t HeardMacs::hash(const Address& address) const {
  std::uint64_t hash = secret_;
  for (const std::size_t at : {std::size_t{0}, std::size_t{8}}) {  // MurmurHash3's finalizer, a word at a time
    hash ^= load_le<std::uint64_t>(address.octets.data() + at);
    hash = (hash ^ (hash >> 33)) * 0xff51afd7ed558ccd;
    hash = (hash ^ (hash >> 33)) * 0xc4ceb9fe1a85ec53;
    hash ^= hash >> 33;
  }
  return hash;
}

void HeardMacs::note(const Address& address, const MacAddress& mac) {
  const std::uint64_t h = hash(address);
  const std::uint64_t word = (h & ~kMacBits) | word_of(mac);
  std::atomic<std::uint64_t>& place = places_[h % kPlaces];
  if (place.load(std::memory_order_relaxed) != word) place.store(word, std::memory_order_relaxed);
}

std::optional<MacAddress> HeardMacs::find(const Address& address) const {
  const std::uint64_t h = hash(address);
  const std::uint64_t word = places_[h % kPlaces].load(std::memory_order_relaxed);
  if (word == 0 || (word & ~kMacBits) != (h & ~kMacBits)) return std::nullopt;
  return mac_of(word & kMacBits);
}

// ---- control

Neighbours::Neighbours(NeighbourOptions options, unsigned readers)
    : options_{std::move(options)},
      table_{readers, std::make_unique<NextHops>()},
      stations_{options_.secret},
      datagrams_{options_.secret},
      wanted_{kWantedRing},
      questions_{kWantedRing} {}

Result<std::unique_ptr<Neighbours>> Neighbours::open(NeighbourOptions options, unsigned readers) {
  std::unique_ptr<Neighbours> made{new Neighbours{std::move(options), readers}};
  if (made->options_.kernel_interface.empty()) {
    made->publish(made->from_options());
    for (const Address& gateway : made->latest().gateways_without_mac())
      static_cast<void>(made->questions_.push(gateway));  // so that the first packet need not wait
    return made;
  }
  const std::string& name = made->options_.kernel_interface;
  made->asker_ = FileDescriptor{::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0)};
  made->interface_ = made->index_by_name();
  if (made->interface() == 0) return Error{"neighbours: there is no interface " + name, ENODEV};
  auto monitor = NetlinkMonitor::open();
  if (!monitor) return monitor.error();
  auto netlink = Netlink::open();
  if (!netlink) return netlink.error();
  made->monitor_.emplace(std::move(*monitor));
  made->netlink_.emplace(std::move(*netlink));
  auto table = made->read_kernel();
  if (!table) return table.error();
  made->publish(std::move(*table));
  for (const Address& gateway : made->latest().gateways_without_mac())
    static_cast<void>(made->netlink_->resolve(made->interface(), gateway));
  return made;
}

std::uint32_t Neighbours::index_by_name() const {
  ifreq request{};
  std::strncpy(request.ifr_name, options_.kernel_interface.c_str(), IFNAMSIZ - 1);
  return ::ioctl(asker_.get(), SIOCGIFINDEX, &request) == 0 ? static_cast<std::uint32_t>(request.ifr_ifindex) : 0;
}

void Neighbours::publish(std::unique_ptr<const NextHops> table) {
  table_.publish(std::move(table));
  changes_.fetch_add(1, std::memory_order_release);
}

Result<std::unique_ptr<const NextHops>> Neighbours::read_kernel() {
  auto own = netlink_->addresses(interface());
  if (!own) return own.error();
  auto routes = netlink_->routes(interface());
  if (!routes) return routes.error();
  auto neighbours = netlink_->neighbours(interface());
  if (!neighbours) return neighbours.error();
  std::erase_if(*routes, [](const KernelRoute& route) { return route.table != kMainTable; });
  for (const LinkAddress& mine : options_.own) own->push_back(mine.address);
  return std::unique_ptr<const NextHops>{new NextHops{{std::move(*own), std::move(*routes), std::move(*neighbours)}}};
}

std::unique_ptr<const NextHops> Neighbours::from_options() const {
  NextHops::Sources sources;
  for (const LinkAddress& mine : options_.own) {
    sources.own.push_back(mine.address);
    sources.routes.push_back({.destination = masked(mine.address, mine.prefix_length),
                              .prefix_length = mine.prefix_length,
                              .source = mine.address});
  }
  for (const Address& gateway : {options_.gateway_v4, options_.gateway_v6}) {
    if (gateway.none()) continue;
    Address everything;
    everything.family = gateway.family;
    sources.routes.push_back({.destination = everything, .gateway = gateway});
    if (options_.gateway_mac) sources.neighbours.push_back({gateway, 0, *options_.gateway_mac});
  }
  return std::make_unique<const NextHops>(std::move(sources));
}

Status Neighbours::poll(Instant now) {
  Address target;
  while (wanted_.pop(target)) ask(target, now);
  if (!uses_kernel()) return Nothing{};
  stale_ = monitor_->changed() || stale_;
  if (stale_ && now - read_at_ >= kReadAtMostEvery) {
    stale_ = false;
    read_at_ = now;
    interface_ = index_by_name();
    if (interface() == 0) {  // no way anywhere, until there is one of that name again
      publish(std::make_unique<const NextHops>());
      return Nothing{};
    }
    auto table = read_kernel();
    stale_ = !table;
    if (!table) return table.error();
    (*table)->mark_used(latest().take_used());
    publish(std::move(*table));
  }
  if (interface() == 0) return Nothing{};
  if (now - confirmed_at_ >= kConfirmEvery) {  // the kernel does not see our traffic and would forget them
    confirmed_at_ = now;
    for (const Address& address : latest().take_used()) static_cast<void>(netlink_->resolve(interface(), address));
    for (const Address& gateway : latest().gateways_without_mac()) ask(gateway, now);
  }
  return Nothing{};
}

void Neighbours::ask(const Address& target, Instant now) {
  if (asked_.size() >= kMaxAsked)
    std::erase_if(asked_, [&](const auto& one) { return now - one.second >= kAskAgainAfter; });
  if (asked_.size() >= kMaxAsked) return;
  const auto [place, first] = asked_.try_emplace(target, now);
  if (!first && now - place->second < kAskAgainAfter) return;
  place->second = now;
  if (uses_kernel())
    static_cast<void>(
        netlink_->resolve(interface(), target));  // if it fails, there will be no neighbour: counted there
  else
    static_cast<void>(questions_.push(target));
}

// ---- workers

NextHops::Found Neighbours::find(const NextHops& table, const Endpoint& to, NextHops::Hop& hop) {
  using Found = NextHops::Found;
  const Found found = table.find(to.remote, to.local, hop);
  if (found == Found::kReady) return found;
  if (found == Found::kNoNeighbour) {
    if (!uses_kernel()) {
      if (const auto mac = stations_.find(hop.next)) {
        hop.mac = *mac;
        return Found::kReady;
      }
    }
    static_cast<void>(wanted_.push(hop.next));  // a full ring holds enough questions
    return found;
  }
  // Off the link, and nobody said who leads there: whoever brought the peer's last datagram, or the only other station.
  if (uses_kernel()) return found;
  hop.source =
      to.local.family == to.remote.family && table.is_own(to.local) ? to.local : table.own_of(to.remote.family);
  if (hop.source.none()) return found;
  hop.next = to.remote;
  if (options_.gateway_mac) {
    hop.mac = *options_.gateway_mac;
    return Found::kReady;
  }
  if (const auto mac = datagrams_.find(to.remote)) {
    hop.mac = *mac;
    return Found::kReady;
  }
  const std::uint64_t last = last_heard_.load(std::memory_order_relaxed);
  hop.mac = mac_of(last);
  return last != 0 ? Found::kReady : found;
}

void Neighbours::heard_from(const Address& address, const MacAddress& mac) {
  if (uses_kernel() || options_.gateway_mac) return;  // known better
  datagrams_.note(address, mac);
  const std::uint64_t word = word_of(mac);
  if (last_heard_.load(std::memory_order_relaxed) != word) last_heard_.store(word, std::memory_order_relaxed);
}

void Neighbours::is_at(const Address& address, const MacAddress& mac) {
  if (uses_kernel()) return;
  stations_.note(address, mac);
  changes_.fetch_add(1, std::memory_order_release);
}

}  // namespace wireplane
