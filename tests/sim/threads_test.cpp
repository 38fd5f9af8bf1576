// Real threads, for ThreadSanitizer above all: cmake -DWIREPLANE_SANITIZE=thread, then run threads_test.
#include <atomic>
#include <chrono>
#include <cstdlib>
#include <mutex>
#include <set>
#include <thread>
#include <unordered_set>

#include "control/noise/x25519.h"
#include "tests/support/conservation.h"
#include "tests/support/sim.h"

namespace wireplane::test {
namespace {

std::atomic<std::int64_t> simulated_ns{1'000'000'000'000};
Instant simulated_now() { return Instant{Duration{simulated_ns.load(std::memory_order_relaxed)}}; }

// A network without time that doubles every seventh datagram and remembers every number used with every key.
class WatchedNetwork final : public MemoryNetwork {
 public:
  WatchedNetwork() : MemoryNetwork{512} {}
  Drop carry(const Endpoint& from, const Endpoint& to, std::uint8_t tos,
             std::span<const std::uint8_t> octets) override {
    if (octets[0] == 4) {
      const std::lock_guard lock{mutex_};
      // The receiver's index names a key for as long as it is in use: a random one of 32 bits, 10 s at rest.
      const bool fresh = seen_.insert({load_le<std::uint32_t>(&octets[4]), load_le<std::uint64_t>(&octets[8])}).second;
      reused += fresh ? 0 : 1;
      ++numbers;
    }
    const Drop outcome = deliver(from, to, tos, octets);
    if (++carried_ % 7 == 0) static_cast<void>(deliver(from, to, tos, octets));
    return outcome;
  }
  std::uint64_t reused = 0, numbers = 0;

 private:
  std::mutex mutex_;
  std::set<std::pair<std::uint32_t, std::uint64_t>> seen_;
  std::atomic<unsigned> carried_{0};
};

// A device with its threads: one for control, one a worker, as the daemon runs them.
struct Host {
  Host(WatchedNetwork& network, const std::string& where, std::string inner_address, std::uint64_t seed, unsigned count)
      : entropy{seed},
        engine{[&] {
          Limits limits = small_limits();
          limits.workers = count;
          limits.buffers = 4096;
          return limits;
        }()},
        outer{network.attach({address(where), address(where + "0")}, 51820, count)},
        inner{count, 256},
        device{engine, outer.get(), entropy, now()},
        address_text{std::move(inner_address)} {
    SecretKey secret = generate_secret_key(entropy);
    key = public_key(secret);
    DeviceChange change;
    change.private_key = std::move(secret);
    EXPECT_TRUE(device.apply(std::move(change)));
    settings.has_inner = true;
    device.set_engine_settings(settings);
    for (unsigned i = 0; i < count; ++i)
      workers.push_back(std::make_unique<Worker>(engine, i, outer->queue(i), &inner.queue(i)));
  }
  static Now now() { return {simulated_now(), Duration{1'700'000'000s} + simulated_now().time_since_epoch()}; }

  SeededEntropy entropy;
  Engine engine;
  std::unique_ptr<MemoryOuterDevice> outer;
  MemoryInnerDevice inner;
  Device device;
  std::vector<std::unique_ptr<Worker>> workers;
  Settings settings;
  PublicKey key;
  std::string address_text;
};

// Goal: control and workers share sessions, peers, endpoints and routes without a race, and no number is used twice.
// Method: two hosts of three workers each; applications that send all the time; a clock that runs a hundred times as
// fast, so that keys are renewed and expire; control that all the while moves, renames, removes and adds the peer.
TEST(Threads, WorkersAndControlShareOneDeviceWithoutARace) {
  constexpr unsigned kWorkers = 3;
  const char* text = std::getenv("WG_STRESS_S");
  const auto real_time = std::chrono::seconds{text == nullptr ? 3 : std::atoi(text)};
  WatchedNetwork network;
  Host a{network, "192.0.2.1", "10.0.0.1", 1, kWorkers}, b{network, "192.0.2.2", "10.0.0.2", 2, kWorkers};
  const auto peer_of = [](const Host& other, bool with_psk) {
    PeerChange change;
    change.public_key = other.key;
    change.endpoint = endpoint(other.address_text == "10.0.0.1" ? "192.0.2.1" : "192.0.2.2", 51820);
    change.persistent_keepalive_s = 25;
    change.allowed_ips.push_back({.prefix = prefix(other.address_text + "/32")});
    change.preshared_key.emplace();
    if (with_psk) std::ranges::fill(change.preshared_key->fill(), std::uint8_t{9});
    return change;
  };
  const auto apply = [](Host& host, PeerChange change) {
    DeviceChange all;
    all.peers.push_back(std::move(change));
    EXPECT_TRUE(host.device.apply(std::move(all)));
  };
  apply(a, peer_of(b, false));
  apply(b, peer_of(a, false));

  std::atomic<bool> stop{false}, quiet{false};
  std::atomic<std::uint64_t> delivered{0}, twice{0}, said{0};
  std::vector<std::thread> threads;
  for (Host* host : {&a, &b}) {
    for (unsigned i = 0; i < kWorkers; ++i)
      threads.emplace_back([&, host, i] {
        while (!stop.load(std::memory_order_relaxed))
          if (host->workers[i]->step(simulated_now()) == Work::kIdle) std::this_thread::yield();
      });
    threads.emplace_back([&, host] {  // control
      Host& other = host == &a ? b : a;
      for (unsigned turn = 0; !stop.load(std::memory_order_relaxed); ++turn) {
        static_cast<void>(host->device.step(Host::now()));
        if (quiet.load(std::memory_order_relaxed)) {
          if (host->device.find(other.key) == nullptr)
            apply(*host, peer_of(other, false));  // the storm may end without it
          std::this_thread::yield();
          continue;
        }
        if (turn % 64 == 5) host->device.set_engine_settings(host->settings);
        if (turn % 500 == 17) {
          const bool moved = static_cast<bool>(host->outer->set_addresses(
              {address(host == &a ? "192.0.2.1" : "192.0.2.2"), address(host == &a ? "192.0.2.10" : "192.0.2.20")}));
          EXPECT_TRUE(moved);
        }
        if (turn % 700 == 99) host->device.forget_keys();
        if (turn % 900 == 400) {
          PeerChange change;
          change.public_key = other.key;
          change.remove = true;
          apply(*host, std::move(change));
        }
        if (turn % 900 == 430) apply(*host, peer_of(other, false));
        static_cast<void>(host->device.view());
        host->device.for_each_peer([](const PeerView&) {});
        std::this_thread::sleep_for(std::chrono::microseconds{200});
      }
    });
  }
  std::vector<std::unordered_set<std::uint64_t>> got(2);
  std::vector<std::thread> applications;
  for (std::size_t h = 0; h < 2; ++h)
    applications.emplace_back([&, h] {
      Host& host = h == 0 ? a : b;
      Host& other = h == 0 ? b : a;
      std::uint64_t id = 0;
      Octets packet;
      while (!stop.load(std::memory_order_relaxed)) {
        for (unsigned i = 0; i < 8; ++i) {
          Octets payload(16);
          store_le(&payload[8], ++id);
          if (host.inner.push(ip_packet(host.address_text, other.address_text, 17, payload),
                              static_cast<unsigned>(id % kWorkers)))
            ++said;
        }
        for (unsigned i = 0; i < kWorkers; ++i)
          while (host.inner.pop(packet, i)) {
            ++delivered;
            if (packet.size() >= 36 && !got[h].insert(load_le<std::uint64_t>(&packet[28])).second) ++twice;
          }
        std::this_thread::sleep_for(std::chrono::microseconds{300});
      }
    });
  const auto advance = [&](std::chrono::milliseconds how_long) {
    const auto end = std::chrono::steady_clock::now() + how_long;
    while (std::chrono::steady_clock::now() < end) {
      simulated_ns.fetch_add(100'000'000, std::memory_order_relaxed);
      std::this_thread::sleep_for(std::chrono::milliseconds{1});
    }
  };
  advance(real_time);
  const std::uint64_t in_the_storm = delivered;
  quiet = true;
  for (unsigned i = 0; i < 20 && delivered == in_the_storm; ++i) advance(std::chrono::milliseconds{500});
  stop = true;
  for (std::thread& thread : threads) thread.join();
  for (std::thread& thread : applications) thread.join();

  EXPECT_GT(in_the_storm, 0u);
  EXPECT_GT(delivered, in_the_storm);
  EXPECT_EQ(twice, 0u);
  EXPECT_EQ(network.reused, 0u);
  EXPECT_GT(network.numbers, 0u);
  for (Host* host : {&a, &b}) expect_conserved(host->engine, host->workers);
}

}  // namespace
}  // namespace wireplane::test
