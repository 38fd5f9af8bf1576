// cores.h: which processor each thread of the engine runs on (hwloc knows the machine).
//
//   node 0 (the NIC's)                     node 1
//   core 0     core 1     core 2           core 3            two workers:  cores 0 and 1, their first hyperthreads
//   cpu 0 6    cpu 1 7    cpu 2 8          cpu 3 9           control:      core 3, away from the NIC
//
// Rules: workers take cores of the NIC's node first; no two workers on siblings of one core unless asked; control has
// a core without workers if there is one, else a worker's sibling, else a worker's processor, and then says so. Where
// workers outnumber what these rules allow, nobody is bound: the kernel's scheduler does better than a bad plan.
#pragma once
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "dataplane/base/result.h"

namespace wireplane {

struct Processor {  // one hardware thread that this process may use
  unsigned cpu;     // the operating system's number
  unsigned core;    // the physical core, a number of ours
  int node;         // NUMA node
  friend bool operator==(const Processor&, const Processor&) = default;
};

struct CoreWish {
  unsigned workers = 1;
  int node = -1;          // the NIC's NUMA node; -1: any
  bool siblings = false;  // workers may share a core's hyperthreads
};

struct CorePlan {
  std::vector<std::optional<unsigned>> workers;  // cpu; none: not bound
  std::optional<unsigned> control;
  bool shared = false;  // somebody shares a processor: waiting threads must sleep, not spin
  std::string text;     // for the log: "control cpu 3 (core 3, node 1); worker 0 cpu 0 (core 0, node 0); ..."
};

// The processors of this machine that this process may use, by node, core and number. Takes some milliseconds.
[[nodiscard]] Result<std::vector<Processor>> read_processors();
// The same of a machine described as hwloc does: "node:2 core:4 pu:2".
[[nodiscard]] Result<std::vector<Processor>> read_synthetic_processors(const std::string& description);

[[nodiscard]] CorePlan plan_cores(const std::vector<Processor>& processors, const CoreWish& wish);

Status bind_this_thread(unsigned cpu);
// -1: the machine does not say, or there is no such interface, or it is virtual.
[[nodiscard]] int numa_node_of_interface(std::string_view name);

}  // namespace wireplane
