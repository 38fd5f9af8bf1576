// types.h: numbers that mean one thing. They do not convert into each other.
#pragma once
#include <array>
#include <compare>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <functional>

namespace wireplane {

template <class Tag, std::unsigned_integral T>
class Tagged {
 public:
  constexpr Tagged() = default;
  explicit constexpr Tagged(T raw) : raw_{raw} {}
  [[nodiscard]] constexpr T raw() const { return raw_; }  // for the wire, arithmetic on positions, and nowhere else
  friend constexpr auto operator<=>(Tagged, Tagged) = default;

 private:
  T raw_{};
};

using ReceiverIndex = Tagged<struct ReceiverIndexTag, std::uint32_t>;  // wg §5.4: names a session at its receiver
using Counter = Tagged<struct CounterTag, std::uint64_t>;              // wg §5.4.6: number of a transport message
using SessionSlot = Tagged<struct SessionSlotTag, std::uint32_t>;      // place of a session in the arena
using Serial = Tagged<struct SerialTag, std::uint32_t>;                // grows by one with every keypair of a peer
using PeerSlot = Tagged<struct PeerSlotTag, std::uint32_t>;            // place of a peer in the engine's peer array

// A peer as rings and events name it: a slot is used again, a (slot, generation) pair never.
struct PeerId {
  PeerSlot slot;
  std::uint32_t generation{};
  friend constexpr bool operator==(const PeerId&, const PeerId&) = default;
};

struct PublicKey {  // Curve25519, wg §5.4
  std::array<std::uint8_t, 32> octets{};
  friend auto operator<=>(const PublicKey&, const PublicKey&) = default;
};

}  // namespace wireplane

template <class Tag, class T>
struct std::hash<wireplane::Tagged<Tag, T>> {
  std::size_t operator()(wireplane::Tagged<Tag, T> value) const noexcept { return std::hash<T>{}(value.raw()); }
};
template <>
struct std::hash<wireplane::PublicKey> {  // keys are uniform already (an attacker who grinds keys only slows his own)
  std::size_t operator()(const wireplane::PublicKey& key) const noexcept {
    std::size_t first = 0;
    for (std::size_t i = 0; i < sizeof first; ++i) first |= std::size_t{key.octets[i]} << (8 * i);
    return first;
  }
};
