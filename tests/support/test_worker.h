// test_worker.h: what a port needs of a worker, without one: pool, cache, counters, and a burst.
#pragma once
#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <string_view>
#include <thread>
#include <vector>

#include "dataplane/port.h"

namespace wireplane {

struct TestWorker {
  explicit TestWorker(std::size_t buffers = 1024, std::size_t data_room = 2048) : pool{buffers, data_room} {}
  // The bare port's part of the conservation law: every buffer that went through it is back. Ports end before it does.
  ~TestWorker() {
    clear();
    cache.drain();
    EXPECT_EQ(pool.available(), pool.capacity()) << "buffers are missing";
  }

  MemoryPool pool;
  BufferCache cache{pool};
  Counters counters;
  WorkerContext context{cache, counters};
  Burst burst;

  void put(std::span<const std::uint8_t> octets, const Endpoint* to = nullptr, std::uint8_t tos = 0) {
    Packet packet;
    ASSERT_TRUE(context.make(packet, octets.size()));
    std::copy(octets.begin(), octets.end(), packet.data);
    packet.to = to;
    packet.tos = tos;
    burst.add(packet);
  }
  void put(std::string_view text, const Endpoint* to = nullptr, std::uint8_t tos = 0) {
    put({reinterpret_cast<const std::uint8_t*>(text.data()), text.size()}, to, tos);
  }
  // Polls until `count` packets are in the burst, or two seconds have passed.
  std::size_t receive(Port& port, std::size_t count = 1) {
    const auto end = std::chrono::steady_clock::now() + std::chrono::seconds{2};
    for (;;) {
      port.receive(burst, context);
      if (burst.size() >= count || std::chrono::steady_clock::now() > end) return burst.size();
      std::this_thread::sleep_for(std::chrono::microseconds{200});
    }
  }
  [[nodiscard]] std::string_view text(std::size_t i) {
    return {reinterpret_cast<const char*>(burst[i].data), burst[i].length};
  }
  void clear() {
    for (Packet& packet : burst)
      if (packet.buffer != nullptr) context.release(packet);  // a test may have released some itself
    burst.clear();
  }
  [[nodiscard]] std::uint64_t drops(Drop reason) const {
    return counters.drops[static_cast<std::size_t>(reason)].get();
  }
  [[nodiscard]] std::uint64_t all_drops() const {
    std::uint64_t sum = 0;
    for (const Tally& tally : counters.drops) sum += tally.get();
    return sum;
  }
};

// How many packets a second one thread sends through one port and receives from another, in bursts, for about a second.
template <class Worker>
double packets_per_second(Worker& worker, Port& out, Port& in, std::size_t length, const Endpoint* to = nullptr) {
  std::uint64_t received = 0;
  const auto begin = std::chrono::steady_clock::now();
  auto end = begin;
  do {
    for (int round = 0; round < 64; ++round) {
      for (std::size_t i = 0; i < kReceiveBurst; ++i) {
        Packet packet;
        if (!worker.context.make(packet, length)) break;
        packet.to = to;
        worker.burst.add(packet);
      }
      static_cast<void>(out.send(worker.burst, worker.context));
      in.receive(worker.burst, worker.context);
      received += worker.burst.size();
      for (Packet& packet : worker.burst) worker.context.release(packet);
      worker.burst.clear();
    }
    end = std::chrono::steady_clock::now();
  } while (end - begin < std::chrono::seconds{1});
  return static_cast<double>(received) / std::chrono::duration<double>(end - begin).count();
}

inline Endpoint endpoint_of(const Address& address, std::uint16_t port) {
  Endpoint e;
  e.remote = address;
  e.port = port;
  return e;
}
inline Address ipv4(std::uint8_t a, std::uint8_t b, std::uint8_t c, std::uint8_t d) {
  const std::uint8_t octets[4] = {a, b, c, d};
  return Address::v4(octets);
}
inline Address ipv6(std::initializer_list<std::uint8_t> head, std::uint8_t last) {
  std::uint8_t octets[16] = {};
  std::copy(head.begin(), head.end(), octets);
  octets[15] = last;
  return Address::v6(octets);
}

}  // namespace wireplane
