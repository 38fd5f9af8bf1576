#include "tests/support/vectors.h"

#include <cstdlib>

#include "dataplane/base/check.h"

namespace wireplane::test {

std::optional<std::filesystem::path> find_vectors(std::string_view name) {
  const char* shared = std::getenv("WG_SHARED");
  auto path = std::filesystem::path{shared != nullptr ? shared : "../shared"} / "vectors" / name;
  if (!std::filesystem::exists(path)) return std::nullopt;
  return path;
}

std::vector<std::uint8_t> from_hex(std::string_view text) {
  const auto digit = [](char c) -> int {
    if (c >= '0' && c <= '9') return c - '0';
    if (c >= 'a' && c <= 'f') return c - 'a' + 10;
    if (c >= 'A' && c <= 'F') return c - 'A' + 10;
    return -1;
  };
  std::vector<std::uint8_t> octets;
  int high = -1;
  for (const char c : text) {
    if (c == ' ' || c == '\n') continue;
    const int value = digit(c);
    WG_CHECK(value >= 0);
    if (high < 0) {
      high = value;
    } else {
      octets.push_back(static_cast<std::uint8_t>(high * 16 + value));
      high = -1;
    }
  }
  WG_CHECK(high < 0);
  return octets;
}

std::string to_hex_text(const std::uint8_t* octets, std::size_t count) {
  static constexpr char kDigits[] = "0123456789abcdef";
  std::string text;
  for (std::size_t i = 0; i < count; ++i) {
    text += kDigits[octets[i] >> 4];
    text += kDigits[octets[i] & 15];
  }
  return text;
}

}  // namespace wireplane::test
