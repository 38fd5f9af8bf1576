// host.h: one device of the soak with all that belongs to it, over kernel UDP sockets on the loopback, behind fault
// ports. Its control is guarded by a mutex: whoever holds it is control.
#pragma once
#include <mutex>

#include "control/noise/x25519.h"
#include "drivers/fault_port.h"
#include "drivers/udp_port.h"
#include "tests/soak/traffic.h"
#include "tests/support/conservation.h"
#include "tests/support/sim.h"

namespace wireplane::test {

// The soak's time: real time, so many times as fast, so that keys are renewed and wiped while one watches.
class FastClock {
 public:
  explicit FastClock(double speed) : speed_{speed}, began_{real_ns()} {}
  [[nodiscard]] Now now() const {
    const Duration passed{static_cast<std::int64_t>(static_cast<double>(real_ns() - began_) * speed_)};
    return {Instant{1000s} + passed, Duration{1'700'000'000s} + passed};
  }
  [[nodiscard]] double speed() const { return speed_; }

 private:
  const double speed_;
  const std::uint64_t began_;
};

class Host {
 public:
  Host(const FastClock& clock, std::uint32_t number, unsigned count, std::size_t buffers, std::size_t peers,
       const Faults& faults)
      : clock_{clock},
        id{number},
        address_text{"10.0." + std::to_string(number >> 8) + '.' + std::to_string(number & 255)},
        entropy{number + 1},
        engine{[&] {
          Limits limits = small_limits();
          limits.workers = count;
          limits.buffers = buffers;
          limits.peers = peers;
          limits.event_ring = 1024;
          return limits;
        }()},
        inner{count, count == 1 ? 64u : 256u} {
    UdpOptions options;
    options.workers = count;
    options.ipv6 = false;
    options.receive_buffer_octets = options.send_buffer_octets = 1 << 20;
    options.trains = count != 1;  // the hub's alone: a port that meets one maps some MiB, once
    outer = std::make_unique<WrappedOuterDevice<FaultPort>>(
        std::move(*UdpDevice::open(options)), "faults", [&](Port& queue, unsigned worker) {
          return std::make_unique<FaultPort>(queue, faults, faults, number * 64 + worker + 1);
        });
    Device::Options few;
    few.rate_limited_sources = 1024;  // the table is made in the first flood: of 65,536 it is 3.5 MiB
    device = std::make_unique<Device>(engine, outer.get(), entropy, clock.now(), std::move(few));
    SecretKey secret = generate_secret_key(entropy);
    key = public_key(secret);
    DeviceChange change;
    change.private_key = std::move(secret);
    apply(std::move(change));
    settings.has_inner = true;
    settings.forward = Forward::kAll;
    settings.host_addresses = {address(address_text)};
    device->set_engine_settings(settings);
    for (unsigned i = 0; i < count; ++i)
      workers.push_back(std::make_unique<Worker>(engine, i, outer->queue(i), &inner.queue(i)));
    touch_ports(count == 1 ? 64 : 256);
  }

  // Each place of the memory ports keeps the room of the largest packet that it has held. They hold one now, or that
  // would be all that is seen to grow: 97 % of what a soak allocated in its second minute and still had in its third.
  void touch_ports(std::size_t places) {
    BufferCache cache{engine.pool()};
    Counters counters;
    WorkerContext context{cache, counters};
    const Octets largest = say_packet(address_text, address_text, id, id, 0, kMostFiller);
    for (unsigned i = 0; i < engine.workers(); ++i)
      for (std::size_t place = 0; place < places; ++place) {
        Burst burst;
        EXPECT_TRUE(inner.push(largest, i));
        inner.queue(i).receive(burst, context);
        static_cast<void>(inner.queue(i).send(burst, context));
        EXPECT_TRUE(inner.pop(packet_, i));
      }
  }

  void apply(DeviceChange change) {
    const Status done = device->apply(std::move(change));
    EXPECT_TRUE(done) << done.error().what;
  }
  void apply(PeerChange peer) {
    DeviceChange change;
    change.peers.push_back(std::move(peer));
    apply(std::move(change));
  }
  [[nodiscard]] Endpoint at() const {
    const std::uint8_t loopback[4] = {127, 0, 0, 1};
    return {.remote = Address::v4(loopback), .local = {}, .interface = 0, .port = outer->listen_port()};
  }

  // Control's turn, if something waits for it; true: something did.
  bool turn() {
    const Now now = clock_.now();
    bool asked = now.engine >= due_;
    for (unsigned i = 0; i < engine.workers(); ++i) {
      WorkerLink& link = engine.link(i);
      asked = asked || !link.urgent.empty() || !link.events.empty() || !link.handshakes.empty();
    }
    if (!asked) return false;
    const std::lock_guard lock{control};
    due_ = device->step(clock_.now());
    return true;
  }
  bool step(unsigned worker) { return workers[worker]->step(clock_.now().engine) == Work::kDone; }

  void say(const Host& to, std::size_t filler) {
    ++numbers_;
    if (inner.push(say_packet(address_text, to.address_text, id, to.id, numbers_, filler),
                   static_cast<unsigned>(numbers_ % engine.workers())))
      ++said;
  }
  void listen(unsigned third) {
    for (unsigned i = 0; i < engine.workers(); ++i)
      while (inner.pop(packet_, i)) hearing.hear(id, packet_, third);
  }

  [[nodiscard]] std::uint64_t drops(Drop reason) const {
    std::uint64_t sum = device->drops(reason);
    for (const auto& worker : workers) sum += worker->counters().drops[static_cast<std::size_t>(reason)].get();
    return sum;
  }
  [[nodiscard]] std::vector<std::size_t> held_by_ports() const {
    std::vector<std::size_t> held;
    for (unsigned i = 0; i < outer->queues(); ++i) held.push_back(outer->wrapper(i).held());
    return held;
  }

  // No thread is left: everything that was taken is given back.
  void expect_all_given_back() {
    expect_conserved(engine, workers, held_by_ports());
    DeviceChange nobody;
    nobody.replace_peers = true;
    apply(std::move(nobody));
    for (int i = 0; i < 100; ++i) {
      static_cast<void>(device->step(clock_.now()));
      for (const auto& worker : workers) static_cast<void>(worker->step(clock_.now().engine));
    }
    expect_conserved(engine, workers, held_by_ports());
    EXPECT_EQ(device->live_sessions(), 0u) << "host " << id;
    EXPECT_EQ(device->peer_count(), 0u) << "host " << id;
    EXPECT_EQ(engine.routes().count(), 0u) << "host " << id;
    EXPECT_EQ(engine.grace().waiting(), 0u) << "host " << id;
    std::size_t in_rings = 0;
    for (unsigned i = 0; i < engine.workers(); ++i)
      for (unsigned j = 0; j < engine.workers(); ++j) in_rings += engine.handover(i, j).size();
    workers.clear();
    device.reset();
    outer.reset();
    EXPECT_EQ(engine.pool().available() + in_rings, engine.pool().capacity()) << "buffers are missing, host " << id;
  }

 private:
  const FastClock& clock_;

 public:
  const std::uint32_t id;
  const std::string address_text;
  SeededEntropy entropy;
  Engine engine;
  std::unique_ptr<WrappedOuterDevice<FaultPort>> outer;
  MemoryInnerDevice inner;
  std::unique_ptr<Device> device;
  std::vector<std::unique_ptr<Worker>> workers;
  Settings settings;
  PublicKey key;
  std::mutex control;
  std::uint64_t said = 0;
  Hearing hearing;

 private:
  Instant due_{};
  std::uint64_t numbers_ = 0;
  Octets packet_;
};

}  // namespace wireplane::test
