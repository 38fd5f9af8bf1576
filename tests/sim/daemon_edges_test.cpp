// The daemon's rarer starts and reloads: device ports, one processor, interfaces that are taken, no descriptors, and a
// configuration that outgrows what runs.
//
// open_ethdev() is this program's (-Wl,--wrap): a set of ports without DPDK, so that what the daemon does with one can
// be seen. signalfd(), eventfd() and pthread_create() stand before the C library's.
#include <dlfcn.h>
#include <pthread.h>
#include <sched.h>
#include <sys/eventfd.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <fstream>

#include "control/cli/daemon.h"
#include "control/noise/base64.h"
#include "dataplane/base/buffer_pool.h"
#include "drivers/ethdev.h"
#include "drivers/memory_port.h"
#include "drivers/udp_port.h"
#include "tests/support/conservation.h"
#include "tests/support/running_daemon.h"

namespace wireplane::test {
namespace {

bool no_signalfd = false, no_eventfd = false;
constexpr const char* kNoThreads = "/run/wireplane-test/no-threads";  // while this file is there, none can be made

EthdevSetOptions asked_for;
class FakeSet final : public EthdevSet {
 public:
  explicit FakeSet(const EthdevSetOptions& options) : pool_{options.buffers, options.data_room} {
    asked_for = options;
    if (options.outer)
      outer_ =
          std::move(*UdpDevice::open({.workers = options.outer->queues, .listen_port = options.outer->listen_port}));
    if (options.inner) inner_ = std::make_unique<MemoryInnerDevice>(options.inner->queues);
  }
  BufferPool& pool() override { return pool_; }
  std::unique_ptr<OuterDevice> take_outer() override { return std::move(outer_); }
  std::unique_ptr<InnerDevice> take_inner() override { return std::move(inner_); }
  Status poll(Instant) override {
    return ++polls_ == 3 ? Status{Error{"a table could not be read", EIO}} : Status{Nothing{}};
  }
  std::vector<std::string> take_news() override {
    return polls_ == 2 ? std::vector<std::string>{"the interface went"} : std::vector<std::string>{};
  }

 private:
  MemoryPool pool_;
  std::unique_ptr<OuterDevice> outer_;
  std::unique_ptr<InnerDevice> inner_;
  unsigned polls_ = 0;
};

}  // namespace

using MaybeSet = Result<std::unique_ptr<EthdevSet>>;
MaybeSet fake_open_ethdev(const EthdevSetOptions& options) asm(
    "__wrap__ZN9wireplane11open_ethdevERKNS_16EthdevSetOptionsE");
MaybeSet fake_open_ethdev(const EthdevSetOptions& options) {
  const std::string& device = (options.outer ? options.outer : options.inner)->device;
  if (device.starts_with("net_absent")) return Error{"no such device", ENODEV};
  return MaybeSet{std::make_unique<FakeSet>(options)};
}

}  // namespace wireplane::test

extern "C" int signalfd(int fd, const sigset_t* mask, int flags) noexcept {
  if (wireplane::test::no_signalfd) return errno = EMFILE, -1;
  return static_cast<int>(::syscall(SYS_signalfd4, fd, mask, 8, flags));
}
extern "C" int eventfd(unsigned value, int flags) noexcept {
  if (wireplane::test::no_eventfd) return errno = EMFILE, -1;
  return static_cast<int>(::syscall(SYS_eventfd2, value, flags));
}
extern "C" int pthread_create(pthread_t* made, const pthread_attr_t* how, void* (*run)(void*),
                              void* argument) noexcept {
  static const auto real = reinterpret_cast<decltype(&pthread_create)>(::dlsym(RTLD_NEXT, "pthread_create"));
  return ::access(wireplane::test::kNoThreads, F_OK) == 0 ? EAGAIN : real(made, how, run, argument);
}

namespace wireplane::test {
namespace {

const auto* const kLaw = every_test_accounts();

class DaemonEdges : public DaemonTest {
 protected:
  void TearDown() override {
    no_signalfd = no_eventfd = false;
    ::unsetenv("WG_AEAD");
    if (lab) ::unlink(kNoThreads);
    DaemonTest::TearDown();
  }
  // A file of our own: [Interface] with `interface`, [Engine] with `engine`.
  void write(const std::string& interface, const std::string& engine = "", const std::string& more = "") {
    PublicKey secret;
    secret.octets[5] = 9;
    std::ofstream{lab.file} << "[Interface]\nPrivateKey = " << to_base64(secret).view() << '\n'
                            << interface << "\n[Engine]\n"
                            << engine << '\n'
                            << more;
    ::chmod(lab.file.c_str(), 0600);
  }
};

// Goal: a device port gets everything that the file says of it, the daemon polls it and tells its news, and ends in
// order; what cannot be opened is refused with the device's reason.
TEST_F(DaemonEdges, DevicePortsGetWhatTheFileSays) {
  write("ListenPort = 5000\nAddress = 10.1.0.1/24\nMTU = 9000\nTable = off",
        "Workers = 1\nBuffers = 2048\nOuter = net_fake0,iface=lo\nInner = net_fake1\nOuterAddress = 192.0.2.1/24, "
        "fd02::1/64\n"
        "OuterGateway = 192.0.2.254, fd02::2\nInnerGateway = 10.1.0.254, fd03::2\nOuterVlan = 7\nOuterMtu = 9200\n"
        "Forward = all");
  ASSERT_TRUE(lab.start()) << lab.log();
  ASSERT_TRUE(lab.logs("a table could not be read"));
  EXPECT_TRUE(lab.logs("the interface went"));
  const std::string report = lab.report();
  EXPECT_NE(report.find("\"forward\":\"all\""), std::string::npos) << report;
  EXPECT_NE(lab.ask("get=1\n\n").find("listen_port=5000"), std::string::npos);
  EXPECT_EQ(lab.end(), kExitDone);

  write("Table = off", "Inner = net_fake1");  // the outer port is the kernel's, workers and tables as they come
  ASSERT_TRUE(lab.start()) << lab.log();
  EXPECT_EQ(lab.end(), kExitDone);
  write("Table = off", "Outer = net_fake0,iface=eth9\nInner = none\nSessions = 256\nWorkers = 1");
  ASSERT_TRUE(lab.start()) << lab.log();
  EXPECT_EQ(lab.end(), kExitDone);
  write("", "Outer = net_absent0");
  refuses("device port: no such device");
}

// Goal: a machine with one processor runs everything there, unbound where there are more workers; busy polling there
// is warned of.
TEST_F(DaemonEdges, OneProcessorForAll) {
  cpu_set_t before, one;
  ASSERT_EQ(::sched_getaffinity(0, sizeof before, &before), 0);
  CPU_ZERO(&one);
  for (int cpu = 0; cpu < CPU_SETSIZE && CPU_COUNT(&one) == 0; ++cpu)
    if (CPU_ISSET(cpu, &before)) CPU_SET(cpu, &one);
  ASSERT_EQ(::sched_setaffinity(0, sizeof one, &one), 0);
  write("", "Inner = none\nWorkers = 1\nPoll = busy");
  EXPECT_TRUE(lab.start()) << lab.log();
  EXPECT_EQ(lab.logged("busy_on_shared_core"), 1u) << lab.log();
  EXPECT_EQ(lab.end(), kExitDone);
  write("", "Inner = none\nWorkers = 3");
  EXPECT_TRUE(lab.start()) << lab.log();
  EXPECT_NE(lab.log().find("3 workers and control are not bound to cores"), std::string::npos) << lab.log();
  EXPECT_NE(lab.report().find("\"core\":-1"), std::string::npos);
  EXPECT_EQ(lab.end(), kExitDone);
  ASSERT_EQ(::sched_setaffinity(0, sizeof before, &before), 0);
}

// Goal: what the host refuses is told with the setting it was for, and nothing is left behind.
TEST_F(DaemonEdges, WhatTheHostRefusesIsTold) {
  ASSERT_EQ(output_of("ip link add wg0 type veth peer name wgp 2>&1"), "");
  write("ListenPort = 5000");
  refuses("inner port: TUN wg0");
  ASSERT_EQ(output_of("ip link del wg0 2>&1"), "");
  std::ofstream{"/proc/sys/net/ipv6/conf/default/disable_ipv6"} << 1;
  std::ofstream{"/proc/sys/net/ipv6/conf/all/disable_ipv6"} << 1;
  write("Address = fd77::1/64");
  refuses("interface wg0: ");
  write("Address = 10.1.0.1/24", "", peer_text("fd78::/16"));
  refuses("interface wg0: ");
  std::ofstream{"/proc/sys/net/ipv6/conf/default/disable_ipv6"} << 0;
  std::ofstream{"/proc/sys/net/ipv6/conf/all/disable_ipv6"} << 0;
  no_signalfd = true;
  write("", "Inner = none\nWorkers = 1");
  refuses("signalfd or eventfd: Too many open files");
  no_signalfd = false, no_eventfd = true;
  refuses("signalfd or eventfd: Too many open files");
  no_eventfd = false;
  ::setenv("WG_AEAD", "abacus", 1);
  refuses("WG_AEAD=abacus names no kernel that can run here");
}

// Goal: addresses, routes and rules that are there already are as good as made.
TEST_F(DaemonEdges, WhatIsThereAlreadyStays) {
  for (const char* family : {"", "-6 "}) {
    const std::string ip = std::string{"ip "} + family + "rule add ";
    EXPECT_EQ(output_of(ip + "not fwmark 51820 table 51820 2>&1"), "");
    EXPECT_EQ(output_of(ip + "table main suppress_prefixlength 0 2>&1"), "");
  }
  write("Address = 10.1.0.1/24\nFwMark = 51820", "Workers = 1", peer_text("10.1.0.0/24, 0.0.0.0/0, ::/0"));
  ASSERT_TRUE(lab.start()) << lab.log();
  EXPECT_NE(output_of("ip route show table 51820").find("default dev wg0"), std::string::npos);
  lab.hang_up();
  EXPECT_TRUE(lab.logs("event=reloaded"));
}

// Goal: a pure hub with a default route needs no mark; it reloads without a host to set up.
TEST_F(DaemonEdges, APureHubReloads) {
  write("", "Inner = none\nWorkers = 1", peer_text("0.0.0.0/0"));
  ASSERT_TRUE(lab.start()) << lab.log();
  EXPECT_EQ(lab.ask("get=1\n\n").find("fwmark="), std::string::npos);
  write("", "Inner = none\nWorkers = 1", peer_text("0.0.0.0/0") + peer_text("10.0.0.0/8", 2));
  lab.hang_up();
  EXPECT_TRUE(lab.logs("event=reloaded"));
  EXPECT_NE(lab.report().find("\"peers\",\"used\":2"), std::string::npos) << lab.report();
}

// Goal: a reload that asks for more than was reserved, and one for which there is no thread, are refused with a line;
// what runs goes on, and the next reload is taken.
TEST_F(DaemonEdges, ReloadsThatCannotBeAreRefused) {
  const std::string engine = "Inner = none\nWorkers = 1\nPeers = 4";
  write("", engine, peer_text("10.0.0.0/8"));
  ASSERT_TRUE(lab.start()) << lab.log();
  std::string many;
  for (std::uint8_t i = 2; i < 40; ++i) many += peer_text("10." + std::to_string(i) + ".0.0/16", i);
  write("", engine, many);
  lab.hang_up();
  EXPECT_TRUE(lab.logs("event=reload_failed")) << lab.log();
  std::ofstream{kNoThreads} << ' ';
  lab.hang_up();
  EXPECT_TRUE(lab.logs("no thread to read the configuration")) << lab.log();
  ::unlink(kNoThreads);
  write("", engine, peer_text("10.0.0.0/8") + peer_text("10.9.0.0/16", 9));
  lab.hang_up();
  EXPECT_TRUE(lab.logs("event=reloaded")) << lab.log();
}

// Goal: with a keylog each handshake's keys are written, as Wireshark reads them.
TEST_F(DaemonEdges, TheKeylogHasEachHandshake) {
  const auto node = std::move(*Node::open());
  lab.write_config({node.get()}, "Keylog = " + lab.directory + "/keys");
  ASSERT_TRUE(lab.start()) << lab.log();
  const NodePeer daemon = *node->add_peer(lab.key, lab.at());
  EXPECT_GE(lab.echoes(*node, daemon, 2), 1u);
  std::stringstream keys;
  keys << std::ifstream{lab.directory + "/keys"}.rdbuf();
  for (const char* name : {"LOCAL_STATIC_PRIVATE_KEY = ", "REMOTE_STATIC_PUBLIC_KEY = ",
                           "LOCAL_EPHEMERAL_PRIVATE_KEY = ", "PRESHARED_KEY = "})
    EXPECT_NE(keys.str().find(name), std::string::npos) << keys.str();
  EXPECT_NE(keys.str().find(node->key_text()), std::string::npos);
}

}  // namespace
}  // namespace wireplane::test
