// What a peer's line says to timers of when it was spoken with: exactly while little happens, and in few writes, erring
// on the safe side, while much does (wg §6, P46, P47).
#include "dataplane/session/peer_state.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <random>

namespace wireplane {
namespace {

constexpr Stamp kLate = PeerState::kBusy;

// The times as they were, to the millisecond.
struct Oracle {
  Stamp sent = 0, data_sent = 0, unanswered = 0, received = 0, data_received = 0, owed = 0;
  void note(bool sending, Stamp now, bool data) {
    if (sending)
      note(sent, owed, data_sent, unanswered, now, data);
    else
      note(received, unanswered, data_received, owed, now, data);
  }

 private:
  static void note(Stamp& last, Stamp& settled, Stamp& last_data, Stamp& since, Stamp now, bool data) {
    last = now;
    settled = 0;
    if (!data) return;
    last_data = now;
    if (since == 0) since = now;
  }
};

std::array<Stamp, 6> said(const PeerState& p) {
  return {p.send.last_sent,        p.send.last_data_sent,        p.send.unanswered_since,
          p.receive.last_received, p.receive.last_data_received, p.receive.keepalive_owed_since};
}
std::array<Stamp, 6> said(const Oracle& o) {
  return {o.sent, o.data_sent, o.unanswered, o.received, o.data_received, o.owed};
}

void note(PeerState& peer, bool sending, Stamp now, bool data) {
  if (sending)
    peer.note_sent(now, data);
  else
    peer.note_received(now, data);
}

class PeerStateTest : public testing::Test {
 protected:
  bool one_of(unsigned n) { return random() % n == 0; }
  std::mt19937_64 random{1};
  PeerState peer;
  Oracle oracle;
};

// Goal: of a peer that is spoken with seldom, every time is exact, however many things happen in one millisecond.
// Method: rounds of up to seven packets, against times kept in full; the clock passes its modulus.
TEST_F(PeerStateTest, SaysExactlyWhenASeldomPeerSpoke) {
  Stamp now = UINT32_MAX - 500'000;
  for (unsigned round = 0; round < 20'000; ++round) {
    now += 2 * kLate + static_cast<Stamp>(random() % 20);
    for (std::uint64_t packets = random() % PeerState::kMostNotes; packets != 0; --packets) {
      now += static_cast<Stamp>(random() % 2);
      if (now == 0) now = 1;  // as stamp_of() does
      const bool sending = one_of(2), data = !one_of(4);
      note(peer, sending, now, data);
      oracle.note(sending, now, data);
      ASSERT_EQ(said(peer), said(oracle)) << "round " << round;
    }
  }
}

// Goal: what a busy peer's line says is older than true by less than kBusy, and wrong to the safe side alone: a
// keepalive is owed whenever one is, what it calls unanswered is, and what goes on unanswered for kBusy is called so.
// Method: ten packets a millisecond and more, either way or one way for a while, against times kept in full.
TEST_F(PeerStateTest, OfABusyPeerErrsOnTheSafeSide) {
  unsigned to_send = 2;
  Stamp now = 1000, goes_on = 0;
  for (unsigned n = 0; n < 1'000'000; ++n) {
    if (one_of(2000)) to_send = static_cast<unsigned>(random() % 5);  // of four
    if (one_of(12)) now += one_of(100) ? static_cast<Stamp>(random() % 200) : 1;
    const bool sending = random() % 4 < to_send, data = !one_of(4);
    note(peer, sending, now, data);
    oracle.note(sending, now, data);
    const auto is = said(peer), was = said(oracle);
    for (const std::size_t last : {0, 1, 3, 4}) {
      ASSERT_LE(is[last], was[last]) << last;
      ASSERT_LT(was[last] - is[last], kLate) << last;
    }
    const Stamp owed = peer.receive.keepalive_owed_since, unanswered = peer.send.unanswered_since;
    if (oracle.owed != 0) {
      ASSERT_NE(owed, 0u) << "packet " << n;
      ASSERT_LE(owed, oracle.owed);
    }
    if (unanswered != 0) {
      ASSERT_NE(oracle.unanswered, 0u) << "packet " << n;
      ASSERT_LE(oracle.unanswered, unanswered);
    }
    if (oracle.unanswered == 0) goes_on = 0;
    if (oracle.unanswered != 0 && goes_on == 0 && oracle.data_sent - oracle.unanswered >= kLate) goes_on = now;
    if (goes_on != 0) {
      ASSERT_NE(unanswered, 0u) << "packet " << n;
      ASSERT_LE(unanswered, goes_on);
    }
  }
}

// Goal: a peer that is sent to all the time and does not answer is found out, at any rate of packets (P46).
TEST_F(PeerStateTest, SaysSinceWhenABusyPeerIsSilent) {
  for (const Stamp pause : {1u, 5u, kLate - 1, kLate, kLate + 1}) {
    peer.move_in(PeerId{});
    for (unsigned n = 0; n < 100; ++n) note(peer, n % 2 == 0, 1000, true);
    peer.note_received(1000, true);
    for (Stamp now = 1001; now < 16'000; now += pause) peer.note_sent(now, true);
    EXPECT_NE(peer.send.unanswered_since, 0u) << pause;
    EXPECT_LE(peer.send.unanswered_since, 1001 + 2 * kLate) << pause;
  }
}

// Goal: two workers do not take a busy peer's line from each other with every packet.
// Method: packets that alternate, by two workers whose clocks differ by a step's millisecond; counts the changes.
TEST_F(PeerStateTest, OfABusyPeerIsWrittenSeldom) {
  constexpr Stamp kMilliseconds = 10'000;
  std::uint64_t writes = 0;
  auto before = said(peer);
  for (Stamp ms = 0; ms < kMilliseconds; ++ms) {
    for (unsigned n = 0; n < 20; ++n) {
      note(peer, n % 2 == 0, 1000 + ms - n / 2 % 2, true);
      writes += said(peer) != before;
      before = said(peer);
    }
  }
  EXPECT_LE(writes, kMilliseconds / kLate * 2 * (PeerState::kMostNotes + 1));
  EXPECT_GE(writes, kMilliseconds / kLate);
}

// Goal: a slot's new tenant begins with nothing said, and with all its notes.
TEST_F(PeerStateTest, ForgetsAFormerTenant) {
  for (unsigned n = 0; n < 100; ++n) note(peer, n % 2 == 0, 1000, true);
  peer.move_in(PeerId{});
  EXPECT_EQ(said(peer), said(oracle));
  for (unsigned n = 0; n < PeerState::kMostNotes - 1; ++n) {
    note(peer, n % 2 == 0, 1001, true);
    oracle.note(n % 2 == 0, 1001, true);
    EXPECT_EQ(said(peer), said(oracle)) << n;
  }
}

}  // namespace
}  // namespace wireplane
