// worker_threads.h: the threads of the daemon and of the library: they call step() in a loop, and sleep when there is
// nothing.
//
//   step, step, step ... nothing kIdleSteps times -> doorbell, poll() on the ports' descriptors -> step ...
//
// A port without descriptors to wait for (most DPDK devices) makes its worker look again every kNap instead: about 5 %
// of a core. `busy` never sleeps: the lowest latency, for a core of its own.
#pragma once
#include <atomic>
#include <memory>
#include <thread>
#include <vector>

#include "control/linger.h"
#include "dataplane/worker.h"
#include "drivers/file_descriptor.h"

namespace wireplane {

class WorkerThread {
 public:
  static constexpr unsigned kIdleSteps = 32;
  static constexpr Duration kNap = 50us;
  static constexpr Duration kLongestSleep = 1s;

  // Sets the ringer of the worker's doorbell; start() begins. `core` < 0: not pinned. `idle_steps`: before it sleeps.
  // `lingers`: and then it looks on for a moment, where that pays (linger.h).
  WorkerThread(Engine& engine, Worker& worker, unsigned number, bool busy, int core, unsigned idle_steps = kIdleSteps,
               bool lingers = false);
  ~WorkerThread();  // stops and joins
  WorkerThread(const WorkerThread&) = delete;
  WorkerThread& operator=(const WorkerThread&) = delete;

  void start();
  void stop();
  [[nodiscard]] int core() const { return core_; }
  // Share of the time since the last call in which steps found work, 0..1. Control's.
  [[nodiscard]] double take_load(Instant now);

 private:
  void run();
  void sleep(std::vector<int>& fds);

  Engine& engine_;
  Worker& worker_;
  const unsigned number_;
  const bool busy_;
  const int core_;
  const unsigned idle_steps_;
  const bool lingers_;
  Linger linger_;
  const std::shared_ptr<const FileDescriptor> wake_;  // the ringer's, too
  std::atomic<bool> stop_{false};
  std::atomic<std::int64_t> worked_ns_{0};
  std::int64_t worked_before_ = 0;
  Instant asked_before_{};
  std::thread thread_;
};

// The workers' end: says in the log what a worker cannot account for (packet.h's conservation law): a bug of ours.
void account_for(const std::vector<std::unique_ptr<Worker>>& stopped);

}  // namespace wireplane
