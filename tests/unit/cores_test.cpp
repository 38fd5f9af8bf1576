#include "drivers/cores.h"

#include <gtest/gtest.h>
#include <sched.h>

#include <map>
#include <set>
#include <thread>

namespace wireplane {
namespace {

std::vector<Processor> machine(const char* description) {
  auto processors = read_synthetic_processors(description);
  if (!processors) ADD_FAILURE() << processors.error().what;
  return processors ? *processors : std::vector<Processor>{};
}

struct Placed {
  std::map<unsigned, Processor> by_cpu;
  explicit Placed(const std::vector<Processor>& processors) {
    for (const Processor& p : processors) by_cpu.insert({p.cpu, p});
  }
  [[nodiscard]] unsigned core(std::optional<unsigned> cpu) const { return by_cpu.at(cpu.value()).core; }
  [[nodiscard]] int node(std::optional<unsigned> cpu) const { return by_cpu.at(cpu.value()).node; }
};

// Goal: a described machine is read as it is. Method: two nodes of two cores of two hyperthreads.
TEST(Cores, ReadsNodesCoresAndHyperthreads) {
  const auto processors = machine("node:2 core:2 pu:2");
  ASSERT_EQ(processors.size(), 8u);
  EXPECT_EQ(processors[0], (Processor{0, 0, 0}));
  EXPECT_EQ(processors[1], (Processor{1, 0, 0}));
  EXPECT_EQ(processors[7], (Processor{7, 3, 1}));
  EXPECT_FALSE(read_synthetic_processors("not a machine"));
}

// Goal: the rules of cores.h hold on many machines. Method: all numbers of workers on each; every rule is checked.
TEST(Cores, KeepsItsRulesOnEveryMachine) {
  for (const char* description : {"node:1 core:1 pu:1", "node:1 core:1 pu:2", "node:1 core:2 pu:1",
                                  "node:2 core:4 pu:2", "node:4 core:3 pu:1", "core:8 pu:2", "node:2 core:2 pu:4"}) {
    const auto processors = machine(description);
    const Placed placed{processors};
    std::set<unsigned> cores;
    for (const Processor& p : processors) cores.insert(p.core);
    for (unsigned workers = 1; workers <= processors.size() + 1; ++workers) {
      for (const bool siblings : {false, true}) {
        const CorePlan plan = plan_cores(processors, {.workers = workers, .siblings = siblings});
        SCOPED_TRACE(std::string{description} + ", " + std::to_string(workers) + " workers: " + plan.text);
        ASSERT_EQ(plan.workers.size(), workers);
        if (workers > (siblings ? processors.size() : cores.size())) {
          EXPECT_FALSE(plan.control || plan.workers[0]);
          EXPECT_TRUE(plan.shared);
          continue;
        }
        std::set<unsigned> cpus, worker_cores;
        for (const auto& cpu : plan.workers) {
          cpus.insert(cpu.value());
          worker_cores.insert(placed.core(cpu));
        }
        EXPECT_EQ(cpus.size(), workers);                                               // a processor each
        EXPECT_EQ(worker_cores.size(), std::min<std::size_t>(workers, cores.size()));  // cores before siblings
        EXPECT_EQ(worker_cores.contains(placed.core(plan.control)), workers >= cores.size());
        EXPECT_EQ(cpus.contains(plan.control.value()), workers == processors.size());
        EXPECT_EQ(plan.shared, workers == processors.size());
      }
    }
  }
}

// Goal: workers sit beside the NIC, control away from it. Method: two nodes, the NIC on either.
TEST(Cores, PrefersTheNodeOfTheNic) {
  const auto processors = machine("node:2 core:4 pu:2");
  const Placed placed{processors};
  for (const int node : {0, 1}) {
    const CorePlan plan = plan_cores(processors, {.workers = 4, .node = node});
    for (const auto& cpu : plan.workers) EXPECT_EQ(placed.node(cpu), node) << plan.text;
    EXPECT_EQ(placed.node(plan.control), 1 - node) << plan.text;
    const CorePlan more = plan_cores(processors, {.workers = 5, .node = node});
    EXPECT_EQ(placed.node(more.workers[4]), 1 - node) << more.text;
  }
}

// Goal: a plan can be read. Method: a small machine's, whole.
TEST(Cores, PlanIsPrintable) {
  EXPECT_EQ(plan_cores(machine("node:1 core:2 pu:1"), {.workers = 1}).text,
            "control cpu 1 (core 1, node 0); worker 0 cpu 0 (core 0, node 0)");
  EXPECT_EQ(
      plan_cores(machine("node:1 core:1 pu:1"), {.workers = 1}).text,
      "control cpu 0 (core 0, node 0); worker 0 cpu 0 (core 0, node 0); control shares its processor with a worker");
  EXPECT_EQ(plan_cores(machine("node:1 core:2 pu:2"), {.workers = 3}).text,
            "3 workers and control are not bound to cores: there are 2 cores (hyperthreads were not asked for)");
}

// Goal: this machine can be read, and a thread bound, within what the process may use. Method: bind to each allowed
// cpu.
TEST(Cores, BindsThreadsOnThisMachine) {
  const auto processors = read_processors();
  ASSERT_TRUE(processors);
  for (const Processor& p : *processors)
    std::thread{[&p] {
      const Status bound = bind_this_thread(p.cpu);
      EXPECT_TRUE(bound);
      EXPECT_EQ(::sched_getcpu(), static_cast<int>(p.cpu));
      const auto left = read_processors();  // only that one is allowed now
      ASSERT_TRUE(left);
      EXPECT_EQ(left->size(), 1u);
    }}.join();
  EXPECT_FALSE(bind_this_thread(100'000));
  EXPECT_EQ(numa_node_of_interface("lo"), -1);
  EXPECT_EQ(numa_node_of_interface("../../etc"), -1);
}

}  // namespace
}  // namespace wireplane
