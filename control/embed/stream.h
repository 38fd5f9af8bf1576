// stream.h: reliable, ordered streams to a peer, as many as wanted, over one SCTP association inside the tunnel.
//
//   auto peer = *node->connect(their_key, "192.0.2.1:5000");      // the two lines that
//   auto stream = *peer.open_stream();                            // wrap a connection
//   stream.write(octets);  stream.finish();  stream.read(room);   // like a socket's, both ways at once
//
//   auto stream = *node->accept_stream();                         // the other side: EAGAIN until something arrived
//
// Nothing here waits, unless it is told how long: EAGAIN is said instead, and the node's fd() becomes readable when it
// is worth trying again; next_ready_stream() says which stream. A stream is opened by its first octets (nothing is sent
// before), and gone when both sides have finished. Handles are shared: the last copy that goes closes the stream. Any
// call from any thread. README.md says what travels on the wire.
#pragma once
#include <cstdint>
#include <memory>
#include <span>

#include "dataplane/base/result.h"
#include "dataplane/base/time.h"

namespace wireplane {

struct NodePeer;
struct StreamOwner;

class Stream {
 public:
  enum class Kind : std::uint8_t { kBytes, kMessages };  // messages keep their boundaries

  // What a read gave. `message_end`: the last octets of a message (kMessages). `finished`: nothing comes any more.
  struct Read {
    std::size_t octets = 0;
    bool message_end = false, finished = false;
  };

  Stream() = default;  // none
  explicit operator bool() const { return owner_ != nullptr; }
  friend bool operator==(const Stream& a, const Stream& b) { return a.owner_ == b.owner_; }

  [[nodiscard]] NodePeer peer() const;
  [[nodiscard]] std::uint16_t id() const;  // of SCTP, in both directions; used again when a stream is gone
  [[nodiscard]] Kind kind() const;

  // Bytes: how many were taken, perhaps fewer than given. A message is taken whole (EMSGSIZE: see max_message()).
  // EAGAIN: no room until the peer has taken something; the stream becomes ready then. EPIPE: finished, or the peer
  // reads no more. ECONNRESET: the peer reset it, or the association. EHOSTUNREACH: nobody answers. ETIMEDOUT: the
  // deadline. ESHUTDOWN: the node is closed.
  Result<std::size_t> write(std::span<const std::uint8_t> octets);
  // What has arrived, at most as much as there is room for; EAGAIN: nothing yet.
  Result<Read> read(std::span<std::uint8_t> room);
  // The same, waiting at most so long for anything, driving the node if it has no threads. ETIMEDOUT: it was too long.
  // write_all: returns when all is taken (not: delivered); what was taken before an error is not told.
  Status write_all(std::span<const std::uint8_t> octets, Duration at_most);
  Result<Read> read(std::span<std::uint8_t> room, Duration at_most);

  // Nothing more will be written; what was will still be delivered, then the peer reads `finished`.
  Status finish();
  // finish(), and what still comes is thrown away: the peer's writes say EPIPE. The destructor does it.
  void close();
  // Gives up: the peer reads ECONNRESET behind what was written.
  void reset();

  // From now; 0: none (the default). When it has passed, the stream becomes ready, and read() and write() say
  // ETIMEDOUT, until another is set.
  void set_deadline(Duration from_now);
  [[nodiscard]] std::size_t max_message() const;
  // Whatever the application wants to find again when next_ready_stream() names the stream. Set before others know it.
  void set_tag(void* tag);
  [[nodiscard]] void* tag() const;

 private:
  friend class StreamLayer;
  explicit Stream(std::shared_ptr<StreamOwner> owner) : owner_{std::move(owner)} {}
  std::shared_ptr<StreamOwner> owner_;
};

}  // namespace wireplane
