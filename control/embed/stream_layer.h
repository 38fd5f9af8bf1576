// stream_layer.h: what stands between a node's streams and SCTP. Private to embed/.
//
//   Stream (handle), StreamOwner (the last handle that goes closes), StreamState
//   PeerStreams, one a peer: its streams by id, and one SctpEnd
//   StreamLayer, one a node
//
// On the wire: SCTP in IPv6 (next header 132) between the two nodes' addresses, port 5158 on both sides. A stream has
// the same id in both directions; who has the smaller key opens even ones, the other odd ones, so that opens cannot
// collide. The payload protocol id of each SCTP message says what it means, and the first one opens the stream:
//
//   0x57500000 | 1 of a message stream | 2 the sender has finished | 4 and reads no more | 8 and gave up
//              | 16 the one octet inside stands for none (SCTP has no empty messages)
//
// An id is free again when both sides have finished: SCTP's order in a stream does the rest, without RFC 6525's resets,
// of which an association may have one at a time, and without waiting. Any other payload protocol id, from a stack that
// knows nothing of this, is a message.
//
// Guarded by the lock of SctpStack::Use, all of it. Order of locks: the node's control, this one, the node's others.
#pragma once
#include <atomic>
#include <condition_variable>
#include <deque>
#include <map>
#include <mutex>
#include <set>
#include <unordered_map>
#include <vector>

#include "control/embed/app_port.h"
#include "control/embed/node.h"
#include "control/embed/sctp_stack.h"

namespace wireplane {

class StreamLayer;
class PeerStreams;

struct StreamState : std::enable_shared_from_this<StreamState> {
  PeerStreams* peer = nullptr;         // none: gone from the association
  std::shared_ptr<StreamLayer> layer;  // which may be closed
  NodePeer with;
  std::uint16_t id = 0;
  Stream::Kind kind = Stream::Kind::kBytes;

  struct Piece {
    std::vector<std::uint8_t> octets;
    bool message_end;
  };
  std::deque<Piece> arrived;
  std::size_t taken = 0, waiting = 0;  // of the first piece; octets in all

  int broken = 0;                           // errno for everything
  bool finished = false;                    // we have: nothing more is written
  bool unheard = false;                     // we read no more
  bool peer_finished = false;               // so has the peer
  bool peer_unheard = false;                // it reads no more
  bool peer_reset = false;                  // it gave up
  std::uint32_t last_words = 0;             // flags of the finish that has not been sent yet: no room
  bool wants_to_write = false;              // was told EAGAIN
  bool queued = false;                      // among the ready ones
  std::shared_ptr<StreamState> next_ready;  // a list that needs no memory of its own
  StreamState* previous_ready = nullptr;
  Instant deadline{};  // zero: none
  std::weak_ptr<StreamOwner> owner;
};

struct StreamOwner {
  explicit StreamOwner(std::shared_ptr<StreamState> its) : state{std::move(its)} {}
  ~StreamOwner();
  StreamOwner(const StreamOwner&) = delete;
  StreamOwner& operator=(const StreamOwner&) = delete;
  const std::shared_ptr<StreamState> state;
  std::atomic<void*> tag{nullptr};
};

class PeerStreams final : public SctpUser {
 public:
  PeerStreams(StreamLayer& layer, const NodePeer& peer);
  ~PeerStreams() override;
  Status begin();  // makes the SctpEnd

  std::shared_ptr<StreamState> open(Stream::Kind kind);  // null: all ids are in use
  [[nodiscard]] bool input(std::span<const std::uint8_t> packet, std::uint8_t ecn) { return end_->input(packet, ecn); }
  void associate() { end_->associate(); }
  int send(StreamState& stream, std::uint32_t flags, std::span<const std::uint8_t> octets);
  void say_last_words(StreamState& stream, std::uint32_t flags);
  void taken(std::size_t octets);                                         // by the application
  void cut_off_all(int code);                                             // needs no memory
  void discard(const StreamState& stream) { streams_.erase(stream.id); }  // nobody has heard of it
  [[nodiscard]] bool busy() const { return !streams_.empty(); }
  [[nodiscard]] const NodePeer& peer() const { return peer_; }

  void transmit(std::span<const std::uint8_t> packet, std::uint8_t traffic_class) override;
  void established(unsigned streams) override;
  void broken(int code) override;
  void arrived(std::uint16_t id, std::uint32_t ppid, std::span<const std::uint8_t> octets, bool complete) override;
  [[nodiscard]] bool has_room() const override;
  void writable() override;

 private:
  [[nodiscard]] bool opened_by_us(std::uint16_t id) const { return id % 2 == first_id_; }
  void let_go_if_done(StreamState& stream);
  void take_in(std::uint16_t id, std::uint32_t flags, std::span<const std::uint8_t> octets, bool complete);
  std::shared_ptr<StreamState> add(std::uint16_t id, Stream::Kind kind);

  StreamLayer& layer_;
  const NodePeer peer_;
  const std::uint16_t first_id_;
  unsigned ids_;
  std::size_t waiting_ = 0;  // octets that arrived and were not read
  bool starved_ = false;     // there was no room
  std::map<std::uint16_t, std::shared_ptr<StreamState>> streams_;
  std::unique_ptr<SctpEnd> end_;
};

class StreamLayer : public std::enable_shared_from_this<StreamLayer> {
 public:
  struct Parts {  // of the node
    PublicKey key;
    Address address;
    SctpOptions sctp;
    std::function<bool(const PeerStreams&, std::span<const std::uint8_t>, std::uint8_t)> transmit;
    std::function<std::optional<NodePeer>(PeerId)> find_peer;
    std::function<void()> news;                         // for the application
    std::function<void()> due_sooner;                   // for whoever drives
    std::function<void(std::uint64_t, Duration)> wait;  // for more news, driving the node; none: threads drive it
  };
  explicit StreamLayer(Parts parts) : parts_{std::move(parts)} {}
  ~StreamLayer() { close(); }

  // Driving. step(): what came out of the workers' rings, and timers; true: it did something.
  bool step(std::span<const std::unique_ptr<AppPort>> ports, Instant now);
  [[nodiscard]] Instant due() const { return Instant{Duration{due_.load(std::memory_order_relaxed)}}; }
  void close();
  void forget(PeerId peer);

  // For the application.
  Result<Stream> open(const NodePeer& peer, Stream::Kind kind);
  Status associate(const NodePeer& peer);
  Result<Stream> accept();
  [[nodiscard]] Stream next_ready();
  [[nodiscard]] std::uint64_t news() const { return news_.load(std::memory_order_acquire); }
  void wait(std::uint64_t known, Duration at_most);  // for more news than that; not within a Use
  // As long as it lives its eventfd is rung with every news.
  class Listener {
   public:
    Listener(StreamLayer& layer, int fd);
    ~Listener();
    Listener(const Listener&) = delete;
    Listener& operator=(const Listener&) = delete;

   private:
    friend class StreamLayer;
    StreamLayer& layer_;
    const int fd_;
    Listener *next_, *previous_ = nullptr;
  };
  [[nodiscard]] std::uint64_t lost() const { return lost_.load(std::memory_order_relaxed); }

  // What a handle asks for; within a Use.
  static Result<std::size_t> write(StreamState& stream, std::span<const std::uint8_t> octets);
  static Result<Stream::Read> read(StreamState& stream, std::span<std::uint8_t> room);
  static Status finish(StreamState& stream);
  static void close(StreamState& stream, bool give_up);
  static void set_deadline(StreamState& stream, Duration from_now);
  void leave_ready(StreamState& stream);  // nobody is left to be told

 private:
  friend class PeerStreams;
  static Stream handle_of(const std::shared_ptr<StreamState>& state);
  Result<PeerStreams*> streams_with(const NodePeer& peer);
  void incoming(const std::shared_ptr<StreamState>& stream);
  void make_ready(StreamState& stream);
  [[nodiscard]] std::shared_ptr<StreamState> pop_ready();
  void tell();
  void active();
  void reckon_due();
  void pass_deadlines(Instant now);

  Parts parts_;
  bool started_ = false, closed_ = false;
  std::unordered_map<std::uint64_t, std::unique_ptr<PeerStreams>> peers_;
  std::deque<std::shared_ptr<StreamState>> incoming_;
  std::shared_ptr<StreamState> first_ready_;
  StreamState* last_ready_ = nullptr;
  std::set<std::pair<Instant, std::shared_ptr<StreamState>>> deadlines_;
  Instant last_active_{};
  std::atomic<Duration::rep> due_{Instant::max().time_since_epoch().count()};
  std::atomic<std::uint64_t> news_{0}, lost_{0};
  std::mutex news_mutex_;  // a leaf
  std::condition_variable heard_;
  Listener* listeners_ = nullptr;  // guarded by news_mutex_
};

}  // namespace wireplane
