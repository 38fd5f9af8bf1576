#include "control/embed/stream.h"

#include <cerrno>

#include "control/embed/node_state.h"
#include "control/embed/stream_layer.h"
#include "control/system.h"

namespace wireplane {
namespace {

Error none(const void* owner) {
  return owner == nullptr ? Error{"not a stream", EBADF} : Error{"the stream is of the process that forked", ESHUTDOWN};
}

Error too_long() { return {"nothing happened in the time allowed", ETIMEDOUT}; }

}  // namespace

StreamOwner::~StreamOwner() {
  if (SctpStack::forked()) return;
  const SctpStack::Use use;
  StreamLayer::close(*state, false);
  state->layer->leave_ready(*state);  // an application that waits in read() never asks for those that are ready
}

NodePeer Stream::peer() const { return owner_ == nullptr ? NodePeer{} : owner_->state->with; }
std::uint16_t Stream::id() const { return owner_ == nullptr ? 0 : owner_->state->id; }
Stream::Kind Stream::kind() const { return owner_ == nullptr ? Kind::kBytes : owner_->state->kind; }
void* Stream::tag() const { return owner_ == nullptr ? nullptr : owner_->tag.load(std::memory_order_relaxed); }
void Stream::set_tag(void* tag) {
  if (owner_ != nullptr) owner_->tag.store(tag, std::memory_order_relaxed);
}
std::size_t Stream::max_message() const { return SctpEnd::kMostMessage; }

Result<std::size_t> Stream::write(std::span<const std::uint8_t> octets) try {
  if (owner_ == nullptr || SctpStack::forked()) return none(owner_.get());
  const SctpStack::Use use;
  return StreamLayer::write(*owner_->state, octets);
} catch (const std::bad_alloc&) {
  return node_lacks_memory();
}

Result<Stream::Read> Stream::read(std::span<std::uint8_t> room) try {
  if (owner_ == nullptr || SctpStack::forked()) return none(owner_.get());
  const SctpStack::Use use;
  return StreamLayer::read(*owner_->state, room);
} catch (const std::bad_alloc&) {
  return node_lacks_memory();
}

Status Stream::write_all(std::span<const std::uint8_t> octets, Duration at_most) {
  if (owner_ == nullptr || SctpStack::forked()) return none(owner_.get());
  StreamLayer& layer = *owner_->state->layer;
  const Instant end = engine_clock() + at_most;
  for (;;) {
    const std::uint64_t known = layer.news();
    const Result<std::size_t> taken = write(octets);
    if (taken) {
      octets = octets.subspan(*taken);
      if (octets.empty()) return Nothing{};
    } else {
      if (taken.error().code != EAGAIN) return taken.error();
      const Duration left = end - engine_clock();
      if (left <= Duration{0}) return too_long();
      layer.wait(known, left);
    }
  }
}

Result<Stream::Read> Stream::read(std::span<std::uint8_t> room, Duration at_most) {
  if (owner_ == nullptr || SctpStack::forked()) return none(owner_.get());
  StreamLayer& layer = *owner_->state->layer;
  const Instant end = engine_clock() + at_most;
  for (;;) {
    const std::uint64_t known = layer.news();
    Result<Read> got = read(room);
    if (got || got.error().code != EAGAIN) return got;
    const Duration left = end - engine_clock();
    if (left <= Duration{0}) return too_long();
    layer.wait(known, left);
  }
}

Status Stream::finish() try {
  if (owner_ == nullptr || SctpStack::forked()) return none(owner_.get());
  const SctpStack::Use use;
  return StreamLayer::finish(*owner_->state);
} catch (const std::bad_alloc&) {
  return node_lacks_memory();
}

void Stream::close() {
  if (owner_ == nullptr || SctpStack::forked()) return;
  const SctpStack::Use use;
  StreamLayer::close(*owner_->state, false);
}

void Stream::reset() {
  if (owner_ == nullptr || SctpStack::forked()) return;
  const SctpStack::Use use;
  StreamLayer::close(*owner_->state, true);
}

void Stream::set_deadline(Duration from_now) {
  if (owner_ == nullptr || SctpStack::forked()) return;
  const SctpStack::Use use;
  StreamLayer::set_deadline(*owner_->state, from_now);
}

}  // namespace wireplane
