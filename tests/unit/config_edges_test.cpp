// Values at the edge of what the configuration takes, each alone in a file that is right otherwise.
#include <gtest/gtest.h>
#include <unistd.h>

#include "control/config.h"

namespace wireplane {
namespace {

const std::string kKey = std::string(42, 'B') + "A=";

ConfigResult parsed(const std::string& text) {
  return parse_config(text, "t.conf", resolve_never, [](std::string_view) { return 7u; });
}
bool takes(const std::string& section, const std::string& line) {
  std::string text = "[Interface]\nPrivateKey = " + kKey + "\n";
  if (section == "Peer")
    text += "[Peer]\nPublicKey = " + kKey + "\n";
  else if (section != "Interface")
    text += '[' + section + "]\n";
  const ConfigResult result = parsed(text + line + '\n');
  if (!result) {
    EXPECT_EQ(result.error().size(), 1u) << line;
    EXPECT_FALSE(result.error()[0].expected.empty()) << line;
  }
  return static_cast<bool>(result);
}

// Goal: every way of writing a value that the documentation names is taken.
TEST(ConfigEdges, TakesEveryWayOfWritingAValue) {
  for (const char* line :
       {"FwMark = 0x10", "FwMark = 0X10", "FwMark = off", "FwMark = 99", "Table = auto", "Table = off", "Table = 7",
        "MTU = 1280", "ListenPort = 0", "Address = 10.0.0.1/24, fd00::1/64"})
    EXPECT_TRUE(takes("Interface", line)) << line;
  for (const char* line :
       {"Workers = auto", "Workers = 64", "Outer = udp", "Outer = net_null0", "Inner = tun", "Inner = none",
        "Inner = net_tap0", "Forward = none", "Forward = all", "Forward = groups", "Poll = adaptive", "Poll = busy",
        "OuterGateway = 10.0.0.1, fd00::1", "OuterAddress = 10.0.0.1/24", "User = nobody", "Capture = /tmp/x"})
    EXPECT_TRUE(takes("Engine", line)) << line;
  for (const char* line : {"Endpoint = a.example:1", "Endpoint = [fd00::1]:1", "Endpoint = 10.0.0.1:65535",
                           "Group = a_b.c-D9", "Group = 7", "PersistentKeepalive = off", "AllowedIPs ="})
    EXPECT_TRUE(takes("Peer", line)) << line;
}

// Goal: what is almost right is refused, alone and with a sentence.
TEST(ConfigEdges, RefusesWhatIsAlmostRight) {
  for (const char* line :
       {"FwMark = 0xzz", "FwMark = 0x1234567890", "FwMark = 0x", "FwMark = -1", "Address =", "Address = ,",
        "Address = 10.0.0.1/33", "Table = no", "MTU = 1", "ListenPort = 65536", "ListenPort = off"})
    EXPECT_FALSE(takes("Interface", line)) << line;
  for (const char* line : {"Workers = 65", "Workers = 0", "Inner =", "Capture =", "Keylog =", "User =", "User = a b",
                           "User = 123456789012345678901234567890123", "OuterGateway = x", "OuterAddress = x",
                           "Forward = some", "Poll = never", "Peers = 0", "RouterAddress = 10.0.0.1/24"})
    EXPECT_FALSE(takes("Engine", line)) << line;
  const std::string long_name(254, 'a');
  for (const std::string& line :
       {std::string{"Endpoint ="}, std::string{"Endpoint = [::1"}, std::string{"Endpoint = no-colon"},
        std::string{"Endpoint = :1"}, std::string{"Endpoint = host:0"}, std::string{"Endpoint = host:99999"},
        "Endpoint = " + long_name + ":1", std::string{"Endpoint = ho!st:1"}, "Group = " + std::string(65, 'a'),
        std::string{"Group = a b"}, std::string{"Group = 99999999999"}, std::string{"PersistentKeepalive = 65536"},
        std::string{"AllowedIPs = 10.0.0.0/8,"}})
    EXPECT_FALSE(takes("Peer", line)) << line;
}

// Goal: another encoding is recognised; an unknown section is told once, not once a line; a file full of faults is not
// a page of errors.
TEST(ConfigEdges, TellsOnceWhatIsWrongThroughout) {
  for (const char* mark : {"\xff\xfe", "\xfe\xff"}) {
    const ConfigResult result = parsed(std::string{mark} + "[\0I");
    ASSERT_FALSE(result);
    EXPECT_EQ(result.error().size(), 1u);
  }
  const ConfigResult section = parsed("[Interface]\nPrivateKey = " + kKey + "\n[Pear]\nPublicKey = x\nEndpoint = y\n");
  ASSERT_FALSE(section);
  EXPECT_EQ(section.error().size(), 1u);
  std::string many = "[Interface]\nPrivateKey = " + kKey + "\n";
  for (int i = 0; i < 100; ++i) many += "[Peer]\nPublicKey = " + std::to_string(i) + "\n";
  const ConfigResult faults = parsed(many);
  ASSERT_FALSE(faults);
  EXPECT_LE(faults.error().size(), kMostErrors + 1);
  std::string host_bits = "[Interface]\nPrivateKey = " + kKey + "\n[Peer]\nPublicKey = " + kKey + "\n";
  for (int i = 1; i < 100; ++i) host_bits += "AllowedIPs = 10." + std::to_string(i) + ".0.1/16\n";
  const ConfigResult warned = parsed(host_bits);
  ASSERT_TRUE(warned);
  EXPECT_LE(warned->warnings.size(), kMostErrors);
}

// Goal: what is no file to read is said so; names of this host are resolved without anybody else.
TEST(ConfigEdges, FilesThatAreNoneAndNamesOfThisHost) {
  const ConfigResult directory = load_config("/tmp", resolve_never);
  ASSERT_FALSE(directory);
  EXPECT_NE(directory.error()[0].text().find("this is a directory"), std::string::npos);
  EXPECT_FALSE(load_config("/proc/self/mem", resolve_never)) << "it can be opened, and not read";
  const Result<Endpoint> v4 = resolve_by_host("127.0.0.1", 9), v6 = resolve_by_host("::1", 9);
  ASSERT_TRUE(v4 && v6);
  EXPECT_EQ(to_text(*v4), "127.0.0.1:9");
  EXPECT_EQ(to_text(*v6), "[::1]:9");
}

}  // namespace
}  // namespace wireplane
