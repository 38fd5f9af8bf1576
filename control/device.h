// device.h: one WireGuard device: its identity, its peers, their handshakes and timers. The only writer of
// configuration. spec: wg §5 and §6. One thread of thought: control's.
//
//   device.cpp      life, configuration, views, the step
//   handshakes.cpp  handshake messages in and out, sessions installed and retired
//   timers.cpp      when what is due (wg §6; the Linux kernel's timers.c)
//
//   rings of the workers --> step(now) --> orders, session tables, peers' words, endpoints, routes
//
// Time comes in with step(); configuration calls use the last step's. Nothing here blocks, and nothing reads a socket.
#pragma once
#include <array>
#include <deque>
#include <functional>
#include <memory>
#include <optional>
#include <queue>
#include <unordered_map>
#include <vector>

#include "control/configurable.h"
#include "control/noise/admission.h"
#include "control/peer.h"
#include "control/receiver_indices.h"
#include "dataplane/engine.h"
#include "dataplane/port.h"

namespace wireplane {

// What a secret of a handshake is called when it is logged on purpose (the Keylog option; Wireshark's format).
struct KeylogEntry {
  const PublicKey& remote;
  const SecretKey& local_static;
  const SecretKey& local_ephemeral;
  const SecretKey& preshared;
};

class Device final : public Configurable {
 public:
  struct Options {
    std::function<void(const KeylogEntry&)> keylog;                      // none: secrets leave nowhere
    std::function<void(const PeerView&, const char* what)> on_event;     // "connected", "roamed", "lost": for embedding
    std::uint32_t rate_limited_sources = RateLimiter::kDefaultCapacity;  // 64 octets each, at construction
  };

  // `outer` may be null (no listen port to change: tests). All outlive the device.
  Device(Engine& engine, OuterDevice* outer, Entropy& entropy, Now now);
  Device(Engine& engine, OuterDevice* outer, Entropy& entropy, Now now, Options options);
  ~Device() override;  // no worker steps any more

  // Serves rings and timers; returns when it wants to be called again at the latest (sooner when a ring has something).
  Instant step(Now now);

  // Configurable
  [[nodiscard]] Status check(const DeviceChange& change) const override;
  Status apply(DeviceChange change) override;
  [[nodiscard]] DeviceView view() const override;
  void for_each_peer(const Visit& visit) const override;
  [[nodiscard]] std::size_t dump_some(std::size_t cursor, std::size_t at_most, const Visit& visit) const override;

  // Everything that was retired has been freed: true. For the end, and for tests.
  bool settle(Now now);
  // Says good-bye to all keys: sessions are unusable from here on.
  void forget_keys();

  [[nodiscard]] std::uint64_t drops(Drop reason) const { return drops_[static_cast<std::size_t>(reason)]; }
  [[nodiscard]] bool under_load() const { return under_load_until_ > now_.engine; }
  [[nodiscard]] std::size_t live_sessions() const { return live_sessions_; }
  [[nodiscard]] std::size_t live_sessions(unsigned owner) const { return sessions_owned_[owner]; }
  [[nodiscard]] std::size_t peer_count() const { return by_key_.size(); }
  [[nodiscard]] const Peer* find(const PublicKey& key) const;  // for tests and views
  // False: this peer's key is a point of low order, with which no handshake ends (P20). One multiplication, once a
  // peer.
  [[nodiscard]] bool can_shake_hands(const PublicKey& key);
  [[nodiscard]] const PublicKey& public_key() const { return identity_.public_key; }

  // Settings of the engine that a configuration names (MTU, Forward, addresses); listen_port is filled in here.
  void set_engine_settings(Settings settings);

 private:
  friend struct DeviceWithoutHandshakes;  // of a bench: a million sessions without a million multiplications

  // device.cpp
  void serve_rings();
  void take_event(const Event& event);
  Status apply_peer(PeerChange& change);
  void set_private_key(SecretKey key);
  Peer* create_peer(const PublicKey& key);
  const RemoteIdentity& identity_of(Peer& peer);  // made if it has not been: allocates; we have a key
  void remove_peer(const PublicKey& key);
  void change_allowed_ips(Peer& peer, const PeerChange& change);
  void publish_endpoint(Peer& peer, const Endpoint& endpoint);
  void free_later(const Endpoint* endpoint);
  void follow(Peer& peer, Serial serial, std::uint64_t counter, const Endpoint& endpoint);
  [[nodiscard]] PeerView view_of(const Peer& peer) const;
  [[nodiscard]] Peer* find(PeerId id);
  void order(unsigned worker, const Order& order);
  void order_all(Order::Kind kind, PeerId peer);
  void send_late_orders();
  void retry_retiring();
  void drop(Drop reason) { ++drops_[static_cast<std::size_t>(reason)]; }
  void event(const Peer& peer, const char* what) const;

  // handshakes.cpp
  void take_handshake(const HandshakePacket& packet, unsigned worker);
  void note_load();
  void reply_with_cookie(const HandshakePacket& packet, unsigned worker);
  Drop take_initiation(const HandshakePacket& packet, unsigned worker);
  Drop take_response(const HandshakePacket& packet);
  Drop take_cookie_reply(const HandshakePacket& packet);
  void initiate(Peer& peer, bool retry);
  void send_message(Peer& peer, std::span<const std::uint8_t> message, unsigned worker);
  bool install(Peer& peer, KeyPair& keys);
  void retire(Peer& peer, const std::vector<SessionRef>& gone);
  struct Retiring {
    PeerId peer;
    SessionRef ref;
    bool cleared_once;
  };
  void retire_later(const Retiring& session);
  void retired(const Retiring& session);
  void end_initiation(Peer& peer);
  void expire_keys(Peer& peer);
  [[nodiscard]] std::optional<SessionSlot> take_slot();
  void handshake_heard(Peer& peer, const HandshakePacket& packet);

  // timers.cpp
  void run_timers();
  void run_timers_of(Peer& peer);
  void give_up(Peer& peer);
  void schedule(Peer& peer);
  [[nodiscard]] std::optional<Instant> next_due(const Peer& peer) const;
  [[nodiscard]] Duration jitter();
  [[nodiscard]] std::optional<Instant> persistent_due(const Peer& peer) const;

  Engine& engine_;
  OuterDevice* outer_;
  Entropy& entropy_;
  Options options_;
  Now now_;

  LocalIdentity identity_;
  bool has_identity_ = false;
  std::uint32_t fwmark_ = 0;
  Settings settings_;

  std::vector<std::unique_ptr<Peer>> peers_;  // by slot
  std::vector<PeerSlot> free_slots_;
  std::uint32_t next_generation_ = 1;
  std::unordered_map<PublicKey, PeerSlot> by_key_;

  ReceiverIndices indices_;
  std::unordered_map<ReceiverIndex, PeerId> index_owner_;  // handshakes and sessions
  std::vector<SessionSlot> free_sessions_;
  std::vector<Retiring> unretired_;  // that found no memory to wait in for their grace period; tried again
  std::vector<const Endpoint*> unretired_endpoints_;  // likewise
  std::uint32_t next_session_ = 0;                    // slots never used yet begin here
  std::size_t live_sessions_ = 0;
  std::int64_t last_created_ = 0;            // ns of the engine's clock: the newest session's
  std::vector<std::size_t> sessions_owned_;  // by worker

  CookieChecker cookie_checker_;
  RateLimiter limiter_;
  Instant under_load_until_{};

  struct Due {
    Instant at;
    PeerId peer;
    friend bool operator>(const Due& a, const Due& b) { return a.at > b.at; }
  };
  std::priority_queue<Due, std::vector<Due>, std::greater<>> due_;
  std::vector<std::deque<Order>> late_orders_;  // a worker's ring was full
  std::array<std::uint64_t, kDropCount> drops_{};
};

}  // namespace wireplane
