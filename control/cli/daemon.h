// daemon.h: `wireplane run`: ports, engine, device, threads and sockets put together, and control's loop.
//
//   main thread     signals, UAPI clients, Device::step()
//   worker threads  Worker::step(), one a worker
//   a loader        on SIGHUP: reads the file and resolves its names (config_loader.h)
//
// Order of start: ports (need privileges) -> engine -> device -> configuration -> host's addresses and routes -> UAPI
// socket
// -> privileges dropped -> threads. Order of end: threads -> keys wiped -> devices released.
#pragma once
#include <memory>
#include <optional>
#include <vector>

#include "control/cli/cli.h"
#include "control/cli/config_loader.h"
#include "control/cli/host_setup.h"
#include "control/config.h"
#include "control/device.h"
#include "control/engine_report.h"
#include "control/system.h"
#include "control/uapi_socket.h"
#include "control/worker_threads.h"
#include "dataplane/worker.h"
#include "drivers/cores.h"
#include "drivers/ethdev.h"

namespace wireplane {

class Daemon {
 public:
  // Opens everything. On failure nothing is left behind.
  [[nodiscard]] static Result<std::unique_ptr<Daemon>> open(const RunOptions& options, FileConfig config);
  ~Daemon();
  Daemon(const Daemon&) = delete;
  Daemon& operator=(const Daemon&) = delete;

  int run();  // until SIGTERM, SIGINT, or the UAPI socket is removed

 private:
  Daemon(const RunOptions& options, FileConfig config);
  Status open_ports();
  Status open_ethdev_ports();
  Status open_udp();
  Status open_tun();
  void plan_worker_cores();
  Status open_device();
  Status open_host();
  Status open_sockets();
  void start_threads();
  Status wrap_for_capture();
  Status open_keylog();
  void log_keys(const KeylogEntry& entry);
  [[nodiscard]] DeviceChange change_between(const FileConfig& now, const FileConfig& next) const;
  [[nodiscard]] Settings settings_of(const FileConfig& config) const;
  void turn();
  bool serve_signals();  // false: the end
  void take_reload();    // what the loader has read, if it has
  [[nodiscard]] std::string report();

  RunOptions options_;
  FileConfig config_;
  Instant started_;
  SystemEntropy entropy_;
  std::unique_ptr<EthdevSet> ethdev_;  // with a device port: its pool is the engine's
  std::unique_ptr<OuterDevice> outer_;
  std::unique_ptr<InnerDevice> inner_;
  std::uint32_t tun_interface_ = 0;
  CorePlan cores_;
  int keylog_fd_ = -1;

  std::unique_ptr<Engine> engine_;
  std::unique_ptr<Device> device_;
  std::vector<std::unique_ptr<Worker>> workers_;
  std::optional<HostSetup> host_;
  std::unique_ptr<UapiServer> uapi_;
  std::unique_ptr<ConfigLoader> loader_;
  std::vector<std::unique_ptr<WorkerThread>> threads_;
  int signal_fd_ = -1, wake_fd_ = -1;
};

[[nodiscard]] int run_daemon(const RunOptions& options);

}  // namespace wireplane
