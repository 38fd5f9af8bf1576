// schedules.h: every interleaving of the steps of a few threads, small enough to try them all.
//
// A scenario is a few threads, each a list of steps on real objects or on a model where the real step is more than one.
// A step may be blocked until a condition holds. run_all() plays every schedule from the beginning and counts them;
// sequential consistency is assumed, the memory orders themselves are TSan's and the labels' business. Each scenario is
// also played with the precaution it proves left out: then it must fail.
#pragma once
#include <functional>
#include <memory>
#include <vector>

namespace wireplane::test {

struct Step {
  std::function<void()> act;
  std::function<bool()> enabled = [] { return true; };
};
using Thread = std::vector<Step>;

// `build` makes a fresh scenario: its threads, and `check`, run when all are through (or nobody can go on).
struct Scenario {
  std::vector<Thread> threads;
  std::function<void()> check;
  std::shared_ptr<void> state;
};

struct Outcome {
  std::size_t schedules = 0, stuck = 0;
};

inline Outcome run_all(const std::function<Scenario()>& build) {
  Outcome outcome;
  std::vector<std::size_t> choice;  // at each point of the schedule, which of the enabled threads goes on
  for (;;) {
    Scenario scenario = build();
    std::vector<std::size_t> at(scenario.threads.size()), options;
    for (std::size_t depth = 0;; ++depth) {
      std::vector<std::size_t> enabled;
      bool left = false;
      for (std::size_t t = 0; t < at.size(); ++t) {
        if (at[t] == scenario.threads[t].size()) continue;
        left = true;
        if (scenario.threads[t][at[t]].enabled()) enabled.push_back(t);
      }
      if (enabled.empty()) {
        if (left) ++outcome.stuck;
        break;
      }
      if (depth == choice.size()) choice.push_back(0);
      options.push_back(enabled.size());
      const std::size_t t = enabled[choice[depth]];
      scenario.threads[t][at[t]++].act();
    }
    scenario.check();
    ++outcome.schedules;
    choice.resize(options.size());
    while (!choice.empty() && choice.back() + 1 == options[choice.size() - 1]) choice.pop_back();
    if (choice.empty()) return outcome;
    ++choice.back();
  }
}

}  // namespace wireplane::test
