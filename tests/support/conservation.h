// conservation.h: packet.h's law, asserted at the end of tests: what came in and was made went out, ended as intended,
// was dropped under a reason, or is still inside.
//
//   a simulation     Node's destructor: every worker, all workers together, and every buffer of the pool (sim.cpp)
//   real threads     expect_conserved(), when they have ended
//   daemon, library  they look when they end, and log "packets_unaccounted", which every_test_accounts() lets fail
//   a bare port      TestWorker's destructor: every buffer is back in the pool
#pragma once
#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <vector>

#include "control/log.h"
#include "dataplane/worker.h"

namespace wireplane::test {

// What every worker says it holds is what its counters say. `in_ports`: what wrappers around ports hold back, by
// worker.
inline void expect_conserved(Engine& engine, const std::vector<std::unique_ptr<Worker>>& workers,
                             const std::vector<std::size_t>& in_ports = {}) {
  std::int64_t under_way = 0;
  std::size_t in_rings = 0;
  for (unsigned i = 0; i < workers.size(); ++i) {
    const std::size_t held = workers[i]->held() + (i < in_ports.size() ? in_ports[i] : 0);
    EXPECT_EQ(workers[i]->counters().inside(), static_cast<std::int64_t>(held)) << "conservation law, worker " << i;
    under_way += static_cast<std::int64_t>(workers[i]->counters().handed_on.get()) -
                 static_cast<std::int64_t>(workers[i]->counters().taken_on.get());
    for (unsigned j = 0; j < engine.workers(); ++j) in_rings += engine.handover(i, j).size();
  }
  EXPECT_EQ(under_way, static_cast<std::int64_t>(in_rings)) << "conservation law, between workers";
}

// For every test of a program: a daemon or a node that ends with packets unaccounted for fails it.
//   const auto* const kLaw = every_test_accounts();
inline testing::Environment* every_test_accounts() {
  struct Law final : testing::Environment {
    void SetUp() override {
      set_log_sink(
          [](LogLevel, const std::string& line) {
            if (line.find("packets_unaccounted") != line.npos) ADD_FAILURE() << line;
          },
          LogLevel::kWarning);
    }
    void TearDown() override { set_log_sink({}); }
  };
  return testing::AddGlobalTestEnvironment(new Law);
}

}  // namespace wireplane::test
