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
    const auto iterations = static_cast<double>(state.iterations());
    set(state, thread_ns() - start_ns_, packets * iterations, octets * iterations);
  }
  // For benches that time themselves: nanoseconds, packets and octets of the whole run.
  static void set(benchmark::State& state, double ns, double packets, double octets) {
    if (packets == 0) return;
    const double cycles = ns * tsc_per_ns();
    state.counters["ns_per_packet"] = ns / packets;
    state.counters["cycles_per_packet"] = cycles / packets;
    state.counters["Mpps"] = 1e3 * packets / ns;
    state.counters["cycles_per_byte"] = octets > 0 ? cycles / octets : 0;  // 0 for empty packets: still reported
    state.counters["Gbit/s"] = 8 * octets / ns;
    state.SetItemsProcessed(static_cast<std::int64_t>(packets));
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

 private:
  static double thread_ns() {
    timespec now{};
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
    return 1e9 * static_cast<double>(now.tv_sec) + static_cast<double>(now.tv_nsec);
  }

  double start_ns_ = thread_ns();
};

}  // namespace wireplane::bench
