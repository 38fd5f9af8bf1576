// pcap_port.h: a port that writes down what passes another port, for tshark and Wireshark.
//
//   file:   header | record | record ...         classic pcap, nanoseconds, LINKTYPE_RAW: every record is an IP packet
//   record: seconds 4 | nanoseconds 4 | captured 4 | original 4 | IP packet
//
// Inner packets are written as they are. Outer datagrams get IP and UDP headers made up from what the port knows: the
// remote's address and port, our sticky address (unspecified if the host chose it), our listening port, the DS field.
// Sending is written before it is tried. When the file cannot be written any more (disk full), capture ends with one
// report and traffic goes on. Several workers share a file, under a lock: a tool, not for full speed.
#pragma once
#include <atomic>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "dataplane/port.h"
#include "drivers/file_descriptor.h"
#include "drivers/wrapped_device.h"

namespace wireplane {

using WallClock = std::function<std::uint64_t()>;       // nanoseconds since 1970
using ReportError = std::function<void(const Error&)>;  // from any worker

class PcapFile {
 public:
  // Created or emptied; `report` is called at most once.
  [[nodiscard]] static Result<std::shared_ptr<PcapFile>> create(const std::string& path, ReportError report);

  // Whole records; false: capture has ended.
  bool write(const std::vector<std::uint8_t>& records);
  [[nodiscard]] bool ended() const { return ended_.load(std::memory_order_relaxed); }

 private:
  PcapFile(FileDescriptor fd, std::string path, ReportError report)
      : fd_{std::move(fd)}, path_{std::move(path)}, report_{std::move(report)} {}
  [[nodiscard]] bool write_all(const std::uint8_t* octets, std::size_t count);

  FileDescriptor fd_;
  std::string path_;
  ReportError report_;
  std::mutex mutex_;
  std::uint64_t written_ = 0;  // octets of whole records
  std::atomic<bool> ended_{false};
};

class PcapPort final : public Port {
 public:
  // outer: gives the listening port to write into outer headers; an inner port has none.
  PcapPort(Port& wrapped, std::shared_ptr<PcapFile> file, WallClock clock, const OuterDevice* outer = nullptr);

  void receive(Burst& burst, WorkerContext& context) override;
  std::size_t send(Burst& burst, WorkerContext& context) override;
  void wake_fds(std::vector<int>& fds) const override { wrapped_.wake_fds(fds); }
  [[nodiscard]] std::size_t waiting() const override { return wrapped_.waiting(); }

 private:
  void append(const Packet& packet, const Endpoint& peer, bool sending);

  Port& wrapped_;
  std::shared_ptr<PcapFile> file_;
  WallClock clock_;
  const OuterDevice* outer_;
  std::uint64_t now_ = 0;              // of the burst in hand
  std::vector<std::uint8_t> records_;  // of the burst in hand; keeps its memory
};

[[nodiscard]] std::unique_ptr<OuterDevice> with_capture(std::unique_ptr<OuterDevice> device,
                                                        std::shared_ptr<PcapFile> file, WallClock clock);
[[nodiscard]] std::unique_ptr<InnerDevice> with_inner_capture(std::unique_ptr<InnerDevice> device,
                                                              std::shared_ptr<PcapFile> file, WallClock clock);

}  // namespace wireplane
