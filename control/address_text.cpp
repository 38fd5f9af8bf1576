#include "control/address_text.h"

#include <arpa/inet.h>
#include <net/if.h>

#include <algorithm>
#include <array>
#include <cstring>

namespace wireplane {
namespace {

constexpr std::size_t kLongestAddress = INET6_ADDRSTRLEN - 1;

std::optional<std::uint16_t> parse_port(std::string_view text) {
  const auto port = parse_decimal<std::uint16_t>(text);
  return port && *port != 0 ? port : std::nullopt;
}

}  // namespace

std::uint32_t interface_index_of_host(std::string_view name) {
  if (const auto number = parse_decimal<std::uint32_t>(name)) return *number;
  std::array<char, IF_NAMESIZE> terminated{};
  if (name.empty() || name.size() >= terminated.size()) return 0;
  std::copy(name.begin(), name.end(), terminated.begin());
  return if_nametoindex(terminated.data());
}

bool is_link_local(const Address& address) {
  return address.is_v6() && address.octets[0] == 0xfe && (address.octets[1] & 0xc0) == 0x80;
}

Prefix masked(Prefix prefix) {
  for (unsigned bit = prefix.length; bit < 128; ++bit) {
    auto& octet = prefix.address.octets[bit / 8];
    octet = static_cast<std::uint8_t>(octet & ~(0x80u >> (bit % 8)));
  }
  return prefix;
}

std::optional<Address> parse_address(std::string_view text) {
  std::array<char, kLongestAddress + 1> terminated{};  // inet_pton wants an end
  if (text.size() > kLongestAddress || text.find('\0') != text.npos) return std::nullopt;
  std::copy(text.begin(), text.end(), terminated.begin());
  std::array<std::uint8_t, 16> octets{};
  if (inet_pton(AF_INET, terminated.data(), octets.data()) == 1) return Address::v4(octets.data());
  if (inet_pton(AF_INET6, terminated.data(), octets.data()) == 1) return Address::v6(octets.data());
  return std::nullopt;
}

std::optional<Prefix> parse_address_with_length(std::string_view text) {
  const std::size_t slash = text.find('/');
  const auto address = parse_address(text.substr(0, slash));
  if (!address) return std::nullopt;
  Prefix prefix{.address = *address, .length = static_cast<std::uint8_t>(address->bits())};
  if (slash == text.npos) return prefix;
  const auto length = parse_decimal<std::uint8_t>(text.substr(slash + 1), prefix.length);
  if (!length) return std::nullopt;
  prefix.length = *length;
  return prefix;
}

std::optional<Prefix> parse_prefix(std::string_view text, bool* host_bits) {
  const auto given = parse_address_with_length(text);
  if (!given) return std::nullopt;
  const Prefix clean = masked(*given);
  if (host_bits != nullptr) *host_bits = clean != *given;
  return clean;
}

std::optional<Endpoint> parse_endpoint(std::string_view text, const InterfaceIndex& interface_index) {
  const bool bracketed = !text.empty() && text.front() == '[';
  const std::size_t colon = text.rfind(':');
  if (colon == text.npos || (bracketed && (colon < 2 || text[colon - 1] != ']'))) return std::nullopt;
  std::string_view host = bracketed ? text.substr(1, colon - 2) : text.substr(0, colon);
  const auto port = parse_port(text.substr(colon + 1));
  if (!port) return std::nullopt;

  std::string_view zone;
  const std::size_t percent = host.find('%');
  if (percent != host.npos) {
    zone = host.substr(percent + 1);
    host = host.substr(0, percent);
  }
  const auto address = parse_address(host);
  if (!address || address->is_v6() != bracketed) return std::nullopt;
  Endpoint endpoint{.remote = *address, .local = {}, .interface = 0, .port = *port};
  if (percent != std::string_view::npos) {
    if (!is_link_local(*address) || !interface_index) return std::nullopt;
    endpoint.interface = interface_index(zone);
    if (endpoint.interface == 0) return std::nullopt;
  }
  return endpoint;
}

std::string to_text(const Address& address) {
  std::array<char, INET6_ADDRSTRLEN> text{};
  if (address.none()) return "none";
  inet_ntop(address.is_v4() ? AF_INET : AF_INET6, address.octets.data(), text.data(), text.size());
  return text.data();
}

std::string to_text(const Prefix& prefix) { return to_text(prefix.address) + '/' + std::to_string(prefix.length); }

std::string to_text(const Endpoint& endpoint) {
  if (endpoint.remote.is_v4()) return to_text(endpoint.remote) + ':' + std::to_string(endpoint.port);
  std::string text = '[' + to_text(endpoint.remote);
  if (is_link_local(endpoint.remote) && endpoint.interface != 0) text += '%' + std::to_string(endpoint.interface);
  return text + "]:" + std::to_string(endpoint.port);
}

}  // namespace wireplane
