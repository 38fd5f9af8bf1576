// Fuzz: the table of allowed IPs under any sequence of changes, against a map that is searched from end to end.
// Claims: every look-up finds the owner of the longest prefix; every change answers what the map says, and moves,
// keeps and lists prefixes as the map does, each peer's in the order in which it was given them; a list that is read
// in steps while the table changes shows what stays exactly once; what is retired is freed once, and nobody needs it.
#include "dataplane/route/allowed_ips.h"

#include <map>

#include "dataplane/base/check.h"
#include "tests/fuzz/oracle.h"
#include "tests/fuzz/program.h"

namespace wireplane {
namespace {

using fuzz::Operands;

enum Kind : std::uint8_t { kInsert, kRemove, kRemoveAll, kLookUp, kGrace, kRead, kBulk, kKinds };
constexpr std::uint8_t kGrammar[kKinds] = {8, 8, 3, 6, 1, 3, 9};
constexpr unsigned kSlots = 5;

class World {
 public:
  ~World() {
    check_all();
    for (auto& free : retired_) free();
  }

  void play(Kind kind, Operands o) {
    switch (kind) {
      case kInsert:
        return insert(prefix_from(o), o.below(kSlots));
      case kRemove:
        return remove(prefix_from(o), o.below(kSlots));
      case kRemoveAll: {
        const unsigned slot = o.below(kSlots);
        const std::size_t at_most = o.flag() ? o.u8() % 4 : SIZE_MAX;
        const std::size_t had = table_.count(PeerSlot{slot}), gone = table_.remove_all(PeerSlot{slot}, at_most);
        WG_CHECK(gone == std::min(had, at_most));
        std::erase_if(owners_, [&](const auto& entry) {  // which ones is the table's choice
          return entry.second.slot == slot && table_.owner(entry.first.address, entry.first.length) == std::nullopt;
        });
        WG_CHECK(table_.count(PeerSlot{slot}) == had - gone);
        return check_lists();
      }
      case kLookUp:
        return look_up(address_from(o));
      case kGrace:
        for (auto& free : retired_) free();
        return retired_.clear();
      case kRead:
        return read_some(o);
      case kBulk: {  // neighbours in a row: dense nodes; or hosts anywhere in a subnet: nodes at any bit
        Prefix prefix = prefix_from(o);
        const std::uint8_t how = o.u8();
        for (unsigned n = o.u8() % 80; n != 0; --n) {
          if ((how & 2) != 0) {
            insert(inside(prefix, how * 256u + n), n % kSlots);
            continue;
          }
          insert(prefix, (how & 1) != 0 ? n % kSlots : 0);
          if (prefix.length == 0) return;
          std::uint8_t& octet = prefix.address.octets[(prefix.length - 1u) / 8];
          octet = static_cast<std::uint8_t>(octet + (1u << (7 - (prefix.length - 1u) % 8)));
        }
        return;
      }
      case kKinds:
        return;
    }
  }

 private:
  struct Owner {
    unsigned slot;
    std::uint64_t given;
  };

  static Address address_from(Operands& o) {
    const std::uint8_t how = o.u8();
    std::array<std::uint8_t, 16> octets{};
    if ((how & 2) != 0) octets = {10, 0, 0, 0};  // among others
    if ((how & 4) != 0) octets[0] = 0xfd;
    for (std::size_t i = 0; i < 5; ++i) {
      std::size_t at = i;
      if ((how & 8) != 0) at += 2;
      if ((how & 16) != 0) at += 10;
      octets[at % 16] ^= o.u8();
    }
    return (how & 1) != 0 ? Address::v6(octets.data()) : Address::v4(octets.data());
  }
  static Prefix prefix_from(Operands& o) {
    Prefix prefix{address_from(o), 0};
    prefix.length = static_cast<std::uint8_t>(o.u8() % (prefix.address.bits() + 1));
    return masked(prefix);
  }
  // The n-th host, or longer prefix, anywhere in it.
  static Prefix inside(Prefix prefix, std::uint64_t n) {
    std::uint64_t noise = 0;
    for (unsigned bit = prefix.length; bit < prefix.address.bits(); ++bit) {
      if ((bit - prefix.length) % 32 == 0) noise = (n + bit + 1) * 0x9e3779b97f4a7c15 >> 32;
      if ((noise >> bit % 32 & 1) != 0)
        prefix.address.octets[bit / 8] = static_cast<std::uint8_t>(prefix.address.octets[bit / 8] ^ 0x80u >> bit % 8);
    }
    const auto length = static_cast<std::uint8_t>(prefix.address.bits());
    prefix.length = n % 8 == 0 ? static_cast<std::uint8_t>((prefix.length + length) / 2) : length;
    return masked(prefix);
  }

  void insert(const Prefix& prefix, unsigned slot) {
    const auto known = owners_.find(prefix);
    const std::optional<PeerSlot> before = table_.insert(prefix.address, prefix.length, PeerSlot{slot});
    WG_CHECK(before.has_value() == (known != owners_.end()));
    if (before) WG_CHECK(before->raw() == known->second.slot);
    if (!before || before->raw() != slot) owners_[prefix] = {slot, ++given_};
  }
  void remove(const Prefix& prefix, unsigned slot) {
    const auto known = owners_.find(prefix);
    const bool his = known != owners_.end() && known->second.slot == slot;
    WG_CHECK(table_.remove(prefix.address, prefix.length, PeerSlot{slot}) == his);
    if (his) owners_.erase(known);
    look_up(prefix.address);
  }
  void look_up(const Address& address) const {
    std::optional<unsigned> best;
    int length = -1;
    for (const auto& [prefix, owner] : owners_) {
      if (int{prefix.length} <= length || !fuzz::contains(prefix, address)) continue;
      length = prefix.length;
      best = owner.slot;
    }
    const std::optional<PeerSlot> found = table_.lookup(address);
    WG_CHECK(found.has_value() == best.has_value() && (!best || found->raw() == *best));
  }
  // Every prefix's first and last address, and those beside them; in bursts, as workers ask.
  void check_all() const {
    std::vector<Address> asked;
    for (const auto& [prefix, owner] : owners_) {
      Address last = prefix.address;
      for (unsigned bit = prefix.length; bit < prefix.address.bits(); ++bit)
        last.octets[bit / 8] = static_cast<std::uint8_t>(last.octets[bit / 8] | 0x80u >> bit % 8);
      Address flipped = prefix.address;
      if (prefix.length != 0)
        flipped.octets[(prefix.length - 1u) / 8] ^= static_cast<std::uint8_t>(0x80u >> (prefix.length - 1u) % 8);
      for (const Address& address : {prefix.address, last, flipped}) asked.push_back(address);
      WG_CHECK(table_.owner(prefix.address, prefix.length) == PeerSlot{owner.slot});
    }
    for (const Address& address : asked) look_up(address);
    check_burst(asked, true);
    check_burst(asked, false);
    check_lists();
  }
  void check_burst(const std::vector<Address>& asked, bool v4) const {
    std::vector<const std::uint8_t*> octets;
    std::vector<std::uint32_t> slots(asked.size() + 1, 77);
    for (const Address& address : asked)
      if (address.is_v4() == v4) octets.push_back(address.octets.data());
    if (v4)
      table_.lookup_v4(octets.data(), octets.size(), slots.data());
    else
      table_.lookup_v6(octets.data(), octets.size(), slots.data());
    for (std::size_t i = 0; i < octets.size(); ++i) {
      const std::optional<PeerSlot> one = table_.lookup(v4 ? Address::v4(octets[i]) : Address::v6(octets[i]));
      WG_CHECK(slots[i] == (one ? one->raw() : kNoPeer));
    }
    WG_CHECK(slots[octets.size()] == 77);
  }
  void check_lists() const {
    WG_CHECK(table_.count() == owners_.size());
    for (unsigned slot = 0; slot < kSlots; ++slot) {
      std::map<std::uint64_t, Prefix> expected;
      for (const auto& [prefix, owner] : owners_)
        if (owner.slot == slot) expected[owner.given] = prefix;
      auto next = expected.begin();
      table_.for_each(PeerSlot{slot}, [&](const Address& address, unsigned length) {
        WG_CHECK(next != expected.end() && next->second.address == address && next->second.length == length);
        ++next;
      });
      WG_CHECK(next == expected.end() && table_.count(PeerSlot{slot}) == expected.size());
    }
  }
  // A dump in steps, while operations go on between them.
  void read_some(Operands& o) {
    const unsigned slot = o.below(kSlots);
    if (slot != read_slot_ || o.flag()) {
      read_slot_ = slot;
      cursor_ = {};
      read_.clear();
      there_.clear();
      for (const auto& [prefix, owner] : owners_)
        if (owner.slot == slot) there_[prefix] = owner.given;
    }
    const bool ended =
        table_.visit_some(PeerSlot{slot}, cursor_, o.u8() % 8, [&](const Address& address, unsigned length) {
          const Prefix prefix{address, static_cast<std::uint8_t>(length)};
          const auto known = owners_.find(prefix);
          WG_CHECK(known != owners_.end() && known->second.slot == slot);
          WG_CHECK(read_.emplace(prefix, known->second.given).second || read_[prefix] != known->second.given);
          read_[prefix] = known->second.given;
        });
    if (!ended) return;
    for (const auto& [prefix, given] : there_) {
      const auto known = owners_.find(prefix);
      const bool stayed = known != owners_.end() && known->second.slot == slot && known->second.given == given;
      if (stayed) WG_CHECK(read_.contains(prefix));
    }
    read_slot_ = kSlots;
  }

  std::vector<std::function<void()>> retired_;
  AllowedIps table_{[this](std::function<void()> free) { retired_.push_back(std::move(free)); }};
  std::map<Prefix, Owner> owners_;
  std::uint64_t given_ = 0;
  unsigned read_slot_ = kSlots;
  AllowedIps::Cursor cursor_;
  std::map<Prefix, std::uint64_t> read_, there_;
};

}  // namespace
}  // namespace wireplane

WIREPLANE_FUZZ_PROGRAMS(wireplane::kGrammar)

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace wireplane;
  return fuzz::play_in_new<World>({data, size}, 300, kKinds);
}
