// Goal: both AEADs of the handshake say what their vectors say, and a refused message leaves no text.
// Method: the XChaCha draft's vector, wycheproof where it is, every bit of a sealed message flipped.
#include "control/noise/sealing.h"

#include <fstream>
#include <nlohmann/json.hpp>

#include "tests/unit/noise_fixture.h"

namespace wireplane::test {
namespace {

using Bytes = std::vector<std::uint8_t>;

std::span<const std::uint8_t, 32> as_key(const Bytes& octets) { return Octets{octets}.first<32>(); }

// draft-irtf-cfrg-xchacha-03, A.3.1
TEST(Sealing, AgreesWithTheDraftOfXchacha) {
  const Bytes key = from_hex("808182838485868788898a8b8c8d8e8f909192939495969798999a9b9c9d9e9f");
  const Bytes nonce = from_hex("404142434445464748494a4b4c4d4e4f5051525354555657");
  const Bytes associated = from_hex("50515253c0c1c2c3c4c5c6c7");
  const std::string_view words =
      "Ladies and Gentlemen of the class of '99: If I could offer you only one tip for the future, sunscreen would be "
      "it.";
  const Bytes text{words.begin(), words.end()};
  Bytes sealed(text.size() + kTagSize), opened(text.size());
  xseal(sealed, as_key(key), Octets{nonce}.first<24>(), text, associated);
  EXPECT_EQ(
      hex_of(sealed),
      "bd6d179d3e83d43b9576579493c0e939572a1700252bfaccbed2902c21396cbb731c7f1b0b4aa6440bf3a82f4eda7e39ae64c6708c54"
      "c216cb96b72e1213b4522f8c9ba40db5d945b11b69b982c1bb9e3f3fac2bc369488f76b2383565d3fff921f9664c97637da9768812f6"
      "15c68b13b52ec0875924c1c7987947deafd8780acf49");
  ASSERT_TRUE(xopen(opened, as_key(key), Octets{nonce}.first<24>(), sealed, associated));
  EXPECT_EQ(opened, text);
}

TEST(Sealing, RefusesEveryFlippedBitAndLeavesNoText) {
  const SecretKey key = secret_of(0x42);
  const Bytes nonce(24, 7), associated(16, 9), text(40, 0xaa);
  Bytes once(text.size() + kTagSize), extended(once.size());
  seal_once(once, key, text, associated);
  xseal(extended, key.expose(), Octets{nonce}.first<24>(), text, associated);
  Bytes opened(text.size());
  ASSERT_TRUE(open_once(opened, key, once, associated));
  EXPECT_EQ(opened, text);
  for (std::size_t bit = 0; bit < 8 * once.size(); ++bit) {
    const auto mask = static_cast<std::uint8_t>(1u << (bit % 8));
    once[bit / 8] ^= mask;
    extended[bit / 8] ^= mask;
    opened.assign(text.size(), 0x55);
    EXPECT_FALSE(open_once(opened, key, once, associated));
    EXPECT_EQ(std::ranges::count(opened, 0xaa), 0);
    EXPECT_FALSE(xopen(opened, key.expose(), Octets{nonce}.first<24>(), extended, associated));
    EXPECT_EQ(std::ranges::count(opened, 0xaa), 0);
    once[bit / 8] ^= mask;
    extended[bit / 8] ^= mask;
  }
  EXPECT_FALSE(open_once(opened, key, once, Bytes(16, 8)));
  EXPECT_FALSE(xopen(opened, key.expose(), Octets{nonce}.first<24>(), extended, Bytes(15, 9)));
}

TEST(Sealing, AgreesWithWycheproofOnXchacha) {
  const auto path = find_vectors("wycheproof_xchacha20_poly1305_test.json");
  if (!path) GTEST_SKIP() << "external vectors left out: wycheproof_xchacha20_poly1305_test.json is not there";
  std::ifstream file{*path};
  std::size_t tried = 0, other_nonce = 0;
  const auto vectors = nlohmann::json::parse(file);
  for (const auto& group : vectors.at("testGroups")) {
    for (const auto& test : group.at("tests")) {
      const auto field = [&](const char* name) { return from_hex(test.at(name).get<std::string>()); };
      const bool valid = test.at("result") == "valid";
      if (field("iv").size() != 24) {  // what our types do not let one write
        EXPECT_FALSE(valid);
        ++other_nonce;
        continue;
      }
      const Bytes key = field("key"), nonce = field("iv"), associated = field("aad"), text = field("msg");
      Bytes sealed = field("ct");
      const Bytes tag = field("tag");
      sealed.insert(sealed.end(), tag.begin(), tag.end());
      Bytes opened(text.size());
      EXPECT_EQ(xopen(opened, as_key(key), Octets{nonce}.first<24>(), sealed, associated), valid) << test.at("tcId");
      if (valid) {
        EXPECT_EQ(opened, text) << test.at("tcId");
        Bytes again(sealed.size());
        xseal(again, as_key(key), Octets{nonce}.first<24>(), text, associated);
        EXPECT_EQ(again, sealed) << test.at("tcId");
      }
      ++tried;
    }
  }
  EXPECT_EQ(tried + other_nonce, vectors.at("numberOfTests").get<std::size_t>());
  EXPECT_GE(tried, 300u);
}

}  // namespace
}  // namespace wireplane::test
