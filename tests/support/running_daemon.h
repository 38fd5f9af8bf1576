// running_daemon.h: `wireplane run` itself, in a process of its own and in namespaces of the test: its network, its
// /run, its resolver. Needs root. A UDP socket of the namespace answers behind its TUN whoever asks there.
//
//   DaemonLab lab;                      // namespaces; false: why_not()
//   lab.write_config(...); lab.start(); lab.hang_up(); lab.echoes(node, peer, 10); lab.end(); lab.log()
#pragma once
#include <gtest/gtest.h>

#include <chrono>
#include <string>
#include <vector>

#include "control/cli/daemon.h"
#include "control/embed/node.h"
#include "dataplane/base/secret.h"
#include "tests/support/net_namespace.h"

namespace wireplane::test {

class DaemonLab {
 public:
  DaemonLab();
  ~DaemonLab();  // kills what still runs
  DaemonLab(const DaemonLab&) = delete;
  DaemonLab& operator=(const DaemonLab&) = delete;

  explicit operator bool() const { return ready_; }
  [[nodiscard]] const std::string& why_not() const { return why_not_; }

  // A whole file: [Interface] with key, port, address and `interface_lines`; [Engine] with `engine`; peers; `more`.
  void write_config(const std::vector<const Node*>& peers, const std::string& engine = "",
                    const std::string& more = "");
  void remove_config() const;
  // Starts it and waits until it answers. `error_output`: instead of the log file that log() reads.
  [[nodiscard]] bool start(const std::string& error_output = "");
  void hang_up() const;                // SIGHUP
  void kill_hard();                    // SIGKILL, as a crash
  [[nodiscard]] int end();             // SIGTERM; its exit status, -1: it had to be killed
  [[nodiscard]] bool running() const;  // it has not ended by itself
  [[nodiscard]] std::string log() const;
  [[nodiscard]] std::size_t logged(const std::string& what) const;                // how often
  [[nodiscard]] bool logs(const std::string& what, std::size_t times = 1) const;  // waits for it, some seconds
  [[nodiscard]] std::string ask(const std::string& request) const;  // over its UAPI socket; empty: nobody answers
  [[nodiscard]] std::string report() const { return ask("wireplane=1\n\n"); }

  // From a node, through the daemon, to the socket behind it and back: how many of `count` came back.
  // `patience` with each: a handshake that went wrong is tried again after 5 s.
  [[nodiscard]] std::size_t echoes(Node& node, const NodePeer& daemon, std::size_t count,
                                   std::chrono::milliseconds patience = std::chrono::seconds{8});
  [[nodiscard]] NodePeerOptions at() const;  // where nodes find it

  PublicKey key;
  std::string directory, file, socket_path;
  std::string interface_lines;  // "Table = off\n"
  std::uint16_t port = 51820;

 private:
  void answer() const;
  [[nodiscard]] bool make_namespaces();

  NetNamespace network_;
  SecretKey secret_;
  bool ready_ = false;
  std::string why_not_;
  int pid_ = -1, echo_fd_ = -1;
};

// A test with a lab: skipped where there can be none; a daemon that still runs at its end ends in order.
class DaemonTest : public testing::Test {
 protected:
  void SetUp() override {
    if (!lab) GTEST_SKIP() << lab.why_not();
  }
  void TearDown() override {
    if (lab && lab.running()) {
      EXPECT_EQ(lab.end(), kExitDone) << lab.log();
    }
  }
  void refuses(const std::string& because);  // it does not start, and says so
  DaemonLab lab;
};

[[nodiscard]] std::string output_of(const std::string& command);
// A section [Peer] with a key of that first octet.
[[nodiscard]] std::string peer_text(const std::string& allowed, std::uint8_t number = 1);

}  // namespace wireplane::test
