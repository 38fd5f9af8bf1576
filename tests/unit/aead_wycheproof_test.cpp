// Wycheproof's ChaCha20-Poly1305 vectors. Our contract has no additional data and only nonces that begin with four zero
// octets, so few vectors pass through it whole; for the others the test uses what of them can: every key, message and
// low nonce goes through all kernels against libsodium, and every ciphertext's Poly1305 through aead_poly1305_test.
#include <gtest/gtest.h>

#include <cstdlib>
#include <cstring>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "dataplane/aead/aead.h"

namespace wireplane {
namespace {

using Octets = std::vector<std::uint8_t>;

Octets from_hex(const std::string& text) {
  Octets octets;
  for (std::size_t i = 0; i + 1 < text.size(); i += 2)
    octets.push_back(static_cast<std::uint8_t>(std::stoi(text.substr(i, 2), nullptr, 16)));
  return octets;
}

struct Vector {
  int id;
  Octets key, nonce, aad, message, ciphertext, tag;
  bool valid;
};

std::vector<Vector> load() {
  const char* const shared = std::getenv("WG_SHARED");
  std::ifstream file{std::string{shared != nullptr ? shared : "../shared"} +
                     "/vectors/wycheproof_chacha20_poly1305_test.json"};
  std::vector<Vector> vectors;
  if (!file) return vectors;
  const auto json = nlohmann::json::parse(file);
  for (const auto& group : json["testGroups"]) {
    for (const auto& test : group["tests"]) {
      vectors.push_back({test["tcId"], from_hex(test["key"]), from_hex(test["iv"]), from_hex(test["aad"]),
                         from_hex(test["msg"]), from_hex(test["ct"]), from_hex(test["tag"]),
                         test["result"] == "valid"});
    }
  }
  return vectors;
}

bool passes_contract(const Vector& v) {
  return v.nonce.size() == 12 && v.aad.empty() && v.key.size() == 32 && v.tag.size() == 16 &&
         std::all_of(v.nonce.begin(), v.nonce.begin() + 4, [](std::uint8_t octet) { return octet == 0; });
}

std::uint64_t counter_of(const Vector& v) {
  std::uint64_t counter = 0;
  if (v.nonce.size() >= 12) std::memcpy(&counter, v.nonce.data() + 4, 8);
  return counter;
}

class Wycheproof : public testing::Test {
 protected:
  void SetUp() override {
    vectors_ = load();
    if (vectors_.empty()) GTEST_SKIP() << "Wycheproof vectors are not here (WG_SHARED): left out";
  }
  std::vector<Vector> vectors_;
};

// Goal: vectors that the contract can express are sealed and judged as Wycheproof says, by every kernel.
TEST_F(Wycheproof, WholeVectorsThroughTheContract) {
  for (const Aead* aead : Aead::usable()) {
    int whole = 0;
    for (const Vector& v : vectors_) {
      if (!passes_contract(v)) continue;
      ++whole;
      Octets sealed = v.ciphertext, plain(v.message.size());
      sealed.insert(sealed.end(), v.tag.begin(), v.tag.end());
      OpenJob open{v.key.data(), counter_of(v), sealed.data(), static_cast<std::uint32_t>(sealed.size()),
                   plain.data(), false};
      aead->open(&open, 1);
      EXPECT_EQ(open.authentic, v.valid) << aead->name() << " tcId " << v.id;
      if (!v.valid) continue;
      EXPECT_EQ(plain, v.message) << aead->name() << " tcId " << v.id;
      Octets out(sealed.size());
      SealJob seal{v.key.data(),     counter_of(v), nullptr, 0, static_cast<std::uint32_t>(v.message.size()),
                   v.message.data(), out.data(),    0};
      aead->seal(&seal, 1);
      EXPECT_EQ(out, sealed) << aead->name() << " tcId " << v.id;
    }
    RecordProperty(std::string{"whole_vectors_"} + aead->name(), whole);
  }
}

// Goal: the vectors' edge-case keys and messages give the same octets in all kernels, as one burst and alone.
TEST_F(Wycheproof, KeysAndMessagesAsOneBurst) {
  for (const Aead* aead : Aead::usable()) {
    std::vector<Octets> mine, theirs;
    std::vector<SealJob> a, b;
    for (const Vector& v : vectors_) {
      if (v.key.size() != 32) continue;
      mine.emplace_back(v.message.size() + 16);
      theirs.emplace_back(v.message.size() + 16);
      a.push_back({v.key.data(), counter_of(v), nullptr, 0, static_cast<std::uint32_t>(v.message.size()),
                   v.message.data(), mine.back().data(), 0});
      b.push_back(a.back());
      b.back().destination = theirs.back().data();
    }
    ASSERT_GT(a.size(), 300u);
    aead->seal(a.data(), a.size());
    kAeadPortable.seal(b.data(), b.size());
    EXPECT_EQ(mine, theirs) << aead->name();
    for (SealJob& job : a) aead->seal(&job, 1);
    EXPECT_EQ(mine, theirs) << aead->name() << ", one at a time";
  }
}

}  // namespace
}  // namespace wireplane
