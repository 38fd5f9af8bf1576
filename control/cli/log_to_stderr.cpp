#include "control/cli/log_to_stderr.h"

#include <spdlog/sinks/stdout_sinks.h>
#include <spdlog/spdlog.h>

#include <cstdlib>
#include <memory>

namespace wireplane {
namespace {

struct Shown {
  spdlog::level::level_enum level;
  const char* journal;  // syslog's priority, see sd-daemon(3)
  const char* name;
};

Shown shown(LogLevel level) {
  switch (level) {
    case LogLevel::kDebug:
      return {spdlog::level::debug, "<7>", "debug"};
    case LogLevel::kInfo:
      return {spdlog::level::info, "<6>", "info"};
    case LogLevel::kWarning:
      return {spdlog::level::warn, "<4>", "warning"};
    default:
      return {spdlog::level::err, "<3>", "error"};
  }
}

}  // namespace

void log_to_stderr(LogLevel least) {
  const bool journal = std::getenv("JOURNAL_STREAM") != nullptr;
  auto logger = std::make_shared<spdlog::logger>("wireplane", std::make_shared<spdlog::sinks::stderr_sink_mt>());
  logger->set_level(spdlog::level::trace);  // what is wanted was decided before
  if (journal) {
    logger->set_pattern("%v");
  } else {
    logger->set_pattern("time=%Y-%m-%dT%H:%M:%S.%eZ %v", spdlog::pattern_time_type::utc);
  }
  logger->flush_on(spdlog::level::trace);
  set_log_sink(
      [logger, journal](LogLevel level, const std::string& line) {
        const Shown how = shown(level);
        logger->log(how.level, "{}level={} {}", journal ? how.journal : "", how.name, line);
      },
      least);
}

}  // namespace wireplane
