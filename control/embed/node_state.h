// node_state.h: what a node is made of. Private to embed/.
//
//   node.cpp          life, identity, peers
//   node_driving.cpp  process(), threads, descriptors, events
//   node_traffic.cpp  datagrams and packets, between the application's memory and the rings
//   node_streams.cpp  what the streams need of the node, and the node of them
//
// Two locks. `control` guards the device and, with workers = 0, the worker: whoever holds it is control. `peers_mutex`
// guards the list of peers by slot, which receive() reads without waiting for control. control before peers_mutex.
#pragma once
#include <atomic>
#include <deque>
#include <mutex>
#include <new>
#include <thread>

#include "control/device.h"
#include "control/embed/app_port.h"
#include "control/embed/node.h"
#include "control/embed/paced_port.h"
#include "control/embed/stream_layer.h"
#include "control/embed/thrifty_pool.h"
#include "control/linger.h"
#include "control/system.h"
#include "control/worker_threads.h"
#include "drivers/file_descriptor.h"
#include "drivers/train_buffers.h"
#include "drivers/udp_port.h"

namespace wireplane {

// A lock whose other users step aside for one of them: where the application adds and removes peers in a loop, the
// thread that shakes hands would hardly ever get it.
class CourteousMutex {
 public:
  void lock() {
    for (int i = 0; i < kPatience && expected_.load(std::memory_order_relaxed); ++i) std::this_thread::yield();
    mutex_.lock();
  }
  void lock_first() {
    expected_.store(true, std::memory_order_relaxed);
    mutex_.lock();
    expected_.store(false, std::memory_order_relaxed);
  }
  void unlock() { mutex_.unlock(); }

 private:
  static constexpr int kPatience = 1000;
  std::mutex mutex_;
  std::atomic<bool> expected_{false};
};

struct __attribute__((visibility("hidden"))) Node::State {
  struct Known {
    NodePeer peer;
    bool connected = false;
    Endpoint told;  // where the application believes it to be
  };
  static constexpr std::size_t kMostEvents = 1024;

  NodeOptions options;
  SecretKey private_key;  // guarded by control
  PublicKey key;
  Address address;
  std::uint16_t port = 0;

  FileDescriptor notify_fd;        // eventfd: process() should be called
  FileDescriptor timer_fd;         // workers = 0: when the device wants to be stepped
  FileDescriptor epoll_fd;         // workers = 0: sockets, timer and notify_fd
  FileDescriptor control_wake_fd;  // eventfd: wakes the control thread
  std::atomic<bool> notified{false}, closed{false}, stop_control{false};
  Instant armed_at{};       // of timer_fd; guarded by control
  Instant due_of_device{};  // workers = 0: when it wants to be stepped; guarded by control
  // How often `notified` was set and taken without its ring: whoever set it comes to ring later, maybe after others.
  // guarded by control
  std::int64_t rings_owed = 0;
  bool stays_rung = false;                // notify_fd, over turns; guarded by control
  bool sockets_watched = false;           // in epoll_fd; guarded by control. If not, notify_fd is rung
  std::uint64_t connections_watched = 0;  // of outer, how many had been opened; guarded by control
  unsigned busy_turns = 0;                // in a row; guarded by control

  // What follows is destroyed from the last to the first: what holds buffers before the pool they came from.
  std::unique_ptr<ThriftyPool> pool;
  std::unique_ptr<TrainBuffers> trains_out, trains_in;  // none: NodeOptions::trains is false
  std::unique_ptr<Engine> engine;
  std::vector<std::unique_ptr<AppPort>> app_ports;
  std::unique_ptr<UdpDevice> outer;
  std::vector<std::unique_ptr<PacedPort>> paced;  // of outer, a worker's each
  SystemEntropy entropy;
  std::unique_ptr<Device> device;
  std::vector<std::unique_ptr<Worker>> workers;
  std::vector<std::unique_ptr<WorkerThread>> threads;
  std::thread control_thread;
  std::shared_ptr<StreamLayer> streams;  // none: NodeOptions::streams is false

  // workers = 0 and streams: threads in wait(), and what wakes them when another, in a stream's read(), has driven the
  // node and found what is theirs.
  std::atomic<unsigned> waiters{0};
  std::once_flag waiters_fd_once;
  FileDescriptor waiters_fd;  // eventfd, once one has waited
  class Waiter;               // node_driving.cpp

  std::mutex lingering;  // one of the application's threads, in wait()
  Linger linger;
  CourteousMutex control;
  std::mutex peers_mutex;
  std::vector<std::optional<Known>> known;  // by slot
  std::size_t peer_count = 0;
  std::mutex events_mutex;
  std::deque<NodeEvent> events;
  std::uint64_t events_lost = 0, events_pushed = 0, events_told = 0;  // told: pushed before the last process()
  std::uint64_t stream_news_told = 0;
  std::atomic<std::uint64_t> malformed{0}, from_nobody{0};         // dropped in receive()
  std::array<std::uint64_t, kDropCount> drops_of_closed_device{};  // guarded by control
  std::atomic<unsigned> next_port{0};                              // receive() begins with another worker each time

  // A child of fork() has the memory and the sockets of its parent's nodes, but none of their threads, and must not
  // seal with their keys: to it they are closed, and left alone.
  const unsigned opened_in = process_generation();
  [[nodiscard]] static unsigned process_generation();
  [[nodiscard]] bool forked() const { return opened_in != process_generation(); }
  [[nodiscard]] bool is_closed() const { return closed.load(std::memory_order_relaxed) || forked(); }
  [[nodiscard]] bool threaded() const { return options.workers != 0; }
  [[nodiscard]] unsigned worker_count() const { return threaded() ? options.workers : 1; }
  [[nodiscard]] std::size_t waiting() const;
  class Outgoing;  // node_traffic.cpp

  // node.cpp
  Status open_descriptors();
  Status open_engine();
  Status open_device();
  void open_streams();
  void close();
  [[nodiscard]] std::optional<NodePeer> find(const PublicKey& key);  // control is held
  [[nodiscard]] std::optional<NodePeer> find(PeerId id);

  // node_driving.cpp
  Status watch();  // workers = 0
  bool watch(int fd);
  bool watch_sockets();
  void unwatch_sockets();
  void start_threads();
  void run_control();
  void sleep_of_control(Instant due);
  [[nodiscard]] bool control_has_work() const;
  [[nodiscard]] bool worker_has_work() const;  // workers = 0
  void turn();
  void arm(Instant due, Instant now);
  void notify();  // process() should be called
  void take_notice();
  void turn_and_take_notice();
  void configured();  // the device has something new to do; control is held
  void drive();       // whoever drives the node shall look at it now; any thread
  void take_event(const PeerView& view, const char* what);
  void tell_events();
  [[nodiscard]] std::uint64_t news();
  void wake_waiters();
  void wait_for_notice(Duration at_most);                            // with threads
  void wait_for_stream_news(std::uint64_t heard, Duration at_most);  // workers = 0

  // node_streams.cpp
  void let_out(PeerId last_words_to);
  [[nodiscard]] bool send_sctp(const NodePeer& to, std::span<const std::uint8_t> packet, std::uint8_t traffic_class);
};

[[nodiscard]] Error node_is_closed();
[[nodiscard]] Error node_lacks_memory();  // instead of an exception, which the application would not expect

}  // namespace wireplane
