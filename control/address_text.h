// address_text.h: addresses, prefixes and endpoints as people and wg(8) write them.
//
//   192.0.2.1   2001:db8::1   10.0.0.0/8   192.0.2.1:51820   [2001:db8::1]:51820   [fe80::1%eth0]:51820
//
// Strict: the whole text or nothing; decimal numbers without sign, space or a needless leading zero. A zone (%eth0, %2)
// belongs to link-local addresses alone and needs the host to name the interface: hence the function that is passed in.
#pragma once
#include <charconv>
#include <concepts>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>

#include "control/configuration.h"
#include "dataplane/base/endpoint.h"

namespace wireplane {

using InterfaceIndex = std::function<std::uint32_t(std::string_view name)>;  // 0: there is no such interface
[[nodiscard]] std::uint32_t interface_index_of_host(std::string_view name);  // asks the kernel, or reads a number

template <std::unsigned_integral T>
[[nodiscard]] std::optional<T> parse_decimal(std::string_view text, T most = static_cast<T>(-1)) {
  T value{};
  if (text.empty() || (text.size() > 1 && text[0] == '0')) return std::nullopt;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value, 10);
  if (error != std::errc{} || end != text.data() + text.size() || value > most) return std::nullopt;
  return value;
}

[[nodiscard]] std::optional<Address> parse_address(std::string_view text);
// Octets behind the length are cleared; `host_bits` tells whether there were any. Without "/n": a single address.
[[nodiscard]] std::optional<Prefix> parse_prefix(std::string_view text, bool* host_bits = nullptr);
// The same, but the address keeps its host bits: an interface's own address within its network.
[[nodiscard]] std::optional<Prefix> parse_address_with_length(std::string_view text);
[[nodiscard]] std::optional<Endpoint> parse_endpoint(std::string_view text, const InterfaceIndex& interface_index);

[[nodiscard]] std::string to_text(const Address& address);
[[nodiscard]] std::string to_text(const Prefix& prefix);
[[nodiscard]] std::string to_text(const Endpoint& endpoint);  // the remote half; the zone as a number

[[nodiscard]] bool is_link_local(const Address& address);  // fe80::/10
[[nodiscard]] Prefix masked(Prefix prefix);

}  // namespace wireplane
