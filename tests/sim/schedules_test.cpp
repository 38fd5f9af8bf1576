// Every interleaving of the steps by which control and workers share sessions (tests/support/schedules.h).
#include <gtest/gtest.h>

#include "dataplane/base/grace.h"
#include "dataplane/session/peer_state.h"
#include "dataplane/session/session_table.h"
#include "tests/support/schedules.h"

namespace wireplane::test {
namespace {

// One session of one peer, its owner, another worker that sends, and control that retires it.
struct Retirement {
  static constexpr ReceiverIndex kIndex{0x12345640};
  static constexpr SessionSlot kSlot{3};
  static constexpr Serial kSerial{7};

  Grace grace{2};
  SessionTable table{64};
  PeerState peer;
  bool wiped = false;
  std::uint32_t found = 0;   // what the owner holds on its stack
  std::uint64_t word = 0;    // what the sender holds on its stack
  std::uint64_t period = 0;  // of control
  unsigned used_after_wipe = 0;

  void use() { used_after_wipe += wiped ? 1 : 0; }
};

// handshakes.cpp retire() and retire_later(), ingress.cpp confirm(), egress.cpp sending_session().
Scenario retirement(bool first_period, bool second_period, unsigned& accidents, unsigned& dangling) {
  auto s = std::make_shared<Retirement>();
  s->table.store(Retirement::kIndex, Retirement::kSlot);
  const Thread owner = {
      {.act = [s] { s->grace.online(0); }},
      {.act = [s] { s->found = s->table.find(Retirement::kIndex); }},
      {.act =
           [s] {
             if (s->found == 0) return;
             s->use();  // open, accept
             s->peer.offer_sending(Retirement::kSerial, SessionSlot{s->found - 1});
           }},
      {.act = [s] { s->grace.offline(0); }},
  };
  const Thread sender = {
      {.act = [s] { s->grace.online(1); }},
      {.act = [s] { s->word = s->peer.sending.load(); }},
      {.act =
           [s] {
             if (SendingWord::has_session(s->word)) s->use();  // number, seal
           }},
      {.act = [s] { s->grace.offline(1); }},
  };
  const auto passed = [s] { return s->grace.passed(s->period); };
  const auto no_wait = [] { return true; };
  const Thread control = {
      {.act =
           [s] {
             s->table.clear(Retirement::kIndex);
             s->period = s->grace.begin();
           }},
      {.act =
           [s] {
             std::uint64_t named = SendingWord::pack(Retirement::kSerial, Retirement::kSlot);
             s->peer.sending.compare_exchange_strong(named, std::uint64_t{Retirement::kSerial.raw()} << 32);
             s->period = s->grace.begin();
           },
       .enabled = first_period ? std::function<bool()>{passed} : no_wait},
      {.act = [s] { s->wiped = true; }, .enabled = second_period ? std::function<bool()>{passed} : no_wait},
  };
  return {.threads = {owner, sender, control},
          .check =
              [s, &accidents, &dangling] {
                accidents += s->used_after_wipe != 0 ? 1 : 0;
                dangling += s->wiped && SendingWord::has_session(s->peer.sending.load()) ? 1 : 0;
              },
          .state = s};
}

// Goal: whoever retires a session wipes it when nobody can touch it any more, and nobody is sent to it afterwards.
// Method: all interleavings of a confirming owner, a sender and control; then without each of the two grace periods.
TEST(Schedules, RetiredSessionIsNeverTouchedAfterItIsWiped) {
  unsigned accidents = 0, dangling = 0;
  const Outcome with = run_all([&] { return retirement(true, true, accidents, dangling); });
  EXPECT_GT(with.schedules, 1000u);
  EXPECT_EQ(with.stuck, 0u);
  EXPECT_EQ(accidents, 0u);
  EXPECT_EQ(dangling, 0u);

  accidents = dangling = 0;
  static_cast<void>(run_all([&] { return retirement(false, true, accidents, dangling); }));
  EXPECT_GT(dangling, 0u) << "without the first period an owner offers what was just cleared";
  accidents = dangling = 0;
  static_cast<void>(run_all([&] { return retirement(true, false, accidents, dangling); }));
  EXPECT_GT(accidents, 0u) << "without the second period a sender is still sealing";
}

// Goal: the newest keypair sends, in whatever order control's offers (as initiator) and owners' confirmations (as
// responder) come, and a retired one never comes back.
// Method: three keypairs: 5 and 7 are confirmed by two owners, 6 is installed by control, then 5 is retired.
TEST(Schedules, NewestKeypairSendsWhateverTheOrder) {
  struct State {
    PeerState peer;
    std::vector<std::uint64_t> seen;
  };
  const Outcome outcome = run_all([] {
    auto s = std::make_shared<State>();
    const auto offer = [s](std::uint32_t serial) {
      s->peer.offer_sending(Serial{serial}, SessionSlot{serial + 10});
      s->seen.push_back(s->peer.sending.load());
    };
    const Thread first_owner = {{.act = [=] { offer(5); }}};
    const Thread second_owner = {{.act = [=] { offer(7); }}};
    const Thread control = {
        {.act = [=] { offer(6); }},
        {.act =
             [s] {
               std::uint64_t named = SendingWord::pack(Serial{6}, SessionSlot{16});
               s->peer.sending.compare_exchange_strong(named, std::uint64_t{6} << 32);
               s->seen.push_back(s->peer.sending.load());
             }},
    };
    return Scenario{.threads = {first_owner, second_owner, control},
                    .check =
                        [s] {
                          EXPECT_EQ(s->peer.sending.load(), SendingWord::pack(Serial{7}, SessionSlot{17}));
                          for (std::size_t i = 1; i < s->seen.size(); ++i)
                            EXPECT_GE(s->seen[i] >> 32, s->seen[i - 1] >> 32) << "the serial never goes back";
                        },
                    .state = s};
  });
  EXPECT_EQ(outcome.schedules, 12u);
}

// Goal: a number is never used twice and never beyond the limit, although far below it nobody looks at the limit.
// Method: egress.cpp take_numbers() in its two atomic steps, with a limit of 11 instead of 2^64 - 8129: two workers
// take three bursts of 2 each. The margin above which everybody looks must be at least one's own burst and what the
// others can take between one's load and one's addition (2^32 there, 8 here); with 4 the model finds the accident.
TEST(Schedules, SendNumbersAreUniqueAndEndAtTheLimit) {
  struct State {
    std::uint64_t counter = 0;
    std::uint64_t seen[2]{};
    std::vector<std::uint64_t> used;
  };
  const auto play = [](std::uint64_t margin, unsigned& beyond, unsigned& twice) {
    constexpr std::uint64_t kLimit = 11, kBurstTaken = 2;
    return run_all([&, margin] {
      auto s = std::make_shared<State>();
      const auto worker = [&](std::size_t me) {
        Thread thread;
        for (int burst = 0; burst < 3; ++burst) {
          thread.push_back({.act = [s, me] { s->seen[me] = s->counter; }});  // the relaxed load
          thread.push_back({.act = [s, me, margin] {
            std::uint64_t first, granted = kBurstTaken;
            if (s->seen[me] < kLimit - margin) {  // fetch_add
              first = s->counter;
            } else {  // the compare-and-swap loop: as one step it reads the counter anew
              first = s->counter;
              granted = first >= kLimit ? 0 : std::min(granted, kLimit - first);
            }
            s->counter += granted;
            for (std::uint64_t i = 0; i < granted; ++i) s->used.push_back(first + i);
          }});
        }
        return thread;
      };
      return Scenario{.threads = {worker(0), worker(1)},
                      .check =
                          [s, &beyond, &twice] {
                            for (std::size_t i = 0; i < s->used.size(); ++i) {
                              beyond += s->used[i] >= kLimit ? 1 : 0;
                              for (std::size_t j = 0; j < i; ++j) twice += s->used[i] == s->used[j] ? 1 : 0;
                            }
                          },
                      .state = s};
    });
  };
  unsigned beyond = 0, twice = 0;
  EXPECT_EQ(play(8, beyond, twice).schedules, 924u);  // 12 over 6
  EXPECT_EQ(beyond, 0u);
  EXPECT_EQ(twice, 0u);
  static_cast<void>(play(4, beyond, twice));
  EXPECT_GT(beyond, 0u);
  EXPECT_EQ(twice, 0u);
}

// Goal: a worker that goes to sleep just as something is pushed for it is rung, or sees it: no wake-up is lost.
// Method: Doorbell's protocol (engine.h): the sleeper says that it sleeps, then looks once more; the pusher pushes,
// then looks whether somebody sleeps.
TEST(Schedules, NoWakeUpIsLost) {
  struct State {
    bool pushed = false, asleep = false, rung = false, saw = false;
  };
  const auto play = [](bool look_again) {
    unsigned lost = 0;
    static_cast<void>(run_all([&, look_again] {
      auto s = std::make_shared<State>();
      const Thread sleeper = {
          {.act = [s] { s->saw = s->pushed; }},
          {.act = [s] { s->asleep = true; }},
          {.act = [s, look_again] { s->saw = s->saw || (look_again && s->pushed); }},
      };
      const Thread pusher = {
          {.act = [s] { s->pushed = true; }},
          {.act = [s] { s->rung = s->asleep; }},
      };
      return Scenario{
          .threads = {sleeper, pusher}, .check = [s, &lost] { lost += !s->saw && !s->rung ? 1 : 0; }, .state = s};
    }));
    return lost;
  };
  EXPECT_EQ(play(true), 0u);
  EXPECT_GT(play(false), 0u);
}

}  // namespace
}  // namespace wireplane::test
