// engine_report.h: what `wireplane show` tells beyond what wg(8) has words for, as plain data, and as one JSON
// document.
#pragma once
#include <array>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "dataplane/base/drops.h"

namespace wireplane {

struct WorkerReport {
  std::uint32_t number = 0;
  int core = -1;    // -1: not pinned
  double load = 0;  // 0..1: of the last second or so, the part in which there were packets to work on
  std::uint64_t received_packets = 0, sent_packets = 0;
  std::uint64_t sessions = 0;  // whose receive side it owns
};

struct TableReport {  // anything of a bounded size: peers, sessions, buffers, rings
  std::string name;
  std::uint64_t used = 0, size = 0;
};

struct PortReport {
  std::string side;  // "outer" or "inner"
  std::string name;  // "udp", "tun wg0", a device string
  std::vector<std::pair<std::string, std::uint64_t>> counters;
};

struct EngineReport {
  std::string name, version, aead, forward;
  double uptime_s = 0;
  std::vector<WorkerReport> workers;
  std::vector<TableReport> tables;
  std::vector<PortReport> ports;
  std::array<std::uint64_t, kDropCount> drops{};
};

[[nodiscard]] std::string to_json(const EngineReport& report);  // one line

}  // namespace wireplane
