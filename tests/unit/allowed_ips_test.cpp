#include "dataplane/route/allowed_ips.h"

#include <gtest/gtest.h>

#include <atomic>
#include <cstdlib>
#include <memory>
#include <new>
#include <thread>

#include "dataplane/base/grace.h"
#include "tests/support/ip_packets.h"
#include "tests/support/seed.h"

namespace {
thread_local std::size_t allocations = 0;  // of this thread
}
[[gnu::noinline]] void* operator new(std::size_t size) {
  ++allocations;
  if (void* memory = std::malloc(size)) return memory;
  throw std::bad_alloc{};
}
[[gnu::noinline]] void operator delete(void* memory) noexcept { std::free(memory); }
[[gnu::noinline]] void operator delete(void* memory, std::size_t) noexcept { std::free(memory); }

namespace wireplane {
namespace {

using test::address;
using test::Random;

// A prefix as text: "10.0.0.0/8".
struct Prefix {
  Address address;
  unsigned length;
  friend bool operator==(const Prefix&, const Prefix&) = default;
};
Prefix prefix(const std::string& text) {
  const std::size_t slash = text.find('/');
  return {address(text.substr(0, slash)), static_cast<unsigned>(std::stoul(text.substr(slash + 1)))};
}

bool bit_of(const Address& a, unsigned i) { return (a.octets[i / 8] >> (7 - i % 8) & 1) != 0; }
void flip(Address& a, unsigned i) { a.octets[i / 8] = static_cast<std::uint8_t>(a.octets[i / 8] ^ 0x80 >> i % 8); }
Prefix masked(Prefix p) {
  for (unsigned i = p.length; i < p.address.bits(); ++i)
    if (bit_of(p.address, i)) flip(p.address, i);
  return p;
}

// The definition: a list in order of insertion, searched from end to end, bit by bit.
class SlowAllowedIps {
 public:
  struct Row {
    Prefix prefix;
    PeerSlot slot;
  };
  std::optional<PeerSlot> lookup(const Address& a) const {
    const Row* best = nullptr;
    for (const Row& row : rows_)
      if (covers(row.prefix, a) && (best == nullptr || row.prefix.length > best->prefix.length)) best = &row;
    return best == nullptr ? std::nullopt : std::optional{best->slot};
  }
  std::optional<PeerSlot> insert(Prefix p, PeerSlot slot) {
    p = masked(p);
    const std::optional<PeerSlot> before = owner(p);
    if (before == slot) return before;
    std::erase_if(rows_, [&](const Row& row) { return row.prefix == p; });
    rows_.push_back({p, slot});
    return before;
  }
  bool remove(Prefix p, PeerSlot slot) {
    p = masked(p);
    return std::erase_if(rows_, [&](const Row& row) { return row.prefix == p && row.slot == slot; }) != 0;
  }
  std::size_t remove_all(PeerSlot slot) {
    return std::erase_if(rows_, [&](const Row& row) { return row.slot == slot; });
  }
  std::optional<PeerSlot> owner(Prefix p) const {
    p = masked(p);
    for (const Row& row : rows_)
      if (row.prefix == p) return row.slot;
    return std::nullopt;
  }
  std::vector<Prefix> of(PeerSlot slot) const {
    std::vector<Prefix> all;
    for (const Row& row : rows_)
      if (row.slot == slot) all.push_back(row.prefix);
    return all;
  }
  const std::vector<Row>& rows() const { return rows_; }

 private:
  static bool covers(const Prefix& p, const Address& a) {
    if (p.address.family != a.family) return false;
    for (unsigned i = 0; i < p.length; ++i)
      if (bit_of(p.address, i) != bit_of(a, i)) return false;
    return true;
  }
  std::vector<Row> rows_;
};

std::vector<Prefix> prefixes_of(const AllowedIps& ips, PeerSlot slot) {
  std::vector<Prefix> all;
  ips.for_each(slot, [&](const Address& a, unsigned length) { all.push_back({a, length}); });
  return all;
}

Address random_address(Random& random) {
  std::uint8_t octets[16];
  for (auto& octet : octets) octet = static_cast<std::uint8_t>(random());
  return random() % 2 ? Address::v4(octets) : Address::v6(octets);
}

// Prefixes that nest and stand side by side: mostly one that is there, with a bit flipped and another length.
Prefix related_prefix(const SlowAllowedIps& ips, Random& random) {
  Prefix p{random_address(random), 0};
  p.length = static_cast<unsigned>(test::below(random, p.address.bits() + 1));
  if (ips.rows().empty() || random() % 8 == 0) return p;
  p = ips.rows()[test::below(random, ips.rows().size())].prefix;
  if (random() % 4 == 0) return p;
  flip(p.address, static_cast<unsigned>(test::below(random, p.address.bits())));
  const unsigned longer = static_cast<unsigned>(test::below(random, 9)), bits = p.address.bits();
  p.length = random() % 2 ? std::min(bits, p.length + longer) : p.length - std::min(p.length, longer);
  return p;
}

// Just inside or outside of a prefix that is there.
Address related_address(const SlowAllowedIps& ips, Random& random) {
  Address a = random_address(random);
  if (ips.rows().empty() || random() % 8 == 0) return a;
  const Prefix& p = ips.rows()[test::below(random, ips.rows().size())].prefix;
  if (p.address.family != a.family) a = p.address;
  for (unsigned i = 0; i < p.length; ++i)
    if (bit_of(a, i) != bit_of(p.address, i)) flip(a, i);
  if (random() % 2) flip(a, static_cast<unsigned>(test::below(random, a.bits())));
  return a;
}

// How gtest prints a prefix.
[[maybe_unused]] void PrintTo(const Prefix& p, std::ostream* out) {
  char text[INET6_ADDRSTRLEN];
  *out << inet_ntop(p.address.is_v4() ? AF_INET : AF_INET6, p.address.octets.data(), text, sizeof text) << "/"
       << p.length;
}

void expect_equal_lookups(const AllowedIps& ips, const SlowAllowedIps& slow, const std::vector<Address>& where,
                          std::uint64_t seed) {
  std::vector<const std::uint8_t*> keys4, keys6;
  std::vector<std::uint32_t> want4, want6;
  for (const Address& a : where) {
    const std::optional<PeerSlot> wanted = slow.lookup(a);
    ASSERT_EQ(ips.lookup(a), wanted) << "WG_SEED=" << seed;
    (a.is_v4() ? keys4 : keys6).push_back(a.octets.data());
    (a.is_v4() ? want4 : want6).push_back(wanted ? wanted->raw() : kNoPeer);
  }
  std::vector<std::uint32_t> got4(keys4.size(), 77), got6(keys6.size(), 77);
  ips.lookup_v4(keys4.data(), keys4.size(), got4.data());
  ips.lookup_v6(keys6.data(), keys6.size(), got6.data());
  ASSERT_EQ(got4, want4) << "WG_SEED=" << seed;
  ASSERT_EQ(got6, want6) << "WG_SEED=" << seed;
}

// Goal: the longest prefix decides, over the whole device, whoever owns the shorter; families do not mix; nothing
// matches nothing.
// Method: a small device by hand, with default routes, nested prefixes of several peers, and hosts.
TEST(AllowedIps, TheLongestPrefixOfTheWholeDeviceDecides) {
  AllowedIps ips;
  const PeerSlot a{1}, b{2}, c{3};
  EXPECT_EQ(ips.lookup(address("10.0.0.1")), std::nullopt);
  const auto add = [&](const char* text, PeerSlot slot) {
    return ips.insert(prefix(text).address, prefix(text).length, slot);
  };
  const auto at = [&](const char* text) { return ips.lookup(address(text)); };
  add("192.168.4.0/24", a);
  add("192.168.4.4/32", b);  // P36's case: not a's, though inside a's
  add("192.168.0.0/16", c);
  add("64.15.112.0/20", c);
  add("64.15.123.211/25", b);  // host bits are ignored
  add("2607:5300:6006:6b00::c05f:5550/112", a);
  add("2607:5300:6006:6b00::/64", b);
  EXPECT_EQ(at("192.168.4.3"), a);
  EXPECT_EQ(at("192.168.4.4"), b);
  EXPECT_EQ(at("192.168.4.5"), a);
  EXPECT_EQ(at("192.168.200.182"), c);
  EXPECT_EQ(at("192.95.5.68"), std::nullopt);
  EXPECT_EQ(at("64.15.123.128"), b);
  EXPECT_EQ(at("64.15.123.127"), c);
  EXPECT_EQ(at("64.15.127.255"), c);
  EXPECT_EQ(at("64.15.128.0"), std::nullopt);
  EXPECT_EQ(at("2607:5300:6006:6b00::c05f:5543"), a);
  EXPECT_EQ(at("2607:5300:6006:6b00::c05e:5543"), b);
  EXPECT_EQ(at("2607:5300:6006:6b01::1"), std::nullopt);
  EXPECT_EQ(at("::"), std::nullopt);
  add("0.0.0.0/0", b);
  EXPECT_EQ(at("192.95.5.68"), b);
  EXPECT_EQ(at("0.0.0.0"), b);
  EXPECT_EQ(at("255.255.255.255"), b);
  EXPECT_EQ(at("::1"), std::nullopt);
  add("::/0", c);
  EXPECT_EQ(at("::1"), c);
  EXPECT_EQ(at("1.2.3.4"), b);
  EXPECT_EQ(ips.lookup(Address{}), std::nullopt);
  EXPECT_EQ(ips.count(), 9u);
  EXPECT_EQ(ips.count(b), 4u);
}

// Goal: a prefix has one owner; giving it to another takes it from the first, and each change says what was before.
// Method: by hand; only the owner can remove, and only exactly what it has.
TEST(AllowedIps, APrefixMovesToWhoeverGetsItLast) {
  AllowedIps ips;
  const PeerSlot a{0}, b{1};
  EXPECT_EQ(ips.insert(address("10.1.2.3"), 24, a), std::nullopt);
  EXPECT_EQ(ips.insert(address("10.1.2.0"), 24, a), a);
  EXPECT_EQ(ips.count(), 1u);
  EXPECT_EQ(ips.insert(address("10.1.2.99"), 24, b), a);
  EXPECT_EQ(ips.owner(address("10.1.2.7"), 24), b);
  EXPECT_EQ(ips.owner(address("10.1.2.7"), 25), std::nullopt);
  EXPECT_EQ(ips.count(a), 0u);
  EXPECT_EQ(ips.lookup(address("10.1.2.3")), b);
  EXPECT_FALSE(ips.remove(address("10.1.2.0"), 24, a));
  EXPECT_FALSE(ips.remove(address("10.1.2.0"), 23, b));
  EXPECT_FALSE(ips.remove(address("10.1.2.0"), 25, b));
  EXPECT_TRUE(ips.remove(address("10.1.2.55"), 24, b));
  EXPECT_FALSE(ips.remove(address("10.1.2.55"), 24, b));
  EXPECT_EQ(ips.lookup(address("10.1.2.3")), std::nullopt);
  EXPECT_EQ(ips.count(), 0u);
}

// Goal: after any history of changes the fast table and the definition agree, on answers and on who owns what in
// which order.
// Method: random nested prefixes of both families are given, moved, taken away singly and by peer; each change is
// followed by lookups near what is there, singly and in bursts.
TEST(AllowedIps, AgreesWithTheDefinitionThroughAnyHistory) {
  const std::uint64_t seed = test::seed_from_env_or(36);
  Random random{seed};
  for (int run = 0; run < 12; ++run) {
    AllowedIps ips;
    SlowAllowedIps slow;
    const std::size_t peers = 1 + test::below(random, 12), size = std::size_t{4} << test::below(random, 7);
    for (int change = 0; change < 1200; ++change) {
      const PeerSlot slot{static_cast<std::uint32_t>(test::below(random, peers))};
      const Prefix p = related_prefix(slow, random);
      const bool grow = slow.rows().size() < size ? random() % 4 != 0 : random() % 4 == 0;
      if (grow) {
        ASSERT_EQ(ips.insert(p.address, p.length, slot), slow.insert(p, slot)) << "WG_SEED=" << seed;
      } else if (random() % 64 == 0) {
        ASSERT_EQ(ips.remove_all(slot), slow.remove_all(slot)) << "WG_SEED=" << seed;
      } else {
        const PeerSlot of = slow.owner(p).value_or(slot);
        ASSERT_EQ(ips.remove(p.address, p.length, of), slow.remove(p, of)) << "WG_SEED=" << seed;
      }
      ASSERT_EQ(ips.count(), slow.rows().size());
      std::vector<Address> where;
      for (std::size_t i = test::below(random, 8); i > 0; --i) where.push_back(related_address(slow, random));
      expect_equal_lookups(ips, slow, where, seed);
    }
    for (std::uint32_t slot = 0; slot < peers; ++slot) {
      ASSERT_EQ(prefixes_of(ips, PeerSlot{slot}), slow.of(PeerSlot{slot})) << "WG_SEED=" << seed;
      ASSERT_EQ(ips.count(PeerSlot{slot}), slow.of(PeerSlot{slot}).size());
    }
    std::vector<Address> many;
    for (int i = 0; i < 300; ++i) many.push_back(related_address(slow, random));
    expect_equal_lookups(ips, slow, many, seed);
  }
}

// Goal: each length of a prefix is right at its edges, in both families.
// Method: one address, a prefix of each length for a peer of its own, added in random order and removed in another;
// an address that leaves the path at bit i belongs to the prefix of length i or the longest left below.
TEST(AllowedIps, EachLengthIsRightAtItsEdges) {
  const std::uint64_t seed = test::seed_from_env_or(128);
  Random random{seed};
  for (const char* text : {"10.170.85.255", "2001:db8:aaaa:5555:0:ffff:1234:8001"}) {
    const Address base = address(text);
    const unsigned bits = base.bits();
    std::vector<unsigned> lengths(bits + 1);
    for (unsigned i = 0; i <= bits; ++i) lengths[i] = i;
    std::vector<bool> there(bits + 1);
    AllowedIps ips;
    const auto check = [&] {
      int longest = -1;
      for (unsigned i = 0; i <= bits; ++i) {
        if (there[i]) longest = static_cast<int>(i);
        Address a = base;
        if (i < bits) flip(a, i);  // agrees in exactly i bits
        const auto want = longest < 0 ? std::nullopt : std::optional{PeerSlot{static_cast<std::uint32_t>(longest)}};
        ASSERT_EQ(ips.lookup(a), want) << text << " bit " << i << " WG_SEED=" << seed;
      }
    };
    std::shuffle(lengths.begin(), lengths.end(), random);
    for (const unsigned length : lengths) {
      ips.insert(base, length, PeerSlot{length});
      there[length] = true;
      check();
    }
    std::shuffle(lengths.begin(), lengths.end(), random);
    for (const unsigned length : lengths) {
      ASSERT_TRUE(ips.remove(base, length, PeerSlot{length}));
      there[length] = false;
      check();
    }
  }
}

// Goal: a large removal can be done in small steps, and a dump lists a peer's prefixes in the order they came.
// Method: 1000 prefixes of one peer between those of another; steps of 64.
TEST(AllowedIps, DumpsInOrderAndRemovesInSteps) {
  AllowedIps ips;
  std::vector<Prefix> wanted;
  for (std::uint32_t i = 0; i < 1000; ++i) {
    std::uint8_t octets[16] = {};
    store_be32(octets, i * 2654435761u);
    const Address a = i % 2 ? Address::v4(octets) : Address::v6(octets);
    ips.insert(a, 32, PeerSlot{7});
    wanted.push_back({a, 32});
    octets[3] ^= 1;
    ips.insert(i % 2 ? Address::v4(octets) : Address::v6(octets), 31, PeerSlot{8});
  }
  EXPECT_EQ(prefixes_of(ips, PeerSlot{7}), wanted);
  EXPECT_TRUE(prefixes_of(ips, PeerSlot{9}).empty());
  const std::size_t others = ips.count(PeerSlot{8});
  std::size_t left = 1000;
  while (left > 0) {
    const std::size_t step = ips.remove_all(PeerSlot{7}, 64);
    EXPECT_EQ(step, std::min<std::size_t>(left, 64));
    left -= step;
    EXPECT_EQ(ips.count(PeerSlot{7}), left);
  }
  EXPECT_EQ(ips.remove_all(PeerSlot{7}, 64), 0u);
  EXPECT_EQ(ips.count(), others);
}

// Goal: a dump in steps shows each prefix that stays exactly once, in order, whatever changes between the steps.
// Method: 300 prefixes, steps of 7; between them the last one shown, or another, is taken away, moved, or given anew.
TEST(AllowedIps, ADumpInStepsSurvivesChanges) {
  const std::uint64_t seed = test::seed_from_env_or(54);
  Random random{seed};
  AllowedIps ips;
  std::vector<Prefix> all;
  const auto nth = [](std::uint32_t i) {
    std::uint8_t octets[4];
    store_be32(octets, 0x0a000000u + i);
    return Prefix{Address::v4(octets), 32};
  };
  for (std::uint32_t i = 0; i < 300; ++i) {
    all.push_back(nth(i));
    ips.insert(all.back().address, 32, PeerSlot{1});
  }
  std::vector<Prefix> touched, shown;
  AllowedIps::Cursor cursor;
  const auto show = [&](const Address& a, unsigned length) { shown.push_back({a, length}); };
  std::uint32_t fresh = 1000;
  while (!ips.visit_some(PeerSlot{1}, cursor, 7, show)) {
    const Prefix p = random() % 2 ? shown.back() : all[test::below(random, all.size())];
    touched.push_back(p);
    if (random() % 2) {
      ips.remove(p.address, 32, PeerSlot{1});
    } else {
      ips.insert(p.address, 32, PeerSlot{2});
      if (random() % 2) ips.insert(p.address, 32, PeerSlot{1});
    }
    if (fresh < 1010) ips.insert(nth(fresh++).address, 32, PeerSlot{1});  // takes the free entries first
  }
  const auto was_touched = [&](const Prefix& p) {
    return std::find(touched.begin(), touched.end(), p) != touched.end();
  };
  for (std::uint32_t i = 1000; i < fresh; ++i) all.push_back(nth(i));
  std::erase_if(shown, was_touched);
  std::erase_if(all, was_touched);
  EXPECT_EQ(shown, all) << "WG_SEED=" << seed;
  EXPECT_TRUE(ips.visit_some(PeerSlot{3}, cursor, 7, show));
}

// Goal: memory is given back, and known: an emptied table is as small as it was, an entry is used again.
// Method: octets() before, full, and after; twice.
TEST(AllowedIps, GivesBackItsMemory) {
  AllowedIps ips;
  std::size_t full[2] = {};
  for (std::size_t& octets : full) {
    Random random{5};
    for (int i = 0; i < 5000; ++i) {
      const Address a = random_address(random);
      ips.insert(a, a.bits(), PeerSlot{static_cast<std::uint32_t>(i % 10)});
    }
    octets = ips.octets();
    for (std::uint32_t slot = 0; slot < 10; ++slot) ips.remove_all(PeerSlot{slot});
    EXPECT_EQ(ips.count(), 0u);
  }
  EXPECT_EQ(full[0], full[1]);
  EXPECT_GT(full[0], 5000 * 60u);
  EXPECT_LT(full[0], 5000 * 200u);
  EXPECT_LT(ips.octets(), 5000 * 50u);  // entries stay for use again, nodes do not
}

// Goal: lookups allocate nothing.
// Method: this program counts allocations.
TEST(AllowedIps, LookupsDoNotAllocate) {
  AllowedIps ips;
  Random random{9};
  std::vector<Address> all;
  std::vector<const std::uint8_t*> keys4, keys6;
  for (int i = 0; i < 1000; ++i) {
    all.push_back(random_address(random));
    ips.insert(all.back(), all.back().bits(), PeerSlot{1});
  }
  for (const Address& a : all) (a.is_v4() ? keys4 : keys6).push_back(a.octets.data());
  std::vector<std::uint32_t> slots(1000);
  const std::size_t before = allocations;
  ips.lookup_v4(keys4.data(), keys4.size(), slots.data());
  ips.lookup_v6(keys6.data(), keys6.size(), slots.data());
  EXPECT_EQ(ips.lookup(all[0]), PeerSlot{1});
  EXPECT_EQ(allocations, before);
}

// Goal: what a reader may still see is not freed before the hook says so, and then all of it is.
// Method: a hook that keeps; an old root's answers are read through the table while nothing is freed; then all is
// run, under AddressSanitizer also with the table gone.
TEST(AllowedIps, FreesNothingBeforeItsTime) {
  std::vector<std::function<void()>> kept;
  {
    AllowedIps ips{[&](std::function<void()> free) { kept.push_back(std::move(free)); }};
    Random random{11};
    for (int i = 0; i < 500; ++i) {
      const Address a = random_address(random);
      ips.insert(a, a.bits() / 2, PeerSlot{static_cast<std::uint32_t>(i % 3)});
    }
    for (std::uint32_t slot = 0; slot < 3; ++slot) ips.remove_all(slot == 0 ? PeerSlot{0} : PeerSlot{slot});
    EXPECT_EQ(kept.size(), 1u);  // one under way, however many the changes
    EXPECT_GT(ips.octets(), 100'000u);
    kept.back()();  // a grace period later: what was retired before it is freed, the rest asks for another
    ASSERT_EQ(kept.size(), 2u);
    EXPECT_EQ(ips.lookup(address("10.0.0.1")), std::nullopt);
  }
  for (std::size_t i = 1; i < kept.size(); ++i) kept[i]();
}

// Goal: while control changes the table, every answer is one that was right at some moment of the lookup, and a
// burst's answers are right together; no reader touches freed memory.
// Method: a history of changes is computed beforehand with the definition's answers after each; readers note how many
// changes were finished before and begun after their burst. Nodes are freed by the engine's own grace period. To be
// run under ThreadSanitizer, too.
TEST(AllowedIps, ReadersSeeOneInstantWhileControlChangesIt) {
  constexpr int kChanges = 400, kReaders = 2;
  const std::uint64_t seed = test::seed_from_env_or(40);
  Random random{seed};

  struct Change {
    Prefix prefix;
    PeerSlot slot;
    bool insert;
  };
  SlowAllowedIps slow;
  std::vector<Change> history;
  std::vector<SlowAllowedIps> states{slow};
  std::vector<Address> where;
  for (int i = 0; i < kChanges; ++i) {
    Change change{related_prefix(slow, random), PeerSlot{static_cast<std::uint32_t>(test::below(random, 5))},
                  slow.rows().size() < 40 || random() % 2 == 0};
    if (!change.insert) {
      const auto& row = slow.rows()[test::below(random, slow.rows().size())];
      change.prefix = row.prefix;
      change.slot = row.slot;
      slow.remove(change.prefix, change.slot);
    } else {
      slow.insert(change.prefix, change.slot);
    }
    history.push_back(change);
    states.push_back(slow);
    where.push_back(related_address(slow, random));
  }
  std::vector<const std::uint8_t*> keys;
  for (const Address& a : where)
    if (a.is_v4() && keys.size() < 48) keys.push_back(a.octets.data());
  std::vector<std::vector<std::uint32_t>> answers;  // after so many changes
  for (const SlowAllowedIps& state : states) {
    std::vector<std::uint32_t>& row = answers.emplace_back();
    for (const std::uint8_t* key : keys)
      row.push_back(state.lookup(Address::v4(key)).value_or(PeerSlot{kNoPeer}).raw());
  }

  Grace grace{kReaders};
  AllowedIps ips{[&](std::function<void()> free) { grace.retire(std::move(free)); }};
  std::atomic<int> begun{0}, finished{0}, wrong{0}, bursts{0};
  std::atomic<bool> stop{false};
  std::vector<std::thread> readers;
  for (unsigned reader = 0; reader < kReaders; ++reader) {
    readers.emplace_back([&, reader] {
      std::vector<std::uint32_t> got(keys.size());
      grace.online(reader);
      while (!stop.load(std::memory_order_acquire)) {
        const int from = finished.load(std::memory_order_seq_cst);
        ips.lookup_v4(keys.data(), keys.size(), got.data());
        const int to = begun.load(std::memory_order_seq_cst);
        bool right = false;
        for (int i = from; i <= to && !right; ++i) right = got == answers[static_cast<std::size_t>(i)];
        wrong += !right;
        ++bursts;
        grace.quiescent(reader);
      }
      grace.offline(reader);
    });
  }
  for (int i = 0; i < kChanges; ++i) {
    const Change& change = history[static_cast<std::size_t>(i)];
    begun.store(i + 1, std::memory_order_seq_cst);
    if (change.insert)
      ips.insert(change.prefix.address, change.prefix.length, change.slot);
    else
      EXPECT_TRUE(ips.remove(change.prefix.address, change.prefix.length, change.slot));
    finished.store(i + 1, std::memory_order_seq_cst);
    grace.reclaim();
    const int seen = bursts.load(std::memory_order_relaxed);  // let readers see most of the states
    for (int spin = 0; bursts.load(std::memory_order_relaxed) < seen + 2 && spin < 2000; ++spin)
      std::this_thread::yield();
  }
  stop.store(true, std::memory_order_release);
  for (std::thread& t : readers) t.join();
  EXPECT_EQ(wrong.load(), 0) << "WG_SEED=" << seed;
  EXPECT_GT(bursts.load(), kChanges);
  while (!grace.reclaim()) {
  }
}

}  // namespace
}  // namespace wireplane
