#include "dataplane/route/allowed_ips.h"

#include <utility>

#include "dataplane/base/check.h"
#include "dataplane/route/edit.h"
#include "dataplane/route/retired.h"
#include "dataplane/route/search.h"
#include "dataplane/route/trie.h"

namespace wireplane {

using route::Edit;
using route::Key128;
using route::Ref;
using route::Value;

namespace {

constexpr Value kNothing{kNoPeer, route::PrefixLists::kNone};

template <class Key>
Ref<Key> own_root(const std::atomic<std::uintptr_t>& root) {  // the writer's view of its own store
  return Ref<Key>::of(root.load(std::memory_order_relaxed));
}

template <class Key>
Key key_of(const Address& prefix, unsigned length) {
  return route::masked(route::load_key<Key>(prefix.octets.data()), length);
}

template <class Key>
Address without_host_bits(const Address& prefix, unsigned length) {
  const Key key = key_of<Key>(prefix, length);
  Address masked{.octets = {}, .family = prefix.family};
  for (std::size_t i = 0; i < sizeof(Key); ++i)
    masked.octets[i] = static_cast<std::uint8_t>(key >> (8 * (sizeof(Key) - 1 - i)));
  return masked;
}

}  // namespace

AllowedIps::AllowedIps(Retire retire) : retired_{std::make_shared<route::Retired>(std::move(retire))} {}
AllowedIps::~AllowedIps() {
  retired_->close();
  Edit<std::uint32_t>::free_all(own_root<std::uint32_t>(v4_), retired_->pool());
  Edit<Key128>::free_all(own_root<Key128>(v6_), retired_->pool());
}

// R2 acquire in both, pairs with R1. Relaxed, a worker could walk nodes that are not yet written.
void AllowedIps::lookup_v4(const std::uint8_t* const* addresses, std::size_t count, std::uint32_t* slots) const {
  route::search(Ref<std::uint32_t>::of(v4_.load(std::memory_order_acquire)), addresses, count, slots, kNoPeer);
}
void AllowedIps::lookup_v6(const std::uint8_t* const* addresses, std::size_t count, std::uint32_t* slots) const {
  route::search(Ref<Key128>::of(v6_.load(std::memory_order_acquire)), addresses, count, slots, kNoPeer);
}

std::optional<PeerSlot> AllowedIps::lookup(const Address& address) const {
  const std::uint8_t* octets = address.octets.data();
  std::uint32_t slot = kNoPeer;
  if (address.is_v4()) lookup_v4(&octets, 1, &slot);
  if (address.is_v6()) lookup_v6(&octets, 1, &slot);
  return slot == kNoPeer ? std::nullopt : std::optional{PeerSlot{slot}};
}

// ---- the writer: what can fail comes first, then what cannot

template <class Key>
void AllowedIps::publish(Root<Key>& root, Edit<Key>& edit, Ref<Key> fresh) {
  edit.keep();
  root.store(fresh.raw(), std::memory_order_release);                                       // R1 release, pairs with R2
  version_.store(version_.load(std::memory_order_relaxed) + 1, std::memory_order_release);  // R6
  retired_->retire(edit.old());
}

template <class Key>
std::optional<PeerSlot> AllowedIps::insert_in(Root<Key>& root, const Address& prefix, unsigned length, PeerSlot slot) {
  const Key key = key_of<Key>(prefix, length);
  const Ref<Key> before = own_root<Key>(root);
  const Value held = Edit<Key>::find(before, key, length, kNothing);
  const bool known = held.record != route::PrefixLists::kNone;
  if (known && held.slot == slot.raw()) return slot;
  const std::uint32_t fresh = lists_.next_record(prefix.family, slot);
  const std::uint32_t record = known ? held.record : fresh;
  Edit<Key> edit{retired_->pool()};
  const Ref<Key> after = edit.with(before, {key, length, {slot.raw(), record}});
  retired_->reserve(edit.old().size());
  publish(root, edit, after);
  if (known)
    lists_.move(record, slot);
  else
    lists_.add(record, without_host_bits<Key>(prefix, length), length, slot);
  return known ? std::optional{PeerSlot{held.slot}} : std::nullopt;
}

template <class Key>
bool AllowedIps::remove_in(Root<Key>& root, const Address& prefix, unsigned length, PeerSlot slot) {
  const Key key = key_of<Key>(prefix, length);
  const Ref<Key> before = own_root<Key>(root);
  const Value held = Edit<Key>::find(before, key, length, kNothing);
  if (held.record == route::PrefixLists::kNone || held.slot != slot.raw()) return false;
  Edit<Key> edit{retired_->pool()};
  const Ref<Key> after = edit.without(before, key, length);
  retired_->reserve(edit.old().size());
  publish(root, edit, after);
  lists_.remove(held.record);
  return true;
}

std::optional<PeerSlot> AllowedIps::insert(const Address& prefix, unsigned length, PeerSlot slot) {
  WG_CHECK(!prefix.none() && length <= prefix.bits() && slot.raw() != kNoPeer);
  return prefix.is_v4() ? insert_in<std::uint32_t>(v4_, prefix, length, slot)
                        : insert_in<Key128>(v6_, prefix, length, slot);
}

bool AllowedIps::remove(const Address& prefix, unsigned length, PeerSlot slot) {
  WG_CHECK(!prefix.none() && length <= prefix.bits());
  return prefix.is_v4() ? remove_in<std::uint32_t>(v4_, prefix, length, slot)
                        : remove_in<Key128>(v6_, prefix, length, slot);
}

std::optional<PeerSlot> AllowedIps::owner(const Address& prefix, unsigned length) const {
  WG_CHECK(!prefix.none() && length <= prefix.bits());
  const auto find = [&]<class Key>(Ref<Key> root) {
    return Edit<Key>::find(root, key_of<Key>(prefix, length), length, kNothing);
  };
  const Value held = prefix.is_v4() ? find(own_root<std::uint32_t>(v4_)) : find(own_root<Key128>(v6_));
  return held.slot == kNoPeer ? std::nullopt : std::optional{PeerSlot{held.slot}};
}

std::size_t AllowedIps::remove_all(PeerSlot slot, std::size_t at_most) {
  std::size_t removed = 0;
  for (std::uint32_t record; removed < at_most && (record = lists_.first(slot)) != route::PrefixLists::kNone; ++removed)
    WG_CHECK(remove(lists_.prefix(record), lists_.length(record), slot));
  return removed;
}

void AllowedIps::for_each(PeerSlot slot, const std::function<void(const Address&, unsigned)>& visit) const {
  Cursor cursor;
  (void)visit_some(slot, cursor, SIZE_MAX, visit);
}

bool AllowedIps::visit_some(PeerSlot slot, Cursor& cursor, std::size_t at_most,
                            const std::function<void(const Address&, unsigned)>& visit) const {
  constexpr std::uint32_t kNone = route::PrefixLists::kNone;
  std::uint32_t record = lists_.first(slot);
  if (cursor.record != kNone && lists_.given(cursor.record) == cursor.given && record != kNone) {
    record = lists_.after(cursor.record);  // still where we left it
  } else {
    while (record != kNone && lists_.given(record) <= cursor.given) record = lists_.after(record);
  }
  for (; record != kNone && at_most != 0; record = lists_.after(record), --at_most) {
    cursor = {lists_.given(record), record};
    visit(lists_.prefix(record), lists_.length(record));
  }
  return record == kNone;
}

std::size_t AllowedIps::octets() const { return sizeof *this + retired_->pool().octets() + lists_.octets(); }

}  // namespace wireplane
