// nodes.h: nodes of the embedded library in tests: opened, or the test fails; and where they are reached.
#pragma once
#include <gtest/gtest.h>

#include <chrono>
#include <cstdint>
#include <ctime>
#include <memory>
#include <string>
#include <vector>

#include "control/embed/node.h"

namespace wireplane::test {

using SteadyClock = std::chrono::steady_clock;

inline std::unique_ptr<Node> open(NodeOptions options = {}) {
  auto node = Node::open(std::move(options));
  EXPECT_TRUE(node) << (node ? "" : node.error().what);
  return node ? std::move(*node) : nullptr;
}

// As add_peer() and connect() read it.
inline std::string loopback(const Node& node) { return "127.0.0.1:" + std::to_string(node.port()); }

}  // namespace wireplane::test
