// routes.cpp: allowed IPs: lookups in bursts of 32, and changes, at growing sizes.
//
//   routes/lookup/<shape>/<prefixes>     every address looked up has its own prefix; addresses in random order
//   routes/change/<shape>/<prefixes>     one host's prefix taken away and given back: two changes
// <shape>: v4_random and v6_random (hosts anywhere), v4_sequential (hosts of 10/8 in order), v6_subnet (random hosts of
// one /64).
#include <algorithm>
#include <cstring>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "bench/bench.h"
#include "dataplane/route/allowed_ips.h"

namespace wireplane::bench {
namespace {

constexpr std::size_t kBurst = 32;

enum class Shape { kV4Random, kV4Sequential, kV6Random, kV6Subnet };

Address host(Shape shape, std::uint32_t number, std::mt19937_64& random) {
  std::uint8_t octets[16] = {};
  const std::uint64_t words[2] = {random(), random()};
  if (shape == Shape::kV4Sequential) {
    const std::uint32_t address = __builtin_bswap32(0x0a000000u + number);
    std::memcpy(octets, &address, 4);
  } else if (shape == Shape::kV6Subnet) {
    octets[0] = 0xfd;
    std::memcpy(octets + 8, words, 8);
  } else {
    std::memcpy(octets, words, 16);
  }
  return shape == Shape::kV4Random || shape == Shape::kV4Sequential ? Address::v4(octets) : Address::v6(octets);
}

struct Table {
  AllowedIps ips;
  std::vector<Address> hosts;  // of peer i its i-th; in random order
};

// The last table made: Google Benchmark calls a function more than once, and a million prefixes take a second.
Table& table(Shape shape, std::size_t count) {
  static std::unique_ptr<Table> last;
  static std::pair<Shape, std::size_t> last_is;
  if (last != nullptr && last_is == std::pair{shape, count}) return *last;
  last.reset();
  last = std::make_unique<Table>();
  last_is = {shape, count};
  std::mt19937_64 random{1};
  for (std::uint32_t i = 0; i < count; ++i) last->hosts.push_back(host(shape, i, random));
  for (std::uint32_t i = 0; i < count; ++i) last->ips.insert(last->hosts[i], last->hosts[i].bits(), PeerSlot{i});
  std::shuffle(last->hosts.begin(), last->hosts.end(), random);
  return *last;
}

void lookup(benchmark::State& state, Shape shape, std::size_t count) {
  const Table& t = table(shape, count);
  const std::size_t keys = t.hosts.size() / kBurst * kBurst;
  std::size_t at = 0;
  std::uint32_t slots[kBurst];
  const Meter meter;
  for (auto _ : state) {
    const std::uint8_t* addresses[kBurst];
    for (std::size_t i = 0; i < kBurst; ++i) addresses[i] = t.hosts[at + i].octets.data();
    if (t.hosts[0].is_v4())
      t.ips.lookup_v4(addresses, kBurst, slots);
    else
      t.ips.lookup_v6(addresses, kBurst, slots);
    benchmark::DoNotOptimize(slots);
    at = at + kBurst == keys ? 0 : at + kBurst;
  }
  meter.report(state, kBurst, 0);
  state.counters["octets_per_prefix"] = static_cast<double>(t.ips.octets()) / static_cast<double>(count);
}

void change(benchmark::State& state, Shape shape, std::size_t count) {
  Table& t = table(shape, count);
  std::size_t at = 0;
  const Meter meter;
  for (auto _ : state) {
    const Address& a = t.hosts[at];
    const PeerSlot slot = t.ips.owner(a, a.bits()).value();
    t.ips.remove(a, a.bits(), slot);
    t.ips.insert(a, a.bits(), slot);
    at = at + 1 == t.hosts.size() ? 0 : at + 1;
  }
  meter.report(state, 2, 0);
}

const bool registered = [] {
  const std::pair<const char*, Shape> shapes[] = {{"v4_random", Shape::kV4Random},
                                                  {"v4_sequential", Shape::kV4Sequential},
                                                  {"v6_random", Shape::kV6Random},
                                                  {"v6_subnet", Shape::kV6Subnet}};
  for (const auto& [name, shape] : shapes) {
    for (const std::size_t count : {1000, 10000, 100000, 1000000}) {
      const std::string tail = std::string{name} + "/" + std::to_string(count);
      benchmark::RegisterBenchmark(("routes/lookup/" + tail).c_str(),
                                   [shape = shape, count](benchmark::State& state) { lookup(state, shape, count); });
      benchmark::RegisterBenchmark(("routes/change/" + tail).c_str(),
                                   [shape = shape, count](benchmark::State& state) { change(state, shape, count); });
    }
  }
  return true;
}();

}  // namespace
}  // namespace wireplane::bench
