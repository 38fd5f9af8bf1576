// Goal: X25519 says what RFC 7748 says, refuses every point that would make a secret of nothing, and keys as text are
// read strictly. Method: the RFC's vectors, the low-order points of the kernel's netns.sh, wycheproof where it is.
#include "control/noise/x25519.h"

#include <fstream>
#include <nlohmann/json.hpp>

#include "control/noise/base64.h"
#include "tests/unit/noise_fixture.h"

namespace wireplane::test {
namespace {

SecretKey secret_of_hex(std::string_view text) { return secret_of(from_hex(text)); }
PublicKey public_of_hex(std::string_view text) { return public_of(from_hex(text)); }

TEST(X25519, MultipliesAsTheRfcDoes) {  // RFC 7748 §5.2
  SecretKey shared;
  ASSERT_TRUE(dh(shared, secret_of_hex("a546e36bf0527c9d3b16154b82465edd62144c0ac1fc5a18506a2244ba449ac4"),
                 public_of_hex("e6db6867583030db3594c1a424b15f7c726624ec26b3353b10a903a6d0ab1c4c")));
  EXPECT_EQ(hex_of(shared), "c3da55379de9c6908e94ea4df28d084f32eccf03491c71f754b4075577a28552");
  ASSERT_TRUE(dh(shared, secret_of_hex("4b66e9d4d1b4673c5ad22691957d6af5c11b6421e0ea01d42ca4169e7918ba0d"),
                 public_of_hex("e5210f12786811d3f4b7959d0538ae2c31dbe7106fc03c3efc4cd549c715a493")));
  EXPECT_EQ(hex_of(shared), "95cbde9476e8907d7aade45cb4b873f88b595a68799fa152e6f8f7647aac7957");
}

TEST(X25519, IteratesAsTheRfcDoes) {  // RFC 7748 §5.2
  SecretKey k = secret_of_hex("0900000000000000000000000000000000000000000000000000000000000000");
  PublicKey u = public_of(k.expose());
  for (int i = 1; i <= 1000; ++i) {
    SecretKey next;
    ASSERT_TRUE(dh(next, k, u));
    u = public_of(k.expose());
    k = std::move(next);
    if (i == 1) {
      EXPECT_EQ(hex_of(k), "422c8e7a6227d7bca1350b3e2bb7279f7897b87bb6854b783c60e80311ae3079");
    }
  }
  EXPECT_EQ(hex_of(k), "684cf59ba83309552800ef566f2f4d3c1c3887c49360e3875f2eb94d99532c51");
}

TEST(X25519, AgreesBetweenAliceAndBob) {  // RFC 7748 §6.1
  const SecretKey alice = secret_of_hex("77076d0a7318a57d3c16c17251b26645df4c2f87ebc0992ab177fba51db92c2a");
  const SecretKey bob = secret_of_hex("5dab087e624a8a4b79e17f8b83800ee66f3bb1292618b6fd1c2f8b27ff88e0eb");
  EXPECT_EQ(hex_of(public_key(alice).octets), "8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4e6a");
  EXPECT_EQ(hex_of(public_key(bob).octets), "de9edb7d7b7dc1b4d35b61c2ece435373f8343c85b78674dadfc7e146f882b4f");
  SecretKey hers, his;
  ASSERT_TRUE(dh(hers, alice, public_key(bob)));
  ASSERT_TRUE(dh(his, bob, public_key(alice)));
  EXPECT_EQ(hex_of(hers), "4a5d9d5ba4ce2de1728e3bf480350f25e07e21c947d19e3376f09b3c1e161742");
  EXPECT_EQ(hex_of(his), hex_of(hers));
}

TEST(X25519, ClampsWhatItGenerates) {
  ScriptedEntropy entropy;
  for (int i = 0; i < 100; ++i) {
    const SecretKey key = generate_secret_key(entropy);
    EXPECT_EQ(key.expose()[0] & 7, 0);
    EXPECT_EQ(key.expose()[31] & 0xc0, 0x40);
  }
}

TEST(X25519, DoesNotCareWhetherAKeyWasClampedBefore) {
  SecretKey clamped = secret_of(0xff);
  const PublicKey before = public_key(clamped);
  clamp(clamped);
  EXPECT_EQ(hex_of(clamped), "f8" + std::string(60, 'f') + "7f");
  EXPECT_EQ(public_key(clamped), before);
}

TEST(X25519, CountsItsMultiplications) {
  const std::uint64_t before = x25519_calls();
  SecretKey shared;
  const PublicKey point = public_key(secret_of(1));
  EXPECT_TRUE(dh(shared, secret_of(2), point));
  EXPECT_EQ(x25519_calls(), before + 2);
}

// The seven of the kernel's netns.sh, as it writes them.
constexpr std::string_view kLowOrderPoints[] = {
    "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=", "AQAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=",
    "4Ot6fDtBuK4WVuP68Z/EatoJjeucMrH9hmIFFl9JuAA=", "X5yVvKNQjCSx0LFVnIPvWwREXMRYHI6G2CJO3dCfEVc=",
    "7P///////////////////////////////////////38=", "7f///////////////////////////////////////38=",
    "7v///////////////////////////////////////38="};

// Goal: a peer whose key is a point of low order can be configured, and never gets or gives a handshake; and such a
// point in place of an ephemeral ends the handshake at the step that would use it, on either side.
// proves: P20
TEST(X25519, NoHandshakeSurvivesAPointOfLowOrder) {
  ScriptedEntropy entropy;
  const Pair pair;
  for (const std::string_view text : kLowOrderPoints) {
    const auto point = public_key_from_base64(text);
    ASSERT_TRUE(point) << text;
    SecretKey shared;
    EXPECT_FALSE(dh(shared, pair.initiator.secret, *point)) << text;
    EXPECT_TRUE(shared.is_zero());

    const RemoteIdentity configured = make_remote_identity(pair.initiator, *point, {});
    EXPECT_FALSE(configured.usable);
    InitiationMessage msg;
    EXPECT_FALSE(write_initiation(msg, ReceiverIndex{1}, pair.initiator, configured, {}, entropy));

    const auto sent = write_initiation(msg, ReceiverIndex{1}, pair.initiator, pair.to_responder, {}, entropy);
    ASSERT_TRUE(sent);
    auto read = read_initiation(msg, pair.responder);
    ASSERT_TRUE(read);
    ASSERT_TRUE(read_initiation_timestamp(*read, msg, pair.to_initiator));
    ResponseMessage response;
    ASSERT_TRUE(write_response(response, *read, ReceiverIndex{2}, pair.responder, pair.to_initiator, entropy));

    msg.ephemeral = point->octets;  // to the responder, from who cannot even seal
    const auto refused = read_initiation(msg, pair.responder);
    ASSERT_FALSE(refused);
    EXPECT_EQ(refused.error(), Refusal::kLowOrderPoint);
    response.ephemeral = point->octets;  // and to the initiator
    const auto refused_response = read_response(*sent, response, pair.initiator, pair.to_responder);
    ASSERT_FALSE(refused_response);
    EXPECT_EQ(refused_response.error(), Refusal::kLowOrderPoint);
  }
}

TEST(X25519, AgreesWithWycheproof) {
  const auto path = find_vectors("wycheproof_x25519_test.json");
  if (!path) GTEST_SKIP() << "external vectors left out: wycheproof_x25519_test.json is not there";
  std::ifstream file{*path};
  const auto vectors = nlohmann::json::parse(file);
  std::size_t tried = 0, zero = 0;
  for (const auto& group : vectors.at("testGroups")) {
    for (const auto& test : group.at("tests")) {
      const auto expected = test.at("shared").get<std::string>();
      SecretKey shared;
      const bool sound = dh(shared, secret_of_hex(test.at("private").get<std::string>()),
                            public_of_hex(test.at("public").get<std::string>()));
      EXPECT_EQ(hex_of(shared), expected) << "tcId " << test.at("tcId");
      EXPECT_EQ(sound, expected != std::string(64, '0')) << "tcId " << test.at("tcId");
      ++tried;
      zero += !sound;
    }
  }
  EXPECT_EQ(tried, vectors.at("numberOfTests").get<std::size_t>());
  EXPECT_GE(zero, 20u);
}

TEST(KeyText, ReadsWhatItWrites) {
  ScriptedEntropy entropy;
  for (int i = 0; i < 200; ++i) {
    const SecretKey key = generate_secret_key(entropy);
    const PublicKey point = public_of(key.expose());
    EXPECT_EQ(hex_of(*secret_key_from_base64(to_base64(key).view())), hex_of(key));
    EXPECT_EQ(hex_of(*secret_key_from_hex(to_hex(key).view())), hex_of(key));
    EXPECT_EQ(*public_key_from_base64(to_base64(point).view()), point);
    EXPECT_EQ(*public_key_from_hex(to_hex(point).view()), point);
    EXPECT_EQ(to_hex(key).view(), hex_of(key));
  }
  EXPECT_EQ(to_base64(public_of_hex("77076d0a7318a57d3c16c17251b26645df4c2f87ebc0992ab177fba51db92c2a")).view(),
            "dwdtCnMYpX08FsFyUbJmRd9ML4frwJkqsXf7pR25LCo=");
}

TEST(KeyText, RefusesWhatIsNotExactlyAKey) {
  const std::string good = "dwdtCnMYpX08FsFyUbJmRd9ML4frwJkqsXf7pR25LCo=";
  ASSERT_TRUE(public_key_from_base64(good));
  for (const std::string& bad :
       {std::string{}, good.substr(0, 43), good + "=", good + "\n", " " + good.substr(1),
        good.substr(0, 42) + "==", good.substr(0, 42) + "p=",  // bits behind the key's end
        good.substr(0, 20) + "-" + good.substr(21),            // the other alphabet
        good.substr(0, 20) + "\n" + good.substr(21), std::string(44, '\0'), std::string(44, '=')}) {
    EXPECT_FALSE(public_key_from_base64(bad)) << bad;
    EXPECT_FALSE(secret_key_from_base64(bad)) << bad;
  }
  const std::string hex(64, 'a');
  ASSERT_TRUE(public_key_from_hex(hex));
  ASSERT_TRUE(public_key_from_hex(std::string(64, 'A')));
  for (const std::string& bad : {std::string{}, hex.substr(1), hex + "a", hex + "aa", "g" + hex.substr(1),
                                 hex.substr(0, 62) + " a", ":" + hex.substr(1), std::string(64, '\0')}) {
    EXPECT_FALSE(public_key_from_hex(bad)) << bad;
    EXPECT_FALSE(secret_key_from_hex(bad)) << bad;
  }
}

}  // namespace
}  // namespace wireplane::test
