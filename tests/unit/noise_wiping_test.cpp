// Goal: when a handshake is over, nothing that it knew is left in memory: neither in the states that were left, nor on
// the stack that it ran on. Method: everything is drawn from a script, so that every secret is known beforehand; then
// the memory is searched for any half of one.
#include <functional>
#include <memory>
#include <new>
#include <string>

#include "control/noise/handshake.h"
#include "tests/support/left_secrets.h"
#include "tests/unit/noise_fixture.h"

namespace wireplane::test {
namespace {

const Timestamp kTimestamp = timestamp_at(1780000000s);

SecretKey scripted(std::uint8_t from) {
  SecretKey key;
  for (std::size_t i = 0; i < 32; ++i) key.fill()[i] = static_cast<std::uint8_t>(from + i * 37);
  clamp(key);
  return key;
}

ScriptedEntropy script() {
  ScriptedEntropy entropy;
  entropy.next(scripted(0x33).expose());
  entropy.next(scripted(0x44).expose());
  return entropy;
}

struct Both {
  KeyPair initiator, responder;
};

// A whole handshake. The states in between are left on the way.
Both shake_hands(const Pair& pair, Entropy& entropy) {
  InitiationMessage first;
  ResponseMessage second;
  auto sent = write_initiation(first, ReceiverIndex{1}, pair.initiator, pair.to_responder, kTimestamp, entropy);
  auto read = read_initiation(first, pair.responder);
  WG_CHECK(read_initiation_timestamp(*read, first, pair.to_initiator));
  auto responder =
      write_response(second, std::move(*read), ReceiverIndex{2}, pair.responder, pair.to_initiator, entropy);
  auto initiator = read_response(*sent, second, pair.initiator, pair.to_responder);
  WG_CHECK(initiator && responder);
  return {std::move(*initiator), std::move(*responder)};
}

// All that a handshake on script() knows: ephemerals, shared secrets, the hash, and the keys that come out.
Needles secrets_of(const Pair& pair) {
  Needles needles;
  ScriptedEntropy entropy = script();
  const SecretKey ei = scripted(0x33), er = scripted(0x44);
  needles.add("initiator's ephemeral", ei);
  needles.add("responder's ephemeral", er);
  SecretKey shared;
  WG_CHECK(dh(shared, ei, pair.responder.public_key));
  needles.add("es", shared);
  WG_CHECK(dh(shared, ei, public_key(er)));
  needles.add("ee", shared);
  WG_CHECK(dh(shared, er, pair.initiator.public_key));
  needles.add("se", shared);
  const Both keys = shake_hands(pair, entropy);
  needles.add("initiator's sending key", keys.initiator.send);
  needles.add("initiator's receiving key", keys.initiator.receive);
  needles.add("exporter", keys.initiator.exporter);

  // The hash after each message, by the pattern's own functions.
  entropy = script();
  InitiationMessage first;
  const auto sent = write_initiation(first, ReceiverIndex{1}, pair.initiator, pair.to_responder, kTimestamp, entropy);
  needles.add("hash after message one", sent->transcript.handshake_hash());
  auto read = read_initiation(first, pair.responder);
  needles.add("hash after the static key", read->transcript.handshake_hash());
  WG_CHECK(read_initiation_timestamp(*read, first, pair.to_initiator));
  std::array<std::uint8_t, 48> second;
  const auto done = pattern::write_second({std::span{second}.first<32>(), std::span{second}.subspan(32)}, *read, {},
                                          pair.to_initiator, entropy);
  needles.add("hash after message two", done->handshake_hash());
  return needles;
}

// Puts a T where it can be searched, leaves it, and says what it left behind.
template <class T, class Make>
std::string left_behind(const Needles& needles, Make&& make, bool& was_there) {
  alignas(T) std::array<std::uint8_t, sizeof(T)> storage{};
  T* object = new (storage.data()) T(make());
  asm volatile("" : : "r"(storage.data()) : "memory");
  was_there = !needles.found_in(storage.data(), storage.size()).empty();
  object->~T();
  asm volatile("" : : "r"(storage.data()) : "memory");
  return needles.found_in(storage.data(), storage.size());
}

// proves: P30
TEST(Wiping, EveryStateIsZeroedWhenItIsLeft) {
  const Pair pair;
  const Needles needles = secrets_of(pair);
  ScriptedEntropy entropy = script();
  InitiationMessage first;
  bool was_there = false;

  EXPECT_EQ(left_behind<InitiationSent>(
                needles,
                [&] {
                  return std::move(*write_initiation(first, ReceiverIndex{1}, pair.initiator, pair.to_responder,
                                                     kTimestamp, entropy));
                },
                was_there),
            "");
  EXPECT_TRUE(was_there) << "the search finds what is there";
  EXPECT_EQ(left_behind<InitiationRead>(
                needles, [&] { return std::move(*read_initiation(first, pair.responder)); }, was_there),
            "");
  EXPECT_TRUE(was_there);
  entropy = script();
  EXPECT_EQ(left_behind<Both>(
                needles, [&] { return shake_hands(pair, entropy); }, was_there),
            "");
  EXPECT_TRUE(was_there);

  Needles statics;
  statics.add("static secret", scripted(0x11));
  statics.add("preshared key", scripted(0x55));
  EXPECT_EQ(left_behind<Pair>(
                statics,
                [] {
                  return Pair{scripted(0x11), scripted(0x22), scripted(0x55)};
                },
                was_there),
            "");
  EXPECT_TRUE(was_there);
}

// Goal: no copy on the stack survives a step either: ours, or a library's.
// Method: each step on a stack of its own, its results outside of it.
// proves: P30
TEST(Wiping, TheStackHoldsNothingOnceAStepIsDone) {
  const auto pair = std::make_unique<Pair>(scripted(0x11), scripted(0x22), scripted(0x55));
  Needles needles = secrets_of(*pair);
  needles.add("initiator's static secret", pair->initiator.secret);
  needles.add("responder's static secret", pair->responder.secret);
  needles.add("preshared key", pair->to_responder.psk);
  needles.add("ss", pair->to_responder.static_static);
  EXPECT_GE(needles.count(), 24u);

  const auto left_by = [&](const std::function<void()>& step) {
    SearchableStack stack;
    stack.run(step);
    return needles.found_in(stack.memory(), SearchableStack::kSize);
  };
  ScriptedEntropy entropy = script();
  InitiationMessage first;
  ResponseMessage second;
  std::unique_ptr<Result<InitiationSent, Refusal>> sent;
  std::unique_ptr<Result<InitiationRead, Refusal>> read;
  std::unique_ptr<Result<KeyPair, Refusal>> responder, initiator;
  EXPECT_EQ(left_by([&] {
              sent = std::make_unique<Result<InitiationSent, Refusal>>(
                  write_initiation(first, ReceiverIndex{1}, pair->initiator, pair->to_responder, kTimestamp, entropy));
            }),
            "");
  EXPECT_EQ(left_by([&] {
              read = std::make_unique<Result<InitiationRead, Refusal>>(read_initiation(first, pair->responder));
            }),
            "");
  EXPECT_EQ(left_by([&] { EXPECT_TRUE(read_initiation_timestamp(**read, first, pair->to_initiator)); }), "");
  EXPECT_EQ(left_by([&] {
              responder = std::make_unique<Result<KeyPair, Refusal>>(write_response(
                  second, std::move(**read), ReceiverIndex{2}, pair->responder, pair->to_initiator, entropy));
            }),
            "");
  EXPECT_EQ(left_by([&] {
              initiator = std::make_unique<Result<KeyPair, Refusal>>(
                  read_response(**sent, second, pair->initiator, pair->to_responder));
            }),
            "");
  EXPECT_TRUE(*responder && *initiator);
  EXPECT_EQ(left_by([&] { (void)make_remote_identity(pair->initiator, pair->responder.public_key, scripted(0x55)); }),
            "");

  SearchableStack stack;  // and the search finds what is there
  std::string running;
  stack.run([&] {
    ScriptedEntropy again = script();
    const Both keys = shake_hands(*pair, again);
    running = needles.found_in(stack.memory(), SearchableStack::kSize);
  });
  EXPECT_NE(running, "");
}

}  // namespace
}  // namespace wireplane::test
