// The whole daemon, and what may happen to it: its file, its resolver, its disks, its signals, its end.
// tests/FAULTS.md
#include <netinet/in.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <filesystem>
#include <fstream>
#include <mutex>
#include <thread>

#include "control/cli/cli.h"
#include "control/cli/config_loader.h"
#include "control/noise/base64.h"
#include "tests/support/conservation.h"
#include "tests/support/running_daemon.h"

namespace wireplane::test {
namespace {

using SteadyClock = std::chrono::steady_clock;

const auto* const kLaw = every_test_accounts();

std::chrono::milliseconds since(SteadyClock::time_point begin) {
  return std::chrono::duration_cast<std::chrono::milliseconds>(SteadyClock::now() - begin);
}

// A daemon in namespaces of its own and a node that is its peer.
class FaultsDaemon : public testing::Test {
 protected:
  void SetUp() override {
    if (!lab) GTEST_SKIP() << lab.why_not();
    node = std::move(*Node::open());
  }
  // Every daemon ends in order and accounts for every packet.
  void TearDown() override {
    if (!lab || !lab.running()) return;
    EXPECT_EQ(lab.end(), kExitDone) << lab.log();
    EXPECT_EQ(lab.logged("packets_unaccounted"), 0u) << lab.log();
  }
  void start(const std::string& engine = "", const std::string& more = "", const std::string& output = "") {
    lab.write_config({node.get()}, engine, more);
    ASSERT_TRUE(lab.start(output)) << lab.log();
    peer = *node->add_peer(lab.key, lab.at());
    ASSERT_EQ(lab.echoes(*node, peer, 5), 5u) << lab.log();
  }
  std::size_t handshakes() const { return lab.logged("what=connected"); }

  DaemonLab lab;
  std::unique_ptr<Node> node;
  NodePeer peer;
};

// Goal: a hundred SIGHUPs during traffic are a few reloads of an unchanged file: no session, no packet is lost.
TEST_F(FaultsDaemon, AStormOfSignalsDisturbsNothing) {
  start();
  for (int i = 0; i < 100; ++i) {
    lab.hang_up();
    if (i % 5 == 0) {
      ASSERT_EQ(lab.echoes(*node, peer, 1), 1u) << i;
    }
  }
  ASSERT_TRUE(lab.logs("event=reloaded"));
  EXPECT_EQ(lab.echoes(*node, peer, 20), 20u);
  EXPECT_EQ(handshakes(), 1u) << lab.log();
  EXPECT_EQ(lab.logged("reload_refused"), 0u);
}

// Goal: a file that has vanished, or is broken, at a reload changes nothing, is told, and is read again when it is
// back.
TEST_F(FaultsDaemon, AConfigurationThatVanishesChangesNothing) {
  start();
  lab.remove_config();
  lab.hang_up();
  ASSERT_TRUE(lab.logs("reload_refused"));
  EXPECT_NE(lab.log().find("No such file or directory"), std::string::npos);
  EXPECT_EQ(lab.echoes(*node, peer, 5), 5u);
  std::ofstream{lab.file} << "[Interface]\nPrivateKey = no key\n";
  lab.hang_up();
  ASSERT_TRUE(lab.logs("reload_refused", 2));
  lab.write_config({node.get()}, "Poll = busy");
  lab.hang_up();
  ASSERT_TRUE(lab.logs("Poll: expected as it was at start")) << lab.log();
  EXPECT_EQ(lab.echoes(*node, peer, 5), 5u);
  lab.write_config({});
  lab.hang_up();
  ASSERT_TRUE(lab.logs("event=reloaded"));
  EXPECT_EQ(lab.ask("get=1\n\n").find("public_key"), std::string::npos) << "the peer is gone";
  lab.write_config({node.get()});
  lab.hang_up();
  ASSERT_TRUE(lab.logs("event=reloaded", 2));
  ASSERT_TRUE(node->remove_peer(lab.key));  // its session is dead on the other side: it would notice after 15 s
  peer = *node->add_peer(lab.key, lab.at());
  EXPECT_EQ(lab.echoes(*node, peer, 5), 5u);
}

// Goal: a resolver that does not answer delays the reload, not handshakes, not clients, not the end.
// Method: a name server that is silent; a reload with a name; meanwhile a second node shakes hands, UAPI answers.
TEST_F(FaultsDaemon, ASilentResolverDelaysTheReloadAlone) {
  const auto second = *Node::open();
  lab.write_config({node.get(), second.get()});
  ASSERT_TRUE(lab.start()) << lab.log();
  peer = *node->add_peer(lab.key, lab.at());
  ASSERT_EQ(lab.echoes(*node, peer, 5), 5u);

  const int silent = ::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);  // it takes every question
  sockaddr_in at{};
  at.sin_family = AF_INET;
  at.sin_port = htons(53);
  at.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  ASSERT_EQ(::bind(silent, reinterpret_cast<sockaddr*>(&at), sizeof at), 0);
  const std::string resolver = lab.directory + "/resolv.conf";
  std::ofstream{resolver} << "nameserver 127.0.0.1\noptions timeout:3 attempts:1\n";
  // The daemon shares our mount namespace, so it sees this resolver, too.
  if (::mount(resolver.c_str(), "/etc/resolv.conf", nullptr, MS_BIND, nullptr) != 0)
    GTEST_SKIP() << "no /etc/resolv.conf to mount over";
  lab.write_config({node.get(), second.get()}, "",
                   "[Peer]\nPublicKey = " + std::string{to_base64(lab.key).view()}.replace(0, 4, "AAAA") +
                       "\nEndpoint = slow.example:1\nAllowedIPs = 10.1.2.3/32\n");
  const auto begun = SteadyClock::now();
  lab.hang_up();
  char question[512];
  ASSERT_GT(::recv(silent, question, sizeof question, 0), 0) << "the resolver was asked";
  const NodePeer other = *second->add_peer(lab.key, lab.at());
  EXPECT_EQ(lab.echoes(*second, other, 5), 5u) << "a handshake and its packets";
  EXPECT_EQ(lab.echoes(*node, peer, 5), 5u);
  EXPECT_FALSE(lab.ask("get=1\n\n").empty());
  EXPECT_LT(since(begun), std::chrono::milliseconds{2500}) << "all that while the resolver was being waited for";
  EXPECT_EQ(lab.logged("event=reload"), 0u) << lab.log();
  ASSERT_TRUE(lab.logs("reload_refused"));
  EXPECT_NE(lab.log().find("slow.example"), std::string::npos) << lab.log();
  EXPECT_EQ(lab.echoes(*node, peer, 5), 5u);

  lab.hang_up();  // and again: it ends while it asks
  ASSERT_GT(::recv(silent, question, sizeof question, 0), 0);
  const auto ending = SteadyClock::now();
  EXPECT_EQ(lab.end(), kExitDone) << lab.log();
  EXPECT_LT(since(ending), std::chrono::milliseconds{1500});
  ::umount("/etc/resolv.conf");
  ::close(silent);
}

// Goal: where log and keylog cannot be written any more (a full disk), packets flow on; the loss is told once.
TEST_F(FaultsDaemon, AFullDiskForTheKeylogIsToldOnce) {
  start("Keylog = /dev/full");
  EXPECT_TRUE(lab.logs("keylog_ended"));
  EXPECT_NE(lab.log().find("No space left on device"), std::string::npos);
  ASSERT_TRUE(node->remove_peer(lab.key));
  peer = *node->add_peer(lab.key, lab.at());  // another handshake
  EXPECT_EQ(lab.echoes(*node, peer, 5), 5u);
  EXPECT_EQ(lab.logged("keylog_ended"), 1u);
}

TEST_F(FaultsDaemon, AFullDiskForTheLogCostsTheLog) {
  start("", "", "/dev/full");
  for (int i = 0; i < 20; ++i) lab.hang_up();  // each says something
  EXPECT_EQ(lab.echoes(*node, peer, 20), 20u);
}

// Goal: a capture whose disk is full ends, told once; packets flow on; what was written can be read.
// Method: a tmpfs of 64 KiB.
TEST_F(FaultsDaemon, AFullDiskForTheCaptureEndsTheCapture) {
  const std::string disk = lab.directory + "/disk";
  std::filesystem::create_directories(disk);
  ASSERT_EQ(::mount("tmpfs", disk.c_str(), "tmpfs", 0, "size=65536"), 0);
  start("Capture = " + disk + "/outer.pcap");
  EXPECT_EQ(lab.echoes(*node, peer, 400), 400u);
  EXPECT_TRUE(lab.logs("capture_ended"));
  EXPECT_EQ(lab.logged("capture_ended"), 1u);
  EXPECT_GT(std::filesystem::file_size(disk + "/outer.pcap"), 40'000u);
  EXPECT_EQ(lab.echoes(*node, peer, 20), 20u);
}

// Goal: a capture that cannot even begin is refused at start, in words.
TEST_F(FaultsDaemon, ACaptureThatCannotBeginIsRefused) {
  lab.write_config({node.get()}, "Capture = /dev/full");
  EXPECT_FALSE(lab.start());
  EXPECT_NE(lab.log().find("[Engine] Capture"), std::string::npos) << lab.log();
  EXPECT_EQ(lab.end(), kExitFailed);
}

// Goal: after a crash the next daemon takes the name over: socket file and interface are a dead one's.
TEST_F(FaultsDaemon, AfterACrashTheNextOneTakesTheNameOver) {
  start();
  lab.kill_hard();
  ASSERT_TRUE(std::filesystem::exists(lab.socket_path)) << "it could not clean up";
  ASSERT_TRUE(lab.start()) << lab.log();
  ASSERT_TRUE(node->remove_peer(lab.key));
  peer = *node->add_peer(lab.key, lab.at());
  EXPECT_EQ(lab.echoes(*node, peer, 5), 5u);
}

// Goal: a TUN that is taken down costs the packets of that time; when it is up again they flow (its routes are the
// administrator's to restore: Linux forgets them).
TEST_F(FaultsDaemon, ATunThatIsTakenDownComesBack) {
  start();
  const std::string address = to_text(node->address());
  ASSERT_TRUE(NetNamespace::run("ip link set wg0 down"));
  EXPECT_EQ(lab.echoes(*node, peer, 1, std::chrono::milliseconds{300}), 0u);
  EXPECT_NE(lab.report().find("\"inner_send\""), std::string::npos) << lab.report();
  ASSERT_TRUE(NetNamespace::run("ip link set wg0 up && ip -6 addr replace " + to_text(address_of(lab.key)) +
                                "/128 dev wg0 && ip -6 route replace " + address + "/128 dev wg0"));
  EXPECT_EQ(lab.echoes(*node, peer, 5), 5u) << lab.report();
}

// Goal: a daemon that has become somebody else ends in peace though it may not delete its socket file, and another may
// take its place.
TEST_F(FaultsDaemon, WithAUserTheSocketFileStaysAndIsReplaced) {
  start("User = nobody");
  EXPECT_EQ(lab.end(), kExitDone) << lab.log();
  EXPECT_TRUE(std::filesystem::exists(lab.socket_path)) << "it had no right to delete it";
  EXPECT_TRUE(lab.ask("get=1\n\n").empty()) << "and nobody answers there";
  ASSERT_TRUE(lab.start()) << lab.log();
  EXPECT_FALSE(lab.ask("get=1\n\n").empty());
}

// Goal: deleting the socket file is the wish that the daemon end (the UAPI's rule).
TEST_F(FaultsDaemon, EndsWhenItsSocketIsDeleted) {
  start();
  std::filesystem::remove(lab.socket_path);
  const auto begun = SteadyClock::now();
  while (lab.running() && since(begun) < std::chrono::seconds{5})
    std::this_thread::sleep_for(std::chrono::milliseconds{10});
  EXPECT_FALSE(lab.running());
  EXPECT_EQ(lab.end(), kExitDone);
}

// ---- the loader alone

// Goal: wishes that come while a file is being read are one more reading, not one each; what was read is handed over
// once; the end waits for no resolver. Method: a resolver that waits until it is told.
TEST(ConfigLoader, ReadsOnceMoreForAllThatWasWishedMeanwhile) {
  struct Gate {
    std::mutex mutex;
    std::condition_variable opened;
    bool open = false;
    std::atomic<unsigned> asked{0}, done{0};
  };
  const auto gate = std::make_shared<Gate>();
  const Resolver resolver = [gate](const std::string&, std::uint16_t) -> Result<Endpoint> {
    ++gate->asked;
    std::unique_lock lock{gate->mutex};
    gate->opened.wait(lock, [&] { return gate->open; });
    return Error{"never", EHOSTUNREACH};
  };
  char file[] = "/tmp/wireplane-loader-XXXXXX";
  const int fd = ::mkstemp(file);
  const std::string text = "[Interface]\nPrivateKey = " + std::string(43, 'A') +
                           "=\n[Peer]\nPublicKey = " + std::string(42, 'B') + "A=\nEndpoint = a.example:1\n";
  ASSERT_EQ(::write(fd, text.data(), text.size()), static_cast<ssize_t>(text.size()));
  ::close(fd);
  const auto until = [](auto reached) {
    for (int i = 0; i < 5000 && !reached(); ++i) std::this_thread::sleep_for(std::chrono::milliseconds{1});
    return reached();
  };
  {
    ConfigLoader loader{resolver, [gate] { ++gate->done; }};
    EXPECT_FALSE(loader.take());
    const auto begun = SteadyClock::now();
    for (int i = 0; i < 100; ++i) ASSERT_TRUE(loader.begin(file));
    EXPECT_FALSE(loader.take());
    EXPECT_LT(since(begun), std::chrono::seconds{1});
    ASSERT_TRUE(until([&] { return gate->asked == 1; }));
    {
      const std::lock_guard lock{gate->mutex};
      gate->open = true;
    }
    gate->opened.notify_all();
    ASSERT_TRUE(until([&] { return gate->done == 1; }));
    const auto first = loader.take();
    ASSERT_TRUE(first);
    EXPECT_FALSE(*first) << "that name cannot be resolved";
    EXPECT_TRUE(loader.busy()) << "one more, for the 99 others";
    ASSERT_TRUE(until([&] { return gate->done == 2; }));
    EXPECT_TRUE(loader.take());
    EXPECT_FALSE(loader.busy());
    EXPECT_FALSE(loader.take());
    {
      const std::lock_guard lock{gate->mutex};
      gate->open = false;
    }
    ASSERT_TRUE(loader.begin(file));
    ASSERT_TRUE(until([&] { return gate->asked == 3; }));
  }  // the loader is gone, its thread is not
  {
    const std::lock_guard lock{gate->mutex};
    gate->open = true;
  }
  gate->opened.notify_all();
  std::this_thread::sleep_for(std::chrono::milliseconds{50});
  EXPECT_EQ(gate->done, 2u) << "nobody was told who is gone";
  ::unlink(file);
}

}  // namespace
}  // namespace wireplane::test
