// describe.h: from a burst's jobs to a group of packets, sorted by length.
#pragma once
#include "dataplane/aead/avx512/group.h"

namespace wireplane {
namespace {  // of the one kernel file that includes this

INLINE void in_their_order(Group& group) {
  const Vector iota = _mm512_set_epi64(0x3f3e3d3c3b3a3938, 0x3736353433323130, 0x2f2e2d2c2b2a2928, 0x2726252423222120,
                                       0x1f1e1d1c1b1a1918, 0x1716151413121110, 0x0f0e0d0c0b0a0908, 0x0706050403020100);
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(group.order), _mm512_castsi512_si256(iota));
}

// The order of up to 32 jobs by length: rank = how many are smaller. Keys differ in their low bits, so ranks do.
INLINE void sort_by_length(Group& group, u32 count) {
  u32 *const key = group.sort_key, *const rank = group.sort_rank;
  bool sorted = true;
  for (u32 i = 0; i < count; ++i) {
    key[i] = group.length[i] << 5 | i;
    sorted &= i == 0 || key[i - 1] < key[i];
  }
  if (sorted) return in_their_order(group);
  for (u32 i = count; i < kMaxGroup; ++i) key[i] = ~0u;
  const Vector key0 = load(key), key1 = load(key + kLanes), one = _mm512_set1_epi32(1);
  Vector rank0 = _mm512_setzero_si512(), rank1 = rank0;
  for (u32 i = 0; i < count; ++i) {
    const Vector other = _mm512_set1_epi32(static_cast<int>(key[i]));
    rank0 = _mm512_mask_add_epi32(rank0, _mm512_cmplt_epu32_mask(other, key0), rank0, one);
    rank1 = _mm512_mask_add_epi32(rank1, _mm512_cmplt_epu32_mask(other, key1), rank1, one);
  }
  store(rank, rank0);
  store(rank + kLanes, rank1);
  for (u32 i = 0; i < count; ++i) group.order[rank[i]] = static_cast<u8>(i);
}

INLINE Shape shape_of(u32 length, u32 head_length, u32 body_end) {
  Shape s;
  s.length = length, s.head_length = head_length, s.body_end = body_end;
  s.blocks = (length + 63) / 64;
  s.full_first = (head_length + 63) / 64 + 1;
  const u32 end = body_end / 64 + 1;  // one past the last block that ends inside the body
  s.full_count = end > s.full_first ? end - s.full_first : 0;
  s.apart_first = s.apart_end = s.blocks + 1;
  return s;
}

INLINE u32 length_of(const SealJob& job) { return job.head_length + job.body_length + job.padding; }
INLINE u32 length_of(const OpenJob& job) { return job.length - kTag; }
INLINE Shape shape_of(const SealJob& job) {
  return shape_of(length_of(job), job.head_length, job.head_length + job.body_length);
}
INLINE Shape shape_of(const OpenJob& job) { return shape_of(length_of(job), 0, length_of(job)); }
INLINE bool alike(const SealJob& a, const SealJob& b) {
  return a.head_length == b.head_length && a.body_length == b.body_length && a.padding == b.padding;
}
INLINE bool alike(const OpenJob& a, const OpenJob& b) { return a.length == b.length; }

template <typename Job>
INLINE void describe(Packet& packet, const Job& job, const Shape& shape, const u8* text, const u8* head) {
  packet.key = job.key;
  packet.counter = job.counter;
  packet.text = text;
  packet.head = head;
  packet.out = job.destination;
  static_cast<Shape&>(packet) = shape;
  packet.wanted = true;
}
INLINE void describe(Packet& packet, const SealJob& job, const Shape& shape) {
  const auto body = reinterpret_cast<std::uintptr_t>(job.body);
  describe(packet, job, shape, reinterpret_cast<const u8*>(body - shape.head_length), job.head);
}
INLINE void describe(Packet& packet, const OpenJob& job, const Shape& shape) {
  describe(packet, job, shape, job.source, nullptr);
}

// Jobs that can be done, in group.kept, as many as returned.
INLINE u32 keep(Group& group, const SealJob* jobs, u32 count) {
  for (u32 i = 0; i < count; ++i) group.length[i] = length_of(jobs[i]), group.kept[i] = static_cast<u8>(i);
  return count;
}
INLINE u32 keep(Group& group, OpenJob* jobs, u32 count) {
  u32 n = 0;
  for (u32 i = 0; i < count; ++i) {
    jobs[i].authentic = false;
    if (jobs[i].length < kTag) continue;  // cannot hold a tag
    group.length[n] = length_of(jobs[i]);
    group.kept[n++] = static_cast<u8>(i);
  }
  return n;
}

INLINE bool describe_alike(Group& group, const SealJob* jobs, u32 count) {
  const Shape shape = shape_of(jobs[0]);
  for (u32 i = 0; i < count; ++i) {
    if (!alike(jobs[0], jobs[i])) return false;
    describe(group.packet[i], jobs[i], shape);
  }
  return true;
}
INLINE bool describe_alike(Group& group, OpenJob* jobs, u32 count) {
  if (jobs[0].length < kTag) return false;
  const Shape shape = shape_of(jobs[0]);
  for (u32 i = 0; i < count; ++i) {
    if (!alike(jobs[0], jobs[i])) return false;
    describe(group.packet[i], jobs[i], shape);
    jobs[i].authentic = false;
  }
  return true;
}

// Afterwards packet i is job order[i]. Jobs that are all alike, as keepalives and acknowledgements are, cost less.
template <typename Job>
INLINE void describe_all(Group& group, Job* jobs, u32 count) {
  group.waiting = 0;
  group.alike = describe_alike(group, jobs, count);
  if (group.alike) {
    group.count = count;
    return in_their_order(group);
  }
  group.count = keep(group, jobs, count);
  sort_by_length(group, group.count);
  for (u32 i = 0; i < group.count; ++i) {
    group.order[i] = group.kept[group.order[i]];
    describe(group.packet[i], jobs[group.order[i]], shape_of(jobs[group.order[i]]));
  }
}

}  // namespace
}  // namespace wireplane
