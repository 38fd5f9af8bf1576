// receiver_indices.h: draws the receiver indices of handshakes and sessions (wg §5.4; P23).
//
// An index is random, unique in the device among handshakes and keypairs, and its position in its owner's table is free
// (see session_table.h for its parts). A given-back index rests for kIndexRestTime, so that a late packet of the old
// session meets nobody. Owner: control.
#pragma once
#include <deque>
#include <optional>
#include <vector>

#include "dataplane/base/entropy.h"
#include "dataplane/base/time.h"
#include "dataplane/engine.h"

namespace wireplane {

class ReceiverIndices {
 public:
  ReceiverIndices(Engine& engine, Entropy& entropy);

  // An index whose sessions `worker` owns; none: its table is three quarters full of what is in use.
  [[nodiscard]] std::optional<ReceiverIndex> draw(unsigned worker, Instant now);
  void give_back(ReceiverIndex index, Instant now);
  void put_back(ReceiverIndex index);                           // at once, and without memory: nobody has seen it
  [[nodiscard]] std::size_t in_use() const { return in_use_; }  // resting ones included

 private:
  struct Resting {
    ReceiverIndex index;
    Instant until;
  };
  void wake_first();
  [[nodiscard]] std::vector<bool>::reference taken(ReceiverIndex index);

  Engine& engine_;
  Entropy& entropy_;
  std::vector<std::vector<bool>> taken_;  // a table: position
  std::vector<std::size_t> count_;        // a table
  std::deque<Resting> resting_;
  std::size_t in_use_ = 0;
};

}  // namespace wireplane
