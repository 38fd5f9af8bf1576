#include "control/cli/daemon.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <iterator>
#include <new>
#include <thread>
#include <utility>

#include "control/cli/log_to_stderr.h"
#include "control/cli/privileges.h"
#include "control/log.h"
#include "control/noise/base64.h"
#include "drivers/eventfd.h"
#include "drivers/pcap_port.h"
#include "drivers/tun_port.h"
#include "drivers/udp_port.h"

namespace wireplane {
namespace {

constexpr std::size_t kLinkOverhead = 64;  // Ethernet with a VLAN, and what must be free behind a frame

unsigned workers_of(const EngineSettings& settings) {
  if (settings.workers != 0) return std::min<unsigned>(settings.workers, kBuckets);
  const unsigned cores = std::thread::hardware_concurrency();
  return std::clamp(cores - 1, 1u, kBuckets);  // control has a core of its own where there are two
}

Limits limits_of(const FileConfig& config) {
  Limits limits;
  limits.workers = workers_of(config.engine);
  if (config.engine.peers != 0) limits.peers = config.engine.peers;
  limits.peers = std::max(limits.peers, config.device.peers.size() * 2);
  if (config.engine.sessions != 0) limits.sessions = config.engine.sessions;
  if (config.engine.buffers != 0) limits.buffers = config.engine.buffers;
  const std::size_t largest =
      std::max<std::size_t>(config.mtu.value_or(1420) + kDataOverhead, config.engine.outer_mtu + kLinkOverhead);
  limits.data_room = std::max<std::size_t>(limits.data_room, (largest + 63) / 64 * 64);
  return limits;
}

Error about(const std::string& what, const Error& error) { return {what + ": " + error.what, error.code}; }

}  // namespace

Daemon::Daemon(const RunOptions& options, FileConfig config)
    : options_{options}, config_{std::move(config)}, started_{engine_clock()} {}

Result<std::unique_ptr<Daemon>> Daemon::open(const RunOptions& options, FileConfig config) {
  std::unique_ptr<Daemon> daemon{new Daemon{options, std::move(config)}};
  for (const auto step : {&Daemon::open_ports, &Daemon::open_device, &Daemon::open_host, &Daemon::open_sockets})
    if (Status done = (daemon.get()->*step)(); !done) return done.error();
  return daemon;
}

Daemon::~Daemon() {
  threads_.clear();
  loader_.reset();
  uapi_.reset();
  if (host_) host_->undo();
  account_for(workers_);
  workers_.clear();
  device_.reset();  // wipes keys
  outer_.reset();
  inner_.reset();
  engine_.reset();
  ethdev_.reset();  // the engine's buffers were its own
  for (const int fd : {signal_fd_, wake_fd_, keylog_fd_})
    if (fd >= 0) ::close(fd);
}

Status Daemon::open_ports() {
  const EngineSettings& settings = config_.engine;
  const bool device_outer = settings.outer != "udp", device_inner = settings.inner != "tun" && settings.inner != "none";
  if (device_outer || device_inner)
    if (Status opened = open_ethdev_ports(); !opened) return opened;
  if (!device_outer)
    if (Status opened = open_udp(); !opened) return opened;
  if (settings.inner == "tun")
    if (Status opened = open_tun(); !opened) return opened;
  return wrap_for_capture();
}

Status Daemon::open_udp() {
  UdpOptions options;
  options.workers = workers_of(config_.engine);
  options.listen_port = config_.device.listen_port.value_or(0);
  auto outer = UdpDevice::open(options);
  if (!outer) return about("outer port", outer.error());
  outer_ = std::move(*outer);
  return Nothing{};
}

Status Daemon::open_tun() {
  auto tun = TunDevice::open(
      {.name = options_.name, .queues = workers_of(config_.engine), .mtu = config_.mtu.value_or(1420), .up = true});
  if (!tun) return about("inner port: TUN " + options_.name, tun.error());
  tun_interface_ = (*tun)->interface();
  inner_ = std::move(*tun);
  return Nothing{};
}

// DPDK is loaded here, and only here.
Status Daemon::open_ethdev_ports() {
  const EngineSettings& settings = config_.engine;
  const Limits limits = limits_of(config_);
  EthdevSetOptions options;
  options.buffers = limits.buffers;
  options.data_room = limits.data_room;
  const auto link_addresses = [](const std::vector<Prefix>& prefixes) {
    std::vector<LinkAddress> addresses;
    for (const Prefix& prefix : prefixes) addresses.push_back({prefix.address, prefix.length});
    return addresses;
  };
  if (settings.outer != "udp") {
    EthdevOptions& outer = options.outer.emplace();
    outer.device = settings.outer;
    outer.queues = limits.workers;
    outer.addresses = link_addresses(settings.outer_addresses);
    outer.listen_port = config_.device.listen_port.value_or(0);
    for (const Address& gateway : settings.outer_gateways)
      (gateway.is_v4() ? outer.gateway_v4 : outer.gateway_v6) = gateway;
    outer.vlan = static_cast<std::uint16_t>(settings.outer_vlan);
    outer.mtu = settings.outer_mtu;
  }
  if (settings.inner != "tun" && settings.inner != "none") {
    EthdevOptions& inner = options.inner.emplace();
    inner.device = settings.inner;
    inner.queues = limits.workers;
    inner.addresses = link_addresses(config_.addresses);
    for (const Address& gateway : settings.inner_gateways)
      (gateway.is_v4() ? inner.gateway_v4 : inner.gateway_v6) = gateway;
  }
  auto set = open_ethdev(options);
  if (!set) return about("device port", set.error());
  ethdev_ = std::move(*set);
  if (options.outer) outer_ = ethdev_->take_outer();
  if (options.inner) inner_ = ethdev_->take_inner();
  return Nothing{};
}

Status Daemon::wrap_for_capture() {
  if (config_.engine.capture.empty()) return Nothing{};
  auto file = PcapFile::create(config_.engine.capture, [](const Error& error) {
    WG_LOG(Warning, "capture_ended", {"why", error.what});
  });
  if (!file) return about("[Engine] Capture", file.error());
  const auto clock = [] { return static_cast<std::uint64_t>(system_now().wall.count()); };
  outer_ = with_capture(std::move(outer_), *file, clock);
  return Nothing{};
}

Status Daemon::open_keylog() {
  if (config_.engine.keylog.empty()) return Nothing{};
  keylog_fd_ = ::open(config_.engine.keylog.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
  if (keylog_fd_ < 0) return Error{"[Engine] Keylog: " + config_.engine.keylog + ": " + std::strerror(errno), errno};
  WG_LOG(Warning, "keylog_on", {"file", config_.engine.keylog},
         {"meaning", "whoever reads this file can read the traffic"});
  return Nothing{};
}

// Wireshark's WireGuard key log: enough to follow one handshake.
void Daemon::log_keys(const KeylogEntry& entry) {
  if (keylog_fd_ < 0) return;  // it has ended
  std::string lines;
  const auto add = [&lines](const char* name, std::string_view base64) {
    lines.append(name).append(" = ").append(base64).append("\n");
  };
  add("LOCAL_STATIC_PRIVATE_KEY", to_base64(entry.local_static).view());
  add("REMOTE_STATIC_PUBLIC_KEY", to_base64(entry.remote).view());
  add("LOCAL_EPHEMERAL_PRIVATE_KEY", to_base64(entry.local_ephemeral).view());
  add("PRESHARED_KEY", to_base64(entry.preshared).view());
  if (::write(keylog_fd_, lines.data(), lines.size()) == static_cast<ssize_t>(lines.size())) return;
  WG_LOG(Warning, "keylog_ended", {"file", config_.engine.keylog}, {"why", std::strerror(errno)});  // a full disk
  ::close(std::exchange(keylog_fd_, -1));
}

Settings Daemon::settings_of(const FileConfig& config) const {
  Settings settings;
  settings.forward = config.engine.forward;
  settings.has_inner = inner_ != nullptr;
  settings.mtu = static_cast<std::uint16_t>(config.mtu.value_or(1420));
  std::vector<Address> routers = config.engine.router_addresses;
  for (const Prefix& prefix : config.addresses) {
    settings.host_addresses.push_back(prefix.address);
    routers.push_back(prefix.address);
  }
  for (const Address& router : routers) {
    Address& place = router.is_v4() ? settings.router_v4 : settings.router_v6;
    if (place.none()) place = router;
  }
  static constexpr std::uint8_t kDummy[4] = {192, 0, 0,
                                             8};  // RFC 7600 §4.8: a router without an IPv4 address says this
  if (settings.router_v4.none()) settings.router_v4 = Address::v4(kDummy);
  return settings;
}

Status Daemon::open_device() {
  const Limits limits = limits_of(config_);
  engine_ = std::make_unique<Engine>(limits, ethdev_ == nullptr ? nullptr : &ethdev_->pool());
  if (!engine_->sessions().locked())
    WG_LOG(Warning, "keys_not_locked", {"why", "RLIMIT_MEMLOCK is too small: keys may reach swap"});
  if (Status opened = open_keylog(); !opened) return opened;
  Device::Options options;
  if (keylog_fd_ >= 0) options.keylog = [this](const KeylogEntry& entry) { log_keys(entry); };
  options.on_event = [](const PeerView& peer, const char* what) {
    WG_LOG(Info, "peer", {"what", what}, {"peer", peer.public_key});
  };
  device_ = std::make_unique<Device>(*engine_, outer_.get(), entropy_, system_now(), std::move(options));
  device_->set_engine_settings(settings_of(config_));
  DeviceChange change = change_between(FileConfig{}, config_);
  change.listen_port.reset();  // bound already
  if (Status applied = device_->apply(std::move(change)); !applied) return applied;
  for (unsigned i = 0; i < limits.workers; ++i)
    workers_.push_back(
        std::make_unique<Worker>(*engine_, i, outer_->queue(i), inner_ == nullptr ? nullptr : &inner_->queue(i)));
  return Nothing{};
}

// What the files say, and the fwmark that a default route through the interface needs: at start and on every reload.
DeviceChange Daemon::change_between(const FileConfig& now, const FileConfig& next) const {
  DeviceChange change = difference(now, next);
  const std::uint32_t mark = HostSetup::mark_needed(next);
  if (mark != 0 && inner_ != nullptr) change.fwmark = mark;
  return change;
}

Status Daemon::open_host() {
  if (tun_interface_ == 0) return Nothing{};
  auto host = HostSetup::open(tun_interface_);
  if (!host) return about("netlink", host.error());
  host_.emplace(std::move(*host));
  if (Status applied = host_->apply(config_); !applied) return about("interface " + options_.name, applied.error());
  return Nothing{};
}

Status Daemon::open_sockets() {
  sigset_t signals;
  sigemptyset(&signals);
  for (const int signal : {SIGTERM, SIGINT, SIGHUP}) sigaddset(&signals, signal);
  ::pthread_sigmask(SIG_BLOCK, &signals, nullptr);
  signal_fd_ = ::signalfd(-1, &signals, SFD_CLOEXEC | SFD_NONBLOCK);
  wake_fd_ = ::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  if (signal_fd_ < 0 || wake_fd_ < 0) return Error{std::string{"signalfd or eventfd: "} + std::strerror(errno), errno};
  const auto wake = [fd = wake_fd_] { ring_eventfd(fd); };
  engine_->control_doorbell().set_ringer(wake);
  loader_ = std::make_unique<ConfigLoader>(resolve_by_host, wake);
  auto uapi = UapiServer::listen(uapi_socket_path(options_.name), *device_, [this] { return report(); });
  if (!uapi) return about("UAPI socket", uapi.error());
  uapi_ = std::move(*uapi);
  return Nothing{};
}

void Daemon::plan_worker_cores() {
  const auto processors = read_processors();
  if (!processors) {
    WG_LOG(Warning, "cores_unknown", {"why", processors.error().what}, {"meaning", "no thread is bound to a core"});
    return;
  }
  const std::string interface = shared_interface_of(config_.engine.outer);
  cores_ = plan_cores(*processors, {.workers = static_cast<unsigned>(workers_.size()),
                                    .node = interface.empty() ? -1 : numa_node_of_interface(interface),
                                    .siblings = false});
  WG_LOG(Info, "cores", {"plan", cores_.text});
  if (cores_.control)
    static_cast<void>(bind_this_thread(*cores_.control));  // refused: the scheduler's choice is as good
  if (cores_.shared && config_.engine.poll == Poll::kBusy)
    WG_LOG(Warning, "busy_on_shared_core",
           {"meaning", "Poll = busy keeps others off a core that they need: use adaptive"});
}

void Daemon::start_threads() {
  plan_worker_cores();
  for (unsigned i = 0; i < workers_.size(); ++i) {
    const auto planned = i < cores_.workers.size() ? cores_.workers[i] : std::nullopt;
    const int core = planned ? static_cast<int>(*planned) : -1;
    threads_.push_back(
        std::make_unique<WorkerThread>(*engine_, *workers_[i], i, config_.engine.poll == Poll::kBusy, core));
  }
  for (const auto& thread : threads_) thread->start();
}

int Daemon::run() {
  std::vector<int> keep = capabilities_to_reopen(config_.engine.outer);
  std::ranges::copy(capabilities_to_reopen(config_.engine.inner), std::back_inserter(keep));
  if (Status dropped = drop_privileges(config_.engine.user, keep); !dropped) {
    WG_LOG(Error, "start_failed", {"why", dropped.error().what});
    return kExitFailed;
  }
  start_threads();
  for (const std::string& line : Aead::report()) WG_LOG(Debug, "aead", {"kernel", line});
  WG_LOG(Info, "running", {"name", options_.name}, {"outer", outer_->describe()},
         {"inner", inner_ == nullptr ? std::string{"none"} : inner_->describe()}, {"aead", engine_->aead().name()},
         {"workers", workers_.size()}, {"peers", device_->peer_count()});
  while (serve_signals() && !uapi_->removed()) {
    try {
      turn();
    } catch (const std::bad_alloc&) {  // of a report or a reload: given up; the device and the socket see to themselves
      WG_LOG(Error, "out_of_memory");
    }
  }
  WG_LOG(Info, "ending", {"name", options_.name});
  return kExitDone;
}

// One turn of control: the device, then clients, then sleep until one of them wants us.
void Daemon::turn() {
  Instant due = device_->step(system_now());
  if (ethdev_ != nullptr) {  // next hops
    if (Status polled = ethdev_->poll(engine_clock()); !polled)
      WG_LOG(Warning, "next_hops", {"why", polled.error().what});
    for (const std::string& what : ethdev_->take_news()) WG_LOG(Warning, "device_port", {"what", what});
    due = std::min(due, engine_clock() + 10ms);
  }
  bool more = uapi_->step(engine_clock());
  std::vector<pollfd> fds{{signal_fd_, POLLIN, 0}, {wake_fd_, POLLIN, 0}};
  uapi_->add_fds(fds);
  engine_->control_doorbell().sleep_begin();
  for (unsigned i = 0; i < engine_->workers(); ++i) {  // what was pushed before we said that we sleep
    WorkerLink& link = engine_->link(i);
    more = more || !link.urgent.empty() || !link.events.empty() || !link.handshakes.empty();
  }
  const Duration wait =
      more ? Duration{0}
           : std::clamp(std::min(due, uapi_->next_deadline()) - engine_clock(), Duration{0}, Duration{1s});
  const timespec timeout = timespec_of(wait);
  ::ppoll(fds.data(), fds.size(), &timeout, nullptr);
  engine_->control_doorbell().sleep_end();
  static_cast<void>(drain_eventfd(wake_fd_));
  uapi_->handle(fds, engine_clock());
  take_reload();
}

bool Daemon::serve_signals() {
  signalfd_siginfo signal;
  while (::read(signal_fd_, &signal, sizeof signal) == static_cast<ssize_t>(sizeof signal)) {
    if (signal.ssi_signo != SIGHUP) return false;
    if (Status begun = loader_->begin(options_.file); !begun)
      WG_LOG(Error, "reload_refused", {"why", begun.error().what});
  }
  return true;
}

// All or nothing: a file with a fault, or with a setting that needs a restart, leaves what runs as it is.
void Daemon::take_reload() {
  std::optional<ConfigResult> read = loader_->take();
  if (!read) return;
  ConfigResult& next = *read;
  const std::vector<ConfigError> errors = next ? unchangeable(config_, *next) : next.error();
  for (const ConfigError& error : errors) WG_LOG(Error, "reload_refused", {"why", error.text()});
  if (!errors.empty()) return;
  if (Status applied = device_->apply(change_between(config_, *next)); !applied) {
    WG_LOG(Error, "reload_failed", {"why", applied.error().what});
    return;
  }
  device_->set_engine_settings(settings_of(*next));
  if (host_)
    if (Status set = host_->apply(*next); !set) WG_LOG(Error, "reload_routes_failed", {"why", set.error().what});
  config_ = std::move(*next);
  WG_LOG(Info, "reloaded", {"file", options_.file}, {"peers", device_->peer_count()});
}

std::string Daemon::report() {
  EngineReport report;
  report.name = options_.name;
  report.version = WIREPLANE_VERSION;
  report.aead = engine_->aead().name();
  report.forward = config_.engine.forward == Forward::kNone  ? "none"
                   : config_.engine.forward == Forward::kAll ? "all"
                                                             : "groups";
  const Instant now = engine_clock();
  report.uptime_s = std::chrono::duration<double>(now - started_).count();
  PortReport outer{"outer", outer_->describe(), {}},
      inner{"inner", inner_ == nullptr ? "none" : inner_->describe(), {}};
  std::array<std::uint64_t, 9> sums{};
  for (unsigned i = 0; i < engine_->workers(); ++i) {
    const Counters& c = engine_->link(i).counters;
    WorkerReport worker;
    worker.number = i;
    worker.sessions = device_->live_sessions(i);
    worker.core = threads_.empty() ? -1 : threads_[i]->core();
    worker.load = threads_.empty() ? 0 : threads_[i]->take_load(now);
    worker.received_packets = c.outer_in.get() + c.inner_in.get();
    worker.sent_packets = c.outer_out.get() + c.inner_out.get();
    report.workers.push_back(worker);
    const Tally* tallies[] = {&c.outer_in,         &c.outer_in_octets,  &c.outer_out,
                              &c.outer_out_octets, &c.inner_in,         &c.inner_in_octets,
                              &c.inner_out,        &c.inner_out_octets, &c.relayed};
    for (std::size_t t = 0; t < sums.size(); ++t) sums[t] += tallies[t]->get();
    for (std::size_t d = 0; d < kDropCount; ++d) report.drops[d] += c.drops[d].get();
  }
  for (std::size_t d = 0; d < kDropCount; ++d) report.drops[d] += device_->drops(static_cast<Drop>(d));
  outer.counters = {{"received_packets", sums[0]},
                    {"received_octets", sums[1]},
                    {"sent_packets", sums[2]},
                    {"sent_octets", sums[3]},
                    {"relayed_packets", sums[8]}};
  inner.counters = {
      {"received_packets", sums[4]}, {"received_octets", sums[5]}, {"sent_packets", sums[6]}, {"sent_octets", sums[7]}};
  report.ports = {outer, inner};
  const BufferPool& pool = engine_->pool();
  report.tables = {{"peers", device_->peer_count(), engine_->limits().peers},
                   {"sessions", device_->live_sessions(), engine_->limits().sessions},
                   {"allowed_ips", engine_->routes().count(), 0},
                   {"buffers", pool.capacity() - std::min(pool.capacity(), pool.available()), pool.capacity()}};
  return to_json(report);
}

int run_daemon(const RunOptions& options) {
  log_to_stderr(options.log_level);
  forbid_core_dumps();
  if (const std::string complaint{Aead::complaint()}; !complaint.empty()) {
    WG_LOG(Error, "start_failed", {"why", complaint});
    return kExitFailed;
  }
  ConfigResult config = load_config(options.file, resolve_by_host);
  if (!config) {
    for (const ConfigError& error : config.error()) std::cerr << error.text() << '\n';
    return kExitFailed;
  }
  for (const ConfigError& warning : config->warnings) WG_LOG(Warning, "config", {"what", warning.text()});
  Result<std::unique_ptr<Daemon>> daemon = Daemon::open(options, std::move(*config));
  if (!daemon) {
    WG_LOG(Error, "start_failed", {"why", daemon.error().what});
    return kExitFailed;
  }
  return (*daemon)->run();
}

}  // namespace wireplane
