// The UNIX socket where wg(8) finds a device: served in small steps, for many clients, and for the real wg(8).
#include "control/uapi_socket.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sched.h>
#include <spawn.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <cstring>
#include <ctime>
#include <fstream>
#include <sstream>

#include "control/cli/uapi_client.h"
#include "control/noise/base64.h"
#include "tests/support/fake_device.h"

extern char** environ;

namespace wireplane {
namespace {

const std::string kKey = "0102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f20";

std::string hex_key(unsigned number) {
  PublicKey key;
  std::memcpy(key.octets.data(), &number, sizeof number);
  key.octets[31] = 1;
  return std::string{to_hex(key).view()};
}

Duration cpu_time() {
  timespec now{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return std::chrono::seconds{now.tv_sec} + std::chrono::nanoseconds{now.tv_nsec};
}

// A server in a directory of its own, a clock of its own, and as many clients as a test wants.
class UapiSocket : public testing::Test {
 protected:
  void SetUp() override {
    directory_ = testing::TempDir() + "wireplane-uapi-XXXXXX";
    ASSERT_NE(mkdtemp(directory_.data()), nullptr);
    path_ = uapi_socket_path("wg0", directory_ + "/wireguard");
  }
  void TearDown() override {
    for (const int fd : clients_) close(fd);
    server_.reset();
    unlink(path_.c_str());
    rmdir((directory_ + "/wireguard").c_str());
    rmdir(directory_.c_str());
  }

  void start(UapiServerLimits limits = {}) {
    auto server = UapiServer::listen(
        path_, device_, [] { return std::string{"{\"drops\":{}}"}; }, limits);
    ASSERT_TRUE(server) << server.error().what;
    server_ = std::move(*server);
  }
  int connect_client() {
    const int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    std::strcpy(address.sun_path, path_.c_str());
    EXPECT_EQ(connect(fd, reinterpret_cast<sockaddr*>(&address), sizeof address), 0) << std::strerror(errno);
    clients_.push_back(fd);
    return fd;
  }
  // One turn of control's loop.
  bool turn() {
    std::vector<pollfd> fds;
    server_->add_fds(fds);
    poll(fds.data(), fds.size(), 0);
    server_->handle(fds, now_);
    return server_->step(now_);
  }
  void turns(int count) {
    while (count-- > 0) turn();
  }
  static void say(int fd, std::string_view text) {
    ASSERT_EQ(send(fd, text.data(), text.size(), MSG_NOSIGNAL), static_cast<ssize_t>(text.size()));
  }
  // What has come, without waiting. "EOF" at the end: the server closed.
  static std::string heard(int fd) {
    std::string text;
    for (;;) {
      char octets[4096];
      const ssize_t count = recv(fd, octets, sizeof octets, 0);
      if (count == 0) return text + "EOF";
      if (count < 0) return text;
      text.append(octets, static_cast<std::size_t>(count));
    }
  }
  std::string ask(std::string_view request) {
    const int fd = connect_client();
    say(fd, request);
    turns(5);
    return heard(fd);
  }

  std::string directory_, path_;
  FakeDevice device_;
  std::unique_ptr<UapiServer> server_;
  std::vector<int> clients_;
  Instant now_{1h};
};

// Goal: the socket is where wg(8) looks, for its owner only, and gone when the device is.
TEST_F(UapiSocket, IsPrivateAndGoesWithTheDevice) {
  EXPECT_EQ(uapi_socket_path("wg0"), "/var/run/wireguard/wg0.sock");
  start();
  struct stat facts {};
  ASSERT_EQ(stat(path_.c_str(), &facts), 0);
  EXPECT_TRUE(S_ISSOCK(facts.st_mode));
  EXPECT_EQ(facts.st_mode & 077, 0u);
  EXPECT_FALSE(server_->removed());
  server_.reset();
  EXPECT_NE(stat(path_.c_str(), &facts), 0);
}

// Goal: requests come back to back, in pieces, and each is answered in turn on the same connection.
TEST_F(UapiSocket, OneConnectionCarriesManyRequests) {
  start();
  const int fd = connect_client();
  say(fd, "set=1\nlisten_port=5\n\nget=1\n\nset=1\nbogus=1\n\nget=1\n\nwireplane=1\n");
  turns(10);
  EXPECT_EQ(heard(fd), "errno=0\n\nlisten_port=5\nerrno=0\n\nerrno=-22\n\nlisten_port=5\nerrno=0\n\n");
  say(fd, "\n");
  turns(2);
  EXPECT_EQ(heard(fd), "{\"drops\":{}}\nerrno=0\n\n");
}

// Goal: a request that is wrong in its last line changes nothing.
// proves: PROTOCOL.md 8 (errno values)
TEST_F(UapiSocket, AMalformedRequestChangesNothing) {
  start();
  ask("set=1\nlisten_port=5\npublic_key=" + kKey + "\nallowed_ip=10.0.0.0/8\n\n");
  const std::string before = state_of(device_);
  EXPECT_EQ(ask("set=1\nlisten_port=6\nreplace_peers=true\npublic_key=" + hex_key(1) + "\nallowed_ip=10.0.0.0/99\n\n"),
            "errno=-22\n\n");
  EXPECT_EQ(state_of(device_), before);
}

// Goal: what the device could not do is told with its errno.
TEST_F(UapiSocket, TheDevicesErrnoIsTheAnswer) {
  start();
  device_.fail_after = 0;
  EXPECT_EQ(ask("set=1\nlisten_port=5\n\n"), "errno=-12\n\n");
}

// Goal: who speaks another language is told so and shown out; who leaves in the middle of a request has changed
// nothing.
TEST_F(UapiSocket, StrangersAndQuittersAreClosed) {
  start();
  EXPECT_EQ(ask("GET / HTTP/1.1\r\n\n"), "errno=-71\n\nEOF");
  const int fd = connect_client();
  say(fd, "set=1\nlisten_port=9\n");
  turns(3);
  shutdown(fd, SHUT_WR);
  turns(3);
  EXPECT_EQ(heard(fd), "EOF");
  EXPECT_EQ(device_.device.listen_port, 0);
  turns(2);
  EXPECT_EQ(server_->clients(), 0u);
}

// Goal: a half-closed client still gets its answer (printf ... | nc -U does so).
TEST_F(UapiSocket, AHalfClosedClientIsAnswered) {
  start();
  const int fd = connect_client();
  say(fd, "set=1\nlisten_port=9\n\nget=1\n\n");
  shutdown(fd, SHUT_WR);
  turns(6);
  EXPECT_EQ(heard(fd), "errno=0\n\nlisten_port=9\nerrno=0\n\nEOF");
}

// Goal: a dead device's socket does not stand in the way; a living one's is left alone.
TEST_F(UapiSocket, StaleSocketsAreReplacedAndLivingOnesAreNot) {
  start();
  auto second = UapiServer::listen(path_, device_);
  ASSERT_FALSE(second);
  EXPECT_EQ(second.error().code, EADDRINUSE);
  EXPECT_FALSE(server_->removed());
  EXPECT_EQ(ask("get=1\n\n"), "errno=0\n\n");

  // A process that died leaves its file behind: bind once more without anybody who listens.
  server_.reset();
  const int fd = socket(AF_UNIX, SOCK_STREAM, 0);
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  std::strcpy(address.sun_path, path_.c_str());
  ASSERT_EQ(bind(fd, reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
  close(fd);
  start();
  EXPECT_EQ(ask("get=1\n\n"), "errno=0\n\n");
}

// Goal: deletion of the socket is noticed (the spec's wish to end), and another's file in its place is not deleted.
TEST_F(UapiSocket, NoticesItsOwnRemoval) {
  start();
  unlink(path_.c_str());
  EXPECT_TRUE(server_->removed());
  std::ofstream{path_} << "another's";
  EXPECT_TRUE(server_->removed());
  server_.reset();
  struct stat facts {};
  EXPECT_EQ(stat(path_.c_str(), &facts), 0);
}

// Goal: a client that stops in the middle, or only sits there, does not stay for ever, and holds up nobody.
TEST_F(UapiSocket, IdleClientsAreClosedAfterTheirDeadline) {
  start({.clients = 2, .idle = 10s, .request = 20s});
  const int silent = connect_client(), slow = connect_client(), waiting = connect_client();
  say(waiting, "get=1\n\n");
  turns(3);
  EXPECT_EQ(server_->clients(), 2u);  // the third waits in the backlog
  EXPECT_EQ(server_->next_deadline(), now_ + 10s);
  for (int i = 0; i < 4; ++i) {  // one letter now and then is no progress for ever: the request's deadline
    say(slow, "s");
    turns(2);
    now_ += 6s;
    turns(2);
  }
  EXPECT_EQ(heard(silent), "EOF");
  EXPECT_EQ(heard(slow), "EOF");
  EXPECT_EQ(heard(waiting), "errno=0\n\nEOF");  // let in when the silent one went; then silent itself for too long
  EXPECT_EQ(server_->clients(), 0u);
}

// Goal: a reader that does not read makes the dump wait, not the memory grow.
// Method: many peers, nobody reads: the dump must stop after what fits into the two buffers, and resume.
TEST_F(UapiSocket, ADumpWaitsForItsReader) {
  start();
  DeviceChange many;
  for (unsigned i = 0; i < 20000; ++i) many.peers.emplace_back().public_key = *public_key_from_hex(hex_key(i));
  ASSERT_TRUE(device_.apply(std::move(many)));
  const int fd = connect_client();
  say(fd, "get=1\n\n");
  device_.visited = 0;
  turns(2000);
  const std::size_t visited = device_.visited;
  EXPECT_GT(visited, 100u);
  EXPECT_LT(visited, 5000u);
  EXPECT_FALSE(turn()) << "waiting for a reader is not more to do";
  std::string all;
  while (!all.ends_with("errno=0\n\n")) {
    const std::string piece = heard(fd);
    all += piece;
    ASSERT_FALSE(piece.ends_with("EOF"));
    turn();
  }
  EXPECT_EQ(device_.visited, 20000u);
  std::size_t keys = 0;
  for (std::size_t at = 0; (at = all.find("public_key=", at)) != all.npos; ++at) ++keys;
  EXPECT_EQ(keys, 20000u);
}

// Goal: a place where no socket can be is refused in words.
TEST_F(UapiSocket, PlacesWhereNoSocketCanBeAreRefused) {
  const auto too_long = UapiServer::listen("/tmp/" + std::string(200, 'a'), device_);
  ASSERT_FALSE(too_long);
  EXPECT_EQ(too_long.error().code, ENAMETOOLONG);
  const auto no_directory = UapiServer::listen("/proc/nowhere/wg0.sock", device_);
  ASSERT_FALSE(no_directory);
  EXPECT_NE(no_directory.error().what.find("cannot make /proc/nowhere"), std::string::npos);
  const auto no_file = UapiServer::listen("/proc/wg0.sock", device_);
  ASSERT_FALSE(no_file);
  EXPECT_NE(no_file.error().what.find("cannot listen at /proc/wg0.sock"), std::string::npos);
}

// Goal: without a report of its own a device says that it has none.
TEST_F(UapiSocket, WithoutAReportThatIsSaid) {
  auto server = UapiServer::listen(path_, device_);
  ASSERT_TRUE(server);
  server_ = std::move(*server);
  EXPECT_NE(ask("wireplane=1\n\n").find("errno=-95"), std::string::npos);
  server_.reset();
}

// Goal: whoever asks a device hears of every way in which no answer comes.
TEST_F(UapiSocket, AClientTellsWhyNoAnswerCame) {
  const auto ask_for = [](const std::string& path) { return ask_device(path, "get=1\n\n", [](std::string_view) {}); };
  EXPECT_EQ(ask_for("/tmp/" + std::string(200, 'a')).error().code, ENAMETOOLONG);
  EXPECT_EQ(ask_for(path_).error().code, ENOENT);
  EXPECT_TRUE(device_names("/nowhere/at/all").empty());
  ASSERT_EQ(mkdir((directory_ + "/wireguard").c_str(), 0755), 0);
  for (const std::string answer : {"public_key=1\n", "errno=-16\n\n", "a=1\nerrno=0\n\n"}) {
    const int listening = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    std::strcpy(address.sun_path, path_.c_str());
    ASSERT_EQ(bind(listening, reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
    ASSERT_EQ(listen(listening, 1), 0);
    const pid_t other = fork();
    if (other == 0) {
      const int fd = accept(listening, nullptr, nullptr);
      char question[64];
      static_cast<void>(!read(fd, question, sizeof question));
      static_cast<void>(!write(fd, answer.data(), answer.size()));
      _exit(0);
    }
    const Status asked = ask_for(path_);
    waitpid(other, nullptr, 0);
    close(listening);
    unlink(path_.c_str());
    if (answer.starts_with("a=")) {
      EXPECT_TRUE(asked);
    } else {
      ASSERT_FALSE(asked);
      EXPECT_EQ(asked.error().code, answer.starts_with("errno") ? EBUSY : EPROTO) << asked.error().what;
    }
  }
}

// Goal: out of descriptors, clients wait and control sleeps; it does not spin on a socket that stays readable.
// Method: no descriptor may be opened any more; a client knocks; then there are descriptors again.
TEST_F(UapiSocket, OutOfDescriptorsClientsWaitAndControlSleeps) {
  start();
  const int client = connect_client();
  say(client, "get=1\n\n");
  rlimit before{};
  ASSERT_EQ(getrlimit(RLIMIT_NOFILE, &before), 0);
  const int next = dup(0);  // the lowest that is free
  close(next);
  const rlimit none{static_cast<rlim_t>(next), before.rlim_max};
  ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &none), 0);
  turn();
  std::vector<pollfd> fds;
  server_->add_fds(fds);
  ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &before), 0);
  EXPECT_TRUE(fds.empty()) << "what poll() would report at once, for ever, is not asked for";
  EXPECT_EQ(server_->next_deadline(), now_ + UapiServerLimits{}.accept_again);
  EXPECT_EQ(server_->clients(), 0u);
  now_ = server_->next_deadline();
  turns(6);
  EXPECT_NE(heard(client).find("errno=0"), std::string::npos);
  EXPECT_EQ(server_->next_deadline(), now_ + UapiServerLimits{}.idle);
}

// Goal: a request for which there is no memory is answered so (ENOMEM), and the next one is served.
TEST_F(UapiSocket, WithoutMemoryARequestIsRefused) {
  struct Poor final : Configurable {
    Status check(const DeviceChange&) const override { return Nothing{}; }
    Status apply(DeviceChange) override { throw std::bad_alloc{}; }
    DeviceView view() const override { return {}; }
    void for_each_peer(const Visit&) const override {}
    std::size_t dump_some(std::size_t, std::size_t, const Visit&) const override {
      if (poor) throw std::bad_alloc{};
      return kEnd;
    }
    bool poor = true;
  } device;
  auto server = UapiServer::listen(path_, device);
  ASSERT_TRUE(server);
  server_ = std::move(*server);
  EXPECT_NE(ask("set=1\nlisten_port=1\n\n").find("errno=-12"), std::string::npos);
  EXPECT_EQ(ask("get=1\n\n"), "EOF") << "half an answer is none";
  device.poor = false;
  EXPECT_NE(ask("get=1\n\n").find("errno=0"), std::string::npos);
  server_.reset();
}

// Goal: without the right to delete our socket (User = ... and a directory of root's) we end in peace; what stays is
// answered by nobody, and the next one with the right replaces it.
TEST_F(UapiSocket, ASocketThatMayNotBeDeletedIsReplacedByTheNext) {
  if (geteuid() != 0) GTEST_SKIP() << "needs root, to be somebody else";
  start();
  ASSERT_EQ(chmod(directory_.c_str(), 0755), 0);
  const pid_t other = fork();
  if (other == 0) {
    if (setresuid(65534, 65534, 65534) != 0) _exit(2);
    server_.reset();
    _exit(access(path_.c_str(), F_OK) == 0 ? 0 : 1);
  }
  int status = -1;
  ASSERT_EQ(waitpid(other, &status, 0), other);
  EXPECT_EQ(status, 0) << "it had no right to, so it is still there";
  // As if that had been the only process: its end closes the descriptor, the file stays.
  const std::string aside = path_ + ".aside";
  ASSERT_EQ(rename(path_.c_str(), aside.c_str()), 0);
  server_.reset();
  ASSERT_EQ(rename(aside.c_str(), path_.c_str()), 0);
  ASSERT_EQ(access(path_.c_str(), F_OK), 0);
  start();
  EXPECT_NE(ask("get=1\n\n").find("errno=0"), std::string::npos);
}

// Goal: loading and dumping very many peers goes in short steps, with other clients served in between.
// Method: 200,000 peers in one request, written as the server reads; the longest step is measured, and a second client
// asks.
TEST_F(UapiSocket, ALargeLoadNeverStopsTheLoop) {
  start();
  constexpr unsigned kPeers = 200'000;
  device_.places.reserve(2 * kPeers);  // the fake is not to pause either
  std::string request = "set=1\nreplace_peers=true\n";
  for (unsigned i = 0; i < kPeers; ++i)
    request += "public_key=" + hex_key(i) + "\nallowed_ip=10." + std::to_string(i >> 16) + '.' +
               std::to_string(i >> 8 & 255) + '.' + std::to_string(i & 255) + "/32\n";
  request += '\n';
  const int loader = connect_client(), other = connect_client();
  std::size_t sent = 0, answers = 0;
  Duration longest{}, total{};
  std::string reply;
  while (reply.empty()) {
    const ssize_t count = send(loader, request.data() + sent, request.size() - sent, MSG_NOSIGNAL);
    if (count > 0) sent += static_cast<std::size_t>(count);
    say(other, "wireplane=1\n\n");
    const Duration begin = cpu_time();  // the machine may have other things to do
    turn();
    const Duration took = cpu_time() - begin;
    longest = std::max(longest, took);
    total += took;
    answers += heard(other).ends_with("errno=0\n\n");
    reply = heard(loader);
  }
  EXPECT_EQ(reply, "errno=0\n\n");
  EXPECT_EQ(device_.peers(), kPeers);
  EXPECT_GT(answers, 1000u);
  EXPECT_LT(device_.applied, kPeers);
  EXPECT_LT(longest, 20ms);
  RecordProperty("longest_step_us", static_cast<int>(longest / 1us));
  std::printf("loaded %u peers in %.2f s, longest step %.3f ms\n", kPeers, static_cast<double>(total / 1ms) / 1000,
              static_cast<double>(longest / 1us) / 1000);
}

}  // namespace
}  // namespace wireplane
