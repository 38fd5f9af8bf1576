#include "drivers/pcap_port.h"

#include <gtest/gtest.h>
#include <sys/resource.h>

#include <csignal>
#include <filesystem>
#include <fstream>

#include "dataplane/base/bytes.h"
#include "drivers/memory_port.h"
#include "drivers/udp_ip.h"
#include "tests/support/test_worker.h"

namespace wireplane {
namespace {

constexpr std::uint64_t kTime = 1'700'000'000'123'456'789;

struct TemporaryFile {
  TemporaryFile()
      : path{std::filesystem::temp_directory_path() / ("wireplane-pcap-test-" + std::to_string(::getpid()))} {}
  ~TemporaryFile() { std::filesystem::remove(path); }
  std::string path;
};

struct Record {
  std::uint64_t time;
  std::vector<std::uint8_t> packet;
};

std::vector<Record> read_capture(const std::string& path) {
  std::ifstream in{path, std::ios::binary};
  const std::vector<char> text{std::istreambuf_iterator<char>{in}, {}};
  const std::vector<std::uint8_t> octets{text.begin(), text.end()};
  std::vector<Record> records;
  EXPECT_GE(octets.size(), 24u);
  EXPECT_EQ(load_le<std::uint32_t>(octets.data()), 0xa1b23c4d);
  EXPECT_EQ(load_le<std::uint32_t>(octets.data() + 20), 101u);
  for (std::size_t at = 24; at < octets.size();) {
    const std::uint8_t* header = octets.data() + at;
    const std::uint32_t length = load_le<std::uint32_t>(header + 8);
    EXPECT_EQ(length, load_le<std::uint32_t>(header + 12));
    EXPECT_LE(at + 16 + length, octets.size());
    records.push_back({load_le<std::uint32_t>(header) * 1'000'000'000ull + load_le<std::uint32_t>(header + 4),
                       {header + 16, header + 16 + length}});
    at += 16 + length;
  }
  return records;
}

std::shared_ptr<PcapFile> create_or_fail(const std::string& path, ReportError report = {}) {
  auto file = PcapFile::create(path, std::move(report));
  if (!file) ADD_FAILURE() << file.error().what;
  return file ? *file : nullptr;
}

const WallClock kClock = [] { return kTime; };

// Goal: outer datagrams are captured as IP packets that others can read: addresses, ports, DS field, right checksums.
// Method: send and receive over both families; read the file back with the ethdev port's own strict parser.
TEST(PcapPort, WritesOuterDatagramsWithHeaders) {
  TemporaryFile file;
  MemoryNetwork network;
  const Address a4 = ipv4(10, 0, 0, 1), a6 = ipv6({0xfd}, 1), b4 = ipv4(10, 0, 0, 2), b6 = ipv6({0xfd}, 2);
  auto a = with_capture(network.attach({a4, a6}, 1000), create_or_fail(file.path), kClock);
  auto b = network.attach({b4, b6}, 2000);
  TestWorker wa, wb;
  Endpoint to4 = endpoint_of(b4, 2000), to6 = endpoint_of(b6, 2000);
  to6.local = a6;
  wa.put("over four", &to4, 0x88);
  wa.put("over six!", &to6, 0x02);
  EXPECT_EQ(a->queue(0).send(wa.burst, wa.context), 2u);
  const Endpoint back4 = endpoint_of(a4, 1000), back6 = endpoint_of(a6, 1000);
  wb.put("back", &back4);
  wb.put("back", &back6, 0x01);
  EXPECT_EQ(b->queue(0).send(wb.burst, wb.context), 2u);
  EXPECT_EQ(wa.receive(a->queue(0), 2), 2u);

  const auto records = read_capture(file.path);
  ASSERT_EQ(records.size(), 4u);
  const auto found_in = [&](std::size_t i) {
    FoundDatagram found;
    EXPECT_EQ(read_udp_ip(records[i].packet.data(), records[i].packet.size(), {}, 0, found), Drop::kNone) << i;
    EXPECT_EQ(records[i].time, kTime);
    return found;
  };
  FoundDatagram found = found_in(0);
  EXPECT_EQ(found.source, ipv4(0, 0, 0, 0));  // the host chose it
  EXPECT_EQ(found.destination, b4);
  EXPECT_EQ(found.source_port, 1000);
  EXPECT_EQ(found.destination_port, 2000);
  EXPECT_EQ(found.tos, 0x88);
  EXPECT_EQ(std::string(reinterpret_cast<const char*>(found.payload), found.length), "over four");
  found = found_in(1);
  EXPECT_EQ(found.source, a6);
  EXPECT_EQ(found.tos, 0x02);
  found = found_in(2);
  EXPECT_EQ(found.source, b4);
  EXPECT_EQ(found.destination, a4);
  EXPECT_EQ(found.source_port, 2000);
  EXPECT_EQ(found.destination_port, 1000);
  found = found_in(3);
  EXPECT_EQ(found.source, b6);
  EXPECT_EQ(found.tos, 0x01);
}

// Goal: inner packets are written as they are. Method: one in, one out.
TEST(PcapPort, WritesInnerPacketsUnchanged) {
  TemporaryFile file;
  auto memory = std::make_unique<MemoryInnerDevice>();
  MemoryInnerDevice& host = *memory;
  auto device = with_inner_capture(std::move(memory), create_or_fail(file.path), kClock);
  TestWorker w;
  const std::vector<std::uint8_t> packet{0x45, 1, 2, 3, 4, 5};
  EXPECT_TRUE(host.push(packet));
  EXPECT_EQ(w.receive(device->queue(0)), 1u);
  EXPECT_EQ(device->queue(0).send(w.burst, w.context), 1u);
  const auto records = read_capture(file.path);
  ASSERT_EQ(records.size(), 2u);
  EXPECT_EQ(records[0].packet, packet);
  EXPECT_EQ(records[1].packet, packet);
}

// Goal: a full disk ends the capture with one report; traffic goes on, and the file ends with a whole record.
// Method: a limit on file size.
TEST(PcapPort, AFullDiskEndsTheCaptureNotTheTraffic) {
  TemporaryFile file;
  std::vector<std::string> reports;
  auto memory = std::make_unique<MemoryInnerDevice>(1, 1024);
  MemoryInnerDevice& host = *memory;
  auto device = with_inner_capture(
      std::move(memory), create_or_fail(file.path, [&](const Error& e) { reports.push_back(e.what); }), kClock);
  rlimit before{}, small{};
  ASSERT_EQ(::getrlimit(RLIMIT_FSIZE, &before), 0);
  small = before;
  small.rlim_cur = 2000;
  auto* handler = std::signal(SIGXFSZ, SIG_IGN);
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &small), 0);
  TestWorker w;
  std::size_t sent = 0;
  for (int i = 0; i < 50; ++i) {
    w.put(std::vector<std::uint8_t>(150, 0x45));
    sent += device->queue(0).send(w.burst, w.context);
  }
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &before), 0);
  std::signal(SIGXFSZ, handler);
  EXPECT_EQ(sent, 50u);
  ASSERT_EQ(reports.size(), 1u);
  EXPECT_NE(reports[0].find(file.path), std::string::npos);
  std::vector<std::uint8_t> packet;
  for (int i = 0; i < 50; ++i) EXPECT_TRUE(host.pop(packet));
  EXPECT_EQ(read_capture(file.path).size(), (2000u - 24) / 166);
}

// Goal: a path that cannot be written is an error in words. Method: a directory that does not exist.
TEST(PcapPort, SaysWhyAFileCannotBeMade) {
  const auto refused = PcapFile::create("/nonexistent/capture.pcap", {});
  ASSERT_FALSE(refused);
  EXPECT_NE(refused.error().what.find("/nonexistent/capture.pcap"), std::string::npos);
}

// Goal: Wireshark reads it. Method: a handshake initiation's shape, dissected by tshark where the host has it.
TEST(PcapPort, TsharkKnowsItForWireGuard) {
  if (std::system("tshark --version >/dev/null 2>&1") != 0) GTEST_SKIP() << "no tshark on this host";
  TemporaryFile file;
  MemoryNetwork network;
  auto a = with_capture(network.attach({ipv4(10, 0, 0, 1)}, 1000), create_or_fail(file.path), kClock);
  TestWorker w;
  const Endpoint to = endpoint_of(ipv4(10, 0, 0, 2), 51820);
  std::vector<std::uint8_t> initiation(148, 7);
  initiation[0] = 1;
  initiation[1] = initiation[2] = initiation[3] = 0;
  w.put(initiation, &to);
  EXPECT_EQ(a->queue(0).send(w.burst, w.context), 0u);  // nobody there; captured all the same
  FILE* tshark = ::popen(("tshark -r " + file.path +
                          " -o udp.check_checksum:TRUE -o ip.check_checksum:TRUE -T fields "
                          "-e wg.type -e ip.checksum.status -e udp.checksum.status 2>/dev/null")
                             .c_str(),
                         "r");
  char line[128] = "";
  static_cast<void>(std::fgets(line, sizeof line, tshark));
  ::pclose(tshark);
  EXPECT_STREQ(line, "1\t1\t1\n");  // an initiation; both checksums good
}

}  // namespace
}  // namespace wireplane
