// Fuzz: every AEAD kernel against the portable one.
// Claims: any burst shape, lengths, alignments, places, heads, paddings and forgeries give the same octets and
// verdicts; nothing is written outside the destination; a forged packet leaves zeros or what stood there before.
//
// The input describes bursts, it is not their content: 1 octet packets in the burst (1..48) and whether they are alike,
// then 8 octets a packet: 2 length, 1 head, 1 padding and place, 1 skews, 3 forgery. Contents come from a generator
// seeded with the input. Lengths are those of packets, mostly short: of a burst's octets depends how many an hour sees.
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <vector>

#include "dataplane/aead/aead.h"
#include "dataplane/base/check.h"

namespace wireplane {
namespace {

constexpr std::size_t kTag = 16, kFence = 64, kMostPackets = 48;
constexpr std::uint8_t kRepeated = 144, kAlike = 192;  // first octet, from here on: see burst_of
constexpr std::uint8_t kUntouched = 0xa5;

class Random {  // xorshift: content only
 public:
  explicit Random(std::uint64_t seed) : state_{seed | 1} {}
  std::uint64_t next() {
    state_ ^= state_ << 13, state_ ^= state_ >> 7, state_ ^= state_ << 17;
    return state_;
  }
  void fill(std::uint8_t* to, std::size_t count) {
    for (; count >= 8; count -= 8, to += 8) {
      const std::uint64_t eight = next();
      std::memcpy(to, &eight, 8);
    }
    const std::uint64_t rest = next();
    if (count != 0) std::memcpy(to, &rest, count);
  }

 private:
  std::uint64_t state_;
};

struct Shape {
  std::uint32_t head, body, padding;
  bool in_place, forged;
  std::size_t skew, flipped;  // distance from an aligned address; which bit a forger flips
  [[nodiscard]] std::uint32_t length() const { return head + body + padding; }
};

Shape shape_of(const std::uint8_t* from) {
  Shape s{};
  s.body = static_cast<std::uint32_t>(from[0] | from[1] << 8);
  if (from[1] < 0xfa) s.body %= from[1] < 0x80 ? 320 : from[1] < 0xe0 ? 1536 : 4608;  // sometimes the longest
  s.head = from[2] > 128 ? 0 : from[2];
  s.padding = from[3] & 15;
  if (s.length() > 65535) s.body = 65535 - s.head - s.padding;
  s.in_place = (from[3] & 16) != 0;
  s.skew = from[4] & 63;
  s.forged = from[5] < 64;
  s.flipped = static_cast<std::size_t>(from[6] | from[7] << 8) * 7;
  return s;
}

struct Packet {
  Shape shape;
  std::uint8_t key[32];
  std::uint64_t counter;
  std::vector<std::uint8_t> head, body, expected, arena;
  std::uint8_t* place() { return arena.data() + kFence + shape.skew; }
  void clear() { arena.assign(kFence + shape.skew + shape.length() + kTag + kFence, kUntouched); }
  [[nodiscard]] bool fences_stand(std::size_t written) {
    const std::uint8_t* const behind = place() + written;
    return untouched(arena.data(), place()) && untouched(behind, arena.data() + arena.size());
  }
  static bool untouched(const std::uint8_t* at, const std::uint8_t* end) {  // all alike, and the first as it was
    const auto count = static_cast<std::size_t>(end - at);
    return count == 0 || (*at == kUntouched && std::memcmp(at, at + 1, count - 1) == 0);
  }
  // What comes out of a packet that was forged: octet by octet nothing, or what stood there.
  [[nodiscard]] bool empty_or(const std::uint8_t* before) {
    const std::uint8_t* const now = place();
    if (before == nullptr ? untouched(now, now + shape.length()) : std::memcmp(now, before, shape.length()) == 0)
      return true;
    for (std::uint32_t at = 0; at < shape.length(); ++at) {
      if (now[at] != 0 && now[at] != (before == nullptr ? kUntouched : before[at])) return false;
    }
    return true;
  }
  [[nodiscard]] bool opened() {
    const std::uint8_t* at = place();
    if (!head.empty() && std::memcmp(at, head.data(), head.size()) != 0) return false;
    at += head.size();
    if (!body.empty() && std::memcmp(at, body.data(), body.size()) != 0) return false;
    at += body.size();
    const std::uint8_t* const end = at + shape.padding;
    while (at < end && *at == 0) ++at;
    return at == end;
  }
};

Packet make(const Shape& shape, Random& random) {
  Packet p;
  p.shape = shape;
  random.fill(p.key, sizeof p.key);
  p.counter = random.next();
  p.head.resize(shape.head);
  p.body.resize(shape.body);
  random.fill(p.head.data(), shape.head);
  random.fill(p.body.data(), shape.body);
  p.expected.resize(shape.length() + kTag);
  SealJob job{p.key, p.counter, p.head.data(), shape.head, shape.body, p.body.data(), p.expected.data(), shape.padding};
  kAeadPortable.seal(&job, 1);
  return p;
}

void seal_equals(const Aead& aead, std::vector<Packet>& burst) {
  std::vector<SealJob> jobs;
  for (Packet& p : burst) {
    p.clear();
    std::uint8_t* const body = p.place() + p.shape.head;
    if (p.shape.in_place && p.shape.body != 0) std::memcpy(body, p.body.data(), p.shape.body);
    jobs.push_back({p.key, p.counter, p.head.data(), p.shape.head, p.shape.body,
                    p.shape.in_place ? body : p.body.data(), p.place(), p.shape.padding});
  }
  aead.seal(jobs.data(), jobs.size());
  for (Packet& p : burst) {
    WG_CHECK(std::memcmp(p.place(), p.expected.data(), p.expected.size()) == 0);
    WG_CHECK(p.fences_stand(p.expected.size()));
  }
}

void open_equals(const Aead& aead, std::vector<Packet>& burst) {
  std::vector<OpenJob> jobs;
  std::vector<std::vector<std::uint8_t>> sources;
  for (const Packet& p : burst) {
    sources.push_back(p.expected);
    std::vector<std::uint8_t>& source = sources.back();
    if (p.shape.forged)
      source[p.shape.flipped / 8 % source.size()] ^= static_cast<std::uint8_t>(1u << p.shape.flipped % 8);
  }
  for (std::size_t i = 0; i < burst.size(); ++i) {
    Packet& p = burst[i];
    p.clear();
    if (p.shape.in_place) std::memcpy(p.place(), sources[i].data(), sources[i].size());
    jobs.push_back({p.key, p.counter, p.shape.in_place ? p.place() : sources[i].data(),
                    static_cast<std::uint32_t>(sources[i].size()), p.place(), p.shape.forged});
  }
  aead.open(jobs.data(), jobs.size());
  for (std::size_t i = 0; i < burst.size(); ++i) {
    Packet& p = burst[i];
    WG_CHECK(jobs[i].authentic == !p.shape.forged);
    WG_CHECK(p.fences_stand(p.shape.length() + (p.shape.in_place ? kTag : 0)));
    WG_CHECK(p.shape.forged ? p.empty_or(p.shape.in_place ? sources[i].data() : nullptr) : p.opened());
  }
}

// One descriptor a packet; or the descriptors again and again, until the burst is full; or so, and all bodies as long
// as the first: what kernels treat apart.
std::vector<Packet> burst_of(const std::uint8_t* input, std::size_t size, Random& random) {
  const std::size_t most = 1 + input[0] % kMostPackets, described = (size - 1) / 8;
  const std::size_t packets = input[0] < kRepeated && described < most ? described : most;
  std::vector<Packet> burst;
  for (std::size_t i = 0; i < packets; ++i) {
    Shape shape = shape_of(input + 1 + 8 * (i % described));
    if (input[0] >= kAlike) {
      const Shape first = shape_of(input + 1);
      shape.head = first.head, shape.body = first.body, shape.padding = first.padding;
    }
    if (shape.length() > 8192 && i >= 4) shape.body = 8192 - shape.head - shape.padding;  // four of the longest will do
    burst.push_back(make(shape, random));
  }
  return burst;
}

}  // namespace
}  // namespace wireplane

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* input, std::size_t size) {
  using namespace wireplane;
  if (size < 9) return 0;
  std::uint64_t seed = 0xcbf29ce484222325;
  for (std::size_t i = 0; i < size; ++i) seed = (seed ^ input[i]) * 0x100000001b3;
  Random random{seed};
  std::vector<Packet> burst = burst_of(input, size, random);
  for (const Aead* aead : Aead::usable()) {
    seal_equals(*aead, burst);
    open_equals(*aead, burst);
  }
  return 0;
}
