#include "control/engine_report.h"

#include <nlohmann/json.hpp>

namespace wireplane {

using Json = nlohmann::ordered_json;

std::string to_json(const EngineReport& report) {
  Json out{{"name", report.name},
           {"version", report.version},
           {"aead", report.aead},
           {"forward", report.forward},
           {"uptime_s", report.uptime_s}};
  Json& workers = out["workers"] = Json::array();
  for (const WorkerReport& worker : report.workers)
    workers.push_back({{"number", worker.number},
                       {"core", worker.core},
                       {"load", worker.load},
                       {"received_packets", worker.received_packets},
                       {"sent_packets", worker.sent_packets},
                       {"sessions", worker.sessions}});
  Json& tables = out["tables"] = Json::array();
  for (const TableReport& table : report.tables)
    tables.push_back({{"name", table.name}, {"used", table.used}, {"size", table.size}});
  Json& ports = out["ports"] = Json::array();
  for (const PortReport& port : report.ports) {
    Json counters = Json::object();
    for (const auto& [name, value] : port.counters) counters[name] = value;
    ports.push_back({{"side", port.side}, {"name", port.name}, {"counters", std::move(counters)}});
  }
  Json& drops = out["drops"] = Json::object();
  for (std::size_t i = 1; i < kDropCount; ++i) drops[std::string{metric(static_cast<Drop>(i))}] = report.drops[i];
  return out.dump(-1, ' ', false, Json::error_handler_t::replace);  // a name that is not UTF-8 is shown, not thrown
}

}  // namespace wireplane
