// bench.h: what every benchmark of wireplane-bench shares: counters with the same names and units everywhere.
//
//   for (auto _ : state) work();                 |  const Meter meter;
//   meter.report(state, packets, octets);        |  packets and octets of one iteration
//
// Units: ns_per_packet, cycles_per_packet (TSC cycles: constant rate, not the core's), cycles_per_byte, Gbit/s, Mpps.
// A ratio between two lines is meaningful only from one interleaved run (README.md).
#pragma once
#include <benchmark/benchmark.h>
#include <x86intrin.h>

#include <chrono>
#include <cstdint>

namespace wireplane::bench {

class Meter {
 public:
  void report(benchmark::State& state, double packets, double octets) const {
    const auto cycles = static_cast<double>(__rdtsc() - cycles_);
    const std::chrono::duration<double, std::nano> elapsed = std::chrono::steady_clock::now() - start_;
    const double total = packets * static_cast<double>(state.iterations());
    if (total == 0) return;
    state.counters["ns_per_packet"] = elapsed.count() / total;
    state.counters["cycles_per_packet"] = cycles / total;
    state.counters["Mpps"] = 1e3 * total / elapsed.count();
    if (octets > 0) {
      const double all_octets = octets * static_cast<double>(state.iterations());
      state.counters["cycles_per_byte"] = cycles / all_octets;
      state.counters["Gbit/s"] = 8 * all_octets / elapsed.count();
    }
    state.SetItemsProcessed(static_cast<std::int64_t>(total));
  }

 private:
  std::uint64_t cycles_ = __rdtsc();
  std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
};

}  // namespace wireplane::bench
