// Poly1305 where AEAD tests do not reach: the final reduction's edge (h just below and above p) has a chance of 2^-128
// under random keys. Here the one-time key is chosen, so that every carry and every edge is met, in every way a kernel
// has.
#include <gtest/gtest.h>
#include <sodium.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <fstream>
#include <nlohmann/json.hpp>
#include <random>
#include <string>
#include <vector>

#include "dataplane/aead/cpu.h"
#include "dataplane/aead/poly1305_for_test.h"

namespace wireplane {
namespace {

using Octets = std::vector<std::uint8_t>;
using Tag = std::array<std::uint8_t, 16>;

struct Way {
  std::string name;
  unsigned variant;
  void (*compute)(unsigned, const std::uint8_t*, const std::uint8_t*, std::uint32_t, std::uint8_t*);
};

std::vector<Way> ways() {
  std::vector<Way> all;
  const char* const of_avx512[] = {"avx512 scalar", "avx512 solo",  "avx512 pair",
                                   "avx512 across", "avx512 eight", "avx512 sixteen"};
  const char* const of_avx2[] = {"avx2 one", "avx2 pair", "avx2 following"};
  if (cpu_has_avx512_ifma()) {
    for (unsigned v = 0; v < kPolyVariantsAvx512; ++v) all.push_back({of_avx512[v], v, poly1305_avx512_for_test});
  }
  if (cpu_has_avx2()) {
    for (unsigned v = 0; v < kPolyVariantsAvx2; ++v) all.push_back({of_avx2[v], v, poly1305_avx2_for_test});
  }
  return all;
}

// libsodium's, over what AEAD authenticates: text, zeros to a multiple of 16, lengths.
Tag expected(const Octets& key, Octets text) {
  const std::uint64_t lengths[2] = {0, text.size()};
  text.resize((text.size() + 15) / 16 * 16);
  const std::size_t end = text.size();
  text.resize(end + 16);
  std::memcpy(text.data() + end, lengths, 16);
  Tag tag;
  crypto_onetimeauth_poly1305(tag.data(), text.data(), text.size(), key.data());
  return tag;
}

std::string hex(const std::uint8_t* octets, std::size_t count) {
  std::string text;
  for (std::size_t i = 0; i < count; ++i) {
    char two[3];
    std::snprintf(two, sizeof two, "%02x", octets[i]);
    text += two;
  }
  return text;
}

void expect_equal(const Octets& key, const Octets& text) {
  const Tag want = expected(key, text);
  for (const Way& way : ways()) {
    Tag got;
    way.compute(way.variant, key.data(), text.data(), static_cast<std::uint32_t>(text.size()), got.data());
    ASSERT_EQ(hex(got.data(), 16), hex(want.data(), 16))
        << way.name << ", length " << text.size() << ", key " << hex(key.data(), 32);
  }
}

// Text whose last block makes h exactly what is wanted before the final reduction, for r = 1 or 2: with r = 1, h is the
// sum of all blocks. The lengths block is fixed, so the block before it takes up the difference.
Octets text_for_sum(std::size_t blocks, int difference) {
  // sum of blocks + n 2^128 = 2^130 - 5 + difference (mod 2^130 - 5), with r = 1: choose all blocks random but one.
  std::mt19937_64 random{blocks};
  Octets text(blocks * 16);
  for (auto& octet : text) octet = static_cast<std::uint8_t>(random());
  // 5-limb little-endian arithmetic mod 2^130 - 5 in 32-bit words: accumulate everything except block 0.
  std::array<std::uint64_t, 5> sum{};
  const auto add = [&sum](const std::uint8_t* block) {
    std::uint64_t carry = 0;
    for (std::size_t i = 0; i < 5; ++i) {
      std::uint32_t word = 1;
      if (i < 4) std::memcpy(&word, block + 4 * i, 4);
      carry += sum[i] + word;
      sum[i] = carry & 0xffffffff;
      carry >>= 32;
    }
    while (sum[4] >= 4) {
      std::uint64_t c = 5 * (sum[4] >> 2);
      sum[4] &= 3;
      for (std::size_t i = 0; i < 5; ++i) c += sum[i], sum[i] = c & 0xffffffff, c >>= 32;
    }
  };
  for (std::size_t b = 1; b < blocks; ++b) add(&text[16 * b]);
  std::uint8_t lengths[16] = {};
  const std::uint64_t octets = text.size();
  std::memcpy(lengths + 8, &octets, 8);
  add(lengths);
  // block 0 + 2^128 + sum = k p + difference: block 0 = (k p + difference - sum - 2^128), for the k that makes it 128
  // bits.
  for (int k = 1; k < 4; ++k) {
    std::array<std::int64_t, 5> want{-5 * k + difference, 0, 0, 0, 4 * k - 1};
    std::int64_t borrow = 0;
    for (std::size_t i = 0; i < 5; ++i) {
      want[i] += borrow - static_cast<std::int64_t>(sum[i]);
      borrow = want[i] >> 32;
      if (i < 4) want[i] &= 0xffffffff;
    }
    if (want[4] != 0) continue;
    for (std::size_t i = 0; i < 4; ++i) {
      const auto word = static_cast<std::uint32_t>(want[i]);
      std::memcpy(&text[4 * i], &word, 4);
    }
    return text;
  }
  return {};
}

// Goal: h just below p, p itself, and just above are reduced rightly.
// Method: r = 1 and a text built so that the sum is p + difference; with all s zero the tag is the residue itself.
TEST(Poly1305, ReducesAtTheEdgeOfP) {
  Octets key(32);
  key[0] = 1;
  int met = 0;
  for (std::size_t blocks = 1; blocks <= 40; ++blocks) {
    for (int difference = -8; difference <= 8; ++difference) {
      const Octets text = text_for_sum(blocks, difference);
      if (text.empty()) continue;  // no 128-bit block reaches it from this sum
      ++met;
      const Tag want = expected(key, text);
      if (difference >= 0) {  // p + d reduces to d: small, which shows that the text does what it should
        ASSERT_EQ(want[0], difference);
        ASSERT_TRUE(std::all_of(want.begin() + 1, want.end(), [](std::uint8_t octet) { return octet == 0; }));
      }
      expect_equal(key, text);
    }
  }
  EXPECT_GT(met, 150);
}

// Goal: no carry is lost anywhere.
// Method: keys and texts of extreme words (all zeros, all ones, lone bits, ones below or above a limb's edge), every
// length class.
TEST(Poly1305, CarriesThroughExtremeWords) {
  const std::uint64_t words[] = {0,
                                 ~std::uint64_t{0},
                                 1,
                                 std::uint64_t{1} << 63,
                                 (std::uint64_t{1} << 44) - 1,
                                 std::uint64_t{1} << 44,
                                 (std::uint64_t{1} << 20) - 1,
                                 (std::uint64_t{1} << 24) - 1,
                                 ~std::uint64_t{0} << 24,
                                 ~std::uint64_t{0} << 20,
                                 0x0ffffffc0fffffff,
                                 0x0ffffffc0ffffffc};
  std::mt19937_64 random{11};
  const auto word = [&] { return words[random() % std::size(words)]; };
  const std::uint32_t lengths[] = {0,   1,   15,  16,  17,  31,  32,   48,   63,   64,   65,   79,
                                   80,  111, 112, 113, 127, 128, 129,  176,  177,  192,  193,  240,
                                   255, 256, 257, 400, 511, 512, 1000, 1023, 1024, 1420, 2047, 4096};
  for (const std::uint32_t length : lengths) {
    for (int round = 0; round < 200; ++round) {
      Octets key(32), text((length + 7) / 8 * 8);
      const std::uint64_t same = word();
      for (std::size_t i = 0; i < key.size(); i += 8) {
        const std::uint64_t w = word();
        std::memcpy(&key[i], &w, 8);
      }
      for (std::size_t i = 0; i < text.size(); i += 8) {
        const std::uint64_t w = round % 2 == 0 ? same : word();
        std::memcpy(&text[i], &w, 8);
      }
      text.resize(length);
      expect_equal(key, text);
    }
  }
}

// Goal: the longest text with the largest key and all ones stays inside the limbs' bounds.
TEST(Poly1305, StaysInBoundsForTheLongestText) {
  for (const std::uint32_t length : {65519u, 65520u, 65535u}) expect_equal(Octets(32, 0xff), Octets(length, 0xff));
}

// Goal: random keys and every length.
TEST(Poly1305, EqualsLibsodiumAtEveryLength) {
  std::mt19937_64 random{5};
  for (std::uint32_t length = 0; length <= 1100; ++length) {
    Octets key(32), text(length);
    for (auto& octet : key) octet = static_cast<std::uint8_t>(random());
    for (auto& octet : text) octet = static_cast<std::uint8_t>(random());
    expect_equal(key, text);
  }
}

// Goal: Wycheproof's Poly1305 edge cases (its AEAD vectors with additional data cannot pass our contract whole).
// Method: the one-time key by libsodium's ChaCha20, then each way over the vector's ciphertext, against libsodium.
TEST(Poly1305, EqualsLibsodiumOnWycheproofsCiphertexts) {
  const char* const shared = std::getenv("WG_SHARED");
  std::ifstream file{std::string{shared != nullptr ? shared : "../shared"} +
                     "/vectors/wycheproof_chacha20_poly1305_test.json"};
  if (!file) GTEST_SKIP() << "Wycheproof vectors are not here (WG_SHARED): left out";
  const auto from_hex = [](const std::string& text) {
    Octets octets;
    for (std::size_t i = 0; i + 1 < text.size(); i += 2) {
      octets.push_back(static_cast<std::uint8_t>(std::stoi(text.substr(i, 2), nullptr, 16)));
    }
    return octets;
  };
  int vectors = 0;
  const auto json = nlohmann::json::parse(file);
  for (const auto& group : json["testGroups"]) {
    for (const auto& test : group["tests"]) {
      const Octets key = from_hex(test["key"]), nonce = from_hex(test["iv"]);
      if (nonce.size() != 12 || key.size() != 32) continue;
      Octets one_time(32);
      crypto_stream_chacha20_ietf(one_time.data(), 32, nonce.data(), key.data());
      expect_equal(one_time, from_hex(test["ct"]));
      ++vectors;
    }
  }
  EXPECT_GT(vectors, 250);
}

}  // namespace
}  // namespace wireplane
