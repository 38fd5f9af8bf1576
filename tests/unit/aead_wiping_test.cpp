// Goal: when one of our kernels returns, nothing secret is left where it worked: not on the stack below its caller, not
// in vector registers. Method: every burst runs on a stack of its own, which is then searched for keys, one-time keys
// and key stream, in the order of octets and in the columns that kernels transpose them to. (What libsodium and
// ipsec-mb leave is theirs; `portable` and `ipsec_mb` are not asked.)
#include <gtest/gtest.h>
#include <sodium.h>

#include <cstring>
#include <memory>
#include <random>

#include "dataplane/aead/aead_kernels.h"
#include "dataplane/aead/cpu.h"
#include "dataplane/base/bytes.h"
#include "tests/support/left_secrets.h"

namespace wireplane::test {
namespace {

constexpr std::size_t kRoom = 9000;
using Registers = std::array<std::uint8_t, 32 * 64>;

struct Packets {
  std::vector<std::uint8_t> keys, sealed, opened;
  std::vector<SealJob> seals;
  std::vector<OpenJob> opens;
};

// Random text, to be sealed in place, then opened to another place.
Packets burst_of(const std::vector<std::uint32_t>& lengths) {
  std::mt19937_64 random{lengths.size() * 7919 + lengths.front()};
  Packets p;
  p.keys.resize(32 * lengths.size());
  for (std::uint8_t& octet : p.keys) octet = static_cast<std::uint8_t>(random());
  p.sealed.resize(kRoom * lengths.size());
  for (std::uint8_t& octet : p.sealed) octet = static_cast<std::uint8_t>(random());
  p.opened.resize(kRoom * lengths.size());
  for (std::size_t i = 0; i < lengths.size(); ++i) {
    std::uint8_t* const place = &p.sealed[i * kRoom];
    p.seals.push_back({&p.keys[32 * i], i, nullptr, 0, lengths[i], place, place, 0});
    p.opens.push_back({&p.keys[32 * i], i, place, lengths[i] + 16, &p.opened[i * kRoom], false});
  }
  return p;
}

Needles secrets_of(const Packets& p, bool of_one_length) {
  Needles needles;
  const std::size_t n = p.seals.size();
  std::vector<std::vector<std::uint8_t>> streams(n);
  for (std::size_t i = 0; i < n; ++i) {
    const std::uint8_t* key = &p.keys[32 * i];
    const std::uint8_t* text = p.seals[i].body;
    const std::uint32_t length = p.seals[i].body_length;
    std::uint8_t nonce[12] = {};
    store_le(nonce + 4, std::uint64_t{i});
    streams[i].resize(64 + length);  // block 0, and what the text is joined with
    crypto_stream_chacha20_ietf(streams[i].data(), streams[i].size(), nonce, key);
    needles.add("key", {key, 32});
    needles.add("one-time key", {streams[i].data(), 32});
    if (length < 16) continue;
    for (const std::uint32_t at : {0u, length / 2, length - 16}) {
      needles.add("key stream", {&streams[i][64 + at], 16});
      needles.add("text", {text + at, 16});
    }
  }
  if (!of_one_length) return needles;  // else sorted, and the columns stand in another order
  for (std::size_t i = 0; i + 4 <= n; i += 4) {
    std::uint8_t column[16];
    for (std::size_t w = 0; w < 8; ++w) {
      for (std::size_t k = 0; k < 4; ++k) std::memcpy(column + 4 * k, &p.keys[32 * (i + k) + 4 * w], 4);
      needles.add("column of key words", column);
    }
    for (std::size_t w = 0; w < 4; ++w) {
      for (std::size_t k = 0; k < 2; ++k) std::memcpy(column + 8 * k, &streams[i + k][8 * w], 8);
      needles.add("column of one-time keys", column);
    }
  }
  return needles;
}

// Runs `call` and takes the vector registers as it left them, before anyone else has used them.
[[maybe_unused]] __attribute__((target("avx2"), noinline)) void then_ymm(void (*call)(Packets&), Packets& p,
                                                                         Registers& left) {
  call(p);
#define WG_TAKE(i) "vmovdqu %%ymm" #i ", 64*" #i "(%0)\n\t"
  __asm__ volatile(WG_TAKE(0) WG_TAKE(1) WG_TAKE(2) WG_TAKE(3) WG_TAKE(4) WG_TAKE(5) WG_TAKE(6) WG_TAKE(7) WG_TAKE(8)
                       WG_TAKE(9) WG_TAKE(10) WG_TAKE(11) WG_TAKE(12) WG_TAKE(13) WG_TAKE(14) WG_TAKE(15)
                   :
                   : "r"(left.data())
                   : "memory");
#undef WG_TAKE
}
[[maybe_unused]] __attribute__((target("avx512f"), noinline)) void then_zmm(void (*call)(Packets&), Packets& p,
                                                                            Registers& left) {
  call(p);
#define WG_TAKE(i) "vmovdqu64 %%zmm" #i ", 64*" #i "(%0)\n\t"
  __asm__ volatile(WG_TAKE(0) WG_TAKE(1) WG_TAKE(2) WG_TAKE(3) WG_TAKE(4) WG_TAKE(5) WG_TAKE(6) WG_TAKE(7) WG_TAKE(8)
                       WG_TAKE(9) WG_TAKE(10) WG_TAKE(11) WG_TAKE(12) WG_TAKE(13) WG_TAKE(14) WG_TAKE(15) WG_TAKE(16)
                           WG_TAKE(17) WG_TAKE(18) WG_TAKE(19) WG_TAKE(20) WG_TAKE(21) WG_TAKE(22) WG_TAKE(23)
                               WG_TAKE(24) WG_TAKE(25) WG_TAKE(26) WG_TAKE(27) WG_TAKE(28) WG_TAKE(29) WG_TAKE(30)
                                   WG_TAKE(31)
                   :
                   : "r"(left.data())
                   : "memory");
#undef WG_TAKE
}

// The stack's top: a kernel needs less than half of this.
std::string left_on(const SearchableStack& stack, const Needles& needles) {
  constexpr std::size_t kTop = 64 << 10;
  return needles.found_in(stack.memory() + SearchableStack::kSize - kTop, kTop);
}

template <const AeadKernels& kernels, bool sealing>
void call(Packets& p) {
  if (sealing) {
    kernels.seal(p.seals.data(), p.seals.size());
  } else {
    kernels.open(p.opens.data(), p.opens.size());
  }
}

template <const AeadKernels& kernels, auto then>
void expect_nothing_left(const std::vector<std::uint32_t>& lengths, bool of_one_length) {
  Packets p = burst_of(lengths);
  const Needles needles = secrets_of(p, of_one_length);
  const auto left = std::make_unique<Registers>();
  for (const bool sealing : {true, false}) {
    SearchableStack stack;
    stack.run([&] { sealing ? then(call<kernels, true>, p, *left) : then(call<kernels, false>, p, *left); });
    const std::string where = std::string{kernels.name} + (sealing ? " seal, " : " open, ") +
                              std::to_string(lengths.size()) + " packets, the first of " +
                              std::to_string(lengths.front());
    EXPECT_EQ(left_on(stack, needles), "") << where;
    EXPECT_EQ(*left, Registers{}) << "registers after " << where;
  }
  for (const OpenJob& job : p.opens) EXPECT_TRUE(job.authentic);
}

template <const AeadKernels& kernels, auto then>
[[maybe_unused]] void expect_nothing_left_of_any_shape() {
  for (const std::size_t count : {1u, 2u, 3u, 5u, 8u, 11u, 16u, 24u, 32u, 40u}) {
    for (const std::uint32_t length : {0u, 16u, 64u, 200u, 576u, 1420u, 8192u})
      expect_nothing_left<kernels, then>(std::vector<std::uint32_t>(count, length), true);
    std::vector<std::uint32_t> mixed;
    for (std::size_t i = 0; i < count; ++i) mixed.push_back(static_cast<std::uint32_t>(64 + i * 397 % 1357));
    expect_nothing_left<kernels, then>(mixed, false);
  }
}

// Sanitizers give every frame another size and keep it from being read: their builds have the last test alone.
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
TEST(AeadWiping, Avx2LeavesNothingOnTheStackOrInRegisters) {
  if (cpu_has_avx2()) expect_nothing_left_of_any_shape<kAeadAvx2, then_ymm>();  // else nobody can call it
}

TEST(AeadWiping, Avx512LeavesNothingOnTheStackOrInRegisters) {
  if (cpu_has_avx512_ifma()) expect_nothing_left_of_any_shape<kAeadAvx512, then_zmm>();
}

// The control: the search must see what a careless function leaves.
__attribute__((noinline)) void careless(Packets& p) {
  std::uint8_t copy[64];
  std::memcpy(copy, p.keys.data(), 32);
  __asm__ volatile("" : : "r"(copy) : "memory");
}
TEST(AeadWiping, TheSearchFindsWhatIsLeft) {
  Packets p = burst_of({100});
  SearchableStack stack;
  stack.run([&] { careless(p); });
  EXPECT_NE(left_on(stack, secrets_of(p, true)), "");
}
#endif

TEST(AeadWiping, TheSearchKnowsWhatASecretIs) {
  const Packets p = burst_of({100});
  const Needles needles = secrets_of(p, true);
  EXPECT_NE(needles.found_in(p.keys.data(), p.keys.size()), "");
  EXPECT_EQ(needles.found_in(p.opened.data(), p.opened.size()), "");
}

}  // namespace
}  // namespace wireplane::test
