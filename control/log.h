// log.h: what happened, one line an event, for machines and people: level=info event=peer_added peer=xTIB...= peers=3
//
// An event is told at one place in the code; each place may speak kLogBurst times in kLogPeriod, then it is silent, and
// its next line says how many were suppressed. Values are numbers, texts and public keys; a SecretKey does not compile.
// The library is silent until a sink is set (the daemon sets spdlog's, cli/log_to_stderr.h). Any thread.
#pragma once
#include <atomic>
#include <concepts>
#include <cstdint>
#include <functional>
#include <initializer_list>
#include <mutex>
#include <string>
#include <string_view>

#include "control/address_text.h"
#include "dataplane/base/secret.h"
#include "dataplane/base/time.h"
#include "dataplane/base/types.h"

namespace wireplane {

enum class LogLevel : int { kDebug, kInfo, kWarning, kError };
constexpr std::uint32_t kLogBurst = 5;
constexpr Duration kLogPeriod = 10s;

struct LogField {
  LogField(std::string_view name, std::string_view text) : key{name}, value{text} {}
  LogField(std::string_view name, const std::string& text) : key{name}, value{text} {}
  LogField(std::string_view name, const char* text) : key{name}, value{text} {}
  LogField(std::string_view name, bool yes) : key{name}, value{yes ? "true" : "false"} {}
  template <class Number>
  requires(std::integral<Number> && !std::same_as<Number, bool>) || std::floating_point<Number> LogField(
                                                                        std::string_view name, Number number)
      : key{name},
  value{std::to_string(number)} {}
  LogField(std::string_view name, const Endpoint& endpoint) : key{name}, value{to_text(endpoint)} {}
  LogField(std::string_view name, const PublicKey& peer);  // its beginning and end: enough to find it in `wg show`
  LogField(std::string_view name, const SecretKey& never) = delete;

  std::string_view key;
  std::string value;
};

// How often one place may speak. Its time comes in, so that it can be tested.
class LogLimiter {
 public:
  [[nodiscard]] bool admit(Instant now);          // false: be silent, it was counted
  [[nodiscard]] std::uint64_t take_suppressed();  // since the last line
 private:
  std::mutex mutex_;
  Instant period_began_{};
  std::uint32_t spoken_ = 0;
  std::uint64_t suppressed_ = 0;
};

using LogSink = std::function<void(LogLevel level, const std::string& line)>;
void set_log_sink(LogSink sink, LogLevel least = LogLevel::kInfo);  // empty: silence
[[nodiscard]] bool log_wanted(LogLevel level);
[[nodiscard]] std::string log_line(std::string_view event, std::initializer_list<LogField> fields,
                                   std::uint64_t suppressed = 0);
void log_event(LogLevel level, LogLimiter& place, std::string_view event, std::initializer_list<LogField> fields);

}  // namespace wireplane

// WG_LOG(Info, "peer_added", {"peer", key}, {"peers", count});
#define WG_LOG(level, event, ...)                                                                  \
  do {                                                                                             \
    if (::wireplane::log_wanted(::wireplane::LogLevel::k##level)) {                                \
      static ::wireplane::LogLimiter wg_log_place;                                                 \
      ::wireplane::log_event(::wireplane::LogLevel::k##level, wg_log_place, event, {__VA_ARGS__}); \
    }                                                                                              \
  } while (false)
