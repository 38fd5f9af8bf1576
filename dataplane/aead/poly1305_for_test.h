// poly1305_for_test.h: the kernels' Poly1305 with the one-time key given, for edge cases that no AEAD key reaches in a
// lifetime (h just below and above p, all carries). Computes the tag over text, zero padding to 16, and the lengths (0,
// length). `variant` chooses among a kernel's ways. Only for processors that have the kernel; nothing here is wiped.
#pragma once
#include <cstdint>

namespace wireplane {

// Scalar, eight strands of one packet, pairs, across eight packets; across eight and sixteen of one length, while it is
// short, else as before.
constexpr unsigned kPolyVariantsAvx512 = 6;
void poly1305_avx512_for_test(unsigned variant, const std::uint8_t* one_time, const std::uint8_t* text,
                              std::uint32_t length, std::uint8_t* tag);
constexpr unsigned kPolyVariantsAvx2 = 3;  // one, pair, following a cipher
void poly1305_avx2_for_test(unsigned variant, const std::uint8_t* one_time, const std::uint8_t* text,
                            std::uint32_t length, std::uint8_t* tag);

}  // namespace wireplane
