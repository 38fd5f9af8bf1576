// Every kernel that can run here against the AEAD contract, and against the portable kernel.
#include <gtest/gtest.h>
#include <sys/mman.h>

#include <algorithm>
#include <cstring>
#include <random>
#include <vector>

#include "dataplane/aead/aead.h"

namespace wireplane {
namespace {

constexpr std::size_t kTag = 16;
constexpr std::uint8_t kUntouched = 0xa5;
constexpr std::size_t kFence = 64;  // octets around every destination that must stay untouched

using Octets = std::vector<std::uint8_t>;

Octets random_octets(std::mt19937_64& random, std::size_t count) {
  Octets octets(count);
  for (auto& octet : octets) octet = static_cast<std::uint8_t>(random());
  return octets;
}

struct Shape {
  std::uint32_t head, body, padding;
  bool in_place;
  std::size_t skew;  // destination's distance from an aligned address
  [[nodiscard]] std::size_t length() const { return std::size_t{head} + body + padding; }
};

// One packet of a burst: its inputs, the destination inside fences, and what the portable kernel makes of it.
struct Packet {
  Packet(std::mt19937_64& random, const Shape& how)
      : shape{how},
        key{random_octets(random, 32)},
        counter{random()},
        head{random_octets(random, how.head)},
        body{random_octets(random, how.body)},
        arena(kFence + how.skew + how.length() + kTag + kFence, kUntouched),
        expected(how.length() + kTag) {
    SealJob job = seal_job();
    job.body = body.data();
    job.destination = expected.data();
    kAeadPortable.seal(&job, 1);
    if (shape.in_place) std::copy(body.begin(), body.end(), destination() + how.head);
  }
  std::uint8_t* destination() { return arena.data() + kFence + shape.skew; }
  SealJob seal_job() {
    return {key.data(),    counter,      head.data(),
            shape.head,    shape.body,   shape.in_place ? destination() + shape.head : body.data(),
            destination(), shape.padding};
  }
  Octets plaintext() const {
    Octets all = head;
    all.insert(all.end(), body.begin(), body.end());
    all.resize(shape.length());
    return all;
  }
  [[nodiscard]] bool fences_stand(std::size_t written) {
    const auto untouched = [](std::uint8_t octet) { return octet == kUntouched; };
    return std::all_of(arena.data(), destination(), untouched) &&
           std::all_of(destination() + written, arena.data() + arena.size(), untouched);
  }

  Shape shape;
  Octets key;
  std::uint64_t counter;
  Octets head, body, arena, expected;
};

class EachKernel : public testing::TestWithParam<const Aead*> {
 protected:
  // Seals and opens a burst of these shapes; `forged` (or none) has one bit of its ciphertext or tag flipped before
  // opening.
  void round_trip(const std::vector<Shape>& shapes, std::uint64_t seed) {
    std::mt19937_64 random{seed};
    std::vector<Packet> packets;
    packets.reserve(shapes.size());
    std::vector<SealJob> seals;
    for (const Shape& shape : shapes) {
      packets.emplace_back(random, shape);
      seals.push_back(packets.back().seal_job());
    }
    GetParam()->seal(seals.data(), seals.size());
    for (Packet& packet : packets) {
      ASSERT_EQ(std::memcmp(packet.destination(), packet.expected.data(), packet.expected.size()), 0)
          << "sealed octets differ, head " << packet.shape.head << " body " << packet.shape.body << " padding "
          << packet.shape.padding << " in place " << packet.shape.in_place << " burst " << shapes.size() << " seed "
          << seed;
      ASSERT_TRUE(packet.fences_stand(packet.expected.size())) << "wrote outside, length " << packet.shape.length();
    }
    open_all(packets, random, seed);
  }

  void open_all(std::vector<Packet>& packets, std::mt19937_64& random, std::uint64_t seed) {
    std::vector<OpenJob> opens;
    std::vector<Octets> sources(packets.size());
    std::vector<bool> forged(packets.size());
    for (std::size_t i = 0; i < packets.size(); ++i) {
      Packet& packet = packets[i];
      sources[i] = packet.expected;
      forged[i] = random() % 5 == 0;
      if (forged[i]) sources[i][random() % sources[i].size()] ^= static_cast<std::uint8_t>(1u << random() % 8);
      std::fill(packet.arena.begin(), packet.arena.end(), kUntouched);
      if (packet.shape.in_place) std::copy(sources[i].begin(), sources[i].end(), packet.destination());
      opens.push_back({packet.key.data(), packet.counter,
                       packet.shape.in_place ? packet.destination() : sources[i].data(),
                       static_cast<std::uint32_t>(sources[i].size()), packet.destination(), false});
    }
    GetParam()->open(opens.data(), opens.size());
    for (std::size_t i = 0; i < packets.size(); ++i) {
      Packet& packet = packets[i];
      const std::size_t length = packet.shape.length();
      ASSERT_EQ(opens[i].authentic, !forged[i])
          << "packet " << i << " of " << packets.size() << " length " << length << " seed " << seed;
      const Octets plain = packet.plaintext();
      if (!forged[i]) {
        ASSERT_TRUE(length == 0 || std::memcmp(packet.destination(), plain.data(), length) == 0)
            << "opened octets differ, length " << length << " seed " << seed;
      } else {
        expect_no_plaintext(packet, sources[i], plain);
      }
      ASSERT_TRUE(packet.fences_stand(length + (packet.shape.in_place ? kTag : 0)))
          << "wrote outside, length " << length;
    }
  }

  // What may stand where a forged packet should have gone: what stood there before (in place: the ciphertext), or
  // zeros.
  static void expect_no_plaintext(Packet& packet, const Octets& source, const Octets& plain) {
    for (std::size_t i = 0; i < plain.size(); ++i) {
      const std::uint8_t octet = packet.destination()[i];
      const std::uint8_t before = packet.shape.in_place ? source[i] : kUntouched;
      ASSERT_TRUE(octet == 0 || octet == before) << "octet " << i << " of " << plain.size() << " may be plaintext";
    }
  }
};

INSTANTIATE_TEST_SUITE_P(Usable, EachKernel, testing::ValuesIn(Aead::usable().begin(), Aead::usable().end()),
                         [](const auto& param) { return std::string{param.param->name()}; });

// Goal: length alone never decides correctness.
// Method: every body length 0..2100 alone, in place and out of place in turn, at a walking alignment.
TEST_P(EachKernel, SealsAndOpensEveryLengthAlone) {
  for (std::uint32_t length = 0; length <= 2100; ++length)
    round_trip({{0, length, 0, length % 2 == 0, length % 67}}, length);
}

// Goal: packets of one length share a burst of any size.
// Method: each length 0..600 and a stride beyond, in bursts of 1 to 40, and of a kernel's whole group.
TEST_P(EachKernel, SealsAndOpensEqualBursts) {
  for (std::uint32_t length = 0; length <= 2100; length += length < 600 ? 1 : 61) {
    for (const std::size_t count : {std::size_t{1} + length % 40, std::size_t{32}}) {
      round_trip(std::vector<Shape>(count, Shape{0, length, 0, length % 3 == 0, length % 5}), length);
    }
  }
}

// Goal: sizes, heads, paddings, places and alignments mix freely.
// Method: random bursts of up to 70 packets, the seed printed.
TEST_P(EachKernel, SealsAndOpensMixedBursts) {
  for (std::uint64_t seed = 1; seed <= 300; ++seed) {
    std::mt19937_64 random{seed};
    std::vector<Shape> shapes;
    const std::size_t count = 1 + random() % 70;
    const std::uint32_t longest = seed % 3 == 0 ? 200 : seed % 3 == 1 ? 1500 : 4000;
    for (std::size_t i = 0; i < count; ++i) {
      const auto head = static_cast<std::uint32_t>(random() % 3 == 0 ? random() % 129 : 0);
      shapes.push_back({head, static_cast<std::uint32_t>(random() % longest), static_cast<std::uint32_t>(random() % 16),
                        random() % 2 == 0, random() % 64});
    }
    round_trip(shapes, seed);
  }
}

// Goal: packets that have a few blocks in common, and then some more or none, are computed whole.
// Method: whole groups, lengths between a least one and some blocks more, without heads, the seed printed.
TEST_P(EachKernel, SealsAndOpensBurstsThatBeginAlike) {
  for (std::uint64_t seed = 1; seed <= 300; ++seed) {
    std::mt19937_64 random{seed};
    const auto least = static_cast<std::uint32_t>(random() % 10 * 32), range = static_cast<std::uint32_t>(seed % 450);
    std::vector<Shape> shapes;
    for (std::size_t i = 0; i < 32 + seed % 2 * 3; ++i) {
      shapes.push_back({0, static_cast<std::uint32_t>(least + random() % (range + 1)), 0, random() % 2 == 0, 0});
    }
    round_trip(shapes, seed);
  }
}

// Goal: a head of any length and a padding of any length are sealed as if they had been copied together.
// Method: all heads 0..128 with all paddings 0..15 and a few bodies.
TEST_P(EachKernel, JoinsHeadBodyAndPadding) {
  for (std::uint32_t head = 0; head <= 128; ++head) {
    std::vector<Shape> shapes;
    for (std::uint32_t padding = 0; padding < 16; ++padding) {
      shapes.push_back({head, (head * 7 + padding * 31) % 300, padding, padding % 2 == 0, padding});
    }
    round_trip(shapes, head);
  }
}

// Goal: the longest packets the contract allows.
// Method: lengths around 64 KiB alone and in a burst with short ones.
TEST_P(EachKernel, SealsAndOpensTheLongest) {
  for (const std::uint32_t length : {4095u, 4096u, 8192u, 16383u, 32768u, 65519u, 65520u, 65535u}) {
    round_trip({{0, length, 0, true, 1}}, length);
    round_trip({{0, length, 0, true, 1}, {20, 64, 3, false, 0}, {0, length, 0, false, 3}, {0, 0, 0, true, 0}}, length);
  }
}

// Goal: an empty burst and a source too short for a tag are no accident.
TEST_P(EachKernel, RefusesWhatCannotHoldATag) {
  GetParam()->seal(nullptr, 0);
  GetParam()->open(nullptr, 0);
  const std::uint8_t key[32] = {};
  std::uint8_t source[16] = {}, destination[16] = {};
  for (std::uint32_t length = 0; length < kTag; ++length) {
    OpenJob job{key, 0, source, length, destination, true};
    GetParam()->open(&job, 1);
    EXPECT_FALSE(job.authentic) << length;
  }
}

// Goal: every bit of the tag and of the ciphertext counts.
// Method: flip each bit of a sealed packet in turn; all flips of one octet are opened as one burst.
TEST_P(EachKernel, NoticesEveryFlippedBit) {
  std::mt19937_64 random{7};
  Packet packet{random, {0, 100, 0, false, 0}};
  for (std::size_t at = 0; at < packet.expected.size(); ++at) {
    std::vector<Octets> forged(9, packet.expected);
    std::vector<OpenJob> jobs;
    for (std::size_t bit = 0; bit < 9; ++bit) {
      if (bit < 8) forged[bit][at] ^= static_cast<std::uint8_t>(1u << bit);
      jobs.push_back({packet.key.data(), packet.counter, forged[bit].data(),
                      static_cast<std::uint32_t>(forged[bit].size()), forged[bit].data(), bit < 8});
    }
    GetParam()->open(jobs.data(), jobs.size());
    for (std::size_t bit = 0; bit < 8; ++bit) ASSERT_FALSE(jobs[bit].authentic) << "octet " << at << " bit " << bit;
    ASSERT_TRUE(jobs[8].authentic);
  }
}

// Goal: the self-test that start-up runs notices a wrong kernel.

// Goal: a key is 32 octets, and nothing behind it is read (a library's code that does is given a copy). Method: the key
// ends where its page ends, and the next page may not be touched; one packet and bursts, sealed and opened.
TEST_P(EachKernel, ReadsNothingBehindAKey) {
  constexpr std::size_t kPage = 4096;
  void* const pages = mmap(nullptr, 2 * kPage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  ASSERT_NE(pages, MAP_FAILED);
  ASSERT_EQ(mprotect(static_cast<char*>(pages) + kPage, kPage, PROT_NONE), 0);
  std::uint8_t* const key = static_cast<std::uint8_t*>(pages) + kPage - 32;
  std::fill_n(key, 32, std::uint8_t{7});
  for (const std::size_t count : {1u, 2u, 5u, 16u, 32u}) {
    for (const std::uint32_t length : {0u, 1u, 64u, 200u, 576u, 1420u, 4096u}) {
      std::vector<Octets> texts(count, Octets(length + kTag));
      std::vector<SealJob> seals;
      std::vector<OpenJob> opens;
      for (Octets& text : texts) {
        seals.push_back({key, seals.size(), nullptr, 0, length, text.data(), text.data(), 0});
        opens.push_back({key, opens.size(), text.data(), length + 16, text.data(), false});
      }
      GetParam()->kernels().seal(seals.data(), count);
      GetParam()->kernels().open(opens.data(), count);
      for (const OpenJob& job : opens) EXPECT_TRUE(job.authentic) << count << " packets of " << length;
    }
  }
  munmap(pages, 2 * kPage);
}

TEST(AeadSelfTest, LeavesOutAKernelWithAWrongTag) {
  static const AeadKernels wrong = {
      "wrong", [] { return true; },
      [](SealJob* jobs, std::size_t count) noexcept {
        kAeadPortable.seal(jobs, count);
        for (std::size_t i = 0; i < count; ++i)
          jobs[i].destination[jobs[i].head_length + jobs[i].body_length + jobs[i].padding] ^= 1;
      },
      [](OpenJob* jobs, std::size_t count) noexcept { kAeadPortable.open(jobs, count); }};
  EXPECT_FALSE(Aead::self_test(wrong));
}

TEST(AeadSelfTest, LeavesOutAKernelThatBelievesForgeries) {
  static const AeadKernels credulous = {
      "credulous", [] { return true; },
      [](SealJob* jobs, std::size_t count) noexcept { kAeadPortable.seal(jobs, count); },
      [](OpenJob* jobs, std::size_t count) noexcept {
        kAeadPortable.open(jobs, count);
        for (std::size_t i = 0; i < count; ++i) jobs[i].authentic = true;
      }};
  EXPECT_FALSE(Aead::self_test(credulous));
}

// Goal: there is always a kernel, it is the best usable one unless WG_AEAD says otherwise, and the report names all.
TEST(AeadChoice, ChoosesTheBestUsableAndSaysSo) {
  ASSERT_FALSE(Aead::usable().empty());
  EXPECT_EQ(std::string{Aead::usable().back()->name()}, "portable");
  EXPECT_EQ(&Aead::chosen(), &Aead::chosen());
  EXPECT_NE(Aead::find("portable"), nullptr);
  EXPECT_EQ(Aead::find("no such kernel"), nullptr);
  const auto report = Aead::report();
  EXPECT_GE(report.size(), Aead::usable().size());
  const std::string chosen = std::string{Aead::chosen().name()} + ": chosen";
  EXPECT_NE(std::find(report.begin(), report.end(), chosen), report.end());
  if (std::getenv("WG_AEAD") == nullptr) {
    EXPECT_EQ(&Aead::chosen(), Aead::usable().front());
    EXPECT_EQ(Aead::complaint(), "");
  }
  for (const std::string& line : report) RecordProperty("aead", line);
}

}  // namespace
}  // namespace wireplane
