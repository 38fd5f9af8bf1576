// The memory of the tries: blocks where they should lie, no two in one place, and none of it idle.
#include "dataplane/route/node_pool.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <functional>
#include <map>
#include <vector>

#include "dataplane/base/bytes.h"
#include "dataplane/route/allowed_ips.h"
#include "dataplane/route/edit.h"
#include "tests/support/ip_packets.h"
#include "tests/support/seed.h"

namespace wireplane {
namespace {

using route::Key128;
using route::NodePool;
using test::below;
using test::Random;

std::size_t rounded(std::size_t size) { return size <= 32 ? 32 : (size + 63) / 64 * 64; }

// Goal: blocks lie as readers want them, none overlaps another, and none is written while it is lent, in
// small chunks and in huge ones, whatever joins and is cut meanwhile; an empty pool holds nothing.
// Method: blocks of all sizes, taken and given back at random, in tides that fill some MB and let most go; a map of
// what is lent; each block's ends carry its number from first to last.
TEST(NodePool, BlocksAreAlignedAndNobodyElses) {
  const std::uint64_t seed = test::seed_from_env_or(17);
  Random random{seed};
  NodePool pool;
  struct Lent {
    std::size_t size;
    std::uint64_t number;
  };
  std::map<std::uintptr_t, Lent> lent;
  std::vector<std::uintptr_t> at;
  std::uint64_t number = 0;
  const auto mark = [](std::uintptr_t block, std::size_t size, std::uint64_t n) {
    std::memcpy(reinterpret_cast<void*>(block), &n, sizeof n);
    std::memcpy(reinterpret_cast<void*>(block + size - sizeof n), &n, sizeof n);
  };
  const auto is_marked = [](std::uintptr_t block, std::size_t size, std::uint64_t n) {
    return std::memcmp(reinterpret_cast<void*>(block), &n, sizeof n) == 0 &&
           std::memcmp(reinterpret_cast<void*>(block + size - sizeof n), &n, sizeof n) == 0;
  };
  for (int tide = 0; tide < 8; ++tide) {
    const std::size_t most = std::size_t{200} << below(random, 7), largest = 1 + below(random, NodePool::kLargest);
    for (std::size_t step = 0; step < 4 * most; ++step) {
      const bool rises = step < 2 * most;
      if (lent.empty() || random() % 4 < (rises ? 3u : 1u)) {
        const std::size_t size =
            16 + below(random, random() % 2 ? largest : NodePool::kLargest) % (NodePool::kLargest - 15);
        const auto block = reinterpret_cast<std::uintptr_t>(pool.take(size));
        ASSERT_EQ(block % std::min<std::size_t>(rounded(size), 128), 0u) << size << " WG_SEED=" << seed;
        const auto after = lent.lower_bound(block);
        ASSERT_TRUE(after == lent.end() || block + rounded(size) <= after->first) << "WG_SEED=" << seed;
        ASSERT_TRUE(after == lent.begin() || std::prev(after)->first + rounded(std::prev(after)->second.size) <= block);
        mark(block, size, ++number);
        lent.emplace(block, Lent{size, number});
        at.push_back(block);
      } else {
        std::swap(at[below(random, at.size())], at.back());
        const auto which = lent.find(at.back());
        ASSERT_TRUE(is_marked(which->first, which->second.size, which->second.number)) << "WG_SEED=" << seed;
        pool.give_back(reinterpret_cast<void*>(which->first), which->second.size);
        lent.erase(which);
        at.pop_back();
      }
    }
  }
  for (const auto& [block, of] : lent) {
    ASSERT_TRUE(is_marked(block, of.size, of.number)) << "WG_SEED=" << seed;
    pool.give_back(reinterpret_cast<void*>(block), of.size);
  }
  EXPECT_EQ(pool.octets(), 0u);
}

// Goal: what was given back in small blocks can be taken in large ones, and the other way: nothing lies idle.
// Method: 8 MB in blocks of each size after the other, given back in any order, but for one block that stays.
TEST(NodePool, MemoryGoesFromAnySizeToAnyOther) {
  constexpr std::size_t kOctets = std::size_t{8} << 20;
  Random random{3};
  NodePool pool;
  const void* const stays = pool.take(32);
  for (const std::size_t size : {32, 1088, 64, 576, 128, 320, 192, 32, 256, 640}) {
    std::vector<void*> blocks(kOctets / size);
    for (void*& block : blocks) block = pool.take(size);
    EXPECT_LE(pool.octets(), kOctets * 5 / 4 + (std::size_t{4} << 20)) << size;
    std::shuffle(blocks.begin(), blocks.end(), random);
    for (void* block : blocks) pool.give_back(block, size);
  }
  pool.give_back(const_cast<void*>(stays), 32);
  EXPECT_EQ(pool.octets(), 0u);
}

// Host `i` of a network whose sites, each a subnet, get one host after the other.
using Hosts = std::function<Address(std::uint32_t i, Random& random)>;
Hosts of_sites(std::uint32_t sites) {
  return [sites](std::uint32_t i, Random& random) {
    std::uint8_t octets[16] = {0xfd};
    store_be32(octets + 3, i % sites);
    store_be64(octets + 8, random());
    octets[8] = static_cast<std::uint8_t>(i / sites * 37);
    return Address::v6(octets);
  };
}
Address anywhere(std::uint32_t, Random& random) {
  std::uint8_t octets[16];
  store_be64(octets, random());
  store_be64(octets + 8, random());
  return Address::v6(octets);
}

// Goal: a network that is numbered anew, host by host, needs no more than in its largest shape: what buckets of one
// size leave, others take. (206 octets a host were needed for the first shape, 258 after the last.)
// Method: 40,000 hosts in sites of 13, 2, 7, 12 and anywhere, each shape made of the one before.
TEST(NodePool, ARenumberedNetworkNeedsNoMoreThanInItsLargestShape) {
  constexpr std::uint32_t kHosts = 40'000;
  Random random{7};
  AllowedIps ips;
  for (const Hosts& shape : {of_sites(kHosts / 13), of_sites(kHosts / 2), Hosts{anywhere}, of_sites(kHosts / 7),
                             of_sites(kHosts / 12), of_sites(kHosts / 13)}) {
    for (std::uint32_t i = 0; i < kHosts; ++i) {
      ips.remove_all(PeerSlot{i});
      ips.insert(shape(i, random), 128, PeerSlot{i});
    }
    EXPECT_LT(ips.octets(), 160 * kHosts);
  }
}

constexpr std::size_t kHostsInAll = 100'000;

// Octets of a trie of sites with so many hosts each, every one in a chunk of its own, given to site after site in turn.
// Behind a site's number some bits are the same for all hosts, so that a node begins at the first that differs.
template <class Key>
std::size_t octets_of_sites(unsigned hosts) {
  constexpr unsigned bits = route::kBits<Key>, site_ends = sizeof(Key) > 4 ? 48 : 14,
                     differ = sizeof(Key) > 4 ? 64 : 20;
  NodePool pool{0};  // dear from the first on
  route::Ref<Key> root;
  for (std::uint32_t host = 0; host < hosts; ++host)
    for (std::uint32_t site = 0; site < kHostsInAll / hosts; ++site) {
      const Key key = static_cast<Key>(Key{site} << (bits - site_ends) | Key{64 * host / hosts} << (bits - differ - 6));
      route::Edit<Key> edit{pool};
      root = edit.with(root, {key, bits, {1, 1}});
      edit.keep();
      for (const route::Block& block : edit.old()) pool.give_back(block.memory, block.octets);
    }
  const std::size_t octets = pool.octets();
  route::Edit<Key>::free_all(root, pool);
  return octets;
}

// Goal: a million prefixes of each family fit into 200 MB whatever number of hosts a site has: lists need 72 MB, so
// that tries may take 64 octets for each prefix. (Sites of 13, one more than a bucket holds, took 117.)
TEST(NodePool, SitesOfAnySizeFitIntoALargeTable) {
  constexpr std::size_t kMost = kHostsInAll * 60 + (std::size_t{1} << 21);  // and what is left of the last chunk
  for (const unsigned hosts : {7, 12, 13, 14, 15, 16, 22, 28, 40, 64}) {
    EXPECT_LT(octets_of_sites<std::uint32_t>(hosts), kMost) << hosts;
    EXPECT_LT(octets_of_sites<Key128>(hosts), kMost) << hosts;
  }
}

}  // namespace
}  // namespace wireplane
