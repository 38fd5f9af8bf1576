// clang-format off
// avx512.cpp: ChaCha20-Poly1305 for bursts, on AVX-512 F, VL, BW, DQ and IFMA.
//
// Libraries compute a packet at a time: of the 16 lanes of a 512-bit register a 64-octet packet fills two, and Poly1305 is
// one long chain. Here a *group* of up to 32 packets is computed together, whatever their keys and lengths.
//
//   burst -> group (sorted by length) -> 1 one-time keys   ChaCha20 block 0 of every packet
//                                        2 cipher          all other blocks of all packets, 16 or 32 at a time
//                                        3 tags            Poly1305: eight packets at once, or pairs of long ones
//   seal does 1, then 2 and 3 eight packets at a time (a pair, of long ones), while the cache still holds them; block 1 of
//   thirty-two packets comes along with 1. open does
//   1 and 3, compares, and 2 for the packets that verified. No other plaintext is ever written.
//
// ChaCha20 (RFC 8439 §2.3). A *lane* is one block: any (packet, block number). Sixteen lanes fill sixteen registers, one a
// state word; two such states fill all 32 (a *double pass*). After 20 rounds a 16x16 transpose makes a lane's 64 octets a
// register again. The group's keys lie transposed in memory. Which blocks come together, cheapest first:
//   - columns: lanes are the packets. Thirty-two packets, one block of each; or eight, four blocks of each. What they have in
//     common is computed so, and nothing but the block number changes from one double pass to the next.
//   - runs: sixteen blocks of one packet and sixteen of another (or the same); their keys are broadcast from where they lie.
//   - the list: all that is left, packet by packet. A permute by the lanes' packet numbers brings their keys together:
//
//              lane   0       1       2        15
//    word  4      key0(p0) key0(p0) key0(p1) .. key0(p7)    <- permute        mixed lengths and sessions: only a group's
//    word 12         1        2        1     ..    9        <- block number   last pass has idle lanes
//    word 14      n(p0)    n(p0)    n(p1)    .. n(p7)       <- permute
//
//   Up to 8 lanes are computed the other way round, four (two) blocks in the four rows of a state: half the latency.
//
// Poly1305 (RFC 8439 §2.5). h and r are three limbs of 44, 44 and 42 bits, h = h0 + 2^44 h1 + 2^88 h2; vpmadd52 multiplies
// them in eight 64-bit lanes and adds the low or the high 52 bits of the product. Since 2^132 = 4 * 2^130 = 20 (mod p):
//
//    d0 = h0 r0 + h1 20r2 + h2 20r1      low halves have the weight of d, high halves that of d times 2^52,
//    d1 = h0 r1 + h1 r0   + h2 20r2      which is 2^8 times the next limb's
//    d2 = h0 r2 + h1 r1   + h2 r0
//
//   Messages are aligned at their ends: what is missing at the front are zero blocks without the 2^128 bit, and they leave h at 0.
//   So packets of different lengths end together, and the last block is always the one with the lengths. A *row* is 64 octets,
//   four blocks, of one packet.
//   - across: lanes are eight packets. A row of each is transposed, then h = (h + m0) r^4 + m1 r^3 + m2 r^2 + m3 r; of short
//     packets of one length, whose rows need no aligning, h = (h + m0) r^2 + m1 r: two powers less, and two eights in turn.
//   - strands: lanes are two packets times four blocks. h = (h + row) r^4, in steps of two rows; the last row is multiplied by
//     r^4 r^3 r^2 r, and the four strands are added. Better for long packets and for unequal ones.
//   - one packet alone: eight strands of its own, or, when it is short, general registers (poly1305_scalar.h).
//
// Bounds, all sums of four blocks: m0, m1 < 2^44, m2 < 2^41. r^k, from carry(): r0 < 2^44 + 2^18, r1 < 2^44 + 2^13, r2 < 2^42 + 2^13, so 20 r1, 20 r2 < 2^48.4.
// h after carry() as r^k; h + m: below 2^45.1, 2^45.1, 2^42.6. All are below the 52 bits that vpmadd52 reads. A low half is < 2^52;
// a high half of d0 or d1 < 2^(45.1 + 48.4 - 52) = 2^41.5, twelve of them times 2^8 < 2^53.1; so limbs stay < 2^56. d2 has no factor 20:
// its high halves sum to less than 7.5 * 2^36 (three blocks of 1.5 * 2^36, one with h of 3 * 2^36), and times 20 * 2^8 that is
// < 2^51.3: fold() may multiply it by vpmadd52, too.
//
// Constant time: lengths, block numbers, and which packets verified are public and may be branched on; nothing else is.
// Secrets live in Group, which is wiped, and in registers and spills, which leave_no_trace() clears.
// clang-format on
#pragma GCC diagnostic ignored "-Wuninitialized"  // gcc 12's own _mm512_undefined_epi32(), an operand it never reads
#ifndef __clang__
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif
#include "dataplane/aead/aead_kernels.h"
#include "dataplane/aead/avx512/chacha20.h"
#include "dataplane/aead/avx512/columns.h"
#include "dataplane/aead/avx512/describe.h"
#include "dataplane/aead/avx512/group.h"
#include "dataplane/aead/avx512/one_time_keys.h"
#include "dataplane/aead/avx512/poly1305.h"
#include "dataplane/aead/cpu.h"
#include "dataplane/aead/poly1305_for_test.h"

// One bit of 128, without a branch before it is one. A function of its own, so that a test can read its instructions
// (aead_constant_time_test): valgrind cannot run the rest of this file.
extern "C" __attribute__((noinline)) bool aead_avx512_tags_equal(const std::uint64_t* low, const std::uint64_t* high,
                                                                 const std::uint8_t* sent) {
  std::uint64_t theirs[2];
  __builtin_memcpy(theirs, sent, sizeof theirs);
  return ((theirs[0] ^ *low) | (theirs[1] ^ *high)) == 0;
}

namespace wireplane {
namespace {

// --- groups ---

// Steps 1 and, as far as it comes along, 2.
template <bool sealing>
INLINE void one_time_keys(Group& group, Position& at) {
  u32 total = group.count;
  if (group.count < kMaxGroup) {
    for (u32 p = 0; p < group.count; ++p) total += group.packet[p].blocks;
  }
  if (total > 8 && group.count == 1) {
    broadcast_key(group);
  } else if (total > 8) {
    transpose_keys(group, 0);
    if (group.count > kLanes) transpose_keys(group, kLanes);
  }
  u32 p = 0;
  if (group.count == kMaxGroup) {
    one_time_keys_of_thirty_two(group), p = kMaxGroup;
  } else if (group.count >= kLanes) {
    one_time_keys_of_sixteen(group), p = kLanes;
  }
  const u32 rest = p;
  if (p < group.count) {
    Lanes& lanes = group.columns_left;
    lanes.count = 0;
    for (; p < group.count; ++p) take(lanes, p, group.packet[p], 0, 1);
    lanes.full = 0;
    fill(lanes, group, at, group.count);
    pass<!sealing>(group, lanes);
    if (group.count == 1) {
      for (u32 i = 0; i < 4; ++i) group.one_time[i][0] = group.block_zero[0][i];
    } else {
      for (u32 first = rest; first < group.count; first += 8) transpose_one_time_keys(group, first);
    }
  }
}

INLINE void begin_collecting(Group& group) {
  group.first = &group.lanes[0], group.second = &group.lanes[1];
  group.late = nullptr, group.late_at = 0;
  group.spare[0] = &group.lanes[2], group.spare[1] = &group.lanes[3], group.spares = 2;
  group.first->count = group.first->full = group.second->count = group.second->full = 0;
}

// How many blocks every packet of a whole group has that can be computed as columns.
INLINE u32 columns_of(const Group& group) {
  if (group.count < kMaxGroup || group.packet[0].length < 64 || group.packet[kMaxGroup - 1].blocks > kColumnsMost)
    return 0;
  u32 least = kColumnsMost;
  for (u32 p = 0; p < (group.alike ? 1 : kMaxGroup); ++p) {
    const Packet& packet = group.packet[p];
    const u32 whole = packet.full_first == 1 ? packet.full_count : 0;
    least = whole < least ? whole : least;
  }
  return least;
}

// Or whether they all have a first block, if not a whole one, and are so short that their cipher is not worth cutting
// up.
INLINE bool have_first_blocks(const Group& group) {
  return group.count == kMaxGroup && group.packet[0].blocks != 0 && group.packet[kMaxGroup - 1].blocks <= kColumnsMost;
}

// The packets whose tags are computed next: eight columns, sixteen short ones, or a pair of long ones.
INLINE u32 unit_end(const Group& group, u32 first) {
  if (group.alike && group.packet[0].length <= kSixteenLongest)
    return first + 16 < group.count ? first + 16 : group.count;
  const u32 eight = (first & ~7u) + 8 < group.count ? (first & ~7u) + 8 : group.count;
  if (first % 8 == 0 && group.packet[eight - 1].length < kLong) return eight;
  return first + 2 < group.count ? first + 2 : group.count;
}

// Sets apart, of the list from `at` on, what eight packets have in common, and runs of sixteen blocks of long ones.
INLINE void set_apart(Group& group, const Position& at) {
  if (group.packet[group.count - 1].blocks < 4) return;
  for (u32 first = 0, end; first < group.count; first = end) {
    end = unit_end(group, first);
    if (first < at.packet || (first == at.packet && at.block != at.begin)) continue;
    if (end - first == 8) {
      if (group.packet[first].blocks != group.packet[end - 1].blocks) continue;
      u32 from = at.begin, until = ~0u;
      for (u32 p = first; p < end; ++p) {
        const Packet& packet = group.packet[p];
        const u32 past = packet.full_first + packet.full_count;
        from = from > packet.full_first ? from : packet.full_first;
        until = until < past ? until : past;
      }
      if (until < from + 4) continue;
      for (u32 p = first; p < end; ++p) {
        group.packet[p].apart_first = from;
        group.packet[p].apart_end = from + ((until - from) & ~3u);
      }
    } else if (group.packet[end - 1].length >= kLong) {
      for (u32 p = first; p < end; ++p) {
        Packet& packet = group.packet[p];
        const u32 run = at.begin > packet.full_first ? at.begin : packet.full_first;
        const u32 past = packet.full_first + packet.full_count;
        if (past < run + kLanes) continue;
        packet.apart_first = run;
        packet.apart_end = run + (past - run) / kLanes * kLanes;
      }
    }
  }
}
INLINE bool has_apart(const Packet& packet) { return packet.apart_first < packet.apart_end; }

// A run that waits for another one.
struct RunLeft {
  Run run[2];
  u32 count = 0;
};
INLINE void finish_run(Group& group, RunLeft& left) {
  if (left.count == 0) return;
  Lanes& lanes = group.columns_left;
  lanes.count = lanes.full = 0;
  take(lanes, left.run[0].packet, group.packet[left.run[0].packet], left.run[0].block, kLanes);
  pass<false>(group, lanes);
  left.count = 0;
}
// What was set apart, of packets [first, end).
INLINE void cipher_apart(Group& group, RunLeft& left, u32 first, u32 end) {
  if (end - first == 8) {
    if (!has_apart(group.packet[first])) return;
    bool all = true;
    for (u32 p = first; p < end; ++p) all &= group.packet[p].wanted;
    if (all) return cipher_eight_columns(group, first);
    for (u32 p = first; p < end; ++p)
      group.packet[p].apart_first = group.packet[p].apart_end = group.packet[p].blocks + 1;
    return;
  }
  for (u32 p = first; p < end; ++p) {
    const Packet& packet = group.packet[p];
    if (!packet.wanted) continue;
    for (u32 block = packet.apart_first; block < packet.apart_end; block += kLanes) {
      left.run[left.count++] = {p, block};
      if (left.count == 2) double_run(group, left.run), left.count = 0;
    }
  }
}

// Double passes of packets before `next` fetch those from there on.
INLINE void look_ahead(Group& group, u32 next) {
  group.ahead = nullptr;
  group.ahead_of.at = 0;
  if (next >= group.count) return;
  const u32 length = group.packet[group.count - 1].length;
  if (length < kAheadShortest || length >= kLong) return;
  for (u32 i = 0; i < 8; ++i)
    group.ahead_of.text[i] = group.packet[next + i < group.count ? next + i : group.count - 1].text;
  group.ahead = &group.ahead_of;
}

// Secrets are wiped as soon as nothing needs them: stores that stand before other work cost nothing.

// Keys by column and key stream; of a lone short packet, computed by rows from the caller's key, there are none.
INLINE void wipe_cipher(Group& group) {
  const Vector zero = _mm512_setzero_si512();
  for (u32 i = 0; i < group.waiting; ++i) store(group.stream[i], zero);
  if (group.count == 1 && group.packet[0].blocks < 8) return;
  for (u32 first = 0; first < group.count; first += kLanes) {
    for (auto& row : group.columns.word) store(&row[first], zero);
  }
  if (group.tabled) {
    for (auto& row : group.table.word) store(row, zero), store(row + kLanes, zero);
  }
  if (group.doubled) {
    for (Vector& word : group.late_stream.word) word = zero;
    for (Vector& word : group.late_stream.spill) word = zero;
  }
}

// One-time keys, and what Poly1305 made of them.
INLINE void wipe_tags(Group& group) {
  const Vector zero = _mm512_setzero_si512();
  for (u32 p = group.count & ~(kLanes - 1); p < group.count; ++p) store(group.block_zero[p], zero);
  if (group.count == 1) {
    for (auto& row : group.one_time) row[0] = 0;
    for (auto& row : group.sum) row[0] = 0;
    return;
  }
  for (u32 first = 0; first < group.count; first += 8) {
    for (auto& row : group.one_time) store(&row[first], zero);
    if (!group.powers) continue;
    for (auto& power : group.power) {
      for (auto& row : power) store(&row[first], zero);
    }
    for (auto& row : group.sum) store(&row[first], zero);
  }
}

INLINE void seal_group(Group& group) {
  Position at;
  begin_collecting(group);
  look_ahead(group, group.count);
  const u32 columns = columns_of(group);
  if (columns != 0 || have_first_blocks(group)) {
    transpose_keys(group, 0);
    transpose_keys(group, kLanes);
    begin_columns(group);
    if (columns == 0) some_not_whole(group);
    one_time_keys_and_first_columns(group);
    at.block = at.begin = columns > 1 ? columns + 1 : 2;
    cipher_columns(group, 2, at.begin);
  } else {
    one_time_keys<true>(group, at);
  }
  if (columns == 0) set_apart(group, at);
  if (group.packet[group.count - 1].blocks < at.begin) at.packet = group.count;  // nothing is left
  RunLeft run;
  for (u32 first = 0, end; first < group.count; first = end) {
    end = unit_end(group, first);
    look_ahead(group, end);
    cipher_apart(group, run, first, end);
    finish_run(group, run);
    // A pass takes blocks of the packets behind, too; and one more brings back what the last left behind.
    while (at.packet < end || (at.packet < group.count && group.late != nullptr && group.late->packet[0] < end)) {
      fill(*group.first, group, at, group.count);
      fill(*group.second, group, at, group.count);
      pass_both(group);
    }
    if (group.late != nullptr && group.late->packet[0] < end) finish_late(group);
    if (end == group.count) wipe_cipher(group);
    poly1305<true>(group, first, end);
  }
  for (u32 p = 0; p < group.count; ++p) {
    u8* const to = group.packet[p].out + group.packet[p].length;
    const __m128i tag =
        _mm_set_epi64x(static_cast<long long>(group.tag[1][p]), static_cast<long long>(group.tag[0][p]));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(to), tag);
  }
  wipe_tags(group);
}

INLINE bool tag_matches(const Group& group, u32 p) {
  return aead_avx512_tags_equal(&group.tag[0][p], &group.tag[1][p], group.packet[p].text + group.packet[p].length);
}

// What open reads first, of packets [first, end).
INLINE void fetch(const Group& group, u32 first, u32 end) {
  for (u32 p = first; p < end; ++p) {
    const Packet& packet = group.packet[p];
    const u32 until = packet.length + kTag < kFetched ? packet.length + kTag : kFetched;
    for (u32 at = 0; at < until; at += 64) __asm__ volatile("prefetcht0 %0" : : "m"(packet.text[at]));
  }
}

INLINE void open_group(Group& group) {
  fetch(group, 0, unit_end(group, 0));
  Position at;
  one_time_keys<false>(group, at);
  u32 waiting = 0;
  begin_collecting(group);
  look_ahead(group, group.count);
  const u32 whole = columns_of(group), columns = whole == 0 && have_first_blocks(group) ? 1 : whole;
  if (columns == 0) set_apart(group, at);
  RunLeft run;
  bool all = true;
  for (u32 first = 0, end; first < group.count; first = end) {
    end = unit_end(group, first);
    look_ahead(group, end);
    if (columns != 0 && end < group.count) fetch(group, end, unit_end(group, end));
    poly1305<false>(group, first, end);
    for (u32 p = first; p < end; ++p) all &= group.packet[p].wanted = tag_matches(group, p);
    if (end == group.count) wipe_tags(group);
    for (; waiting < group.waiting && group.waiting_packet[waiting] < end; ++waiting) {
      const Packet& packet = group.packet[group.waiting_packet[waiting]];
      if (packet.wanted) cipher_edge(packet, group.waiting_block[waiting], load(group.stream[waiting]));
    }
    if (columns != 0) {
      if (end < group.count) continue;
      if (all) {
        begin_columns(group);
        if (whole == 0) some_not_whole(group);
        cipher_columns(group, 1, columns + 1);
        at.block = at.begin = columns + 1;
      }
      if (group.packet[group.count - 1].blocks < at.begin) at.packet = group.count;  // nothing is left
    }
    cipher_apart(group, run, first, end);
    if (end == group.count) finish_run(group, run);
    for (;;) {  // a pass that is not full waits for the packets behind
      fill(*group.first, group, at, end);
      fill(*group.second, group, at, end);
      if (group.second->count < kLanes && end < group.count) break;
      if (group.first->count == 0) break;
      pass_both(group);
    }
  }
  if (group.late != nullptr) finish_late(group);
  wipe_cipher(group);
}

// More than the deepest chain of callees' frames: see -fstack-usage, and aead_wiping_test, which searches what is left.
constexpr u32 kTrace = 2048;

// Registers, and the stack below: callees spilled there, and a double pass keeps its states there.
NOINLINE void leave_no_trace() {
  alignas(64) u8 below[kTrace];
  for (u32 i = 0; i < kTrace; i += 64) _mm512_store_si512(below + i, _mm512_setzero_si512());
  __asm__ volatile("" : : "r"(below) : "memory");
  __asm__ volatile(
      "vpxord %%xmm16, %%xmm16, %%xmm16\n\tvpxord %%xmm17, %%xmm17, %%xmm17\n\tvpxord %%xmm18, %%xmm18, %%xmm18\n\t"
      "vpxord %%xmm19, %%xmm19, %%xmm19\n\tvpxord %%xmm20, %%xmm20, %%xmm20\n\tvpxord %%xmm21, %%xmm21, %%xmm21\n\t"
      "vpxord %%xmm22, %%xmm22, %%xmm22\n\tvpxord %%xmm23, %%xmm23, %%xmm23\n\tvpxord %%xmm24, %%xmm24, %%xmm24\n\t"
      "vpxord %%xmm25, %%xmm25, %%xmm25\n\tvpxord %%xmm26, %%xmm26, %%xmm26\n\tvpxord %%xmm27, %%xmm27, %%xmm27\n\t"
      "vpxord %%xmm28, %%xmm28, %%xmm28\n\tvpxord %%xmm29, %%xmm29, %%xmm29\n\tvpxord %%xmm30, %%xmm30, %%xmm30\n\t"
      "vpxord %%xmm31, %%xmm31, %%xmm31\n\tvzeroall"
      :
      :
      : "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10", "xmm11", "xmm12",
        "xmm13", "xmm14", "xmm15", "xmm16", "xmm17", "xmm18", "xmm19", "xmm20", "xmm21", "xmm22", "xmm23", "xmm24",
        "xmm25", "xmm26", "xmm27", "xmm28", "xmm29", "xmm30", "xmm31");
}

INLINE void forget() {
  leave_no_trace();
  __asm__ volatile("" : : : "memory");  // no tail call: after a jump its frame would lie where ours is, not below it
}

NOINLINE void seal_some(Group& group, SealJob* jobs, u32 count) {
  describe_all(group, jobs, count);
  seal_group(group);
}

NOINLINE void open_some(Group& group, OpenJob* jobs, u32 count) {
  describe_all(group, jobs, count);
  if (group.count == 0) return;
  open_group(group);
  for (u32 i = 0; i < group.count; ++i) jobs[group.order[i]].authentic = group.packet[i].wanted;
}

// The callees of *_some spill below its frame, which lies below this one: all of it is cleared before returning.
void seal(SealJob* jobs, std::size_t count) noexcept {
  if (count == 0) return;
  Group group;
  group.powers = group.tabled = group.doubled = false;
  for (std::size_t done = 0; done < count; done += kMaxGroup) {
    seal_some(group, jobs + done, static_cast<u32>(count - done < kMaxGroup ? count - done : kMaxGroup));
  }
  forget();
}

void open(OpenJob* jobs, std::size_t count) noexcept {
  if (count == 0) return;
  Group group;
  group.powers = group.tabled = group.doubled = false;
  for (std::size_t done = 0; done < count; done += kMaxGroup) {
    open_some(group, jobs + done, static_cast<u32>(count - done < kMaxGroup ? count - done : kMaxGroup));
  }
  forget();
}

}  // namespace

const AeadKernels kAeadAvx512 = {"avx512", cpu_has_avx512_ifma, seal, open};

// The packet stands last in its pair, eight or sixteen, among neighbours whose keys differ.
void poly1305_avx512_for_test(unsigned variant, const u8* one_time, const u8* text, u32 length, u8* tag) {
  constexpr u32 kLast = 15;
  Group group;
  group.count = kLast + 1;
  u64 key[4];
  __builtin_memcpy(key, one_time, 32);
  for (u32 p = 0; p <= kLast; ++p) {
    group.packet[p].text = text;
    group.packet[p].length = length;
    for (u32 i = 0; i < 4; ++i) group.one_time[i][p] = p == kLast ? key[i] : 0x0123456789abcdef * (p + i + 1);
  }
  if (variant == 5 && length > kSixteenLongest) variant = 4;
  if (variant == 4 && length > kAlikeLongest) variant = 3;
  if (variant == 2) powers_of_eight(group, 8, true);
  if (variant == 0) poly_scalar<false>(group, kLast);
  if (variant == 1) poly_solo<false>(group, kLast);
  if (variant == 2) poly_pair<false>(group, kLast - 1);
  if (variant == 3) poly_across<false>(group, 8);
  if (variant == 4) poly_alike<false, 1>(group, 8);
  if (variant == 5) poly_alike<false, 2>(group, 0);
  if (variant < 2) tag_of_one(group, kLast);
  if (variant == 2) tags_of_eight(group, 8, load_limbs(group.sum, 8));
  const u64 both[2] = {group.tag[0][kLast], group.tag[1][kLast]};
  __builtin_memcpy(tag, both, kTag);
}

}  // namespace wireplane
