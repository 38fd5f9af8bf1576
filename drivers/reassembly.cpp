#include "drivers/reassembly.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "dataplane/base/bytes.h"
#include "dataplane/wire/inner_ip.h"

namespace wireplane {
namespace {

constexpr std::size_t kTailNeeded = 31;  // port.h: padding 15 and tag 16
constexpr std::uint8_t kEcnMask = 3, kCongested = 3;

std::uint8_t* payload_of(Buffer* buffer) { return buffer->memory + kHeadroom + kIpv6HeaderSize; }
std::size_t room_of(const Buffer* buffer) { return buffer->size - kHeadroom - kIpv6HeaderSize - kTailNeeded; }

}  // namespace

Reassembly::~Reassembly() {
  for (Place& place : places_)
    if (place.buffer != nullptr) place.buffer->pool->give(&place.buffer, 1);
}

Reassembly::Whole Reassembly::add(const IpFragment& piece, std::int64_t now_ns, WorkerContext& context) {
  Place* place = place_of(piece, now_ns, context);
  if (place == nullptr) {
    context.refuse(Drop::kNoBuffer);
    return {};
  }
  switch (fit(*place, piece)) {
    case Fit::kTaken:
      break;
    case Fit::kDuplicate:
      context.refuse(Drop::kOuterFragment);
      return {};
    case Fit::kContradiction:
      context.refuse(Drop::kOuterFragment);
      give_up(*place, Drop::kOuterFragment, context);
      return {};
    case Fit::kTooLarge:
      context.refuse(Drop::kTruncated);
      give_up(*place, Drop::kTruncated, context);
      return {};
  }
  return place->octets == place->total ? finish(*place) : Whole{};
}

// The datagram's place, or a new one; null: there is no buffer.
Reassembly::Place* Reassembly::place_of(const IpFragment& piece, std::int64_t now_ns, WorkerContext& context) {
  Place* chosen = &places_[0];
  for (Place& place : places_) {
    const bool same = place.buffer != nullptr && place.identification == piece.identification &&
                      place.protocol == piece.protocol && place.source == piece.source &&
                      place.destination == piece.destination;
    if (same) return &place;
    if (chosen->buffer != nullptr && (place.buffer == nullptr || place.until_ns < chosen->until_ns)) chosen = &place;
  }
  Buffer* buffer = context.buffers.take();
  if (buffer == nullptr) return nullptr;
  if (chosen->buffer != nullptr) give_up(*chosen, Drop::kOuterFragment, context);
  *chosen = Place{};
  chosen->buffer = buffer;
  chosen->source = piece.source;
  chosen->destination = piece.destination;
  chosen->identification = piece.identification;
  chosen->protocol = piece.protocol;
  chosen->tos = piece.tos;
  chosen->until_ns = now_ns + kPatienceNs;
  ++used_;
  return chosen;
}

// Copies the piece to where it belongs, if it agrees with what is there.
Reassembly::Fit Reassembly::fit(Place& place, const IpFragment& piece) {
  const auto begin = static_cast<std::uint32_t>(piece.offset);
  const auto end = static_cast<std::uint32_t>(piece.offset + piece.length);
  if (end > room_of(place.buffer)) return Fit::kTooLarge;
  for (std::size_t i = 0; i < place.count; ++i) {
    const Piece& other = place.pieces[i];
    if (other.begin == begin && other.end == end) return Fit::kDuplicate;
    if (begin < other.end && other.begin < end) return Fit::kContradiction;
    if (!piece.more && other.end > end) return Fit::kContradiction;
  }
  if (place.count == kMostPieces) return Fit::kContradiction;
  if (place.total != 0 && (!piece.more || end > place.total)) return Fit::kContradiction;
  if (!piece.more) place.total = end;
  std::memcpy(payload_of(place.buffer) + begin, piece.data, piece.length);
  place.pieces[place.count++] = {begin, end};
  place.octets += end - begin;
  place.congested = place.congested || (piece.tos & kEcnMask) == kCongested;
  if (begin == 0) place.tos = piece.tos;
  return Fit::kTaken;
}

// An IP header before the payload, as if the datagram had come in one.
Reassembly::Whole Reassembly::finish(Place& place) {
  const bool v4 = place.source.is_v4();
  const std::size_t header = v4 ? kIpv4HeaderSize : kIpv6HeaderSize;
  const auto tos = static_cast<std::uint8_t>(place.congested ? place.tos | kCongested : place.tos);
  std::uint8_t* ip = payload_of(place.buffer) - header;
  std::memset(ip, 0, header);
  if (v4) {
    ip[0] = 0x45;
    ip[1] = tos;
    store_be16(ip + 2, static_cast<std::uint16_t>(std::min<std::size_t>(header + place.total, 0xffff)));
    ip[9] = place.protocol;
    std::memcpy(ip + 12, place.source.octets.data(), 4);
    std::memcpy(ip + 16, place.destination.octets.data(), 4);
  } else {
    store_be32(ip, 6u << 28 | std::uint32_t{tos} << 20);
    store_be16(ip + 4, static_cast<std::uint16_t>(place.total));
    ip[6] = place.protocol;
    std::memcpy(ip + 8, place.source.octets.data(), 16);
    std::memcpy(ip + 24, place.destination.octets.data(), 16);
  }
  --used_;
  return {std::exchange(place.buffer, nullptr), ip, header + place.total};
}

void Reassembly::expire(std::int64_t now_ns, WorkerContext& context) {
  if (used_ == 0) return;
  for (Place& place : places_)
    if (place.buffer != nullptr && now_ns >= place.until_ns) give_up(place, Drop::kOuterFragment, context);
}

void Reassembly::give_up(Place& place, Drop reason, WorkerContext& context) {
  if (place.count != 0) context.refuse(reason, place.count);
  context.buffers.release(std::exchange(place.buffer, nullptr));
  --used_;
}

}  // namespace wireplane
