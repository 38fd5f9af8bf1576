// Goal: a cookie proves its address and port for two minutes at most, and only who waits for one takes one.
// Method: a responder's checker and an initiator's jar, chosen clocks, every bit of a reply flipped.
#include "control/noise/cookie.h"

#include <set>

#include "control/noise/sealing.h"
#include "dataplane/base/bytes.h"
#include "tests/unit/noise_fixture.h"

namespace wireplane::test {
namespace {

class Cookies : public ::testing::Test {
 protected:
  // A fresh initiation by the initiator, with the macs that its jar knows to write.
  InitiationMessage initiation(Instant now) {
    InitiationMessage msg;
    EXPECT_TRUE(write_initiation(msg, ReceiverIndex{0x01020304}, pair_.initiator, pair_.to_responder,
                                 timestamp_at(1500000000s + now.time_since_epoch()), entropy_));
    jar_.write_macs(octets_of(msg), pair_.to_responder, now);
    return msg;
  }
  template <class Message>
  CookieReplyMessage reply_to(const Message& msg, Instant now) {
    CookieReplyMessage reply;
    checker_.make_reply(reply, octets_of(msg), home_, pair_.responder, now, entropy_);
    return reply;
  }
  bool take(const CookieReplyMessage& reply, Instant now) { return jar_.accept(reply, pair_.to_responder, now); }
  bool proven(const InitiationMessage& msg, const Endpoint& source, Instant now) {
    return checker_.mac2_valid(octets_of(msg), source, now);
  }
  void give_cookie(Instant now) { ASSERT_TRUE(take(reply_to(initiation(now), now), now)); }

  ScriptedEntropy entropy_;
  Pair pair_;
  CookieChecker checker_;
  CookieJar jar_;
  Endpoint home_ = endpoint(0x0a000001, 51820);
};

TEST_F(Cookies, MakeTheNextMessageProveItsAddress) {
  const InitiationMessage first = initiation(at(0s));
  EXPECT_EQ(first.macs.mac2, Mac{});
  EXPECT_FALSE(proven(first, home_, at(0s)));
  ASSERT_TRUE(take(reply_to(first, at(0s)), at(0s)));
  const InitiationMessage second = initiation(at(5s));
  EXPECT_NE(second.macs.mac2, Mac{});
  EXPECT_TRUE(mac1_valid(octets_of(second), pair_.responder.mac1_key));
  EXPECT_TRUE(proven(second, home_, at(5s)));
}

// Goal: the cookie binds address and port, and dies with the secret it was made from, 120 s after that was drawn.
// proves: P10
TEST_F(Cookies, BindAddressAndPortForTwoMinutes) {
  give_cookie(at(0s));
  const InitiationMessage msg = initiation(at(1s));
  EXPECT_TRUE(proven(msg, home_, at(1s)));
  Endpoint elsewhere = home_;
  for (unsigned bit = 0; bit < 16; ++bit) {
    elsewhere.port = static_cast<std::uint16_t>(home_.port ^ (1u << bit));
    EXPECT_FALSE(proven(msg, elsewhere, at(1s))) << "port " << elsewhere.port;
  }
  for (unsigned bit = 0; bit < 32; ++bit) {
    EXPECT_FALSE(proven(msg, endpoint(0x0a000001u ^ (1u << bit), 51820), at(1s)));
  }
  elsewhere = home_;
  elsewhere.remote = Address::v6(home_.remote.octets.data());
  EXPECT_FALSE(proven(msg, elsewhere, at(1s))) << "the same octets as an IPv6 address";
  elsewhere = home_;
  elsewhere.interface = 7;  // where it arrived is not whence
  elsewhere.local = home_.remote;
  EXPECT_TRUE(proven(msg, elsewhere, at(1s)));

  EXPECT_TRUE(proven(msg, home_, at(120s - 1ns)));
  EXPECT_FALSE(proven(msg, home_, at(120s)));
  (void)reply_to(msg, at(130s));  // a reply to anybody draws a new secret
  EXPECT_FALSE(proven(msg, home_, at(130s))) << "the previous secret is gone";
}

TEST_F(Cookies, AreAllMadeFromOneSecretUntilItIsTwoMinutesOld) {
  give_cookie(at(0s));
  const InitiationMessage early = initiation(at(1s));
  (void)reply_to(early, at(119s));
  EXPECT_TRUE(proven(early, home_, at(119s))) << "a reply within the secret's life renews nothing";
}

TEST_F(Cookies, WereNeverGivenByACheckerThatGaveNone) {
  InitiationMessage msg = initiation(at(0s));
  EXPECT_FALSE(proven(msg, home_, at(0s)));
  // The cookie that an all-zero secret would give does not open a responder that has drawn none yet.
  std::array<std::uint8_t, 2> port;
  store_be16(port.data(), home_.port);
  const Mac cookie = mac(SecretKey{}.expose(), {Octets{home_.remote.octets}.first(4), port});
  msg.macs.mac2 = mac(cookie, {octets_of(std::as_const(msg)).first(sizeof msg - sizeof(Mac))});
  EXPECT_FALSE(proven(msg, home_, at(0s)));
}

// Goal: a reply is XChaCha20-Poly1305 under Hash("cookie--" | responder), with a fresh nonce each time, bound to the
// mac1 that it answers and addressed to that message's sender index.
// proves: P11
TEST_F(Cookies, ComeInRepliesOnlyTheAskedCanWriteAndTheAskerCanRead) {
  const InitiationMessage msg = initiation(at(0s));
  std::set<std::array<std::uint8_t, 24>> nonces;
  for (int i = 0; i < 1000; ++i) nonces.insert(reply_to(msg, at(0s)).nonce);
  EXPECT_EQ(nonces.size(), 1000u);

  const CookieReplyMessage reply = reply_to(msg, at(0s));
  EXPECT_EQ(hex_of(reply.type), "03000000");
  EXPECT_EQ(reply.receiver, msg.sender);
  std::array<std::uint8_t, 8 + 32> label{'c', 'o', 'o', 'k', 'i', 'e', '-', '-'};
  std::ranges::copy(pair_.responder.public_key.octets, label.begin() + 8);
  const Digest key = hash({label});
  Mac cookie, again;
  ASSERT_TRUE(xopen(cookie, key, reply.nonce, reply.sealed_cookie, msg.macs.mac1));
  Mac other_mac1 = msg.macs.mac1;
  other_mac1[0] ^= 1;
  EXPECT_FALSE(xopen(again, key, reply.nonce, reply.sealed_cookie, other_mac1));
  // And what is inside is what makes mac2.
  ASSERT_TRUE(take(reply, at(0s)));
  const InitiationMessage next = initiation(at(5s));
  EXPECT_EQ(next.macs.mac2, mac(cookie, {octets_of(next).first(sizeof next - sizeof(Mac))}));
}

TEST_F(Cookies, AnswerResponsesToo) {
  const InitiationMessage first = initiation(at(0s));
  auto read = read_initiation(first, pair_.responder);
  ASSERT_TRUE(read && read_initiation_timestamp(*read, first, pair_.to_initiator));
  ResponseMessage second;
  ASSERT_TRUE(write_response(second, *read, ReceiverIndex{0x55667788}, pair_.responder, pair_.to_initiator, entropy_));
  CookieJar responders_jar;
  responders_jar.write_macs(octets_of(second), pair_.to_initiator, at(0s));
  CookieChecker initiators_checker;
  CookieReplyMessage reply;
  initiators_checker.make_reply(reply, octets_of(second), home_, pair_.initiator, at(0s), entropy_);
  EXPECT_EQ(reply.receiver, second.sender);
  EXPECT_TRUE(responders_jar.accept(reply, pair_.to_initiator, at(0s)));
}

// Goal: a cookie is taken once for each mac1 sent, never otherwise, and forgotten after 115 s.
// Method: replies to nothing, replayed, late, to an earlier message, with each bit flipped.
// proves: P12
TEST_F(Cookies, AreTakenOncePerMessageSentAndKeptFor115Seconds) {
  const InitiationMessage first = initiation(at(0s));
  const CookieReplyMessage to_first = reply_to(first, at(0s));
  EXPECT_FALSE(CookieJar{}.accept(to_first, pair_.to_responder, at(0s))) << "nothing was sent";

  const InitiationMessage second = initiation(at(5s));
  EXPECT_FALSE(take(to_first, at(5s))) << "answers a message before the last";
  const CookieReplyMessage to_second = reply_to(second, at(5s));
  for (std::size_t bit = 8 * offsetof(CookieReplyMessage, nonce); bit < 8 * sizeof to_second; ++bit) {
    CookieReplyMessage forged = to_second;
    reinterpret_cast<std::uint8_t*>(&forged)[bit / 8] ^= static_cast<std::uint8_t>(1u << (bit % 8));
    EXPECT_FALSE(take(forged, at(5s))) << "bit " << bit;
  }
  EXPECT_TRUE(take(to_second, at(6s))) << "forgeries have changed nothing";
  EXPECT_FALSE(take(to_second, at(6s))) << "replayed";
  EXPECT_FALSE(take(reply_to(second, at(6s)), at(6s))) << "a second answer to the same message";

  EXPECT_NE(initiation(at(6s + 115s - 1ns)).macs.mac2, Mac{});
  EXPECT_EQ(initiation(at(6s + 115s)).macs.mac2, Mac{});
  EXPECT_EQ(initiation(at(7s)).macs.mac2, Mac{}) << "once forgotten it does not come back";
}

TEST_F(Cookies, AreForgottenOnRequest) {
  give_cookie(at(0s));
  const InitiationMessage msg = initiation(at(1s));
  const CookieReplyMessage reply = reply_to(msg, at(1s));
  jar_.forget();
  EXPECT_FALSE(take(reply, at(1s)));
  EXPECT_EQ(initiation(at(2s)).macs.mac2, Mac{});
}

}  // namespace
}  // namespace wireplane::test
