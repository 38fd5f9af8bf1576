#include "control/embed/stream_layer.h"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "control/embed/thrifty_pool.h"
#include "control/system.h"
#include "dataplane/wire/inner_ip.h"
#include "drivers/eventfd.h"

namespace wireplane {
namespace {

constexpr std::uint32_t kOurs = 0x5750'0000, kFlags = 0x1f;
constexpr std::uint32_t kMessages = 1, kFinished = 2, kUnheard = 4, kReset = 8, kEmpty = 16;
constexpr Duration kFinestTick = 10ms, kCoarsestTick = 1s;
constexpr std::uint8_t kFiller[1] = {0};

std::uint64_t key_of(PeerId id) { return std::uint64_t{id.slot.raw()} << 32 | id.generation; }

Error trouble(int code) {
  switch (code) {
    case EAGAIN:
      return {"not now: the stream becomes ready when it is worth trying again", EAGAIN};
    case EPIPE:
      return {"the stream is finished, or the peer reads no more", EPIPE};
    case ECONNRESET:
      return {"reset by the peer, which gave up or began anew", ECONNRESET};
    case EHOSTUNREACH:
      return {"the peer does not answer", EHOSTUNREACH};
    case ETIMEDOUT:
      return {"the stream's deadline has passed", ETIMEDOUT};
    case ENOENT:
      return {"no such peer", ENOENT};
    case ENOMEM:
      return {"out of memory", ENOMEM};
    case ESHUTDOWN:
      return {"the node is closed", ESHUTDOWN};
    default:
      return {std::string{"SCTP: "} + std::strerror(code), code};
  }
}

}  // namespace

// ---- one peer's

PeerStreams::PeerStreams(StreamLayer& layer, const NodePeer& peer)
    : layer_{layer},
      peer_{peer},
      first_id_{static_cast<std::uint16_t>(layer.parts_.key < peer.key ? 0 : 1)},
      ids_{layer.parts_.sctp.streams} {}

PeerStreams::~PeerStreams() { end_.reset(); }

Status PeerStreams::begin() {
  auto end = SctpEnd::open(*this, layer_.parts_.sctp);
  if (!end) return end.error();
  end_ = std::move(*end);
  return Nothing{};
}

std::shared_ptr<StreamState> PeerStreams::add(std::uint16_t id, Stream::Kind kind) {
  auto stream = std::make_shared<StreamState>();
  stream->peer = this;
  stream->layer = layer_.shared_from_this();
  stream->with = peer_;
  stream->id = id;
  stream->kind = kind;
  streams_.emplace(id, stream);
  return stream;
}

std::shared_ptr<StreamState> PeerStreams::open(Stream::Kind kind) {
  for (unsigned id = first_id_; id < ids_; id += 2)
    if (!streams_.contains(static_cast<std::uint16_t>(id))) return add(static_cast<std::uint16_t>(id), kind);
  return nullptr;
}

int PeerStreams::send(StreamState& stream, std::uint32_t flags, std::span<const std::uint8_t> octets) {
  if (octets.empty()) flags |= kEmpty;
  if (stream.kind == Stream::Kind::kMessages) flags |= kMessages;
  layer_.active();
  return end_->send(stream.id, kOurs | flags, octets.empty() ? std::span{kFiller} : octets);
}

void PeerStreams::say_last_words(StreamState& stream, std::uint32_t flags) {
  stream.last_words |= flags;
  const int code = send(stream, stream.last_words, {});
  if (code == EAGAIN || code == ENOMEM) return;  // writable() tries again
  stream.last_words = 0;
  if (code != 0) stream.broken = code;
  let_go_if_done(stream);
}

// The id is free when both have finished, and ours is on its way.
void PeerStreams::let_go_if_done(StreamState& stream) {
  if (!stream.finished || !stream.peer_finished || stream.last_words != 0) return;
  const std::uint16_t id = stream.id;
  stream.peer = nullptr;
  waiting_ -= stream.waiting;  // what is still to be read holds up nobody
  streams_.erase(id);
}

void PeerStreams::taken(std::size_t octets) {
  waiting_ -= octets;
  if (starved_ && has_room()) {
    starved_ = false;
    end_->take();
  }
}

void PeerStreams::cut_off_all(int code) {
  for (auto& [id, stream] : streams_) {
    stream->broken = code;
    stream->peer = nullptr;
    layer_.make_ready(*stream);
  }
  streams_.clear();
  waiting_ = 0;
}

void PeerStreams::transmit(std::span<const std::uint8_t> packet, std::uint8_t traffic_class) {
  if (!layer_.parts_.transmit(*this, packet, traffic_class)) layer_.lost_.fetch_add(1, std::memory_order_relaxed);
}

void PeerStreams::established(unsigned streams) {
  ids_ = std::min(streams, layer_.parts_.sctp.streams);
  for (auto at = streams_.lower_bound(static_cast<std::uint16_t>(ids_)); at != streams_.end();) {  // beyond the peer's
    at->second->broken = ECONNRESET;
    at->second->peer = nullptr;
    layer_.make_ready(*at->second);
    at = streams_.erase(at);
  }
}

void PeerStreams::broken(int code) { cut_off_all(code); }

bool PeerStreams::has_room() const { return waiting_ < layer_.parts_.sctp.buffer; }

// What has arrived has left SCTP: without the memory to keep it there is nothing left to be relied on.
void PeerStreams::arrived(std::uint16_t id, std::uint32_t ppid, std::span<const std::uint8_t> octets, bool complete) {
  const bool ours = (ppid & ~kFlags) == kOurs;
  try {
    take_in(id, ours ? ppid & kFlags : kMessages, octets, complete);
  } catch (const std::bad_alloc&) {
    cut_off_all(ENOMEM);
    end_->abort();
  }
}

void PeerStreams::take_in(std::uint16_t id, std::uint32_t flags, std::span<const std::uint8_t> octets, bool complete) {
  auto found = streams_.find(id);
  if (found == streams_.end()) {
    if (opened_by_us(id)) return;  // an id of ours that we did not open: nobody is meant
    add(id, (flags & kMessages) != 0 ? Stream::Kind::kMessages : Stream::Kind::kBytes);
    found = streams_.find(id);
    layer_.incoming(found->second);
  }
  const std::shared_ptr<StreamState> stream = found->second;
  if (!stream->unheard && (flags & kEmpty) == 0) {
    stream->arrived.push_back({{octets.begin(), octets.end()}, complete});
    stream->waiting += octets.size();
    waiting_ += octets.size();
  } else if (!stream->unheard && (flags & kFinished) == 0) {
    stream->arrived.push_back({{}, true});  // an empty message
  }
  if ((flags & kFinished) != 0) stream->peer_finished = true;
  if ((flags & kUnheard) != 0) stream->peer_unheard = true;
  if ((flags & kReset) != 0) stream->peer_reset = true;
  if (stream->peer_unheard && !stream->finished) {  // there is nobody to write to: the id shall be free
    stream->finished = true;
    say_last_words(*stream, kFinished);
  } else {
    let_go_if_done(*stream);
  }
  layer_.make_ready(*stream);
  if (!has_room()) starved_ = true;
}

void PeerStreams::writable() {
  for (auto at = streams_.begin(); at != streams_.end();) {
    const std::shared_ptr<StreamState> stream = at->second;
    ++at;  // its own words may be its last
    if (stream->last_words != 0) say_last_words(*stream, 0);
    if (std::exchange(stream->wants_to_write, false)) layer_.make_ready(*stream);
  }
}

// ---- the node's

bool StreamLayer::step(std::span<const std::unique_ptr<AppPort>> ports, Instant now) {
  const bool arrived = std::ranges::any_of(ports, [](const auto& port) { return port->queued_in_sctp() != 0; });
  if (!arrived && now < due()) return false;
  const SctpStack::Use use;
  if (closed_) return false;
  for (const auto& port : ports)
    for (AppPort::Inbound in; port->pop_sctp({&in, 1}) != 0;) {
      const std::unique_ptr<Buffer, void (*)(Buffer*)> held{in.buffer, ::wireplane::release};
      const std::optional<NodePeer> from = parts_.find_peer(in.from);
      const bool to_us = from && source_of(in.data) == from->address && destination_of(in.data) == parts_.address;
      if (to_us) {
        if (const Result<PeerStreams*> streams = streams_with(*from)) {
          active();
          const std::span packet{in.data + kIpv6HeaderSize, in.length - kIpv6HeaderSize};
          if (!(*streams)->input(packet, ds_field(in.data) & 3)) lost_.fetch_add(1, std::memory_order_relaxed);
        }
      }
    }
  pass_deadlines(now);
  reckon_due();
  return arrived;
}

// usrsctp's timers are looked at every 10 ms, and less often the longer nothing happened: a timer may be late by an
// eighth of the time it measures, which no retransmission minds.
void StreamLayer::reckon_due() {
  Instant due = Instant::max();
  const Instant now = engine_clock();
  if (!peers_.empty()) due = now + std::clamp((now - last_active_) / 8, kFinestTick, kCoarsestTick);
  if (!deadlines_.empty()) due = std::min(due, deadlines_.begin()->first);
  due_.store(due.time_since_epoch().count(), std::memory_order_relaxed);
}

void StreamLayer::active() {
  last_active_ = engine_clock();
  if (due() > last_active_ + 2 * kFinestTick) {
    due_.store((last_active_ + kFinestTick).time_since_epoch().count(), std::memory_order_relaxed);
    parts_.due_sooner();
  }
}

void StreamLayer::pass_deadlines(Instant now) {
  while (!deadlines_.empty() && deadlines_.begin()->first <= now) {
    const std::shared_ptr<StreamState> stream = deadlines_.begin()->second;
    deadlines_.erase(deadlines_.begin());
    make_ready(*stream);
  }
}

void StreamLayer::close() {
  const SctpStack::Use use;
  if (std::exchange(closed_, true)) return;
  for (auto& [id, peer] : peers_) peer->cut_off_all(ESHUTDOWN);
  incoming_.clear();
  while (pop_ready() != nullptr) continue;
  deadlines_.clear();
  peers_.clear();
  if (started_) SctpStack::stop();
  tell();
}

void StreamLayer::forget(PeerId peer) {
  const SctpStack::Use use;
  const auto found = peers_.find(key_of(peer));
  if (found == peers_.end()) return;
  found->second->cut_off_all(ENOENT);
  std::erase_if(incoming_, [peer](const auto& stream) { return stream->with.id == peer; });
  peers_.erase(found);
}

Result<PeerStreams*> StreamLayer::streams_with(const NodePeer& peer) {
  if (closed_) return trouble(ESHUTDOWN);
  const auto found = peers_.find(key_of(peer.id));
  if (found != peers_.end()) return found->second.get();
  if (!started_) {
    if (Status started = SctpStack::start(); !started) return started.error();
    started_ = true;
  }
  auto made = std::make_unique<PeerStreams>(*this, peer);
  if (Status begun = made->begin(); !begun) return begun.error();
  return peers_.emplace(key_of(peer.id), std::move(made)).first->second.get();
}

Stream StreamLayer::handle_of(const std::shared_ptr<StreamState>& state) {
  auto owner = std::make_shared<StreamOwner>(state);
  state->owner = owner;
  return Stream{std::move(owner)};
}

// ---- what the application is told

void StreamLayer::tell() {
  {
    const std::lock_guard lock{news_mutex_};
    news_.fetch_add(1, std::memory_order_release);
    for (const Listener* each = listeners_; each != nullptr; each = each->next_) ring_eventfd(each->fd_);
  }
  heard_.notify_all();
  if (!closed_) parts_.news();
}

StreamLayer::Listener::Listener(StreamLayer& layer, int fd) : layer_{layer}, fd_{fd} {
  const std::lock_guard lock{layer_.news_mutex_};
  next_ = std::exchange(layer_.listeners_, this);
  if (next_ != nullptr) next_->previous_ = this;
}

StreamLayer::Listener::~Listener() {
  const std::lock_guard lock{layer_.news_mutex_};
  (previous_ == nullptr ? layer_.listeners_ : previous_->next_) = next_;
  if (next_ != nullptr) next_->previous_ = previous_;
}

void StreamLayer::wait(std::uint64_t known, Duration at_most) {
  if (parts_.wait) return parts_.wait(known, at_most);
  std::unique_lock lock{news_mutex_};
  heard_.wait_for(lock, at_most, [this, known] { return news() != known; });
}

void StreamLayer::incoming(const std::shared_ptr<StreamState>& stream) {
  incoming_.push_back(stream);
  tell();
}

void StreamLayer::make_ready(StreamState& stream) {
  if (stream.owner.expired()) return;  // nobody has it yet, or any more
  if (!std::exchange(stream.queued, true)) {
    (last_ready_ == nullptr ? first_ready_ : last_ready_->next_ready) = stream.shared_from_this();
    stream.previous_ready = std::exchange(last_ready_, &stream);
  }
  tell();  // also when it is in the queue, which those who wait in read() do not look at
}

Result<Stream> StreamLayer::open(const NodePeer& peer, Stream::Kind kind) {
  const Result<PeerStreams*> streams = streams_with(peer);
  if (!streams) return streams.error();
  const std::shared_ptr<StreamState> stream = (*streams)->open(kind);
  if (stream == nullptr) return Error{"all streams that may be opened to this peer are open", EMFILE};
  try {
    return handle_of(stream);
  } catch (const std::bad_alloc&) {
    (*streams)->discard(*stream);
    return trouble(ENOMEM);
  }
}

Status StreamLayer::associate(const NodePeer& peer) {
  const Result<PeerStreams*> streams = streams_with(peer);
  if (!streams) return streams.error();
  active();
  (*streams)->associate();
  return Nothing{};
}

Result<Stream> StreamLayer::accept() {
  if (closed_) return trouble(ESHUTDOWN);
  if (incoming_.empty()) return Error{"no stream was opened by a peer", EAGAIN};
  Stream accepted = handle_of(incoming_.front());
  incoming_.pop_front();
  return accepted;
}

std::shared_ptr<StreamState> StreamLayer::pop_ready() {
  std::shared_ptr<StreamState> stream = first_ready_;
  if (stream != nullptr) leave_ready(*stream);
  return stream;
}

void StreamLayer::leave_ready(StreamState& stream) {
  if (!std::exchange(stream.queued, false)) return;
  StreamState* const before = std::exchange(stream.previous_ready, nullptr);
  (stream.next_ready == nullptr ? last_ready_ : stream.next_ready->previous_ready) = before;
  (before == nullptr ? first_ready_ : before->next_ready) = std::move(stream.next_ready);
}

Stream StreamLayer::next_ready() {
  while (const std::shared_ptr<StreamState> stream = pop_ready()) {
    if (std::shared_ptr<StreamOwner> owner = stream->owner.lock()) return Stream{std::move(owner)};
  }
  return {};
}

// ---- what a handle asks for

namespace {

bool too_late(const StreamState& stream) { return stream.deadline != Instant{} && engine_clock() >= stream.deadline; }

std::size_t most_bytes_at_once(const SctpOptions& sctp) {  // whole packets
  const std::size_t in_packet = (sctp.packet - SctpEnd::kHeaders) & ~std::size_t{3};
  return in_packet * std::max<std::size_t>(1, (16 << 10) / in_packet);
}

}  // namespace

Result<std::size_t> StreamLayer::write(StreamState& stream, std::span<const std::uint8_t> octets) {
  if (too_late(stream)) return trouble(ETIMEDOUT);
  if (stream.broken != 0) return trouble(stream.broken);
  if (stream.finished || stream.peer_unheard || stream.peer == nullptr) return trouble(EPIPE);
  const bool whole = stream.kind == Stream::Kind::kMessages;
  if (whole && octets.size() > SctpEnd::kMostMessage)
    return Error{"a message of at most " + std::to_string(SctpEnd::kMostMessage) + " octets was expected", EMSGSIZE};
  if (!whole && octets.empty()) return std::size_t{0};
  const std::size_t most = whole ? SctpEnd::kMostMessage : most_bytes_at_once(stream.layer->parts_.sctp);
  std::size_t taken = 0;
  do {
    const auto piece = octets.subspan(taken, std::min(most, octets.size() - taken));
    const int code = stream.peer->send(stream, 0, piece);
    if (code == EAGAIN || code == ENOMEM) stream.wants_to_write = true;
    if (code != 0 && taken == 0) return trouble(code);
    if (code != 0) break;
    taken += piece.size();
  } while (taken < octets.size());
  return taken;
}

Result<Stream::Read> StreamLayer::read(StreamState& stream, std::span<std::uint8_t> room) {
  if (too_late(stream)) return trouble(ETIMEDOUT);
  Stream::Read read;
  const bool had_something = !stream.arrived.empty();
  while (!stream.arrived.empty() && !read.message_end) {
    StreamState::Piece& piece = stream.arrived.front();
    const std::size_t count = std::min(room.size() - read.octets, piece.octets.size() - stream.taken);
    std::copy_n(piece.octets.data() + stream.taken, count, room.data() + read.octets);
    read.octets += count;
    stream.taken += count;
    if (stream.taken < piece.octets.size()) break;  // no more room
    read.message_end = stream.kind == Stream::Kind::kMessages && piece.message_end;
    stream.taken = 0;
    stream.arrived.pop_front();
  }
  stream.waiting -= read.octets;
  if (stream.peer != nullptr && read.octets != 0) stream.peer->taken(read.octets);
  if (stream.arrived.empty()) {
    read.finished = stream.peer_finished && !stream.peer_reset;
    if (!had_something && !read.finished) {
      if (stream.peer_reset) return trouble(ECONNRESET);
      return trouble(stream.broken != 0 ? stream.broken : EAGAIN);
    }
  }
  return read;
}

Status StreamLayer::finish(StreamState& stream) {
  if (stream.broken != 0) return trouble(stream.broken);
  if (std::exchange(stream.finished, true) || stream.peer == nullptr) return Nothing{};
  stream.peer->say_last_words(stream, kFinished);
  return stream.broken == 0 ? Status{Nothing{}} : trouble(stream.broken);
}

// Nothing may be said behind the finish, as the id may be another stream's by then: who closes after it has finished
// throws away what comes, silently.
void StreamLayer::close(StreamState& stream, bool give_up) {
  stream.unheard = true;
  stream.arrived.clear();
  const std::size_t unread = std::exchange(stream.waiting, 0);
  if (stream.deadline != Instant{}) set_deadline(stream, {});
  if (stream.peer != nullptr) stream.peer->taken(unread);
  if (stream.peer == nullptr) return;  // perhaps since then: where there is room again, an end may be heard of
  const std::uint32_t flags = kFinished | kUnheard | (give_up ? kReset : 0);
  if (!std::exchange(stream.finished, true))
    stream.peer->say_last_words(stream, flags);
  else if (stream.last_words != 0)
    stream.last_words |= flags;
}

void StreamLayer::set_deadline(StreamState& stream, Duration from_now) {
  StreamLayer& layer = *stream.layer;
  const std::shared_ptr<StreamState> held = stream.shared_from_this();
  if (stream.deadline != Instant{}) layer.deadlines_.erase({stream.deadline, held});
  stream.deadline = from_now == Duration{0} ? Instant{} : engine_clock() + std::max(from_now, Duration{1});
  if (stream.deadline == Instant{} || layer.closed_) return;
  try {
    layer.deadlines_.emplace(stream.deadline, held);
  } catch (const std::bad_alloc&) {  // nobody would be woken
    stream.broken = ENOMEM;
    return layer.make_ready(stream);
  }
  if (stream.deadline < layer.due()) {
    layer.due_.store(stream.deadline.time_since_epoch().count(), std::memory_order_relaxed);
    layer.parts_.due_sooner();
  }
}

}  // namespace wireplane
