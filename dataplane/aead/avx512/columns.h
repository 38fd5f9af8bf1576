// columns.h: blocks of packets side by side, a lane a packet: nothing but their number changes from pass to pass.
#pragma once
#include "dataplane/aead/avx512/chacha20.h"

namespace wireplane {
namespace {  // of the one kernel file that includes this

INLINE void lanes_of_packets(Lanes& lanes, u32 first, int block) {
  store(lanes.packet, _mm512_add_epi32(_mm512_set1_epi32(static_cast<int>(first)),
                                       _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15)));
  store(lanes.block, _mm512_set1_epi32(block));
}

// Lane i is packet i of all thirty-two, block by block from their beginnings.
INLINE void begin_columns(Group& group) {
  group.right = group.spare[--group.spares];
  Lanes* const halves_of[2] = {&group.columns_left, group.right};
  for (u32 half = 0; half < 2; ++half) {
    Lanes& lanes = *halves_of[half];
    lanes.count = kLanes;
    lanes.full = 0xffff;
    for (u32 i = 0; i < kLanes; ++i) {
      const Packet& packet = group.packet[half * kLanes + i];
      lanes.from[i] = packet.text;
      lanes.to[i] = packet.out;
    }
  }
}
// Of their first blocks, those that are not whole go by way of group.edge.
INLINE void some_not_whole(Group& group) {
  Lanes* const halves_of[2] = {&group.columns_left, group.right};
  for (u32 half = 0; half < 2; ++half) {
    lanes_of_packets(*halves_of[half], half * kLanes, 1);
    for (u32 i = 0; i < kLanes; ++i) {
      const Packet& packet = group.packet[half * kLanes + i];
      halves_of[half]->full ^= u32{packet.full_first != 1 || packet.full_count == 0} << i;
    }
    divert_edges(group, *halves_of[half], half * kLanes);
  }
}

// Blocks [first, end), whole in all packets but for block 1 after some_not_whole(); maybe none.
NOINLINE void cipher_columns(Group& group, u32 first, u32 end) {
  if (first == end) group.spare[group.spares++] = group.right;
  group.doubled = true;
  for (u32 block = first; block < end; ++block) {
    const Vector number = _mm512_set1_epi32(static_cast<int>(block));
    store(&group.columns.block[0], number);
    store(&group.columns.block[kLanes], number);
    const u64 at = (u64{block} - 1) * 64;
    chacha20_of_lanes(halves(group.columns), group.columns_left, *group.right, at, group.late_stream,
                      {group.late, group.late_at}, group.ahead);
    if (group.columns_left.full != 0xffff) cipher_edges(group, group.columns_left, 0);
    leave_late(group, group.right, at);
  }
  if (group.late != nullptr) finish_late(group);
}

// Packets [first, first + 8), four blocks of each at a time: lanes are the eight packets, four times.
NOINLINE void cipher_eight_columns(Group& group, u32 first) {
  group.doubled = group.tabled = true;
  const u32 begin = group.packet[first].apart_first, end = group.packet[first].apart_end;
  for (u32 row = 0; row < 10; ++row) {
    const auto* const eight = reinterpret_cast<const __m256i*>(&group.columns.word[row][first]);
    const Vector twice = _mm512_broadcast_i64x4(_mm256_loadu_si256(eight));
    store(&group.table.word[row][0], twice);
    store(&group.table.word[row][kLanes], twice);
  }
  Lanes& left = group.columns_left;
  Lanes& right = *group.spare[--group.spares];
  const auto eight = [&](auto&& of) {
    const auto number = [&](u32 i) {
      return static_cast<long long>(reinterpret_cast<u64>(of(group.packet[first + i])));
    };
    return _mm512_setr_epi64(number(0), number(1), number(2), number(3), number(4), number(5), number(6), number(7));
  };
  const Vector from = eight([](const Packet&p) { return p.text; }), to = eight([](const Packet&p) { return p.out; });
  const auto plus = [](Vector v, int octets) { return _mm512_add_epi64(v, _mm512_set1_epi64(octets)); };
  store(left.from, from), store(left.from + 8, plus(from, 64));
  store(left.to, to), store(left.to + 8, plus(to, 64));
  store(right.from, plus(from, 128)), store(right.from + 8, plus(from, 192));
  store(right.to, plus(to, 128)), store(right.to + 8, plus(to, 192));
  left.full = right.full = 0xffff;
  right.packet[0] = first;
  Vector number = _mm512_add_epi32(_mm512_set1_epi32(static_cast<int>(begin)),
                                   _mm512_setr_epi32(0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1));
  const Vector two = _mm512_set1_epi32(2);
  for (u32 block = begin; block < end; block += 4) {
    store(&group.table.block[0], number);
    number = _mm512_add_epi32(number, two);
    store(&group.table.block[kLanes], number);
    number = _mm512_add_epi32(number, two);
    const u64 at = (u64{block} - 1) * 64;
    chacha20_of_lanes(halves(group.table), left, right, at, group.late_stream, {group.late, group.late_at},
                      group.ahead);
    if (group.late != nullptr && group.late->full != 0xffff) cipher_edges(group, *group.late, kLanes);
    leave_late(group, &right, at);
  }
}

}  // namespace
}  // namespace wireplane
