// `wireplane run` as a person meets it: what it does to the host, what it says, what it refuses at start.
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cstdio>
#include <filesystem>

#include "control/cli/daemon.h"
#include "control/noise/base64.h"
#include "tests/support/conservation.h"
#include "tests/support/running_daemon.h"

namespace wireplane::test {
namespace {

const auto* const kLaw = every_test_accounts();

class DaemonRuns : public DaemonTest {
 protected:
  void refuses(const std::string& because) {
    DaemonTest::refuses(because);
    EXPECT_EQ(output_of("ip link show dev wg0 2>/dev/null"), "") << "nothing is left behind";
  }
};

// Goal: Table = auto: a route for each allowed IP; a default route goes to a table of its own that only packets without
// our mark look up; what a reload removes is gone; rules go with the daemon.
TEST_F(DaemonRuns, TableAutoDoesWhatWgQuickDoes) {
  lab.write_config({}, "", peer_text("10.5.0.0/16, 0.0.0.0/0, ::/0"));
  ASSERT_TRUE(lab.start()) << lab.log();
  EXPECT_NE(output_of("ip route show dev wg0").find("10.5.0.0/16"), std::string::npos);
  EXPECT_NE(output_of("ip route show table 51820").find("default dev wg0"), std::string::npos);
  EXPECT_NE(output_of("ip -6 route show table 51820").find("default dev wg0"), std::string::npos);
  for (const char* family : {"", "-6 "}) {
    const std::string rules = output_of(std::string{"ip "} + family + "rule");
    EXPECT_NE(rules.find("not from all fwmark 0xca6c lookup 51820"), std::string::npos) << rules;
    EXPECT_NE(rules.find("suppress_prefixlength 0"), std::string::npos) << rules;
  }
  EXPECT_NE(lab.ask("get=1\n\n").find("fwmark=51820"), std::string::npos);
  lab.write_config({}, "", peer_text("10.6.0.0/16, ::/0"));
  lab.hang_up();
  ASSERT_TRUE(lab.logs("event=reloaded"));
  const std::string routes = output_of("ip route show dev wg0");
  EXPECT_EQ(routes.find("10.5.0.0/16"), std::string::npos) << routes;
  EXPECT_NE(routes.find("10.6.0.0/16"), std::string::npos) << routes;
  EXPECT_EQ(lab.end(), kExitDone);
  EXPECT_EQ(output_of("ip rule").find("51820"), std::string::npos) << "rules stay behind";
}

// Goal: Table = N puts every route into that table, Table = off none anywhere; MTU and FwMark are the file's.
TEST_F(DaemonRuns, TableNumberAndOffAndMtuAndFwMark) {
  lab.interface_lines = "Table = 1234\nMTU = 1300\nFwMark = 0x77\n";
  lab.write_config({}, "", peer_text("10.5.0.0/16, 0.0.0.0/0"));
  ASSERT_TRUE(lab.start()) << lab.log();
  const std::string routes = output_of("ip route show table 1234");
  EXPECT_NE(routes.find("10.5.0.0/16 dev wg0"), std::string::npos) << routes;
  EXPECT_NE(routes.find("default dev wg0"), std::string::npos) << routes;
  EXPECT_EQ(output_of("ip rule").find("1234"), std::string::npos);
  EXPECT_NE(output_of("ip link show dev wg0").find("mtu 1300"), std::string::npos);
  EXPECT_NE(lab.ask("get=1\n\n").find("fwmark=119"), std::string::npos);
  EXPECT_EQ(lab.end(), kExitDone);
  lab.interface_lines = "Table = off\n";
  lab.write_config({}, "", peer_text("10.5.0.0/16, 0.0.0.0/0"));
  ASSERT_TRUE(lab.start()) << lab.log();
  EXPECT_EQ(output_of("ip route show dev wg0"), "");
}

// Goal: without an interface (a pure hub) nothing is done to the host; the report says so, and what else it runs on.
TEST_F(DaemonRuns, APureHubLeavesTheHostAlone) {
  lab.write_config({},
                   "Inner = none\nForward = groups\nPoll = busy\nRouterAddress = 10.9.9.9\nCapture = " + lab.directory +
                       "/outer.pcap\nKeylog = " + lab.directory + "/keys",
                   peer_text("10.5.0.0/16"));
  ASSERT_TRUE(lab.start()) << lab.log();
  EXPECT_EQ(output_of("ip link show dev wg0 2>/dev/null"), "");
  const std::string report = lab.report();
  for (const char* part : {"\"forward\":\"groups\"", "\"none\"", "capture over udp", "\"buffers\"", "\"sessions\""})
    EXPECT_NE(report.find(part), std::string::npos) << part << "\n--- in ---\n" << report;
  EXPECT_EQ(lab.logged("keylog_on"), 1u);
  EXPECT_EQ(std::filesystem::file_size(lab.directory + "/outer.pcap"), 24u) << "its header";
  const auto mode = std::filesystem::status(lab.directory + "/keys").permissions();
  EXPECT_EQ(mode & (std::filesystem::perms::group_all | std::filesystem::perms::others_all),
            std::filesystem::perms::none);
}

// Goal: what makes a start impossible is said in words, with the setting's name, and nothing is left behind.
TEST_F(DaemonRuns, WhatCannotStartSaysWhy) {
  lab.write_config({}, "Keylog = /nowhere/keys");
  refuses("[Engine] Keylog: /nowhere/keys: No such file or directory");
  lab.write_config({}, "User = nobody-of-that-name");
  refuses("there is no account");
  lab.write_config({}, "Outer = net_no_such_driver0");
  refuses("device port");
  lab.write_config({}, "", peer_text("10.5.0.0/16") + peer_text("fd00::/8", 2) + "Endpoint = 10.1.1.1\n");
  refuses("Endpoint");
  lab.remove_config();
  refuses("expected a file that can be read");

  const int taken = ::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  sockaddr_in at{};
  at.sin_family = AF_INET;
  at.sin_port = htons(lab.port);
  ASSERT_EQ(::bind(taken, reinterpret_cast<sockaddr*>(&at), sizeof at), 0);
  lab.write_config({});
  refuses("outer port: udp: binding port 51820: Address already in use");
  ::close(taken);
}

// Goal: two daemons of one name do not take each other's place.
TEST_F(DaemonRuns, ASecondOfTheSameNameIsRefused) {
  lab.write_config({}, "Inner = none");
  ASSERT_TRUE(lab.start()) << lab.log();
  RunOptions options;
  options.file = lab.file;
  options.name = "wg0";
  std::fflush(nullptr);
  const pid_t second = ::fork();
  if (second == 0) {
    const int quiet = ::open("/dev/null", O_WRONLY);
    ::dup2(quiet, STDERR_FILENO);
    lab.port = 51821;
    lab.file += ".2";
    lab.write_config({}, "Inner = none");
    options.file = lab.file;
    std::exit(run_daemon(options));
  }
  int status = -1;
  ASSERT_EQ(::waitpid(second, &status, 0), second);
  EXPECT_EQ(WEXITSTATUS(status), kExitFailed);
  EXPECT_FALSE(lab.ask("get=1\n\n").empty()) << "the first goes on";
}

}  // namespace
}  // namespace wireplane::test
