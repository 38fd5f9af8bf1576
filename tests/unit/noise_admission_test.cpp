// Goal: who does not know our public key costs us one hash; who cannot be reached where he sends from costs little
// more.
#include "control/noise/admission.h"

#include "tests/unit/noise_fixture.h"

namespace wireplane::test {
namespace {

class Admission : public ::testing::Test {
 protected:
  Admission() {
    EXPECT_TRUE(write_initiation(msg_, ReceiverIndex{1}, pair_.initiator, pair_.to_responder, timestamp_at(1500000000s),
                                 entropy_));
    jar_.write_macs(octets_of(msg_), pair_.to_responder, at(0s));
  }
  Drop admit_at(Instant now, bool under_load) { return admit_at(now, under_load, msg_); }
  Drop admit_at(Instant now, bool under_load, const InitiationMessage& msg) {
    return admit(octets_of(msg), home_, under_load, pair_.responder, checker_, limiter_, now);
  }
  void prove_address() {
    CookieReplyMessage reply;
    checker_.make_reply(reply, octets_of(msg_), home_, pair_.responder, at(0s), entropy_);
    ASSERT_TRUE(jar_.accept(reply, pair_.to_responder, at(0s)));
    jar_.write_macs(octets_of(msg_), pair_.to_responder, at(0s));
  }

  ScriptedEntropy entropy_;
  Pair pair_;
  CookieChecker checker_;
  CookieJar jar_;
  RateLimiter limiter_{entropy_, 64};
  Endpoint home_ = endpoint(0xc0000201, 4000);
  InitiationMessage msg_;
};

// Goal: a message whose mac1 is wrong is dropped before any multiplication, reply or memory, loaded or not.
// Method: each bit before mac2 flipped; control reads a message only if it was admitted.
// proves: P6
TEST_F(Admission, DropsABadMac1BeforeAnythingElse) {
  prove_address();
  const std::uint64_t multiplications = x25519_calls();
  for (const bool under_load : {false, true}) {
    for (std::size_t bit = 0; bit < 8 * offsetof(InitiationMessage, macs.mac2); ++bit) {
      InitiationMessage forged = msg_;
      octets_of(forged)[bit / 8] ^= static_cast<std::uint8_t>(1u << (bit % 8));
      const Drop verdict = admit_at(at(0s), under_load, forged);
      EXPECT_EQ(verdict, Drop::kBadMac1) << "bit " << bit;
      if (verdict == Drop::kNone) (void)read_initiation(forged, pair_.responder);
    }
  }
  EXPECT_EQ(x25519_calls(), multiplications);
  EXPECT_EQ(limiter_.size(), 0u);
}

// Goal: without load mac2 is not looked at, right, wrong or absent, and no token is spent.
// proves: P7
TEST_F(Admission, IgnoresMac2UnlessUnderLoad) {
  for (int i = 0; i < 100; ++i) {
    msg_.macs.mac2.fill(static_cast<std::uint8_t>(i));
    EXPECT_EQ(admit_at(at(0s), false), Drop::kNone);
  }
  EXPECT_EQ(limiter_.size(), 0u);
}

// Goal: the four cases of the kernel's cookie.c under load.
// proves: P8
TEST_F(Admission, UnderLoadAsksForACookieAndThenCounts) {
  EXPECT_EQ(admit_at(at(0s), true), Drop::kCookieSent) << "valid mac1, no mac2";
  msg_.macs.mac2.fill(0x5a);
  EXPECT_EQ(admit_at(at(0s), true), Drop::kCookieSent) << "valid mac1, wrong mac2";
  EXPECT_EQ(limiter_.size(), 0u) << "an unproven address takes no place in the table";
  prove_address();
  for (unsigned i = 0; i < RateLimiter::kBurst; ++i) EXPECT_EQ(admit_at(at(0s), true), Drop::kNone);
  EXPECT_EQ(admit_at(at(0s), true), Drop::kRateLimited) << "valid mac2, over the limit: no reply";
  msg_.macs.mac1[0] ^= 1;
  EXPECT_EQ(admit_at(at(0s), true), Drop::kBadMac1) << "wrong mac1: no reply";
}

}  // namespace
}  // namespace wireplane::test
