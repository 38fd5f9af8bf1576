#include "control/receiver_indices.h"

#include "dataplane/base/fault.h"

namespace wireplane {

ReceiverIndices::ReceiverIndices(Engine& engine, Entropy& entropy)
    : engine_{engine}, entropy_{entropy}, count_(engine.workers()) {
  for (unsigned i = 0; i < engine.workers(); ++i) taken_.emplace_back(engine.link(i).sessions.capacity());
}

std::optional<ReceiverIndex> ReceiverIndices::draw(unsigned worker, Instant now) {
  const std::size_t most = taken_[worker].size() / 4 * 3;
  while (!resting_.empty() && (resting_.front().until <= now || count_[worker] >= most)) wake_first();
  if (count_[worker] >= most) return std::nullopt;
  // Buckets b with b % workers == worker are this worker's, all with equal chances; a taken position is drawn again,
  // four times on average when the table is as full as it may be.
  for (;;) {
    const std::uint32_t drawn =
        seeded_fault(23) ? static_cast<std::uint32_t>(in_use_ << kBucketBits | worker) : entropy_.u32();
    const unsigned within = drawn & (kBuckets - 1), rounds = kBuckets / engine_.workers();
    if (within >= kBuckets / rounds * rounds) continue;
    const ReceiverIndex index{(drawn & ~(kBuckets - 1)) | (within % rounds * engine_.workers() + worker)};
    auto place = taken(index);
    if (place && !seeded_fault(23)) continue;
    place = true;
    ++count_[worker];
    ++in_use_;
    return index;
  }
}

void ReceiverIndices::give_back(ReceiverIndex index, Instant now) { resting_.push_back({index, now + kIndexRestTime}); }

void ReceiverIndices::put_back(ReceiverIndex index) {
  taken(index) = false;
  --count_[engine_.owner(index)];
  --in_use_;
}

void ReceiverIndices::wake_first() {
  put_back(resting_.front().index);
  resting_.pop_front();
}

std::vector<bool>::reference ReceiverIndices::taken(ReceiverIndex index) {
  const unsigned worker = engine_.owner(index);
  return taken_[worker][engine_.link(worker).sessions.position(index)];
}

}  // namespace wireplane
