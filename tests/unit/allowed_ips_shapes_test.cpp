// Large and dense tables, where nodes are wide, stand apart, and become small again; and every kernel of the search.
#include <gtest/gtest.h>

#include <map>
#include <utility>
#include <vector>

#include "dataplane/base/bytes.h"
#include "dataplane/route/allowed_ips.h"
#include "dataplane/route/edit.h"
#include "dataplane/route/search.h"
#include "tests/support/ip_packets.h"
#include "tests/support/seed.h"

namespace wireplane {
namespace {

using route::Key128;
using test::below;
using test::Random;

template <class Key>
Key random_key(Random& random) {
  if constexpr (sizeof(Key) > 4)
    return Key128{random()} << 64 | random();
  else
    return static_cast<Key>(random());
}

template <class Key>
Address address_of(Key key) {
  std::uint8_t octets[16];
  for (std::size_t i = 0; i < sizeof key; ++i) octets[i] = static_cast<std::uint8_t>(key >> (8 * (sizeof key - 1 - i)));
  return sizeof(Key) > 4 ? Address::v6(octets) : Address::v4(octets);
}

// The definition, for many: one map a length, the longest that has the address decides.
template <class Key>
class Lengths {
 public:
  using Prefix = std::pair<Key, unsigned>;
  std::map<Key, PeerSlot>& of(unsigned length) { return lengths_[length]; }
  std::uint32_t lookup(Key key) const {
    for (auto length = static_cast<unsigned>(lengths_.size()); length-- != 0;)
      if (const auto found = lengths_[length].find(route::masked(key, length)); found != lengths_[length].end())
        return found->second.raw();
    return kNoPeer;
  }

 private:
  std::array<std::map<Key, PeerSlot>, route::kBits<Key> + 1> lengths_;
};

// Prefixes that crowd: a few places at any depth, and under each most of the next bits, at many lengths.
template <class Key>
class Crowd {
 public:
  explicit Crowd(Random& random) : random_{random} {
    constexpr unsigned bits = route::kBits<Key>;
    for (std::size_t i = 1 + below(random, 4); i != 0; --i) {
      const auto depth = static_cast<unsigned>(random() % 3 == 0 ? 0 : below(random, bits));
      places_.push_back({random_key<Key>(random), depth});
    }
    spread_ = static_cast<unsigned>(6 + below(random, 10));
  }
  // An address under a place, nothing but noise behind the crowded bits.
  Key key() {
    const auto& [place, depth] = places_[below(random_, places_.size())];
    if (random_() % 32 == 0) return random_key<Key>(random_);
    const unsigned deep = std::min(route::kBits<Key>, depth + spread_);
    const Key crowded = route::masked(random_key<Key>(random_), deep), rest = random_key<Key>(random_);
    return route::masked(place, depth) | (crowded & ~route::kMasks<Key>[depth]) | (rest & ~route::kMasks<Key>[deep]);
  }
  unsigned length() {
    const auto& [place, depth] = places_[below(random_, places_.size())];
    return std::min<unsigned>(route::kBits<Key>, depth + static_cast<unsigned>(below(random_, spread_ + 3)));
  }

 private:
  Random& random_;
  std::vector<std::pair<Key, unsigned>> places_;
  unsigned spread_;
};

template <class Key>
void expect_equal(const AllowedIps& ips, const Lengths<Key>& slow, const std::vector<Key>& where, std::uint64_t seed) {
  std::vector<Address> addresses;
  for (const Key key : where) addresses.push_back(address_of(key));
  std::vector<const std::uint8_t*> keys;
  for (const Address& a : addresses) keys.push_back(a.octets.data());
  std::vector<std::uint32_t> got(where.size(), 77), want;
  sizeof(Key) > 4 ? ips.lookup_v6(keys.data(), keys.size(), got.data())
                  : ips.lookup_v4(keys.data(), keys.size(), got.data());
  for (const Key key : where) want.push_back(slow.lookup(key));
  ASSERT_EQ(got, want) << "WG_SEED=" << seed;
}

template <class Key>
void follow_a_crowd(Random& random, std::uint64_t seed) {
  AllowedIps ips;
  Lengths<Key> slow;
  std::vector<typename Lengths<Key>::Prefix> there;
  Crowd<Key> crowd{random};
  const std::size_t most = std::size_t{50} << below(random, 7);
  bool growing = true;
  for (std::size_t change = 0; change < 4 * most; ++change) {
    if (there.size() >= most) growing = false;
    if (growing || there.empty() || random() % 4 == 0) {
      const unsigned length = crowd.length();
      const Key key = route::masked(crowd.key(), length);
      const PeerSlot slot{static_cast<std::uint32_t>(random() % 1000)};
      if (slow.of(length).insert_or_assign(key, slot).second) there.push_back({key, length});
      ips.insert(address_of(key), length, slot);
    } else {
      std::swap(there[below(random, there.size())], there.back());
      const auto [key, length] = there.back();
      there.pop_back();
      const auto found = slow.of(length).find(key);
      ASSERT_TRUE(ips.remove(address_of(key), length, found->second)) << "WG_SEED=" << seed;
      slow.of(length).erase(found);
    }
    ASSERT_EQ(ips.count(), there.size());
    if (change % (1 + most / 8) != 0) continue;
    std::vector<Key> where;
    for (std::size_t i = 1 + below(random, 200); i != 0; --i) where.push_back(crowd.key());
    ASSERT_NO_FATAL_FAILURE(expect_equal(ips, slow, where, seed));
  }
}

// Goal: where many prefixes crowd, at any depth, the table still agrees with the definition: nodes become wide, stand
// apart from what leads to them, lose and get prefixes of their own, and become small and buckets again.
// Method: tables of 50 to 3200 prefixes under a few places, grown and taken away at random, moves between; lookups in
// bursts of any size there and elsewhere.
TEST(AllowedIpsShapes, CrowdsAgreeWithTheDefinition) {
  const std::uint64_t seed = test::seed_from_env_or(64);
  Random random{seed};
  for (int run = 0; run < 12; ++run) {
    ASSERT_NO_FATAL_FAILURE(follow_a_crowd<std::uint32_t>(random, seed));
    ASSERT_NO_FATAL_FAILURE(follow_a_crowd<Key128>(random, seed));
  }
}

template <class Key>
void compare_kernels(Random& random, std::uint64_t seed) {
  using Search = void (*)(route::Ref<Key>, const std::uint8_t* const*, std::size_t, std::uint32_t*, std::uint32_t);
  std::vector<std::pair<const char*, Search>> kernels{{"chosen", route::search<Key>}};
#ifdef __x86_64__
  if (route::has_avx2()) kernels.push_back({"avx2", route::search_avx2<Key>});
  if (route::has_avx512()) kernels.push_back({"avx512", route::search_avx512<Key>});
#endif
  route::NodePool pool{random() % 2 ? 0 : SIZE_MAX};  // of a large table's small nodes, or not
  route::Ref<Key> root;
  Crowd<Key> crowd{random};
  const std::size_t size = std::size_t{1} << below(random, 12);
  for (std::uint32_t i = 0; i <= size; ++i) {
    if (i % (size / 4 + 1) == 0) {
      std::vector<Address> addresses;
      std::vector<const std::uint8_t*> keys;
      for (std::size_t n = 0; n < 150; ++n) addresses.push_back(address_of(crowd.key()));
      for (const Address& a : addresses) keys.push_back(a.octets.data());
      std::vector<std::uint32_t> want(keys.size());
      route::search_plain(root, keys.data(), keys.size(), want.data(), kNoPeer);
      for (const auto& [name, search] : kernels) {
        std::vector<std::uint32_t> got(keys.size(), 77);
        search(root, keys.data(), keys.size(), got.data(), kNoPeer);
        ASSERT_EQ(got, want) << name << " WG_SEED=" << seed;
      }
    }
    const unsigned length = random() % 2 ? route::kBits<Key> : crowd.length();
    route::Edit<Key> edit{pool};
    root = edit.with(root, {route::masked(crowd.key(), length), length, {i, i}});
    edit.keep();
    for (const route::Block& block : edit.old()) pool.give_back(block.memory, block.octets);
  }
  route::Edit<Key>::free_all(root, pool);
}

template <class Key>
unsigned short_nodes(route::Ref<Key> ref) {
  if (!ref.is_node()) return 0;
  const route::Node<Key>& node = *ref.node();
  unsigned found = node.whole() ? 0 : 1;
  for (unsigned c = 0; c < 64; ++c) found += short_nodes(node.child(c));
  return found;
}

// A subnet of some length with hosts anywhere in it, and then prefixes that leave its path at each bit, in any order.
// Returns how many short nodes were seen.
template <class Key>
unsigned crowd_above_a_subnet(Random& random, unsigned length, std::uint64_t seed) {
  constexpr unsigned bits = route::kBits<Key>;
  route::NodePool pool{random() % 2 ? 0 : SIZE_MAX};  // of a large table's small nodes, or not
  route::Ref<Key> root;
  std::vector<std::pair<Key, unsigned>> there;
  const Key subnet = route::masked(random_key<Key>(random), length);
  const auto in_subnet = [&] { return subnet | (random_key<Key>(random) & ~route::kMasks<Key>[length]); };
  const auto leaves_at = [&](unsigned bit) { return static_cast<Key>(in_subnet() ^ Key{1} << (bits - 1 - bit)); };
  const auto change = [&](auto make) {
    route::Edit<Key> edit{pool};
    root = make(edit);
    edit.keep();
    for (const route::Block& block : edit.old()) pool.give_back(block.memory, block.octets);
  };
  unsigned seen = 0;
  std::map<std::pair<Key, unsigned>, std::uint32_t> values;
  for (std::uint32_t i = 0; i < 400; ++i) {
    const auto bit = static_cast<unsigned>(below(random, length));
    const unsigned own =
        i < 40 || random() % 4 == 0 ? bits : bit + 1 + static_cast<unsigned>(below(random, bits - bit));
    const Key key = route::masked(i < 40 ? in_subnet() : leaves_at(bit), own);
    change([&](auto& edit) { return edit.with(root, {key, own, {i, i}}); });
    if (values.insert_or_assign({key, own}, i).second) there.push_back({key, own});
    if (i > 100 && random() % 2 == 0) {
      std::swap(there[below(random, there.size())], there.back());
      change([&](auto& edit) { return edit.without(root, there.back().first, there.back().second); });
      values.erase(there.back());
      there.pop_back();
    }
    seen += short_nodes(root);
    const Key where = random() % 2 ? in_subnet() : leaves_at(static_cast<unsigned>(below(random, length)));
    std::uint32_t want = kNoPeer, got = 77;
    for (unsigned l = 0; l <= bits; ++l)
      if (const auto found = values.find({route::masked(where, l), l}); found != values.end()) want = found->second;
    const Address address = address_of(where);
    const std::uint8_t* octets = address.octets.data();
    route::search(root, &octets, 1, &got, kNoPeer);
    EXPECT_EQ(got, want) << "WG_SEED=" << seed;
  }
  for (const auto& [prefix, value] : values)
    EXPECT_EQ(route::Edit<Key>::find(root, prefix.first, prefix.second, {77, 77}).slot, value) << "WG_SEED=" << seed;
  route::Edit<Key>::free_all(root, pool);
  return seen;
}

// Goal: nodes that begin where their prefixes differ, at any bit, and short ones above them, are searched and changed
// rightly; and such nodes come to be.
// Method: a subnet of each length with hosts in it, then prefixes and hosts around it, given and taken away; after each
// change an address at random, at the end each prefix, against a map.
TEST(AllowedIpsShapes, NodesBeginAtAnyBit) {
  const std::uint64_t seed = test::seed_from_env_or(6);
  Random random{seed};
  unsigned seen = 0;
  for (unsigned length = 1; length < 128; ++length) {
    seen += crowd_above_a_subnet<Key128>(random, length, seed);
    if (length < 32) seen += crowd_above_a_subnet<std::uint32_t>(random, length, seed);
  }
  EXPECT_GT(seen, 1000u);
}

// Goal: all kernels of the search give the same answers; only one of them is chosen on a machine.
// Method: random crowds, the tries made by hand, the same lookups by each kernel that this processor has.
TEST(AllowedIpsShapes, AllKernelsGiveTheSameAnswers) {
  const std::uint64_t seed = test::seed_from_env_or(512);
  Random random{seed};
  for (int run = 0; run < 40; ++run) {
    ASSERT_NO_FATAL_FAILURE(compare_kernels<std::uint32_t>(random, seed));
    ASSERT_NO_FATAL_FAILURE(compare_kernels<Key128>(random, seed));
  }
}

}  // namespace
}  // namespace wireplane
