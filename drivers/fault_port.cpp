#include "drivers/fault_port.h"

#include <cstring>

namespace wireplane {
namespace {

constexpr std::uint64_t kOtherDirection = 0x5851f42d4c957f2d;  // any odd number: the two generators must differ

bool copy_packet(const Packet& from, Buffer* buffer, Packet& to) {
  if (buffer == nullptr || from.length > buffer->size - kHeadroom) return false;
  to = from;
  to.buffer = buffer;
  to.data = buffer->memory + kHeadroom;
  std::memcpy(to.data, from.data, from.length);
  return true;
}

}  // namespace

// ---- one direction

std::uint64_t FaultPort::Direction::draw() {  // splitmix64: Steele, Lea, Flood 2014
  std::uint64_t z = (state_ += 0x9e3779b97f4a7c15);
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
  z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
  return z ^ (z >> 31);
}

bool FaultPort::Direction::happens(double probability) {
  return static_cast<double>(draw() >> 11) * 0x1p-53 < probability;
}

void FaultPort::Direction::damage(Packet& packet) {
  const std::uint64_t bit = draw() % (std::uint64_t{packet.length} * 8);
  packet.data[bit / 8] = static_cast<std::uint8_t>(packet.data[bit / 8] ^ 1u << bit % 8);
}

bool FaultPort::Direction::hold(const Packet& packet) {
  if (held_.size() == kMaxHeld) return false;
  Held held{packet, packet.to != nullptr ? *packet.to : Endpoint{},
            1 + static_cast<unsigned>(draw() % kReorderDistance)};
  // What only the worker may follow, and not for longer than its step.
  held.packet.session = nullptr;
  held.packet.peer = held.packet.from_peer = nullptr;
  held_.push_back(held);
  return true;
}

template <class Lose, class Twin, class Pass>
void FaultPort::Direction::carry(Packet& packet, Lose lose, Twin twin, Pass pass) {
  if (happens(faults_.loss)) {
    lose(packet);
    return;
  }
  if (happens(faults_.corrupt) && packet.length != 0) damage(packet);
  Packet copy;
  const bool doubled = happens(faults_.duplicate) && twin(packet, copy);
  for (Packet* one : {&packet, &copy}) {
    if (one == &copy && !doubled) break;
    if (happens(faults_.reorder) && hold(*one)) continue;
    pass(*one);
    overtake(pass);
  }
}

template <class Pass>
void FaultPort::Direction::overtake(Pass pass) {
  std::size_t kept = 0;
  for (std::size_t i = 0; i < held_.size(); ++i) {
    Held& one = held_[i];
    if (--one.others == 0) {
      if (one.packet.to != nullptr) one.packet.to = &one.to;
      pass(one.packet);
    } else {
      if (kept != i) held_[kept] = one;
      ++kept;
    }
  }
  held_.resize(kept);
}

// ---- the port

FaultPort::FaultPort(Port& wrapped, const Faults& receiving, const Faults& sending, std::uint64_t seed)
    : wrapped_{wrapped}, receiving_{receiving, seed}, sending_{sending, seed * kOtherDirection + 1} {
  ready_.reserve(2 * kReceiveBurst + kMaxHeld);  // a burst doubled, and those that were held
}

FaultPort::~FaultPort() {
  for (Direction* direction : {&receiving_, &sending_})
    for (Held& held : direction->held()) held.packet.buffer->pool->give(&held.packet.buffer, 1);
  for (std::size_t i = handed_over_; i < ready_.size(); ++i) ready_[i].buffer->pool->give(&ready_[i].buffer, 1);
}

void FaultPort::set_faults(const Faults& receiving, const Faults& sending) {
  receiving_.set(receiving);
  sending_.set(sending);
}

// What was received but not handed over was counted nowhere yet.
std::size_t FaultPort::held() const { return sending_.held().size() + sent_; }

void FaultPort::receive(Burst& burst, WorkerContext& context) {
  sending_.overtake([&](const Packet& packet) { queue(packet, context); });  // time passes for them, too
  flush(context);

  const auto pass = [&](const Packet& packet) { ready_.push_back(packet); };
  if (handed_over_ == ready_.size()) {
    ready_.clear();
    handed_over_ = 0;
    wrapped_.receive(incoming_, context);
    receiving_.overtake(pass);
    for (Packet& packet : incoming_)
      receiving_.carry(
          packet,
          [&](Packet& lost) {
            context.refuse(Drop::kFaultInjected);
            context.release(lost);
          },
          [&](const Packet& original, Packet& copy) {
            Buffer* buffer = context.buffers.take();
            const bool made = copy_packet(original, buffer, copy);
            if (!made && buffer != nullptr) context.buffers.release(buffer);
            return made;
          },
          pass);
    incoming_.clear();
  }
  for (std::size_t room = std::min(burst.room(), kReceiveBurst); room > 0 && handed_over_ < ready_.size(); --room)
    burst.add(ready_[handed_over_++]);
}

std::size_t FaultPort::send(Burst& burst, WorkerContext& context) {
  for (Packet& packet : burst)
    sending_.carry(
        packet, [&](Packet& lost) { context.drop(lost, Drop::kFaultInjected); },
        [&](const Packet& original, Packet& copy) {
          if (!context.make(copy)) return false;
          if (copy_packet(original, copy.buffer, copy)) return true;
          context.drop(copy, Drop::kFaultInjected);
          return false;
        },
        [&](const Packet& passed) { queue(passed, context); });
  burst.clear();
  flush(context);
  return std::exchange(sent_, 0);
}

void FaultPort::queue(const Packet& packet, WorkerContext& context) {
  if (outgoing_.room() == 0) flush(context);
  Endpoint& to = destinations_[outgoing_.size()];
  outgoing_.add(packet);
  if (packet.to == nullptr) return;
  to = *packet.to;
  outgoing_[outgoing_.size() - 1].to = &to;
}

void FaultPort::flush(WorkerContext& context) {
  if (!outgoing_.empty()) sent_ += wrapped_.send(outgoing_, context);
}

// ---- devices

std::unique_ptr<OuterDevice> with_faults(std::unique_ptr<OuterDevice> device, const Faults& receiving,
                                         const Faults& sending, std::uint64_t seed) {
  return std::make_unique<WrappedOuterDevice<FaultPort>>(
      std::move(device), "faults (seed " + std::to_string(seed) + ")", [&](Port& queue, unsigned worker) {
        return std::make_unique<FaultPort>(queue, receiving, sending, seed + worker);
      });
}

std::unique_ptr<InnerDevice> with_inner_faults(std::unique_ptr<InnerDevice> device, const Faults& receiving,
                                               const Faults& sending, std::uint64_t seed) {
  return std::make_unique<WrappedInnerDevice<FaultPort>>(
      std::move(device), "faults (seed " + std::to_string(seed) + ")", [&](Port& queue, unsigned worker) {
        return std::make_unique<FaultPort>(queue, receiving, sending, seed + worker);
      });
}

}  // namespace wireplane
