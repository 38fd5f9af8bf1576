// gauges.h: what a soak looks at: memory, descriptors, latencies by third of the run.
//
// Memory is three numbers. *Allocated*: what malloc() has given out and not got back: a leak shows here, to the octet.
// *Mapped*: addresses that the process has: a leak of mmap() shows here, and no page can be resident beyond it.
// *Resident*: pages that were touched. It goes on growing towards what is mapped while nothing leaks: a ring of a
// thousand places that one event an hour walks through touches a new page a day.
#pragma once
#include <dirent.h>
#include <malloc.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cctype>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <map>
#include <numeric>
#include <string>
#include <vector>

namespace wireplane::test {

struct Memory {
  double resident_kib = 0, mapped_kib = 0, allocated_kib = 0;
};
inline Memory memory_now() {
  long mapped = 0, resident = 0;
  if (std::FILE* file = std::fopen("/proc/self/statm", "r")) {
    if (std::fscanf(file, "%ld %ld", &mapped, &resident) != 2) mapped = resident = 0;
    std::fclose(file);
  }
  const double page_kib = static_cast<double>(::sysconf(_SC_PAGESIZE)) / 1024;
  const struct mallinfo2 heap = ::mallinfo2();
  return {static_cast<double>(resident) * page_kib, static_cast<double>(mapped) * page_kib,
          static_cast<double>(heap.uordblks + heap.hblkhd) / 1024};
}

// Resident KiB of each mapping, by its address and name: to see what grows.
inline std::map<std::string, double> resident_by_mapping() {
  std::map<std::string, double> found;
  std::string name;
  if (std::FILE* file = std::fopen("/proc/self/smaps", "r")) {
    char line[512];
    for (double kib = 0; std::fgets(line, sizeof line, file) != nullptr;) {
      line[std::strcspn(line, "\n")] = 0;
      if (std::sscanf(line, "Rss: %lf", &kib) == 1)
        found[name] = kib;
      else if (std::isxdigit(line[0]) != 0 && std::strchr(line, '-') != nullptr)
        name = std::string{line, std::strcspn(line, "-")} + std::strrchr(line, ' ');
    }
    std::fclose(file);
  }
  return found;
}

inline std::size_t open_descriptors() {
  std::size_t count = 0;
  if (DIR* directory = ::opendir("/proc/self/fd")) {
    while (::readdir(directory) != nullptr) ++count;
    ::closedir(directory);
  }
  return count;
}

// By least squares, per minute.
struct Samples {
  std::vector<double> seconds, values;
  void add(double at, double value) { seconds.push_back(at), values.push_back(value); }
  void reserve(std::size_t count) { seconds.reserve(count), values.reserve(count); }  // not to be what grows
  [[nodiscard]] double growth(double from) const {
    for (std::size_t i = 0; i < seconds.size(); ++i)
      if (seconds[i] >= from) return values.back() - values[i];
    return 0;
  }
  [[nodiscard]] double slope_per_minute(double from) const {
    double n = 0, x = 0, y = 0, xx = 0, xy = 0;
    for (std::size_t i = 0; i < seconds.size(); ++i) {
      if (seconds[i] < from) continue;
      n += 1, x += seconds[i], y += values[i], xx += seconds[i] * seconds[i], xy += seconds[i] * values[i];
    }
    const double spread = n * xx - x * x;
    return spread <= 0 ? 0 : 60 * (n * xy - x * y) / spread;
  }
};

// Buckets of an eighth of a power of two: percentiles to about 9 %, whatever the number of values. One writer.
class Histogram {
 public:
  void add(std::uint64_t ns) { ++counts_[bucket(ns)], ++total_; }
  void add(const Histogram& other) {
    for (std::size_t i = 0; i < counts_.size(); ++i) counts_[i] += other.counts_[i];
    total_ += other.total_;
  }
  [[nodiscard]] std::uint64_t total() const { return total_; }
  [[nodiscard]] double percentile_us(double part) const {
    const auto wanted = static_cast<std::uint64_t>(static_cast<double>(total_) * part);
    std::uint64_t seen = 0;
    for (std::size_t i = 0; i < counts_.size(); ++i)
      if ((seen += counts_[i]) > wanted) return static_cast<double>((8 + i % 8) << (i / 8)) / 8 / 1000;
    return 0;
  }

 private:
  static std::size_t bucket(std::uint64_t ns) {
    if (ns < 1) ns = 1;
    const auto power = static_cast<std::size_t>(63 - __builtin_clzll(ns));
    const std::size_t eighth = power >= 3 ? (ns >> (power - 3)) & 7 : 0;
    return std::min<std::size_t>(power * 8 + eighth, 511);
  }
  std::array<std::uint64_t, 512> counts_{};
  std::uint64_t total_ = 0;
};

}  // namespace wireplane::test
