// vectors.h: test vectors from outside the repository (../shared/vectors), and the octets that they are written in.
#pragma once
#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace wireplane::test {

// Where the file lies: under $WG_SHARED (which ctest sets) or ../shared. Nothing: the folder is absent, and the caller
// says with GTEST_SKIP that it left the external vectors out.
[[nodiscard]] std::optional<std::filesystem::path> find_vectors(std::string_view name);

[[nodiscard]] std::vector<std::uint8_t> from_hex(
    std::string_view text);  // spaces allowed; stops the program if not hex
[[nodiscard]] std::string to_hex_text(const std::uint8_t* octets, std::size_t count);

}  // namespace wireplane::test
