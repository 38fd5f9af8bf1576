// `wireplane show` against devices that answer this or that: other implementations', broken ones, none.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <csignal>
#include <cstring>
#include <ctime>
#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>
#include <thread>

#include "control/cli/cli.h"
#include "control/cli/uapi_client.h"

namespace wireplane {
namespace {

std::atomic<int> receive_fails{0}, send_fails{0};  // errno of the next call

}  // namespace
}  // namespace wireplane

// The client's calls, as the kernel might answer them.
extern "C" ssize_t recv(int fd, void* into, size_t size, int flags) {
  if (const int code = wireplane::receive_fails.exchange(0); code != 0) return errno = code, -1;
  return ::syscall(SYS_recvfrom, fd, into, size, flags, nullptr, nullptr);
}
extern "C" ssize_t send(int fd, const void* from, size_t size, int flags) {
  if (const int code = wireplane::send_fails.exchange(0); code != 0) return errno = code, -1;
  return ::syscall(SYS_sendto, fd, from, size, flags, nullptr, 0);
}

namespace wireplane {
namespace {

// A device that says `get` to get=1, and `engine` to wireplane=1; then it hangs up.
class Answering {
 public:
  Answering(const std::string& path, std::string get, std::string engine)
      : get_{std::move(get)}, engine_{std::move(engine)}, path_{path}, fd_{::socket(AF_UNIX, SOCK_STREAM, 0)} {
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    std::memcpy(address.sun_path, path.c_str(), path.size());
    EXPECT_EQ(::bind(fd_, reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
    EXPECT_EQ(::listen(fd_, 8), 0);
    thread_ = std::thread{[this] { serve(); }};
  }
  ~Answering() {
    ::shutdown(fd_, SHUT_RDWR);
    thread_.join();
    ::close(fd_);
    ::unlink(path_.c_str());
  }

 private:
  void serve() const {
    for (int client; (client = ::accept(fd_, nullptr, nullptr)) >= 0; ::close(client)) {
      std::string request;
      for (char octet; request.find("\n\n") == request.npos && ::read(client, &octet, 1) == 1;) request += octet;
      const std::string& answer = request.starts_with("get") ? get_ : engine_;
      static_cast<void>(!::write(client, answer.data(), answer.size()));  // who asked may be gone
    }
  }
  const std::string get_, engine_, path_;
  const int fd_;
  std::thread thread_;
};

class Show : public testing::Test {
 protected:
  void SetUp() override {
    std::signal(SIGPIPE, SIG_IGN);
    ASSERT_NE(::mkdtemp(directory.data()), nullptr);
  }
  void TearDown() override {
    ::unlink((directory + "/.sock").c_str());
    ::rmdir(directory.c_str());
  }
  std::string path(const std::string& name) const { return directory + '/' + name + ".sock"; }
  int show(const std::string& name = "", bool json = false) {
    std::ostringstream to_out, to_err;
    const Commands commands{.run = {}, .socket_directory = directory, .in = nullptr, .out = &to_out, .err = &to_err};
    const int exit = show_command(name, json, commands);
    out = to_out.str(), err = to_err.str();
    return exit;
  }
  bool says(const std::string& what) const { return out.find(what) != out.npos; }

  std::string directory = testing::TempDir() + "wireplane-show-XXXXXX", out, err;
};

const std::string kKey(64, 'a'), kNone(64, '0');

// Goal: everything a device may say has its words: addresses or none, one prefix, several or none, ages, sizes up to
// the largest, tables that are nearly full, drops or none.
TEST_F(Show, EverythingHasItsWords) {
  const std::string now = std::to_string(std::time(nullptr) + 60);  // its clock is ahead of ours
  const Answering device{
      path("wg0"),
      "private_key=" + kKey + "\nlisten_port=51820\nfwmark=51820\na line without that\npublic_key=" + kKey +
          "\npreshared_key=" + kKey +
          "\nendpoint=192.0.2.1:7\nallowed_ip=10.0.0.0/8\nallowed_ip=fd00::/8\nlast_handshake_time_sec=" + now +
          "\ntx_bytes=18446744073709551615\nrx_bytes=0\npersistent_keepalive_interval=25\npublic_key=" + kNone +
          "\npreshared_key=" + kNone + "\nrx_bytes=1536\npublic_key=no hex\nlast_handshake_time_sec=1\nerrno=0\n\n",
      R"({"version":"9","aead":"x","forward":"all","uptime_s":3725,"workers":[{"number":0,"core":3,"load":0.5},{"number":1}],)"
      R"("tables":[{"name":"peers","used":9,"size":10},{"name":"sessions","used":1,"size":10},{"name":"routes","used":5,"size":0}],)"
      R"("ports":[{"side":"outer","name":"udp","counters":{"received_packets":5,"sent_packets":0}}],)"
      R"("drops":{"bad_tag":2,"replayed":1}})"
      "\nerrno=0\n\n"};
  ASSERT_EQ(show(), kExitDone) << err;
  for (const char* part :
       {"device: wg0\n", "listening port: 51820", "fwmark: 0xca6c", "endpoint: 192.0.2.1:7", "10.0.0.0/8, fd00::/8",
        "latest handshake: now\n", "16384.00 PiB sent", "0 B received", "1.50 KiB received, 0 B sent",
        "keepalive: every 25 seconds", "allowed ips: (none)", "peer: (unreadable)", "preshared key: (hidden)",
        "up: 1 hour, 2 minutes, 5 seconds", "(nearly full)", " of 10\n", "received_packets", "drops:\n", "days"})
    EXPECT_TRUE(says(part)) << part << "\n--- in ---\n" << out;
  EXPECT_TRUE(says("any")) << "a worker that may run on any core";
  EXPECT_FALSE(says("sent_packets")) << "what is zero is not told of a port";
  EXPECT_FALSE(says("drops: none"));
  ASSERT_EQ(show("wg0", true), kExitDone) << err;
  const auto told = nlohmann::json::parse(out);
  EXPECT_EQ(told["fwmark"], 51820);
  EXPECT_EQ(told["peers"].size(), 3u);
  EXPECT_EQ(told["peers"][0]["endpoint"], "192.0.2.1:7");
  EXPECT_TRUE(told["peers"][1]["endpoint"].is_null());
  EXPECT_EQ(told["peers"][2]["public_key"], "(unreadable)");
  EXPECT_EQ(told["engine"]["version"], "9");
}

// Goal: another implementation's device is shown with what wg(8) would show, and nothing is made up.
TEST_F(Show, AnotherImplementationsDevice) {
  const Answering device{path("wg0"), "private_key=nonsense\nerrno=0\n\n", "errno=22\n\n"},
      other{path("wg1"), "errno=0\n\n",
            R"({"tables":[],"workers":[],"drops":{}})"
            "\nerrno=0\n\n"};
  ASSERT_EQ(show(), kExitDone) << err;
  EXPECT_TRUE(says("device: wg0\n  public key: (none)\n\ndevice: wg1\n  public key: (none)\n")) << out;
  EXPECT_TRUE(says("drops: none"));
  EXPECT_FALSE(says("workers:") || says("tables:") || says("listening port") || says("fwmark"));
  ASSERT_EQ(show("", true), kExitDone) << err;
  const auto told = nlohmann::json::parse(out);
  ASSERT_EQ(told.size(), 2u);
  EXPECT_TRUE(told[0]["engine"].is_null());
}

// Goal: a device that refuses, breaks off or is gone makes the exit code 1, with a line; the others are shown.
TEST_F(Show, DevicesThatFailAreTold) {
  const Answering good{path("wg0"), "errno=0\n\n", "errno=22\n\n"}, refusing{path("wg1"), "errno=13\n\n", "\n"},
      broken{path("wg2"), "listen_port=5\n", "{ no json\nerrno=0\n\n"};
  std::ofstream{path("wg3")} << "no socket";
  std::ofstream{directory + "/.sock"};
  std::ofstream{directory + "/notes.txt"};
  for (const bool json : {false, true}) {
    EXPECT_EQ(show("", json), kExitFailed);
    EXPECT_NE(err.find("wg1: " + path("wg1") + ": the device answered: Permission denied"), err.npos) << err;
    EXPECT_NE(err.find("wg2: " + path("wg2") + ": the device ended its reply early"), err.npos) << err;
    EXPECT_NE(err.find("wg3: " + path("wg3") + ": Connection refused"), err.npos) << err;
    EXPECT_EQ(err.find("wireplane show: .sock"), err.npos);
    EXPECT_EQ(err.find("notes"), err.npos);
  }
  ::unlink(path("wg3").c_str());
  ::unlink((directory + "/notes.txt").c_str());
}

// Goal: without a directory there are no devices; that is told people, and is an empty list for machines.
TEST_F(Show, NoDeviceAtAll) {
  EXPECT_EQ(show(), kExitDone);
  EXPECT_NE(err.find("no device runs here"), err.npos);
  EXPECT_EQ(show("", true), kExitDone);
  EXPECT_EQ(out, "[]\n");
  EXPECT_TRUE(device_names(directory + "/nowhere").empty());
}

// Goal: the client's own troubles are told in words: no descriptor, a path that is too long, a send or a receive that
// fails; one that is interrupted goes on.
TEST_F(Show, TroublesOfTheClient) {
  const Answering device{path("wg0"), "listen_port=7\nerrno=0\n\n", "errno=22\n\n"};
  std::string lines;
  const auto ask = [&](const std::string& where) {
    lines.clear();
    return ask_device(where, "get=1\n\n", [&](std::string_view line) { lines += line; });
  };
  receive_fails = EINTR;
  EXPECT_TRUE(ask(path("wg0")));
  EXPECT_EQ(lines, "listen_port=7");
  receive_fails = ECONNRESET;
  EXPECT_EQ(ask(path("wg0")).error().code, ECONNRESET);
  send_fails = EPIPE;
  EXPECT_EQ(ask(path("wg0")).error().code, EPIPE);
  EXPECT_EQ(ask(directory + std::string(200, 'x')).error().code, ENAMETOOLONG);
  EXPECT_EQ(ask(path("wg9")).error().code, ENOENT);
  rlimit before{};
  ASSERT_EQ(::getrlimit(RLIMIT_NOFILE, &before), 0);
  const rlimit none{0, before.rlim_max};
  ASSERT_EQ(::setrlimit(RLIMIT_NOFILE, &none), 0);
  const Status asked = ask(path("wg0"));
  ASSERT_EQ(::setrlimit(RLIMIT_NOFILE, &before), 0);
  ASSERT_FALSE(asked);
  EXPECT_NE(asked.error().code, 0);
}

}  // namespace
}  // namespace wireplane
