// The table answers to whole receiver indices only.
#include "dataplane/session/session_table.h"

#include <gtest/gtest.h>

#include "dataplane/engine.h"

namespace wireplane {
namespace {

// Goal: an index finds its session, and no other index does, however alike: all 32 bits count.
TEST(SessionTable, ComparesAllBits) {
  SessionTable table{256};
  const ReceiverIndex index{0xdeadbeef};
  EXPECT_EQ(table.find(index), 0u);
  table.store(index, SessionSlot{41});
  EXPECT_EQ(table.find(index), 42u);
  for (unsigned bit = 0; bit < 32; ++bit) EXPECT_EQ(table.find(ReceiverIndex{index.raw() ^ 1u << bit}), 0u) << bit;
  table.clear(index);
  EXPECT_EQ(table.find(index), 0u);
}

// Goal: slot 0 and index 0 are as good as any.
TEST(SessionTable, ZeroIsAnIndexToo) {
  SessionTable table{64};
  EXPECT_EQ(table.find(ReceiverIndex{0}), 0u);
  table.store(ReceiverIndex{0}, SessionSlot{0});
  EXPECT_EQ(table.find(ReceiverIndex{0}), 1u);
}

// Goal: every index has one owner among the workers, named by its low six bits.
TEST(SessionTable, OwnerIsInTheLowSixBits) {
  Limits limits;
  limits.workers = 3;
  limits.peers = 4;
  limits.buffers = 256;
  const Engine engine{limits};
  for (std::uint32_t low = 0; low < kBuckets; ++low)
    EXPECT_EQ(engine.owner(ReceiverIndex{0xabcdef00u << 6 | low}), low % 3);
}

}  // namespace
}  // namespace wireplane
