// The command line: what is asked, what is answered, with which exit code; and the log's lines.
#include "control/cli/cli.h"

#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <cstdlib>
#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>
#include <thread>

#include "control/cli/log_to_stderr.h"
#include "control/engine_report.h"
#include "control/noise/base64.h"
#include "tests/support/fake_device.h"

namespace wireplane {
namespace {

struct Answer {
  int exit = -1;
  std::string out, err;
};

std::string key(std::uint8_t first) {
  PublicKey octets;
  octets.octets[0] = first;
  octets.octets[31] = 64;
  return std::string{to_base64(octets).view()};
}

class Cli : public testing::Test {
 protected:
  void SetUp() override {
    directory_ = testing::TempDir() + "wireplane-cli-XXXXXX";
    ASSERT_NE(mkdtemp(directory_.data()), nullptr);
  }
  void TearDown() override {
    for (const char* name : {"/wg0.conf", "/bad name!.conf", "/wg0.sock"}) unlink((directory_ + name).c_str());
    rmdir(directory_.c_str());
  }
  std::string file(const std::string& name, const std::string& text) {
    const std::string path = directory_ + '/' + name;
    std::ofstream{path} << text;
    chmod(path.c_str(), 0600);
    return path;
  }
  Answer cli(std::vector<const char*> words, const std::string& input = {}) {
    words.insert(words.begin(), "wireplane");
    std::istringstream in{input};
    std::ostringstream out, err;
    Commands commands{.run = [this](const RunOptions& options) { return ran_ = options, 7; },
                      .socket_directory = directory_,
                      .in = &in,
                      .out = &out,
                      .err = &err};
    Answer answer;
    answer.exit = cli_main(static_cast<int>(words.size()), words.data(), commands);
    answer.out = out.str();
    answer.err = err.str();
    return answer;
  }

  std::string directory_;
  RunOptions ran_;
};

// Goal: `run` passes on what it was told, names the device after the file, and returns what the device returned.
TEST_F(Cli, RunTakesItsNameFromTheFile) {
  EXPECT_EQ(cli({"run", "/etc/wireguard/wg0.conf"}).exit, 7);
  EXPECT_EQ(ran_.file, "/etc/wireguard/wg0.conf");
  EXPECT_EQ(ran_.name, "wg0");
  EXPECT_EQ(ran_.log_level, LogLevel::kInfo);
  EXPECT_EQ(cli({"run", "x.conf", "--name", "relay-1", "--log-level", "debug", "--foreground"}).exit, 7);
  EXPECT_EQ(ran_.name, "relay-1");
  EXPECT_EQ(ran_.log_level, LogLevel::kDebug);
  EXPECT_EQ(name_of_file("a/b/wg1.conf"), "wg1");
  EXPECT_EQ(name_of_file("a/b/much-too-long-a-name.conf"), "");
  EXPECT_EQ(name_of_file("/"), "");
  EXPECT_FALSE(valid_name(".."));
  EXPECT_FALSE(valid_name("a/b"));
}

// Goal: who asks wrongly gets 2 and a hint, who asks for help gets 0.
TEST_F(Cli, WrongQuestionsAreAnsweredWithTwo) {
  for (const std::vector<const char*>& words : {std::vector<const char*>{},
                                                {"fly"},
                                                {"run"},
                                                {"run", "a", "b"},
                                                {"run", "a.conf", "--log-level", "loud"},
                                                {"run", "a.conf", "--name", "not/one"},
                                                {"check"},
                                                {"show", "a", "b"},
                                                {"show", "not/one"}}) {
    const Answer answer = cli(words);
    EXPECT_EQ(answer.exit, kExitUsage);
    EXPECT_FALSE(answer.err.empty());
  }
  EXPECT_EQ(cli({"run", "/etc/much-too-long-a-name.conf"}).exit, kExitUsage);
  EXPECT_EQ(cli({"--help"}).exit, kExitDone);
  EXPECT_NE(cli({"--help"}).out.find("check"), std::string::npos);
  EXPECT_EQ(cli({"--version"}).out, std::string{"wireplane "} + WIREPLANE_VERSION + "\n");
}

// Goal: `check` says what a good file amounts to, and every fault of a bad one.
TEST_F(Cli, CheckTellsGoodFromBad) {
  const std::string good =
      file("wg0.conf", "[Interface]\nPrivateKey = " + key(1) + "\nListenPort = 7\n[Peer]\nPublicKey = " + key(2) +
                           "\nAllowedIPs = 10.0.0.1/24\nEndpoint = relay.invalid:1\n");
  const Answer fine = cli({"check", good.c_str(), "--no-resolve"});
  EXPECT_EQ(fine.exit, kExitDone);
  EXPECT_EQ(fine.out, good + ": ok: 1 peers with 1 allowed IPs, port 7, outer udp, inner tun\n");
  EXPECT_EQ(fine.err, "warning: " + good + ":6: AllowedIPs: 10.0.0.1/24 has host bits; taken as 10.0.0.0/24\n");
  const std::string bad = file("wg0.conf", "[Interface]\nPrivateKey = x\nDNS = 1.1.1.1\n");
  const Answer wrong = cli({"check", bad.c_str()});
  EXPECT_EQ(wrong.exit, kExitFailed);
  EXPECT_EQ(wrong.out, "");
  EXPECT_NE(wrong.err.find(bad + ":2: PrivateKey: expected"), std::string::npos);
  EXPECT_NE(wrong.err.find(bad + ":3: DNS: "), std::string::npos);
  EXPECT_EQ(cli({"check", "/nonexistent"}).exit, kExitFailed);
}

// Goal: keys made here are keys; a public key is what wg(8) would say it is (RFC 7748 §6.1).
TEST_F(Cli, KeysAreMadeAndDerived) {
  const Answer first = cli({"genkey"}), second = cli({"genkey"});
  EXPECT_EQ(first.exit, kExitDone);
  EXPECT_NE(first.out, second.out);
  const auto made = secret_key_from_base64(first.out.substr(0, 44));
  ASSERT_TRUE(made);
  EXPECT_EQ(made->expose()[0] & 7, 0);
  EXPECT_EQ(made->expose()[31] & 0xc0, 0x40);
  const auto alice = secret_key_from_hex("77076d0a7318a57d3c16c17251b26645df4c2f87ebc0992ab177fba51db92c2a");
  const auto hers = public_key_from_hex("8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4e6a");
  ASSERT_TRUE(alice && hers);
  const Answer derived = cli({"pubkey"}, std::string{to_base64(*alice).view()} + "\n");
  EXPECT_EQ(derived.out, std::string{to_base64(*hers).view()} + "\n") << derived.err;
  EXPECT_EQ(cli({"genpsk"}).out.size(), 45u);
  EXPECT_EQ(cli({"pubkey"}, "nonsense\n").exit, kExitFailed);
}

std::string example_report() {
  EngineReport report;
  report.name = "wg0";
  report.version = "0.1.0";
  report.aead = "avx512";
  report.forward = "all";
  report.uptime_s = 3725.5;
  report.workers.push_back(
      {.number = 0, .core = 2, .load = 0.314, .received_packets = 10, .sent_packets = 20, .sessions = 1});
  report.tables.push_back({.name = "peers", .used = 2, .size = 1024});
  report.ports.push_back({.side = "outer", .name = "udp", .counters = {{"received", 12}, {"nothing", 0}}});
  report.drops[static_cast<std::size_t>(Drop::kBadTag)] = 3;
  return to_json(report);
}

// A device that answers at `directory`/wg0.sock from a thread of its own.
class Answering {
 public:
  Answering(const std::string& directory, Configurable& device) {
    auto server = UapiServer::listen(uapi_socket_path("wg0", directory), device, example_report);
    if (!server) throw std::runtime_error(server.error().what);
    thread_ = std::thread{[this, held = std::move(*server)] {
      for (Instant now{1h}; !stop_; now += 1ms) {
        std::vector<pollfd> fds;
        held->add_fds(fds);
        poll(fds.data(), fds.size(), 1);
        held->handle(fds, now);
        while (held->step(now)) {
        }
      }
    }};
  }
  ~Answering() {
    stop_ = true;
    thread_.join();
  }

 private:
  std::atomic<bool> stop_ = false;
  std::thread thread_;
};

DeviceChange example_change() {
  DeviceChange change;
  change.private_key = secret_key_from_hex("77076d0a7318a57d3c16c17251b26645df4c2f87ebc0992ab177fba51db92c2a");
  change.listen_port = 51820;
  for (std::uint8_t i = 1; i <= 2; ++i) {
    PeerChange& peer = change.peers.emplace_back();
    peer.public_key = *public_key_from_base64(key(i));
    peer.persistent_keepalive_s = static_cast<std::uint16_t>(25 * (i - 1));
    if (i == 2) peer.preshared_key = SecretKey{std::array<std::uint8_t, 32>{0x77, 0x77, 0x77}};
    peer.allowed_ips.push_back({.prefix = *parse_prefix(i == 1 ? "10.0.0.0/8" : "fd00::/64"), .remove = false});
  }
  return change;
}

// Goal: `show` tells people what wg(8) tells and what it cannot, and never a secret.
TEST_F(Cli, ShowTellsPeersDropsLoadAndTables) {
  FakeDevice device;
  ASSERT_TRUE(device.apply(example_change()));
  device.slots[0]->view.received_octets = 1536;
  device.slots[0]->view.sent_octets = 5;
  device.slots[0]->view.last_handshake = 1s;
  const Answering answering{directory_, device};
  const Answer answer = cli({"show", "wg0"});
  EXPECT_EQ(answer.exit, kExitDone) << answer.err;
  for (const std::string& part :
       {std::string{"device: wg0\n  public key: "}, std::string{"  listening port: 51820\n"},
        std::string{"version: 0.1.0, AEAD: avx512, forward: all, up: 1 hour, 2 minutes, 5 seconds\n"},
        std::string{"31%"},
        std::string{"bad_tag                            3  Poly1305 refused it: forged or damaged\n"},
        "peer: " + key(1) + "\n", std::string{"allowed ips: 10.0.0.0/8\n"},
        std::string{"transfer: 1.50 KiB received, 5 B sent\n"}, std::string{"persistent keepalive: every 25 seconds\n"},
        std::string{"preshared key: (hidden)"}, std::string{"outer port: udp\n"}, std::string{" 2 of 1024\n"}})
    EXPECT_NE(answer.out.find(part), std::string::npos) << part << "\n--- in ---\n" << answer.out;
  EXPECT_EQ(answer.out.find("unknown_type"), std::string::npos) << "a drop that never happened";
  EXPECT_EQ(answer.out.find("7777"), std::string::npos) << "a preshared key";
  EXPECT_EQ(answer.out.find("d3d3"), std::string::npos) << "a preshared key";
  EXPECT_EQ(answer.out.find("dwdtCnMYpX"), std::string::npos) << "a private key";
  EXPECT_EQ(cli({"show"}).out, answer.out) << "the only device is all devices";
}

// Goal: `show --json` is one JSON document with everything, and no secret.
TEST_F(Cli, ShowJsonIsOneDocument) {
  FakeDevice device;
  ASSERT_TRUE(device.apply(example_change()));
  const Answering answering{directory_, device};
  const Answer answer = cli({"show", "wg0", "--json"});
  const auto document = nlohmann::json::parse(answer.out, nullptr, false);
  ASSERT_TRUE(document.is_object()) << answer.out;
  EXPECT_EQ(document["name"], "wg0");
  EXPECT_EQ(document["listen_port"], 51820);
  EXPECT_EQ(document["engine"]["drops"]["bad_tag"], 3);
  EXPECT_EQ(document["engine"]["workers"][0]["core"], 2);
  ASSERT_EQ(document["peers"].size(), 2u);
  EXPECT_EQ(document["peers"][0]["preshared_key"], false);
  EXPECT_EQ(document["peers"][1]["preshared_key"], true);
  EXPECT_EQ(document["peers"][1]["allowed_ips"][0], "fd00::/64");
  EXPECT_EQ(answer.out.find("7777"), std::string::npos) << "a preshared key";
  EXPECT_EQ(answer.out.find("d3d3"), std::string::npos) << "a preshared key";
  EXPECT_EQ(answer.out.find("dwdtCnMYpX"), std::string::npos) << "a private key";
  const auto all = nlohmann::json::parse(cli({"show", "--json"}).out, nullptr, false);
  ASSERT_TRUE(all.is_array());
  EXPECT_EQ(all.size(), 1u);
}

// Goal: where nothing runs, that is said.
TEST_F(Cli, ShowSaysWhenNothingRuns) {
  EXPECT_EQ(cli({"show"}).exit, kExitDone);
  EXPECT_NE(cli({"show"}).err.find("no device runs here"), std::string::npos);
  EXPECT_EQ(cli({"show", "--json"}).out, "[]\n");
  const Answer missing = cli({"show", "wg7"});
  EXPECT_EQ(missing.exit, kExitFailed);
  EXPECT_NE(missing.err.find("wg7.sock: No such file or directory"), std::string::npos) << missing.err;
}

// ---- log ----

static_assert(!std::is_constructible_v<LogField, std::string_view, const SecretKey&>, "a secret must not be loggable");
static_assert(!std::is_constructible_v<LogField, std::string_view, std::span<const std::uint8_t, 32>>);

// Goal: a line can be read by a machine, whatever the values hold.
TEST(Log, LinesAreKeyValuePairs) {
  PublicKey peer;
  const std::uint8_t octets[4] = {192, 0, 2, 1};
  EXPECT_EQ(
      log_line("peer_added", {{"peer", peer}, {"n", 3}, {"up", true}, {"at", Endpoint{Address::v4(octets), {}, 0, 7}}}),
      "event=peer_added peer=AAAA...AAAA n=3 up=true at=192.0.2.1:7");
  EXPECT_EQ(log_line("x", {{"a", "two words"}, {"b", "\"\n="}, {"c", ""}, {"d", "k=v"}}, 4),
            "event=x a=\"two words\" b=\"\\\"\\x0a=\" c=\"\" d=\"k=v\" suppressed=4");
}

// Goal: a place that would flood the log is silenced, and says afterwards how often.
TEST(Log, APlaceSpeaksFiveTimesInTenSeconds) {
  LogLimiter place;
  Instant now{1h};
  for (std::uint32_t i = 0; i < kLogBurst; ++i) EXPECT_TRUE(place.admit(now));
  for (int i = 0; i < 100; ++i) EXPECT_FALSE(place.admit(now + 9s));
  EXPECT_TRUE(place.admit(now + 10s));
  EXPECT_EQ(place.take_suppressed(), 100u);
  EXPECT_EQ(place.take_suppressed(), 0u);
}

// Goal: levels below the wanted one cost nothing and say nothing; each place is limited on its own.
TEST(Log, TheSinkHearsWhatItWants) {
  std::vector<std::string> heard;
  set_log_sink([&](LogLevel, const std::string& line) { heard.push_back(line); }, LogLevel::kWarning);
  for (int i = 0; i < 20; ++i) {
    WG_LOG(Info, "quiet");
    WG_LOG(Warning, "loud", {"i", i});
    if (i < 2) WG_LOG(Error, "other");
  }
  set_log_sink({});
  WG_LOG(Error, "nobody");
  EXPECT_EQ(heard.size(), 7u);
  EXPECT_EQ(heard[0], "event=loud i=0");
}

// Goal: the daemon's log goes to standard error, with level and time, or with the journal's priority.
TEST(Log, StandardErrorHasLevelAndTime) {
  for (const bool journal : {false, true}) {
    if (journal)
      setenv("JOURNAL_STREAM", "1:2", 1);
    else
      unsetenv("JOURNAL_STREAM");
    testing::internal::CaptureStderr();
    log_to_stderr(LogLevel::kInfo);
    WG_LOG(Warning, "hello", {"x", "{}"});
    const std::string line = testing::internal::GetCapturedStderr();
    set_log_sink({});
    if (journal) {
      EXPECT_EQ(line, "<4>level=warning event=hello x={}\n");
    } else {
      EXPECT_EQ(line.substr(0, 7), "time=20");
      EXPECT_NE(line.find("Z level=warning event=hello x={}\n"), std::string::npos) << line;
    }
  }
  unsetenv("JOURNAL_STREAM");
}

}  // namespace
}  // namespace wireplane
