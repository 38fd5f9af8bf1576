#include "drivers/pcap_port.h"

#include <fcntl.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstring>

#include "dataplane/base/bytes.h"
#include "drivers/udp_ip.h"

namespace wireplane {
namespace {

// draft-ietf-opsawg-pcap §4, in this machine's byte order: readers tell by the magic number
constexpr std::uint32_t kMagicNanoseconds = 0xa1b23c4d;
constexpr std::uint16_t kMajor = 2, kMinor = 4;
constexpr std::uint32_t kSnapLength = 65'535 + 65;
constexpr std::uint32_t kLinkTypeRaw = 101;
constexpr std::size_t kRecordHeader = 16;
constexpr std::uint64_t kNanoseconds = 1'000'000'000;

std::array<std::uint8_t, 24> file_header() {
  std::array<std::uint8_t, 24> header{};
  store_le(header.data(), kMagicNanoseconds);
  store_le(header.data() + 4, kMajor);
  store_le(header.data() + 6, kMinor);
  store_le(header.data() + 16, kSnapLength);
  store_le(header.data() + 20, kLinkTypeRaw);
  return header;
}

Address unspecified(const Address& like) {
  Address address;
  address.family = like.family;
  return address;
}

}  // namespace

// ---- the file

Result<std::shared_ptr<PcapFile>> PcapFile::create(const std::string& path, ReportError report) {
  const auto failed = [&] {
    const int code = errno;
    return Error{"capture file " + path + ": " + std::strerror(code), code};
  };
  FileDescriptor fd{::open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600)};
  if (!fd) return failed();
  std::shared_ptr<PcapFile> file{new PcapFile{std::move(fd), path, std::move(report)}};
  const auto header = file_header();
  if (!file->write_all(header.data(), header.size())) return failed();
  file->written_ = header.size();
  return file;
}

bool PcapFile::write_all(const std::uint8_t* octets, std::size_t count) {
  while (count > 0) {
    const ssize_t written = ::write(fd_.get(), octets, count);
    if (written < 0 && errno == EINTR) continue;
    if (written <= 0) return false;
    octets += written;
    count -= static_cast<std::size_t>(written);
  }
  return true;
}

bool PcapFile::write(const std::vector<std::uint8_t>& records) {
  const std::lock_guard lock{mutex_};
  if (ended()) return false;
  if (write_all(records.data(), records.size())) {
    written_ += records.size();
    return true;
  }
  const int code = errno;
  ended_.store(true, std::memory_order_relaxed);
  // Readers dislike half a record; a pipe cannot be cut, and its reader has gone anyway.
  static_cast<void>(::ftruncate(fd_.get(), static_cast<off_t>(written_)));
  if (report_) report_(Error{"capture to " + path_ + " has ended: " + std::strerror(code), code});
  return false;
}

// ---- the port

PcapPort::PcapPort(Port& wrapped, std::shared_ptr<PcapFile> file, WallClock clock, const OuterDevice* outer)
    : wrapped_{wrapped}, file_{std::move(file)}, clock_{std::move(clock)}, outer_{outer} {}

void PcapPort::receive(Burst& burst, WorkerContext& context) {
  const std::size_t before = burst.size();
  wrapped_.receive(burst, context);
  if (burst.size() == before || file_->ended()) return;
  now_ = clock_();
  records_.clear();
  for (std::size_t i = before; i < burst.size(); ++i) append(burst[i], burst[i].from, false);
  static_cast<void>(file_->write(records_));
}

std::size_t PcapPort::send(Burst& burst, WorkerContext& context) {
  if (!burst.empty() && !file_->ended()) {
    now_ = clock_();
    records_.clear();
    for (Packet& packet : burst) append(packet, packet.to != nullptr ? *packet.to : Endpoint{}, true);
    static_cast<void>(file_->write(records_));
  }
  return wrapped_.send(burst, context);
}

void PcapPort::append(const Packet& packet, const Endpoint& peer, bool sending) {
  if (outer_ != nullptr && peer.remote.none()) return;  // it cannot be sent, and is nobody's datagram
  const std::size_t headers = outer_ != nullptr ? udp_ip_size(peer.remote) : 0;
  const std::size_t at = records_.size(), length = headers + packet.length;
  records_.resize(at + kRecordHeader + length);
  std::uint8_t* record = records_.data() + at;
  store_le(record, static_cast<std::uint32_t>(now_ / kNanoseconds));
  store_le(record + 4, static_cast<std::uint32_t>(now_ % kNanoseconds));
  store_le(record + 8, static_cast<std::uint32_t>(length));
  store_le(record + 12, static_cast<std::uint32_t>(length));
  std::uint8_t* payload = record + kRecordHeader + headers;
  std::memcpy(payload, packet.data, packet.length);
  if (outer_ == nullptr) return;

  DatagramHeader header;
  header.source = peer.local.family == peer.remote.family ? peer.local : unspecified(peer.remote);
  header.source_port = outer_->listen_port();
  header.destination = peer.remote;
  header.destination_port = peer.port;
  if (!sending) {
    std::swap(header.source, header.destination);
    std::swap(header.source_port, header.destination_port);
  }
  header.tos = packet.tos;
  write_udp_ip(payload, packet.length, header, ChecksumBy::kUs, ChecksumBy::kUs);
}

// ---- devices

std::unique_ptr<OuterDevice> with_capture(std::unique_ptr<OuterDevice> device, std::shared_ptr<PcapFile> file,
                                          WallClock clock) {
  const OuterDevice* outer = device.get();
  return std::make_unique<WrappedOuterDevice<PcapPort>>(std::move(device), "capture", [&](Port& queue, unsigned) {
    return std::make_unique<PcapPort>(queue, file, clock, outer);
  });
}

std::unique_ptr<InnerDevice> with_inner_capture(std::unique_ptr<InnerDevice> device, std::shared_ptr<PcapFile> file,
                                                WallClock clock) {
  return std::make_unique<WrappedInnerDevice<PcapPort>>(std::move(device), "capture", [&](Port& queue, unsigned) {
    return std::make_unique<PcapPort>(queue, file, clock);
  });
}

}  // namespace wireplane
