#include "control/log.h"

#include <chrono>
#include <memory>
#include <utility>

#include "control/noise/base64.h"

namespace wireplane {
namespace {

constexpr int kSilent = 100;
std::atomic<int> least_level{kSilent};
std::mutex sink_mutex;
LogSink current_sink;

// A value that could be mistaken for two is quoted; what is not printable is escaped.
void append_value(std::string& line, std::string_view value) {
  const bool plain =
      !value.empty() && value.find_first_of(" =\"\\") == value.npos &&
      value.find_first_not_of(
          "!#$%&'()*+,-./0123456789:;<>?@ABCDEFGHIJKLMNOPQRSTUVWXYZ[]^_`abcdefghijklmnopqrstuvwxyz{|}~") == value.npos;
  if (plain) {
    line += value;
    return;
  }
  constexpr char kHex[] = "0123456789abcdef";
  line += '"';
  for (const char letter : value) {
    const auto octet = static_cast<unsigned char>(letter);
    if (letter == '"' || letter == '\\') {
      line += '\\';
      line += letter;
    } else if (octet < 0x20 || octet == 0x7f) {
      line.append("\\x").append(1, kHex[octet >> 4]).append(1, kHex[octet & 15]);
    } else {
      line += letter;
    }
  }
  line += '"';
}

}  // namespace

LogField::LogField(std::string_view name, const PublicKey& peer) : key{name} {
  const Base64Key text = to_base64(peer);
  value.append(text.view().substr(0, 4)).append("...").append(text.view().substr(39, 4));
}

bool LogLimiter::admit(Instant now) {
  const std::lock_guard lock{mutex_};
  if (spoken_ == 0 || now - period_began_ >= kLogPeriod) {
    period_began_ = now;
    spoken_ = 0;
  }
  if (spoken_ >= kLogBurst) {
    ++suppressed_;
    return false;
  }
  ++spoken_;
  return true;
}

std::uint64_t LogLimiter::take_suppressed() {
  const std::lock_guard lock{mutex_};
  return std::exchange(suppressed_, 0);
}

void set_log_sink(LogSink sink, LogLevel least) {
  const std::lock_guard lock{sink_mutex};
  least_level.store(sink ? static_cast<int>(least) : kSilent, std::memory_order_relaxed);
  current_sink = std::move(sink);
}

bool log_wanted(LogLevel level) { return static_cast<int>(level) >= least_level.load(std::memory_order_relaxed); }

std::string log_line(std::string_view event, std::initializer_list<LogField> fields, std::uint64_t suppressed) {
  std::string line = "event=";
  append_value(line, event);
  for (const LogField& field : fields) {
    line.append(1, ' ').append(field.key).append(1, '=');
    append_value(line, field.value);
  }
  if (suppressed != 0) line += " suppressed=" + std::to_string(suppressed);
  return line;
}

void log_event(LogLevel level, LogLimiter& place, std::string_view event, std::initializer_list<LogField> fields) {
  const auto since_boot = std::chrono::steady_clock::now().time_since_epoch();  // the log is no part of the core
  if (!place.admit(Instant{std::chrono::duration_cast<Duration>(since_boot)})) return;
  const std::string line = log_line(event, fields, place.take_suppressed());
  const std::lock_guard lock{sink_mutex};
  if (current_sink) current_sink(level, line);
}

}  // namespace wireplane
