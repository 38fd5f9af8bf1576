// Texts, keys and files at their edges: addresses, log lines, secrets that move, names that resolve oddly.
//
// getaddrinfo(), fstat() and read() of this program stand before the C library's.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <netdb.h>
#include <netinet/in.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstring>
#include <sstream>

#include "control/address_text.h"
#include "control/cli/cli.h"
#include "control/config.h"
#include "control/log.h"
#include "control/noise/base64.h"

namespace wireplane {
namespace {

int resolver_says = 0;              // getaddrinfo()'s answer; 0: `found`
addrinfo* found = nullptr;          // a list of the test's
std::atomic<int> reads_fail{0};     // errno of the next read of a file
std::atomic<int> facts_refused{0};  // fstat()

}  // namespace
}  // namespace wireplane

extern "C" int getaddrinfo(const char*, const char*, const addrinfo*, addrinfo** out) {
  *out = wireplane::found;
  if (wireplane::resolver_says == EAI_SYSTEM) errno = ENETDOWN;
  return wireplane::resolver_says;
}
extern "C" void freeaddrinfo(addrinfo*) noexcept {}
extern "C" ssize_t read(int fd, void* into, size_t size) {
  if (const int code = wireplane::reads_fail.exchange(0); code != 0) return errno = code, -1;
  return ::syscall(SYS_read, fd, into, size);
}
extern "C" int fstat(int fd, struct stat* out) noexcept {
  if (wireplane::facts_refused.exchange(0) != 0) return errno = EIO, -1;
  return static_cast<int>(::syscall(SYS_fstat, fd, out));
}

namespace wireplane {
namespace {

// Goal: what names an endpoint, and what does not.
TEST(WordsEdges, Endpoints) {
  const auto index = [](std::string_view name) { return name == "lo" ? 1u : 0u; };
  const auto text = [&](std::string_view words) {
    const auto parsed = parse_endpoint(words, index);
    return parsed ? to_text(*parsed) : std::string{"none"};
  };
  EXPECT_EQ(text("192.0.2.1:7"), "192.0.2.1:7");
  EXPECT_EQ(text("[2001:db8::1]:7"), "[2001:db8::1]:7");
  EXPECT_NE(text("[fe80::1%lo]:7"), "none");
  for (const char* wrong :
       {"", ":", "7", "192.0.2.1", "192.0.2.1:", "192.0.2.1:65536", "[]:7", "[2001:db8::1:7", "[x]:7", "]:7", "[:7",
        "[2001:db8::1%lo]:7", "[fe80::1%]:7", "[fe80::1%nowhere]:7", "1.2.3:4:5"})
    EXPECT_EQ(text(wrong), "none") << wrong;
  EXPECT_FALSE(parse_endpoint("[fe80::1%lo]:7", nullptr)) << "nobody knows interfaces";
  EXPECT_EQ(to_text(Address{}), "none");
  EXPECT_EQ(interface_index_of_host("lo"), 1u);
  EXPECT_EQ(interface_index_of_host("7"), 7u);
  EXPECT_EQ(interface_index_of_host(""), 0u);
  EXPECT_EQ(interface_index_of_host("a-name-that-no-interface-can-have"), 0u);
  EXPECT_EQ(interface_index_of_host("no-such"), 0u);
}

// Goal: a value cannot make two lines of one, nor another field.
TEST(WordsEdges, LogValuesAreQuoted) {
  std::string line;
  set_log_sink([&](LogLevel, std::string_view told) { line = told; });
  WG_LOG(Error, "odd", {"a", "plain"}, {"b", "two words"}, {"c", "quote\" back\\slash"}, {"d", "line\nend\x7f\x01"},
         {"e", ""}, {"f", "a=b"});
  set_log_sink(nullptr);
  WG_LOG(Error, "nobody_hears", {"a", "b"});
  EXPECT_NE(line.find("a=plain"), line.npos) << line;
  EXPECT_NE(line.find("b=\"two words\""), line.npos) << line;
  EXPECT_NE(line.find("\\\""), line.npos) << line;
  EXPECT_NE(line.find("\\\\"), line.npos) << line;
  EXPECT_EQ(line.find('\n'), line.npos);
  EXPECT_EQ(line.find('\x7f'), line.npos);
  EXPECT_EQ(line.find("nobody_hears"), line.npos);
}

// Goal: a name gives the first address that can be used; the resolver's troubles have their words.
TEST(WordsEdges, NamesThatResolveOddly) {
  sockaddr_in v4{};
  v4.sin_family = AF_INET;
  v4.sin_port = htons(7);
  sockaddr_in6 v6{};
  v6.sin6_family = AF_INET6;
  v6.sin6_port = htons(7);
  addrinfo odd{}, nowhere{}, six{}, four{};
  odd.ai_family = AF_UNIX;
  odd.ai_next = &nowhere;
  sockaddr_in portless = v4;
  portless.sin_port = 0;
  nowhere.ai_family = AF_INET;
  nowhere.ai_addr = reinterpret_cast<sockaddr*>(&portless);
  found = &odd;
  EXPECT_EQ(resolve_by_host("relay", 7).error().what, "relay: neither IPv4 nor IPv6");
  v6.sin6_addr.s6_addr[0] = 0x20;
  six.ai_family = AF_INET6;
  six.ai_addr = reinterpret_cast<sockaddr*>(&v6);
  nowhere.ai_next = &six;
  EXPECT_EQ(to_text(*resolve_by_host("relay", 7)), "[2000::]:7");
  sockaddr_in usable = v4;
  usable.sin_addr.s_addr = htonl(0x0a000001);
  four.ai_family = AF_INET;
  four.ai_addr = reinterpret_cast<sockaddr*>(&usable);
  found = &four;
  EXPECT_EQ(to_text(*resolve_by_host("relay", 7)), "10.0.0.1:7");
  resolver_says = EAI_NONAME;
  EXPECT_NE(resolve_by_host("relay", 7).error().what.find("relay: Name or service not known"), std::string::npos);
  resolver_says = EAI_SYSTEM;
  EXPECT_EQ(resolve_by_host("relay", 7).error().what, "relay: Network is down");
  resolver_says = 0, found = nullptr;
}

// Goal: a file that cannot be read is told with why; an interrupted read goes on; a pipe is as good as a file.
TEST(WordsEdges, FilesThatCannotBeRead) {
  std::string path = testing::TempDir() + "wireplane-words-XXXXXX";
  const int fd = ::mkstemp(path.data());
  const std::string text = "[Interface]\nPrivateKey = AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAEA=\n";
  ASSERT_EQ(::write(fd, text.data(), text.size()), static_cast<ssize_t>(text.size()));
  const auto why = [&] {
    const auto config = load_config(path, resolve_never);
    return config ? std::string{"fine"} : config.error().front().text();
  };
  EXPECT_EQ(why(), "fine");
  reads_fail = EINTR;
  EXPECT_EQ(why(), "fine");
  reads_fail = EIO;
  EXPECT_NE(why().find("expected a file that can be read: Input/output error"), std::string::npos);
  facts_refused = 1;
  EXPECT_NE(why().find("expected a file that can be read: Input/output error"), std::string::npos);
  ::close(fd);
  ::unlink(path.c_str());
}

// Goal: the command line's rarer answers.
TEST(WordsEdges, TheCommandLine) {
  EXPECT_FALSE(valid_name("."));
  EXPECT_FALSE(valid_name(".."));
  EXPECT_FALSE(valid_name(""));
  EXPECT_TRUE(valid_name("..."));
  std::string path = testing::TempDir() + "wireplane-words-XXXXXX";
  const int fd = ::mkstemp(path.data());
  ::fchmod(fd, 0600);
  const std::string text = "[Interface]\nPrivateKey = AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAEA=\n";
  ASSERT_EQ(::write(fd, text.data(), text.size()), static_cast<ssize_t>(text.size()));
  std::ostringstream out, err;
  EXPECT_EQ(check_command(path, false, out, err), kExitDone);
  EXPECT_NE(out.str().find("port any"), std::string::npos) << out.str();
  std::string bad = "[Interface]\n";
  for (int i = 0; i < 200; ++i) bad += "Nonsense" + std::to_string(i) + " = 1\n";
  ASSERT_EQ(::write(fd, bad.data(), bad.size()), static_cast<ssize_t>(bad.size()));
  EXPECT_EQ(check_command(path, false, out, err), kExitFailed);
  EXPECT_NE(err.str().find("there may be more errors"), std::string::npos);
  ::close(fd);
  ::unlink(path.c_str());
  const char* words[] = {"wireplane", "run", "wg0.conf"};
  EXPECT_EQ(cli_main(3, words, {.run = {}, .in = nullptr, .out = &out, .err = &err}), kExitFailed);
}

}  // namespace
}  // namespace wireplane
