// Goal: BLAKE2s and everything drawn from it says what independent implementations say.
// Method: RFC 7693's own vectors, Python's hashlib and hmac, and the 300 shared vectors where they are.
#include "control/noise/blake2s.h"

#include <fstream>
#include <nlohmann/json.hpp>

#include "tests/unit/noise_fixture.h"

namespace wireplane::test {
namespace {

Octets text(std::string_view letters) {
  return {reinterpret_cast<const std::uint8_t*>(letters.data()), letters.size()};
}

std::vector<std::uint8_t> ramp(std::size_t count, unsigned step, unsigned from) {
  std::vector<std::uint8_t> octets(count);
  for (std::size_t i = 0; i < count; ++i) octets[i] = static_cast<std::uint8_t>(i * step + from);
  return octets;
}

// RFC 7693 appendix B
TEST(Blake2s, HashesAbcAsTheRfcDoes) {
  EXPECT_EQ(hex_of(hash({text("abc")})), "508c5e8c327c14e2e1a72ba34eeb452f37458b209ed63a294d999b4c86675982");
}

// RFC 7693 appendix E: one digest over digests of every size, of keyed and unkeyed messages of many lengths.
TEST(Blake2s, PassesTheSelfTestOfTheRfc) {
  const auto sequence = [](std::size_t count, std::uint32_t seed) {
    std::vector<std::uint8_t> octets(count);
    std::uint32_t a = 0xdead4bad * seed, b = 1;
    for (std::uint8_t& octet : octets) {
      const std::uint32_t t = a + b;
      a = b;
      b = t;
      octet = static_cast<std::uint8_t>(t >> 24);
    }
    return octets;
  };
  std::vector<std::uint8_t> all;
  for (const std::size_t digest_size : {16u, 20u, 28u, 32u}) {
    for (const std::size_t size : {0u, 3u, 64u, 65u, 255u, 1024u}) {
      std::vector<std::uint8_t> digest(digest_size);
      const auto message = sequence(size, static_cast<std::uint32_t>(size));
      blake2s(digest, {message});
      all.insert(all.end(), digest.begin(), digest.end());
      keyed_blake2s(digest, sequence(digest_size, static_cast<std::uint32_t>(digest_size)), {message});
      all.insert(all.end(), digest.begin(), digest.end());
    }
  }
  EXPECT_EQ(hex_of(hash({all})), "6a411f08ce25adcdfb02aba641451cec53c598b24f4fc787fbdc88797f4c1dfe");
}

TEST(Blake2s, ReadsPartsAsIfTheyLayBehindEachOther) {
  const auto message = ramp(200, 7, 3);
  const auto key = ramp(32, 5, 1);
  const Octets whole{message};
  for (std::size_t cut = 0; cut <= message.size(); ++cut) {
    EXPECT_EQ(hash({whole.first(cut), whole.subspan(cut)}), hash({whole}));
    EXPECT_EQ(mac(key, {whole.first(cut), {}, whole.subspan(cut)}), mac(key, {whole}));
  }
}

// Python: hmac.new(key, message, 'blake2s')
TEST(Blake2s, MakesTheHmacThatPythonMakes) {
  struct Case {
    std::size_t key, message;
    const char* expected;
  };
  for (const Case& c : {Case{0, 0, "eaf4bb25938f4d20e72656bbbc7a9bf63c0c18537333c35bdb67db1402661acd"},
                        Case{16, 3, "02479dd0fdbfddd98d087eabc861c0b4eccc8ac23d2d3fddb83a4239b863d098"},
                        Case{32, 64, "69346c4f578fd960e44c881b981e0d782e67ce73eca314f390f10772c4e988ba"},
                        Case{64, 100, "1de5fd74aa57a68f5336224081b45f11477d5cd19ceb60c0354c7a191df68649"},
                        Case{65, 5, "daabd3c4774a817c8df1f55dc34e9cbf36ba6aebc7c5b50c40b691eea61d6fad"}}) {
    Digest digest;
    hmac_blake2s(digest, ramp(c.key, 7, 1), {ramp(c.message, 3, 5)});
    EXPECT_EQ(hex_of(digest), c.expected) << c.key << " octets of key";
  }
}

// Goal: each Kdf_n is the beginning of the next, also when a result replaces the key that it is drawn from.
TEST(Blake2s, DrawsTheChainOfKeysThatPythonDraws) {
  const std::string expected[] = {"e3b7e038799447459d13f6cc03b71555c0b32ee93354ebe4526ec98bc53b20a4",
                                  "ca06d8e46b509266c7c0594805ffb9c256348a33c642381348f047e452d239e2",
                                  "5ee952936bec1473c13db1cc92b8d8ba5ad2df7c77f07478731d48aa5530a000"};
  const auto input = ramp(32, 1, 100);
  SecretKey t1 = secret_of(ramp(32, 1, 0)), t2, t3;
  kdf3(t1, t2, t3, t1.expose(), input);
  EXPECT_EQ(hex_of(t1), expected[0]);
  EXPECT_EQ(hex_of(t2), expected[1]);
  EXPECT_EQ(hex_of(t3), expected[2]);
  t1 = secret_of(ramp(32, 1, 0));
  kdf2(t1, t2, t1.expose(), input);
  EXPECT_EQ(hex_of(t1), expected[0]);
  EXPECT_EQ(hex_of(t2), expected[1]);
  t1 = secret_of(ramp(32, 1, 0));
  kdf1(t1, t1.expose(), input);
  EXPECT_EQ(hex_of(t1), expected[0]);
}

TEST(Blake2s, EqualsOnAllOctetsAndOnlyAtEqualLength) {
  const auto one = ramp(16, 1, 0);
  EXPECT_TRUE(equal_in_constant_time(one, ramp(16, 1, 0)));
  EXPECT_FALSE(equal_in_constant_time(one, ramp(15, 1, 0)));
  for (std::size_t bit = 0; bit < 128; ++bit) {
    auto other = one;
    other[bit / 8] = static_cast<std::uint8_t>(other[bit / 8] ^ (1u << (bit % 8)));
    EXPECT_FALSE(equal_in_constant_time(one, other));
  }
}

TEST(Blake2s, AgreesWithHashlibOnAllSharedVectors) {
  const auto path = find_vectors("blake2s.json");
  if (!path) GTEST_SKIP() << "external vectors left out: blake2s.json is not there";
  std::ifstream file{*path};
  const auto vectors = nlohmann::json::parse(file).at("vectors");
  EXPECT_GE(vectors.size(), 300u);
  for (const auto& vector : vectors) {
    std::vector<std::uint8_t> digest(vector.at("digest_len").get<std::size_t>());
    keyed_blake2s(digest, from_hex(vector.at("key").get<std::string>()),
                  {from_hex(vector.at("msg").get<std::string>())});
    EXPECT_EQ(hex_of(digest), vector.at("digest").get<std::string>());
  }
}

}  // namespace
}  // namespace wireplane::test
