#include "control/worker_threads.h"

#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <sys/eventfd.h>

#include <algorithm>
#include <cstdio>

#include "control/log.h"
#include "control/system.h"
#include "drivers/eventfd.h"

namespace wireplane {
namespace {

// A library kernel makes its manager at a thread's first call: here, not while packets wait.
void warm_up(const Aead& aead) {
  const std::uint8_t key[SecretKey::kSize] = {};
  std::uint8_t octets[16 + kTagSize] = {};
  SealJob job{key, 0, nullptr, 0, 16, octets, octets, 0};
  aead.seal(&job, 1);
}

}  // namespace

WorkerThread::WorkerThread(Engine& engine, Worker& worker, unsigned number, bool busy, int core, unsigned idle_steps,
                           bool lingers)
    : engine_{engine},
      worker_{worker},
      number_{number},
      busy_{busy},
      core_{core},
      idle_steps_{idle_steps},
      lingers_{lingers},
      wake_{std::make_shared<const FileDescriptor>(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK))} {
  if (!*wake_) return;  // out of descriptors: nobody can wake us, so we look again every kNap
  engine_.link(number_).doorbell.set_ringer([wake = wake_] { ring_eventfd(wake->get()); });
}

// The ringer stays: other workers, or an application that adds a peer, may be about to ring.
WorkerThread::~WorkerThread() { stop(); }

void WorkerThread::start() {
  thread_ = std::thread{[this] { run(); }};
}

void WorkerThread::stop() {
  if (!thread_.joinable()) return;
  stop_.store(true, std::memory_order_relaxed);
  if (*wake_) ring_eventfd(wake_->get());
  thread_.join();
}

double WorkerThread::take_load(Instant now) {
  const std::int64_t worked = worked_ns_.load(std::memory_order_relaxed);
  const Duration passed = now - asked_before_;
  const double load =
      passed.count() <= 0 ? 0 : static_cast<double>(worked - worked_before_) / static_cast<double>(passed.count());
  worked_before_ = worked;
  asked_before_ = now;
  return std::min(load, 1.0);
}

void WorkerThread::run() {
  char name[16];
  std::snprintf(name, sizeof name, "wp-worker-%u", number_);
  ::pthread_setname_np(::pthread_self(), name);
  if (core_ >= 0) {
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET(static_cast<unsigned>(core_), &set);
    ::pthread_setaffinity_np(::pthread_self(), sizeof set, &set);  // refused in a small cpuset: then we run unpinned
  }
  warm_up(engine_.aead());
  std::vector<int> fds;
  unsigned idle = 0;
  Instant now = engine_clock(), idle_since = now;
  while (!stop_.load(std::memory_order_relaxed)) {
    const Work work = worker_.step(now);
    const Instant after = engine_clock();
    if (work == Work::kDone) {
      worked_ns_.store(worked_ns_.load(std::memory_order_relaxed) + (after - now).count(), std::memory_order_relaxed);
      if (idle >= idle_steps_) linger_.found();  // it had nothing left but to linger
      idle = 0;
      idle_since = now = after;
      continue;
    }
    if (busy_ || ++idle < idle_steps_) {
      now = after;
    } else if (lingers_ && linger_.pays(idle_since, after)) {
      std::this_thread::yield();
      now = engine_clock();
    } else {
      sleep(fds);
      now = engine_clock();
      linger_.slept(idle_since, now);
      idle = 0;
    }
  }
}

void WorkerThread::sleep(std::vector<int>& fds) {
  fds.clear();
  worker_.wake_fds(fds);
  if (!worker_.sleep_begin()) return;
  pollfd polled[64];
  nfds_t count = 0;
  polled[count++] = {wake_->get(), POLLIN, 0};
  for (const int fd : fds)
    if (count < std::size(polled)) polled[count++] = {fd, POLLIN, 0};
  const Duration longest = fds.empty() || !*wake_ ? kNap : kLongestSleep;
  const timespec wait = timespec_of(longest);
  ::ppoll(polled, count, &wait, nullptr);
  worker_.sleep_end();
  if (polled[0].revents != 0) static_cast<void>(drain_eventfd(wake_->get()));
}

void account_for(const std::vector<std::unique_ptr<Worker>>& stopped) {
  for (std::size_t i = 0; i < stopped.size(); ++i) {
    const std::int64_t missing = stopped[i]->counters().inside() - static_cast<std::int64_t>(stopped[i]->held());
    if (missing != 0) WG_LOG(Error, "packets_unaccounted", {"worker", i}, {"missing", missing});
  }
}

}  // namespace wireplane
