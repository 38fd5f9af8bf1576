// chacha20.h: ChaCha20 of the AVX-512 kernel: which blocks are computed together, and from key stream to text.
#pragma once
#include "dataplane/aead/avx512/double_pass.h"

namespace wireplane {
namespace {  // of the one kernel file that includes this

INLINE void quarter_round(Vector& a, Vector& b, Vector& c, Vector& d) {  // RFC 8439 §2.1, in every lane
  a = _mm512_add_epi32(a, b);
  d = _mm512_rol_epi32(_mm512_xor_si512(d, a), 16);
  c = _mm512_add_epi32(c, d);
  b = _mm512_rol_epi32(_mm512_xor_si512(b, c), 12);
  a = _mm512_add_epi32(a, b);
  d = _mm512_rol_epi32(_mm512_xor_si512(d, a), 8);
  c = _mm512_add_epi32(c, d);
  b = _mm512_rol_epi32(_mm512_xor_si512(b, c), 7);
}

// Where blocks [first, first + n) of a packet lie, in lanes from `lane` on.
INLINE void addresses(Lanes& to, u32 lane, const Packet& packet, u32 first, u32 n) {
  const u64 at = (u64{first} - 1) * 64;
  const Vector steps = _mm512_setr_epi64(0, 64, 128, 192, 256, 320, 384, 448);
  const auto from =
      _mm512_add_epi64(_mm512_set1_epi64(static_cast<long long>(reinterpret_cast<u64>(packet.text) + at)), steps);
  const auto out =
      _mm512_add_epi64(_mm512_set1_epi64(static_cast<long long>(reinterpret_cast<u64>(packet.out) + at)), steps);
  store(to.from + lane, from);
  store(to.to + lane, out);
  if (n > 8) {
    store(to.from + lane + 8, _mm512_add_epi64(from, _mm512_set1_epi64(512)));
    store(to.to + lane + 8, _mm512_add_epi64(out, _mm512_set1_epi64(512)));
  }
}

// Takes blocks [first, first + n) of packet p; n <= kLanes - count.
INLINE void take(Lanes& to, u32 p, const Packet& packet, u32 first, u32 n) {
  if (n == 1) {
    const u64 at = (u64{first} - 1) * 64;  // block 0 has no place, and none is used
    to.packet[to.count] = p;
    to.block[to.count] = first;
    to.from[to.count] = reinterpret_cast<const u8*>(reinterpret_cast<std::uintptr_t>(packet.text) + at);
    to.to[to.count] = reinterpret_cast<u8*>(reinterpret_cast<std::uintptr_t>(packet.out) + at);
    to.full |= u32{first - packet.full_first < packet.full_count} << to.count;
    ++to.count;
    return;
  }
  addresses(to, to.count, packet, first, n);
  const Vector number = _mm512_add_epi32(_mm512_set1_epi32(static_cast<int>(first)),
                                         _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15));
  store(to.packet + to.count, _mm512_set1_epi32(static_cast<int>(p)));
  store(to.block + to.count, number);
  const Vector past = _mm512_sub_epi32(number, _mm512_set1_epi32(static_cast<int>(packet.full_first)));
  const u32 whole = _mm512_cmplt_epu32_mask(past, _mm512_set1_epi32(static_cast<int>(packet.full_count)));
  to.full |= _bzhi_u32(whole, n) << to.count;
  to.count += n;
}

// The place in the list of all blocks: packet by packet, from block `begin`.
struct Position {
  u32 packet = 0;
  u32 block = 1;
  u32 begin = 1;
};

// Takes from the list, of packets before `end`, until the pass is full. What is computed as runs is left out.
INLINE void fill(Lanes& lanes, const Group& group, Position& at, u32 end) {
  while (at.packet < end && lanes.count < kLanes) {
    const Packet& packet = group.packet[at.packet];
    const bool before = at.block <= packet.apart_first;
    const u32 left = packet.wanted ? (before ? packet.apart_first : packet.blocks + 1) - at.block : 0;
    const u32 room = kLanes - lanes.count;
    const u32 n = left < room ? left : room;
    if (n != 0) take(lanes, at.packet, packet, at.block, n);
    at.block += n;
    if (n != left) return;
    if (before && packet.wanted && packet.apart_end <= packet.blocks) {
      at.block = packet.apart_end;
    } else {
      ++at.packet, at.block = at.begin;
    }
  }
}

// x[w] holds word w of sixteen blocks; afterwards x[i] holds block i.
INLINE void transpose(Vector x[16]) {
  Vector y[16];
  // y[i + k] has words i..i+3 of blocks k, 4+k, 8+k, 12+k
  for (int i = 0; i < 16; i += 4) transpose_quarters(x + i, y + i);
  for (int k = 0; k < 4; ++k) {  // 4x4 quarters
    const Vector a = _mm512_shuffle_i32x4(y[k], y[4 + k], 0x44), b = _mm512_shuffle_i32x4(y[k], y[4 + k], 0xee);
    const Vector c = _mm512_shuffle_i32x4(y[8 + k], y[12 + k], 0x44),
                 d = _mm512_shuffle_i32x4(y[8 + k], y[12 + k], 0xee);
    x[k] = _mm512_shuffle_i32x4(a, c, 0x88);
    x[4 + k] = _mm512_shuffle_i32x4(a, c, 0xdd);
    x[8 + k] = _mm512_shuffle_i32x4(b, d, 0x88);
    x[12 + k] = _mm512_shuffle_i32x4(b, d, 0xdd);
  }
}

// Row `row` of the table, a column a packet, for the lanes of packets `who`.
INLINE Vector pick(const Group& group, unsigned row, Vector who) {
  return _mm512_permutex2var_epi32(load(&group.columns.word[row][0]), who, load(&group.columns.word[row][kLanes]));
}
INLINE void start_vertical(const Group& group, const Lanes& lanes, Vector start[16]) {
  const Vector who = _mm512_load_si512(lanes.packet);
  for (int i = 0; i < 4; ++i) start[i] = _mm512_set1_epi32(static_cast<int>(kSigma[i]));
  for (unsigned i = 0; i < 8; ++i) start[4 + i] = pick(group, kKeyRow + i, who);
  start[12] = _mm512_load_si512(lanes.block);
  start[13] = _mm512_setzero_si512();
  for (unsigned i = 0; i < 2; ++i) start[14 + i] = pick(group, kCounterRow + i, who);
}

// Sixteen blocks; x[w] holds word w of each.
INLINE void chacha20_vertical(const Group& group, const Lanes& lanes, Vector x[16]) {
  Vector start[16];
  start_vertical(group, lanes, start);
  for (int i = 0; i < 16; ++i) x[i] = start[i];
  for (int i = 0; i < 10; ++i) {
    quarter_round(x[0], x[4], x[8], x[12]);
    quarter_round(x[1], x[5], x[9], x[13]);
    quarter_round(x[2], x[6], x[10], x[14]);
    quarter_round(x[3], x[7], x[11], x[15]);
    quarter_round(x[0], x[5], x[10], x[15]);
    quarter_round(x[1], x[6], x[11], x[12]);
    quarter_round(x[2], x[7], x[8], x[13]);
    quarter_round(x[3], x[4], x[9], x[14]);
  }
  for (int i = 0; i < 16; ++i) {
    if (i != 13) x[i] = _mm512_add_epi32(x[i], start[i]);
  }
}

// 4 * sets blocks, four in the rows of each state (a, b, c, d); x[i] = block i out. Lanes beyond the count repeat lane
// 0.
template <int sets>
INLINE void chacha20_rows(const Group& group, const Lanes& lanes, Vector* x) {
  Vector a[sets], b[sets], c[sets], d[sets], key0[sets], key1[sets], numbers[sets];
  const Vector sigma = _mm512_broadcast_i32x4(_mm_setr_epi32(static_cast<int>(kSigma[0]), static_cast<int>(kSigma[1]),
                                                             static_cast<int>(kSigma[2]), static_cast<int>(kSigma[3])));
  for (int s = 0; s < sets; ++s) {
    const Packet* p[4];
    u64 number[4];
    for (u32 i = 0; i < 4; ++i) {
      const u32 lane = 4 * static_cast<u32>(s) + i < lanes.count ? 4 * static_cast<u32>(s) + i : 0;
      p[i] = &group.packet[lanes.packet[lane]];
      number[i] = lanes.block[lane];
    }
    const auto four = [&p](int at) {
      Vector v = _mm512_castsi128_si512(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p[0]->key + at)));
      v = _mm512_inserti32x4(v, _mm_loadu_si128(reinterpret_cast<const __m128i*>(p[1]->key + at)), 1);
      v = _mm512_inserti32x4(v, _mm_loadu_si128(reinterpret_cast<const __m128i*>(p[2]->key + at)), 2);
      return _mm512_inserti32x4(v, _mm_loadu_si128(reinterpret_cast<const __m128i*>(p[3]->key + at)), 3);
    };
    key0[s] = four(0);
    key1[s] = four(16);
    const auto n = [&](int i) { return static_cast<long long>(number[i]); };
    const auto counter = [&](int i) { return static_cast<long long>(p[i]->counter); };
    numbers[s] = _mm512_setr_epi64(n(0), counter(0), n(1), counter(1), n(2), counter(2), n(3), counter(3));
    a[s] = sigma, b[s] = key0[s], c[s] = key1[s], d[s] = numbers[s];
  }
  for (int i = 0; i < 10; ++i) {
    for (int s = 0; s < sets; ++s) quarter_round(a[s], b[s], c[s], d[s]);
    for (int s = 0; s < sets; ++s) {
      b[s] = _mm512_shuffle_epi32(b[s], _MM_PERM_ENUM(0x39));
      c[s] = _mm512_shuffle_epi32(c[s], _MM_PERM_ENUM(0x4e));
      d[s] = _mm512_shuffle_epi32(d[s], _MM_PERM_ENUM(0x93));
    }
    for (int s = 0; s < sets; ++s) quarter_round(a[s], b[s], c[s], d[s]);
    for (int s = 0; s < sets; ++s) {
      b[s] = _mm512_shuffle_epi32(b[s], _MM_PERM_ENUM(0x93));
      c[s] = _mm512_shuffle_epi32(c[s], _MM_PERM_ENUM(0x4e));
      d[s] = _mm512_shuffle_epi32(d[s], _MM_PERM_ENUM(0x39));
    }
  }
  for (int s = 0; s < sets; ++s) {
    a[s] = _mm512_add_epi32(a[s], sigma), b[s] = _mm512_add_epi32(b[s], key0[s]);
    c[s] = _mm512_add_epi32(c[s], key1[s]), d[s] = _mm512_add_epi32(d[s], numbers[s]);
    const Vector t0 = _mm512_shuffle_i32x4(a[s], b[s], 0x44), t1 = _mm512_shuffle_i32x4(a[s], b[s], 0xee);
    const Vector t2 = _mm512_shuffle_i32x4(c[s], d[s], 0x44), t3 = _mm512_shuffle_i32x4(c[s], d[s], 0xee);
    x[4 * s] = _mm512_shuffle_i32x4(t0, t2, 0x88);
    x[4 * s + 1] = _mm512_shuffle_i32x4(t0, t2, 0xdd);
    x[4 * s + 2] = _mm512_shuffle_i32x4(t1, t3, 0x88);
    x[4 * s + 3] = _mm512_shuffle_i32x4(t1, t3, 0xdd);
  }
}

// 2 * sets blocks, two in the rows of each state, in 256-bit registers: there some processors rotate with less latency,
// and latency is all there is when lanes are few.
template <int sets>
INLINE void chacha20_half_rows(const Group& group, const Lanes& lanes, Vector* x) {
  using Half = __m256i;
  Half a[sets], b[sets], c[sets], d[sets], key0[sets], key1[sets], numbers[sets];
  const Half sigma =
      _mm256_broadcastsi128_si256(_mm_setr_epi32(static_cast<int>(kSigma[0]), static_cast<int>(kSigma[1]),
                                                 static_cast<int>(kSigma[2]), static_cast<int>(kSigma[3])));
  for (int s = 0; s < sets; ++s) {
    const u32 first = 2 * static_cast<u32>(s), second = first + 1 < lanes.count ? first + 1 : 0;
    const u32 lane0 = first < lanes.count ? first : 0;
    const Packet& p = group.packet[lanes.packet[lane0]];
    const Packet& q = group.packet[lanes.packet[second]];
    const auto two = [&](int at) {
      return _mm256_inserti128_si256(
          _mm256_castsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p.key + at))),
          _mm_loadu_si128(reinterpret_cast<const __m128i*>(q.key + at)), 1);
    };
    key0[s] = two(0);
    key1[s] = two(16);
    numbers[s] = _mm256_setr_epi64x(lanes.block[lane0], static_cast<long long>(p.counter), lanes.block[second],
                                    static_cast<long long>(q.counter));
    a[s] = sigma, b[s] = key0[s], c[s] = key1[s], d[s] = numbers[s];
  }
  const auto round = [&] {
    for (int s = 0; s < sets; ++s) {
      a[s] = _mm256_add_epi32(a[s], b[s]), d[s] = _mm256_rol_epi32(_mm256_xor_si256(d[s], a[s]), 16);
      c[s] = _mm256_add_epi32(c[s], d[s]), b[s] = _mm256_rol_epi32(_mm256_xor_si256(b[s], c[s]), 12);
      a[s] = _mm256_add_epi32(a[s], b[s]), d[s] = _mm256_rol_epi32(_mm256_xor_si256(d[s], a[s]), 8);
      c[s] = _mm256_add_epi32(c[s], d[s]), b[s] = _mm256_rol_epi32(_mm256_xor_si256(b[s], c[s]), 7);
    }
  };
  for (int i = 0; i < 10; ++i) {
    round();
    for (int s = 0; s < sets; ++s) {
      b[s] = _mm256_shuffle_epi32(b[s], 0x39), c[s] = _mm256_shuffle_epi32(c[s], 0x4e),
      d[s] = _mm256_shuffle_epi32(d[s], 0x93);
    }
    round();
    for (int s = 0; s < sets; ++s) {
      b[s] = _mm256_shuffle_epi32(b[s], 0x93), c[s] = _mm256_shuffle_epi32(c[s], 0x4e),
      d[s] = _mm256_shuffle_epi32(d[s], 0x39);
    }
  }
  for (int s = 0; s < sets; ++s) {
    a[s] = _mm256_add_epi32(a[s], sigma), b[s] = _mm256_add_epi32(b[s], key0[s]);
    c[s] = _mm256_add_epi32(c[s], key1[s]), d[s] = _mm256_add_epi32(d[s], numbers[s]);
    const auto join = [](Half low, Half high) { return _mm512_inserti64x4(_mm512_castsi256_si512(low), high, 1); };
    x[2 * s] = join(_mm256_permute2x128_si256(a[s], b[s], 0x20), _mm256_permute2x128_si256(c[s], d[s], 0x20));
    x[2 * s + 1] = join(_mm256_permute2x128_si256(a[s], b[s], 0x31), _mm256_permute2x128_si256(c[s], d[s], 0x31));
  }
}

// --- from key stream to text ---

// A block that touches the head, the padding or the end.
NOINLINE void cipher_joined(const Packet& packet, u32 block, Vector stream) {
  const u32 at = (block - 1) * 64;
  const u32 end = packet.length - at;                                      // octets of the text from here on
  const u32 head = packet.head_length > at ? packet.head_length - at : 0;  // of these, the head's
  const u32 body = packet.body_end > at ? packet.body_end - at : 0;        // and the head's and the body's
  const __mmask64 in_head = first_octets(head), in_body = first_octets(body) & ~in_head;  // beyond: padding, zero
  Vector text = _mm512_setzero_si512();
  if (in_body != 0)
    text = _mm512_maskz_loadu_epi8(in_body, packet.text + at);  // either may be absent, its pointer null
  if (head != 0) text = _mm512_or_si512(text, _mm512_maskz_loadu_epi8(in_head, packet.head + at));
  _mm512_mask_storeu_epi8(packet.out + at, first_octets(end), _mm512_xor_si512(text, stream));
}

INLINE void cipher_edge(const Packet& packet, u32 block, Vector stream) {
  if (packet.head_length != 0 || packet.body_end != packet.length) return cipher_joined(packet, block, stream);
  const u32 at = (block - 1) * 64;
  const __mmask64 there = first_octets(packet.length - at);
  const Vector text = _mm512_maskz_loadu_epi8(there, packet.text + at);
  _mm512_mask_storeu_epi8(packet.out + at, there, _mm512_xor_si512(text, stream));
}

INLINE void cipher(const Packet& packet, u32 block, Vector stream) {
  const u64 at = (u64{block} - 1) * 64;
  store(packet.out + at, _mm512_xor_si512(load(packet.text + at), stream));
}

// What becomes of the rows of a pass: block 0 is the packet's one-time key, the others are used at once, or wait.
template <bool wait, bool all_full>
INLINE void deliver(Group& group, const Lanes& lanes, u32 i, Vector row) {
  if (!all_full && i >= lanes.count) return;
  const u32 p = lanes.packet[i], block = lanes.block[i];
  const Packet& packet = group.packet[p];
  if (all_full) return cipher(packet, block, row);
  if (block == 0) {
    store(group.block_zero[p], row);
  } else if (wait) {
    group.waiting_packet[group.waiting] = p;
    group.waiting_block[group.waiting] = block;
    store(group.stream[group.waiting++], row);
  } else if (lanes.full >> i & 1) {
    cipher(packet, block, row);
  } else {
    cipher_edge(packet, block, row);
  }
}

template <bool wait, int rows>
INLINE void deliver_rows(Group& group, const Lanes& lanes, const Vector* x) {
  if (!wait && rows == kLanes && lanes.full == 0xffff) {
#pragma GCC unroll 16
    for (u32 i = 0; i < rows; ++i) deliver<wait, true>(group, lanes, i, x[i]);
  } else {
#pragma GCC unroll 16
    for (u32 i = 0; i < rows; ++i) deliver<wait, false>(group, lanes, i, x[i]);
  }
}

template <bool wait>
NOINLINE void pass(Group& group, const Lanes& lanes) {
  Vector x[16];
  if (lanes.count <= 2) {
    chacha20_half_rows<1>(group, lanes, x);
    deliver_rows<wait, 2>(group, lanes, x);
  } else if (lanes.count <= 4) {
    chacha20_rows<1>(group, lanes, x);
    deliver_rows<wait, 4>(group, lanes, x);
  } else if (lanes.count <= 8) {
    chacha20_rows<2>(group, lanes, x);
    deliver_rows<wait, 8>(group, lanes, x);
  } else {
    chacha20_vertical(group, lanes, x);
    transpose(x);
    deliver_rows<wait, 16>(group, lanes, x);
  }
}

// Lanes whose blocks are not whole (or idle) read zeros and write their key stream to group.edge.
INLINE void divert_edges(Group& group, Lanes& lanes, u32 row) {
  alignas(64) static constexpr u8 kZeros[64] = {};
  for (u32 edges = lanes.full ^ 0xffff; edges != 0; edges &= edges - 1) {
    const u32 i = static_cast<u32>(__builtin_ctz(edges));
    lanes.from[i] = kZeros;
    lanes.to[i] = group.edge[row + i];
  }
}
INLINE void cipher_edges(Group& group, const Lanes& lanes, u32 row) {
  for (u32 edges = lanes.full ^ 0xffff; edges != 0; edges &= edges - 1) {
    const u32 i = static_cast<u32>(__builtin_ctz(edges));
    if (i < lanes.count) cipher_edge(group.packet[lanes.packet[i]], lanes.block[i], load(group.edge[row + i]));
    store(group.edge[row + i], _mm512_setzero_si512());
  }
}

INLINE void fill_table(const Group& group, const Lanes& lanes, Table& table, u32 first) {
  const Vector who = _mm512_load_si512(lanes.packet);
  for (unsigned i = 0; i < 8; ++i) store(&table.word[kKeyRow + i][first], pick(group, kKeyRow + i, who));
  store(&table.block[first], _mm512_load_si512(lanes.block));
  for (unsigned i = 0; i < 2; ++i) store(&table.word[kCounterRow + i][first], pick(group, kCounterRow + i, who));
}

// The next double pass finds the second state of this one; the lanes of the last are free again.
INLINE void leave_late(Group& group, Lanes* lanes, u64 at) {
  if (group.late != nullptr && group.late != lanes) group.spare[group.spares++] = group.late;
  group.late = lanes;
  group.late_at = at;
  group.ahead_of.at += 256;
}

NOINLINE void double_pass(Group& group) {
  group.tabled = group.doubled = true;
  fill_table(group, *group.first, group.table, 0);
  fill_table(group, *group.second, group.table, kLanes);
  divert_edges(group, *group.first, 0);
  divert_edges(group, *group.second, kLanes);
  chacha20_of_lanes(halves(group.table), *group.first, *group.second, 0, group.late_stream, {group.late, group.late_at},
                    group.ahead);
  if (group.first->full != 0xffff) cipher_edges(group, *group.first, 0);
  if (group.late != nullptr && group.late->full != 0xffff) cipher_edges(group, *group.late, kLanes);
  Lanes* const empty = group.spare[--group.spares];
  leave_late(group, group.second, 0);
  group.second = empty;
}

// Sixteen blocks of a packet, from `block` on; two are computed together.
struct Run {
  u32 packet;
  u32 block;
};
NOINLINE void double_run(Group& group, const Run (&run)[2]) {
  group.doubled = true;
  const Vector iota = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
  const Packet& a = group.packet[run[0].packet];
  const Packet& b = group.packet[run[1].packet];
  for (int i = 0; i < 2; ++i) {
    store(group.runs.block[i], _mm512_add_epi32(_mm512_set1_epi32(static_cast<int>(run[i].block)), iota));
  }
  group.runs.counter[0] = a.counter, group.runs.counter[1] = b.counter;
  Lanes* const lanes = group.spare[--group.spares];
  lanes->packet[0] = run[1].packet;
  lanes->full = 0xffff;
  addresses(*lanes, 0, b, run[1].block, kLanes);
  const u64 at = (u64{run[0].block} - 1) * 64;
  chacha20_of_runs(group.runs, a.key, b.key, a.text + at, a.out + at, *lanes, group.late_stream,
                   {group.late, group.late_at}, group.ahead);
  if (group.late != nullptr && group.late->full != 0xffff) cipher_edges(group, *group.late, kLanes);
  leave_late(group, lanes, 0);
}

// What the last double pass left.
NOINLINE void finish_late(Group& group) {
  Vector x[16];
  const Lanes& lanes = *group.late;
  for (int i = 0; i < 16; ++i) x[i] = group.late_stream.word[i];
  transpose(x);
#pragma GCC unroll 16
  for (int i = 0; i < 16; ++i) {
    store(lanes.to[i] + group.late_at, _mm512_xor_si512(load(lanes.from[i] + group.late_at), x[i]));
  }
  if (lanes.full != 0xffff) cipher_edges(group, lanes, kLanes);
  leave_late(group, nullptr, 0);
}

// Everything that was collected. A second pass of up to 8 lanes costs less by rows than as half of a double pass.
INLINE void pass_both(Group& group) {
  if (group.second->count > 8) {
    double_pass(group);
  } else {
    if (group.first->count != 0) pass<false>(group, *group.first);
    if (group.second->count != 0) pass<false>(group, *group.second);
  }
  group.first->count = group.first->full = group.second->count = group.second->full = 0;
}

}  // namespace
}  // namespace wireplane
