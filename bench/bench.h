// bench.h: what every benchmark of wireplane-bench shares: counters with the same names and units everywhere.
//
//   for (auto _ : state) work();                 |  const Meter meter;
//   meter.report(state, packets, octets);        |  packets and octets of one iteration
//
// Units: ns_per_packet, cycles_per_packet (TSC cycles: constant rate, not the core's), cycles_per_byte, Gbit/s, Mpps.
// Time is the calling thread's own CPU time, so that a neighbour on the same core does not count.
// A ratio between two lines is meaningful only from one interleaved run (README.md).
#pragma once
#include <benchmark/benchmark.h>
#include <time.h>
#include <x86intrin.h>

#include <chrono>
#include <cstdint>

namespace wireplane::bench {

class Meter {
 public:
  void report(benchmark::State& state, double packets, double octets) const {
    const double elapsed = thread_ns() - start_ns_;
    const double cycles = elapsed * tsc_per_ns();
    const double total = packets * static_cast<double>(state.iterations());
    if (total == 0) return;
    state.counters["ns_per_packet"] = elapsed / total;
    state.counters["cycles_per_packet"] = cycles / total;
    state.counters["Mpps"] = 1e3 * total / elapsed;
    const double all_octets = octets * static_cast<double>(state.iterations());  // 0 for empty packets: still reported
    state.counters["cycles_per_byte"] = all_octets > 0 ? cycles / all_octets : 0;
    state.counters["Gbit/s"] = 8 * all_octets / elapsed;
    state.SetItemsProcessed(static_cast<std::int64_t>(total));
  }

 private:
  static double thread_ns() {
    timespec now{};
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
    return 1e9 * static_cast<double>(now.tv_sec) + static_cast<double>(now.tv_nsec);
  }
  static double tsc_per_ns() {  // measured once, over 20 ms
    static const double rate = [] {
      const auto begin = std::chrono::steady_clock::now();
      const std::uint64_t from = __rdtsc();
      while (std::chrono::steady_clock::now() - begin < std::chrono::milliseconds{20}) {
      }
      const std::uint64_t to = __rdtsc();
      const std::chrono::duration<double, std::nano> wall = std::chrono::steady_clock::now() - begin;
      return static_cast<double>(to - from) / wall.count();
    }();
    return rate;
  }

  double start_ns_ = thread_ns();
};

}  // namespace wireplane::bench
