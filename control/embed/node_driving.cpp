// node_driving.cpp: who calls whom, and who sleeps on what. See node_state.h.
#include <pthread.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/timerfd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <string_view>
#include <vector>

#include "control/embed/node_state.h"
#include "drivers/eventfd.h"

namespace wireplane {
namespace {

constexpr Duration kLongestTurn = 1ms;
constexpr unsigned kIdleSteps = 2;   // before a thread sleeps: its core has other work
constexpr std::uint64_t kMuch = 16;  // packets in a turn
constexpr unsigned kBusy = 4;        // turns with much in a row, after which the sockets need not be watched

}  // namespace

// ---- descriptors

Status Node::State::watch() {
  epoll_fd = FileDescriptor{::epoll_create1(EPOLL_CLOEXEC)};
  if (!epoll_fd) return Error{std::string{"epoll_create1: "} + std::strerror(errno), errno};
  for (const int fd : {notify_fd.get(), timer_fd.get()})
    if (!watch(fd)) return Error{std::string{"epoll_ctl: "} + std::strerror(errno), errno};
  if (!watch_sockets()) return Error{std::string{"epoll_ctl: "} + std::strerror(errno), errno};
  const Instant now = engine_clock();
  arm(now, now);
  return Nothing{};
}

bool Node::State::watch(int fd) {
  epoll_event event{};
  event.events = EPOLLIN;
  return ::epoll_ctl(epoll_fd.get(), EPOLL_CTL_ADD, fd, &event) == 0 || errno == EEXIST;
}

bool Node::State::watch_sockets() {
  std::vector<int> fds;
  outer->queue(0).wake_fds(fds);
  if (fds.empty()) return false;  // it waits for buffers, of which no descriptor tells
  for (const int fd : fds)
    if (!watch(fd)) return false;
  sockets_watched = true;
  connections_watched = outer->connections_opened();
  return true;
}

// While the descriptor is rung anyway, nobody needs to hear of each datagram: that costs 0.1 to 0.2 us a datagram.
void Node::State::unwatch_sockets() {
  std::vector<int> fds;
  outer->queue(0).wake_fds(fds);
  if (fds.empty()) return;
  notify();
  for (const int fd : fds) ::epoll_ctl(epoll_fd.get(), EPOLL_CTL_DEL, fd, nullptr);
  sockets_watched = false;
}

int Node::fd() const { return state_->threaded() ? state_->notify_fd.get() : state_->epoll_fd.get(); }

// N1 acq_rel, pairs with N2 in take_notice(): either whoever processes next sees what we have just pushed, or we see
// that it has taken notice and ring again.
void Node::State::notify() {
  if (!notified.exchange(true, std::memory_order_acq_rel)) ring_eventfd(notify_fd.get());
}

void Node::State::take_notice() {
  if (!notified.load(std::memory_order_relaxed) && rings_owed == 0) return;
  rings_owed -= static_cast<std::int64_t>(drain_eventfd(notify_fd.get()));  // before N2: what rings after it is kept
  if (notified.exchange(false, std::memory_order_acq_rel)) ++rings_owed;    // N2
}

// One turn of a node without threads. While much passes, the descriptor stays rung from one turn to the next, which
// saves two system calls a burst, and before long the sockets are not watched any more; the first turn with little
// takes it back. A set that has no room for the sockets now has it later: until then the descriptor stays rung.
void Node::State::turn_and_take_notice() {
  if (!stays_rung) take_notice();
  const Counters& counters = engine->link(0).counters;
  const std::uint64_t sent = counters.inner_in.get(), received = counters.outer_in.get();
  turn();
  const bool sent_much = counters.inner_in.get() - sent >= kMuch;
  const bool much = sent_much || counters.outer_in.get() - received >= kMuch;
  busy_turns = much ? busy_turns + 1 : 0;
  if (busy_turns == kBusy && sockets_watched) unwatch_sockets();
  if (sockets_watched && outer->connections_opened() != connections_watched) sockets_watched = watch_sockets();
  const bool rung = sent_much || (!sockets_watched && (much || !watch_sockets()));
  if (std::exchange(stays_rung, rung) && !rung) {
    take_notice();
    const bool due_sooner = streams != nullptr && streams->due() < armed_at;
    if (app_ports[0]->queued_out() != 0 || due_sooner) notify();  // came after the turn, and did not ring
  }
}

// The timer may go off too early, never too late: it is set again only when it has gone off, or for an earlier time.
void Node::State::arm(Instant due, Instant now) {
  if (armed_at > now && armed_at <= due) return;
  armed_at = due;
  itimerspec when{};
  when.it_value = timespec_of(std::max(due.time_since_epoch(), Duration{1}));
  ::timerfd_settime(timer_fd.get(), TFD_TIMER_ABSTIME, &when, nullptr);
}

// ---- driven by the application

Result<std::size_t> Node::process() {
  State& s = *state_;
  if (s.forked()) return node_is_closed();
  try {
    {
      const std::lock_guard lock{s.control};
      if (s.closed.load(std::memory_order_relaxed)) return node_is_closed();
      if (s.threaded())
        s.take_notice();
      else
        s.turn_and_take_notice();
    }
    s.tell_events();
  } catch (const std::bad_alloc&) {
    s.notify();  // the rest is done when it is called again
    return node_lacks_memory();
  }
  return s.waiting();
}

// A thread in wait() that others may wake. An eventfd that cannot be had is left out.
class Node::State::Waiter {
 public:
  explicit Waiter(State& node) : s_{node} {
    if (s_.threaded() || s_.streams == nullptr) return;
    std::call_once(s_.waiters_fd_once,
                   [this] { s_.waiters_fd = FileDescriptor{::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)}; });
    fd_ = s_.waiters_fd.get();
    if (fd_ >= 0) s_.waiters.fetch_add(1, std::memory_order_release);  // before we look: whoever drives later sees us
  }
  ~Waiter() {
    if (fd_ >= 0) s_.waiters.fetch_sub(1, std::memory_order_relaxed);
  }
  Waiter(const Waiter&) = delete;
  Waiter& operator=(const Waiter&) = delete;
  void sleep(Duration at_most) const {
    if (sleep_on(s_.epoll_fd.get(), at_most, fd_)) static_cast<void>(drain_eventfd(fd_));
  }

 private:
  State& s_;
  int fd_ = -1;
};

void Node::State::wake_waiters() {
  if (waiters.load(std::memory_order_acquire) != 0) ring_eventfd(waiters_fd.get());
}

// What woke us may have been for the node alone (a handshake, a timer, what send() left): then we sleep on.
Result<std::size_t> Node::wait(Duration at_most) {
  State& s = *state_;
  if (s.forked()) return node_is_closed();
  const Instant end = engine_clock() + std::clamp(at_most, Duration{0}, Duration{24h});
  const std::uint64_t before = s.news();
  const State::Waiter waiter{s};
  for (;;) {
    Result<std::size_t> waiting = process();
    const Duration left = end - engine_clock();
    if (!waiting || *waiting != 0 || s.news() != before || left <= Duration{0}) return waiting;
    if (s.threaded())
      s.wait_for_notice(left);
    else
      waiter.sleep(left);
  }
}

// One thread lingers; others that wait for the same node sleep at once.
void Node::State::wait_for_notice(Duration at_most) {
  const std::unique_lock alone{lingering, std::try_to_lock};
  const Instant since = engine_clock();
  if (alone) {
    for (Instant now = since; linger.pays(since, now) && now - since < at_most; now = engine_clock()) {
      std::this_thread::yield();
      if (notified.load(std::memory_order_relaxed)) return linger.found();
    }
  }
  sleep_on(notify_fd.get(), at_most);
  if (alone) linger.slept(since, engine_clock());
}

// Steps until nothing is left to do, a millisecond is over, or the application has to receive first.
void Node::State::turn() {
  const Instant begun = engine_clock();
  Instant now = begun, due{};
  for (bool more = true; more; now = engine_clock()) {
    if (due_of_device <= now || control_has_work()) due_of_device = device->step(system_now());
    due = due_of_device;
    const bool done = workers[0]->step(now) == Work::kDone;
    more = (done && worker_has_work()) || control_has_work();
    if (streams != nullptr) {
      more |= streams->step(app_ports, now);
      due = std::min(due, streams->due());
    }
    if (!more) break;
    due = now;  // if we leave it at that, we come again at once
    if (now - begun >= kLongestTurn || !app_ports[0]->has_room_for_a_burst()) break;
  }
  // What was read and waits for room, or for buffers: no descriptor tells of it, nobody rings. As threads, we nap.
  if (outer->may_have_more(0)) due = std::min(due, now + WorkerThread::kNap);
  outer->time_passes(0);
  arm(due, now);
}

// After a step. What comes to the sockets from now on makes the descriptor readable.
bool Node::State::worker_has_work() const {
  return outer->may_have_more(0) || app_ports[0]->queued_out() != 0 || !engine->link(0).orders.empty();
}

bool Node::State::control_has_work() const {
  for (unsigned i = 0; i < engine->workers(); ++i) {
    WorkerLink& link = engine->link(i);
    if (!link.urgent.empty() || !link.events.empty() || !link.handshakes.empty()) return true;
    if (threaded() && app_ports[i]->queued_in_sctp() != 0) return true;
  }
  return false;
}

// ---- driven by threads of our own

void Node::State::start_threads() {
  engine->control_doorbell().set_ringer([fd = control_wake_fd.get()] { ring_eventfd(fd); });
  for (unsigned i = 0; i < worker_count(); ++i)
    threads.push_back(std::make_unique<WorkerThread>(*engine, *workers[i], i, false, -1, kIdleSteps, true));
  for (const auto& thread : threads) thread->start();
  control_thread = std::thread{[this] { run_control(); }};
}

void Node::State::run_control() {
  ::pthread_setname_np(::pthread_self(), "wp-control");
  while (!stop_control.load(std::memory_order_relaxed)) {
    Instant due;
    try {
      {
        control.lock_first();
        const std::lock_guard lock{control, std::adopt_lock};
        due = device->step(system_now());
      }
      if (streams != nullptr) {
        while (streams->step(app_ports, engine_clock())) continue;
        due = std::min(due, streams->due());
      }
    } catch (const std::bad_alloc&) {
      due = engine_clock() + 10ms;  // perhaps there is some memory then
    }
    sleep_of_control(due);
  }
}

void Node::State::sleep_of_control(Instant due) {
  engine->control_doorbell().sleep_begin();
  const Duration wait = control_has_work() ? Duration{0} : std::clamp(due - engine_clock(), Duration{0}, Duration{1s});
  sleep_on(control_wake_fd.get(), wait);
  engine->control_doorbell().sleep_end();
  static_cast<void>(drain_eventfd(control_wake_fd.get()));
}

// Something was configured: timers may be due earlier, orders may wait in rings.
void Node::State::configured() {
  due_of_device = Instant{};
  drive();
}

void Node::State::drive() {
  if (threaded())
    ring_eventfd(control_wake_fd.get());
  else
    notify();
}

// ---- events

// Called by the device, with control held. A change of our own address is no news to an application; a peer's first
// address is told with kConnected.
void Node::State::take_event(const PeerView& view, const char* what) {
  const Peer* peer = device->find(view.public_key);
  if (peer == nullptr) return;
  NodeEvent event;
  {
    const std::lock_guard lock{peers_mutex};
    const std::size_t slot = peer->id.slot.raw();
    if (slot >= known.size() || !known[slot] || known[slot]->peer.id != peer->id) return;
    State::Known& entry = *known[slot];
    event.peer = entry.peer;
    event.endpoint = view.endpoint.value_or(Endpoint{});
    const bool moved = event.endpoint.remote != entry.told.remote || event.endpoint.port != entry.told.port;
    const std::string_view name{what};
    if (name == "connected" && !entry.connected)
      event.kind = NodeEvent::Kind::kConnected;
    else if (name == "connected")
      event.kind = NodeEvent::Kind::kRekeyed;
    else if (name == "roamed" && entry.connected && moved)
      event.kind = NodeEvent::Kind::kRoamed;
    else if (name == "lost")
      event.kind = NodeEvent::Kind::kLost;
    else
      return;
    entry.connected = event.kind != NodeEvent::Kind::kLost;
    entry.told = event.endpoint;
  }
  {
    const std::lock_guard lock{events_mutex};
    if (events.size() == kMostEvents) {  // nobody takes them: the oldest goes
      events.pop_front();
      ++events_lost;
    }
    try {
      events.push_back(event);
      ++events_pushed;
    } catch (const std::bad_alloc&) {
      ++events_lost;
    }
  }
  notify();
}

void Node::State::tell_events() {
  std::unique_lock lock{events_mutex};
  events_told = events_pushed;
  if (streams != nullptr) stream_news_told = streams->news();
  if (!options.on_event || events.empty()) return;
  std::deque<NodeEvent> told;
  told.swap(events);
  lock.unlock();
  for (const NodeEvent& event : told) options.on_event(event);
}

std::uint64_t Node::State::news() {
  const std::lock_guard lock{events_mutex};
  return events_told + stream_news_told;
}

bool Node::next_event(NodeEvent& event) {
  if (state_->forked()) return false;
  const std::lock_guard lock{state_->events_mutex};
  if (state_->events.empty()) return false;
  event = state_->events.front();
  state_->events.pop_front();
  return true;
}

}  // namespace wireplane
