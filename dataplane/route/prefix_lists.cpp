#include "dataplane/route/prefix_lists.h"

#include <cstring>

#include "dataplane/base/check.h"

namespace wireplane::route {

std::uint32_t PrefixLists::next_record(Address::Family family, PeerSlot slot) {
  lists_.hold(std::size_t{slot.raw()} + 1);
  if (family == Address::Family::kV4) {
    if (free_v4_ != kNone) return free_v4_;
    v4_.hold(std::size_t{used_v4_} + 1);
    return used_v4_;
  }
  if (free_v6_ != kNone) return free_v6_;
  v6_.hold(std::size_t{used_v6_} + 1);
  return used_v6_ | kV6;
}

void PrefixLists::add(std::uint32_t record, const Address& prefix, unsigned length, PeerSlot slot) {
  const bool v6 = (record & kV6) != 0;
  std::uint32_t& free = v6 ? free_v6_ : free_v4_;
  if (free == record)
    free = link(record).after;
  else
    ++(v6 ? used_v6_ : used_v4_);
  std::memcpy(v6 ? v6_[record & ~kV6].octets : v4_[record].octets, prefix.octets.data(), v6 ? 16 : 4);
  link(record).length = static_cast<std::uint8_t>(length);
  append(record, slot);
  ++count_;
}

void PrefixLists::move(std::uint32_t record, PeerSlot to) {
  unlink(record);
  append(record, to);
}

void PrefixLists::remove(std::uint32_t record) {
  unlink(record);
  Link& l = link(record);
  l.given_low = l.given_high = 0;
  std::uint32_t& free = (record & kV6) != 0 ? free_v6_ : free_v4_;
  l.after = free;
  free = record;
  --count_;
}

Address PrefixLists::prefix(std::uint32_t record) const {
  return (record & kV6) != 0 ? Address::v6(reinterpret_cast<const std::uint8_t*>(v6_[record & ~kV6].octets))
                             : Address::v4(reinterpret_cast<const std::uint8_t*>(v4_[record].octets));
}

std::uint64_t PrefixLists::given(std::uint32_t record) const {
  if ((record & ~kV6) >= ((record & kV6) != 0 ? used_v6_ : used_v4_)) return 0;
  const Link& l = link(record);
  return std::uint64_t{l.given_high} << 32 | l.given_low;
}

void PrefixLists::append(std::uint32_t record, PeerSlot slot) {
  List& to = lists_[slot.raw()];
  Link& l = link(record);
  ++given_;
  l.slot = slot.raw();
  l.given_low = static_cast<std::uint32_t>(given_);
  l.given_high = static_cast<std::uint32_t>(given_ >> 32) & 0xffffff;
  l.before = to.last;
  l.after = kNone;
  (to.last == kNone ? to.first : link(to.last).after) = record;
  to.last = record;
  ++to.count;
}

void PrefixLists::unlink(std::uint32_t record) {
  const Link l = link(record);
  List& from = lists_[l.slot];
  (l.before == kNone ? from.first : link(l.before).after) = l.after;
  (l.after == kNone ? from.last : link(l.after).before) = l.before;
  --from.count;
}

}  // namespace wireplane::route
