#include "drivers/memory_port.h"

#include <cerrno>
#include <cstring>
#include <mutex>
#include <string>
#include <thread>

#include "drivers/received.h"
#include "drivers/steering.h"

namespace wireplane {
namespace {

constexpr std::uint16_t kFirstEphemeralPort = 49152;  // RFC 6335 §6

// Stands in for the hash a NIC would compute: the same flow keeps its queue. FNV-1a.
std::uint32_t flow_hash(const Endpoint& from) {
  std::uint32_t hash = 2166136261u;
  for (const std::uint8_t octet : from.remote.octets) hash = (hash ^ octet) * 16777619u;
  return (hash ^ from.port) * 16777619u >> 8;
}

// There are as many places as slots, so a full ring means that another thread is between taking a place and saying so.
void push_surely(MpmcRing<MemoryDatagram*>& ring, MemoryDatagram* slot) {
  while (!ring.push(slot)) std::this_thread::yield();
}

}  // namespace

// ---- the queue

MemoryQueue::MemoryQueue(std::size_t capacity)
    : slots_{std::make_unique<MemoryDatagram[]>(capacity)}, free_{capacity}, filled_{capacity} {
  for (std::size_t i = 0; i < capacity; ++i) WG_CHECK(free_.push(&slots_[i]));
}

bool MemoryQueue::push(const Endpoint& from, std::uint8_t tos, std::span<const std::uint8_t> octets) {
  MemoryDatagram* slot;
  if (!free_.pop(slot)) return false;
  slot->from = from;
  slot->tos = tos;
  slot->octets.assign(octets.begin(), octets.end());
  push_surely(filled_, slot);
  return true;
}

bool MemoryQueue::pop(MemoryDatagram& out) {
  MemoryDatagram* slot;
  if (!filled_.pop(slot)) return false;
  std::swap(out, *slot);
  push_surely(free_, slot);
  return true;
}

void MemoryQueue::receive(Burst& burst, Origin origin, WorkerContext& context) {
  const std::size_t data_room = context.buffers.pool().data_room();
  for (std::size_t room = receive_room(burst); room > 0; --room) {
    Buffer* buffer = context.buffers.take();
    if (buffer == nullptr) return;  // the queue waits, and in the end refuses: the sender counts it
    MemoryDatagram* slot;
    if (!filled_.pop(slot)) {
      context.buffers.release(buffer);
      return;
    }
    if (slot->octets.size() <= data_room) {
      Packet& packet = add_received(burst, buffer, slot->octets.size(), origin);
      if (!slot->octets.empty()) std::memcpy(packet.data, slot->octets.data(), slot->octets.size());
      packet.from = slot->from;
      packet.tos = slot->tos;
    } else {
      context.buffers.release(buffer);
      context.refuse(Drop::kTruncated);
    }
    push_surely(free_, slot);
  }
}

// ---- the outer device

class MemoryOuterDevice::QueuePort final : public Port {
 public:
  QueuePort(MemoryOuterDevice& device, std::size_t capacity) : device_{device}, arrived{capacity} {}

  void receive(Burst& burst, WorkerContext& context) override { arrived.receive(burst, Origin::kOuter, context); }

  std::size_t send(Burst& burst, WorkerContext& context) override {
    std::size_t sent = 0;
    for (Packet& packet : burst) {
      const Drop outcome = send_one(packet);
      if (outcome == Drop::kNone) {
        ++sent;
        context.release(packet);
      } else {
        context.drop(packet, outcome);
      }
    }
    burst.clear();
    return sent;
  }

 private:
  Drop send_one(const Packet& packet) {
    const Endpoint source = device_.source_for(*packet.to);
    if (!source.valid()) return Drop::kOuterUnreachable;
    return device_.network_.carry(source, *packet.to, packet.tos, packet.octets());
  }

  MemoryOuterDevice& device_;

 public:
  MemoryQueue arrived;
};

MemoryOuterDevice::MemoryOuterDevice(MemoryNetwork& network, unsigned queues) : network_{network} {
  for (unsigned i = 0; i < queues; ++i) ports_.push_back(std::make_unique<QueuePort>(*this, network.queue_capacity_));
}

MemoryOuterDevice::~MemoryOuterDevice() {
  const std::unique_lock lock{network_.mutex_};
  network_.forget(*this);
}

Port& MemoryOuterDevice::queue(unsigned worker) { return *ports_.at(worker); }

std::string MemoryOuterDevice::describe() const {
  return "memory port " + std::to_string(listen_port()) + " x" + std::to_string(queues());
}

Status MemoryOuterDevice::set_listen_port(std::uint16_t port) {
  const std::unique_lock lock{network_.mutex_};
  return network_.bind(*this, addresses_, port);
}

std::uint16_t MemoryOuterDevice::listen_port() const {
  const std::shared_lock lock{network_.mutex_};
  return port_;
}

Status MemoryOuterDevice::set_addresses(std::vector<Address> addresses) {
  const std::unique_lock lock{network_.mutex_};
  return network_.bind(*this, addresses, port_);
}

Endpoint MemoryOuterDevice::source_for(const Endpoint& to) const {
  const std::shared_lock lock{network_.mutex_};
  Endpoint source;
  source.port = port_;
  for (const Address& own : addresses_) {
    if (own == to.local && own.family == to.remote.family) {
      source.remote = own;
      break;
    }
    if (source.remote.none() && own.family == to.remote.family) source.remote = own;
  }
  return source;
}

// ---- the network

std::unique_ptr<MemoryOuterDevice> MemoryNetwork::attach(std::vector<Address> addresses, std::uint16_t port,
                                                         unsigned queues) {
  std::unique_ptr<MemoryOuterDevice> device{new MemoryOuterDevice{*this, queues}};
  const std::unique_lock lock{mutex_};
  WG_CHECK(bind(*device, addresses, port));  // two hosts with one address and port is a mistake of the test
  return device;
}

Drop MemoryNetwork::carry(const Endpoint& from, const Endpoint& to, std::uint8_t tos,
                          std::span<const std::uint8_t> octets) {
  return deliver(from, to, tos, octets);
}

Drop MemoryNetwork::deliver(const Endpoint& from, const Endpoint& to, std::uint8_t tos,
                            std::span<const std::uint8_t> octets) {
  const std::shared_lock lock{mutex_};
  const auto found = bound_.find({to.remote, to.port});
  if (found == bound_.end()) return Drop::kOuterUnreachable;
  Endpoint seen = from;
  seen.local = to.remote;
  auto& ports = found->second->ports_;
  const unsigned queue = steer(octets, static_cast<unsigned>(ports.size()), flow_hash(from));
  return ports[queue]->arrived.push(seen, tos, octets) ? Drop::kNone : Drop::kOuterSend;
}

Status MemoryNetwork::bind(MemoryOuterDevice& device, const std::vector<Address>& addresses, std::uint16_t port) {
  const auto taken = [&](std::uint16_t candidate) {
    for (const Address& address : addresses) {
      const auto found = bound_.find({address, candidate});
      if (found != bound_.end() && found->second != &device) return true;
    }
    return false;
  };
  if (port == 0) {
    port = kFirstEphemeralPort;
    while (port != 0 && taken(port)) ++port;  // wraps to 0 when all are taken
    if (port == 0) return Error{"no free port on the memory network", EADDRINUSE};
  } else if (taken(port)) {
    return Error{"port " + std::to_string(port) + " is taken on the memory network", EADDRINUSE};
  }
  forget(device);
  for (const Address& address : addresses) bound_[{address, port}] = &device;
  device.addresses_ = addresses;
  device.port_ = port;
  return Nothing{};
}

void MemoryNetwork::forget(const MemoryOuterDevice& device) {
  std::erase_if(bound_, [&](const auto& entry) { return entry.second == &device; });
}

// ---- the inner device

class MemoryInnerDevice::QueuePort final : public Port {
 public:
  explicit QueuePort(std::size_t capacity) : to_tunnel{capacity}, to_host{capacity} {}

  void receive(Burst& burst, WorkerContext& context) override { to_tunnel.receive(burst, Origin::kHost, context); }

  std::size_t send(Burst& burst, WorkerContext& context) override {
    std::size_t sent = 0;
    for (Packet& packet : burst) {
      if (to_host.push({}, 0, packet.octets())) {
        ++sent;
        context.release(packet);
      } else {
        context.drop(packet, Drop::kInnerSend);
      }
    }
    burst.clear();
    return sent;
  }

  MemoryQueue to_tunnel, to_host;
};

MemoryInnerDevice::MemoryInnerDevice(unsigned queues, std::size_t queue_capacity) {
  for (unsigned i = 0; i < queues; ++i) ports_.push_back(std::make_unique<QueuePort>(queue_capacity));
}

MemoryInnerDevice::~MemoryInnerDevice() = default;

Port& MemoryInnerDevice::queue(unsigned worker) { return *ports_.at(worker); }

std::string MemoryInnerDevice::describe() const { return "memory x" + std::to_string(queues()); }

bool MemoryInnerDevice::push(std::span<const std::uint8_t> packet, unsigned worker) {
  return ports_.at(worker)->to_tunnel.push({}, 0, packet);
}

bool MemoryInnerDevice::pop(std::vector<std::uint8_t>& packet, unsigned worker) {
  MemoryDatagram datagram;
  datagram.octets.swap(packet);
  const bool popped = ports_.at(worker)->to_host.pop(datagram);
  datagram.octets.swap(packet);
  return popped;
}

}  // namespace wireplane
