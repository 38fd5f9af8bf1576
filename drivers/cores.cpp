#include "drivers/cores.h"

#include <hwloc.h>
#include <sched.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <memory>

namespace wireplane {
namespace {

struct TopologyCloser {
  void operator()(hwloc_topology* topology) const { hwloc_topology_destroy(topology); }
};
using Topology = std::unique_ptr<hwloc_topology, TopologyCloser>;

Error failed(const std::string& what) { return Error{"cores: " + what + ": " + std::strerror(errno), errno}; }

int node_of(hwloc_obj_t pu) {
  return pu->nodeset != nullptr ? hwloc_bitmap_first(pu->nodeset) : -1;  // memory is attached beside the tree
}

// `synthetic` null: this machine.
Result<std::vector<Processor>> read(const char* synthetic) {
  hwloc_topology_t raw = nullptr;
  if (hwloc_topology_init(&raw) != 0) return failed("hwloc");
  const Topology topology{raw};
  if (synthetic != nullptr && hwloc_topology_set_synthetic(raw, synthetic) != 0)
    return failed(std::string{"not a machine: "} + synthetic);
  if (hwloc_topology_load(raw) != 0) return failed("reading the machine's topology");

  cpu_set_t mine;  // taskset, cgroups
  CPU_ZERO(&mine);
  const bool limited = synthetic == nullptr && ::sched_getaffinity(0, sizeof mine, &mine) == 0;
  std::vector<Processor> processors;
  for (int i = 0; i < hwloc_get_nbobjs_by_type(raw, HWLOC_OBJ_PU); ++i) {
    hwloc_obj_t pu = hwloc_get_obj_by_type(raw, HWLOC_OBJ_PU, static_cast<unsigned>(i));
    if (limited && !CPU_ISSET(pu->os_index, &mine)) continue;
    hwloc_obj_t core = hwloc_get_ancestor_obj_by_type(raw, HWLOC_OBJ_CORE, pu);
    processors.push_back({pu->os_index, core != nullptr ? core->logical_index : pu->logical_index, node_of(pu)});
  }
  if (processors.empty()) return Error{"cores: this process may use no processor", ENODEV};
  return processors;
}

std::string describe(const std::string& who, const Processor& p) {
  return who + " cpu " + std::to_string(p.cpu) + " (core " + std::to_string(p.core) +
         (p.node >= 0 ? ", node " + std::to_string(p.node) : "") + ")";
}

// Processors in the order workers should take them: the wished node first, all first hyperthreads before any second.
struct Candidate {
  Processor processor;
  unsigned thread;  // which hyperthread of its core
};
std::vector<Candidate> in_order(const std::vector<Processor>& processors, int node) {
  std::vector<Candidate> all;
  for (const Processor& p : processors) {
    const auto before = std::ranges::count_if(all, [&](const Candidate& c) { return c.processor.core == p.core; });
    all.push_back({p, static_cast<unsigned>(before)});
  }
  const auto rank = [node](const Candidate& c) {
    return std::tuple{node >= 0 && c.processor.node != node, c.thread, c.processor.core};
  };
  std::ranges::stable_sort(all, {}, rank);
  return all;
}

CorePlan unbound(unsigned workers, std::string why) {
  CorePlan plan;
  plan.workers.resize(workers);
  plan.shared = true;
  plan.text = std::to_string(workers) + " workers and control are not bound to cores: " + std::move(why);
  return plan;
}

}  // namespace

Result<std::vector<Processor>> read_processors() { return read(nullptr); }
Result<std::vector<Processor>> read_synthetic_processors(const std::string& description) {
  return read(description.c_str());
}

CorePlan plan_cores(const std::vector<Processor>& processors, const CoreWish& wish) {
  std::vector<Candidate> candidates = in_order(processors, wish.node);
  if (!wish.siblings) std::erase_if(candidates, [](const Candidate& c) { return c.thread > 0; });
  if (wish.workers > candidates.size())
    return unbound(wish.workers, "there are " + std::to_string(candidates.size()) +
                                     (wish.siblings ? " processors" : " cores (hyperthreads were not asked for)"));

  // Control first: the core that workers would take last, if they leave one; else a processor they leave; else theirs.
  const auto takes = [&](std::size_t count, auto property) {
    return [&, count, property](const Processor& p) {
      return std::any_of(candidates.begin(), candidates.begin() + static_cast<std::ptrdiff_t>(count),
                         [&](const Candidate& c) { return c.processor.*property == p.*property; });
    };
  };
  std::vector<Candidate> everyone = in_order(processors, wish.node);
  std::ranges::reverse(everyone);
  const auto without = [&](auto taken) {
    return std::ranges::find_if(everyone, [&](const Candidate& c) { return !taken(c.processor); });
  };
  CorePlan plan;
  auto control = without(takes(wish.workers, &Processor::core));
  if (control != everyone.end())  // of that core, its first hyperthread
    control = std::ranges::find_if(everyone, [core = control->processor.core](const Candidate& c) {
      return c.processor.core == core && c.thread == 0;
    });
  if (control == everyone.end()) control = without(takes(wish.workers, &Processor::cpu));
  if (control == everyone.end()) {
    const unsigned last = candidates[wish.workers - 1].processor.cpu;
    control = std::ranges::find_if(everyone, [last](const Candidate& c) { return c.processor.cpu == last; });
    plan.shared = true;
  }
  plan.control = control->processor.cpu;
  plan.text = describe("control", control->processor);
  for (unsigned worker = 0; worker < wish.workers; ++worker) {
    const Processor& p = candidates[worker].processor;
    plan.workers.emplace_back(p.cpu);
    plan.text += "; " + describe("worker " + std::to_string(worker), p);
  }
  if (plan.shared) plan.text += "; control shares its processor with a worker";
  return plan;
}

Status bind_this_thread(unsigned cpu) {
  cpu_set_t set;
  CPU_ZERO(&set);
  if (cpu >= CPU_SETSIZE) return Error{"cores: no cpu " + std::to_string(cpu), EINVAL};
  CPU_SET(cpu, &set);
  if (::sched_setaffinity(0, sizeof set, &set) != 0) return failed("binding a thread to cpu " + std::to_string(cpu));
  return Nothing{};
}

int numa_node_of_interface(std::string_view name) {
  if (name.empty() || name.find('/') != std::string_view::npos) return -1;
  std::ifstream file{"/sys/class/net/" + std::string{name} + "/device/numa_node"};
  int node = -1;
  return file >> node ? node : -1;
}

}  // namespace wireplane
