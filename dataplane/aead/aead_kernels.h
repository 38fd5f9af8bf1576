// aead_kernels.h: what a kernel is given and what it promises. Plain structs only: this header is compiled with every
// instruction set, so nothing inline may live here (the linker would keep one copy for the whole program).
#pragma once
#include <cstddef>
#include <cstdint>

namespace wireplane {

// Encrypts head || body || padding zeros to `destination` and puts the 16-octet tag behind it.
// The body may be where it will stand in the destination (in place) or may not overlap it at all; the head never
// overlaps.
struct SealJob {
  const std::uint8_t* key;    // 32 octets
  std::uint64_t counter;      // low 8 octets of the nonce, little-endian
  const std::uint8_t* head;   // may be null when head_length is 0
  std::uint32_t head_length;  // 0..128: a rewritten header, so that no copy joins it with the body
  std::uint32_t body_length;  // head_length + body_length + padding <= 65535
  const std::uint8_t* body;
  std::uint8_t* destination;  // head_length + body_length + padding + 16 octets
  std::uint32_t padding;      // zero octets behind the body: 0..15
};

// Verifies and decrypts. If the tag is wrong, `authentic` is false and no plaintext stays in the destination.
struct OpenJob {
  const std::uint8_t* key;  // 32 octets
  std::uint64_t counter;
  const std::uint8_t* source;  // length octets: ciphertext and, last, the tag
  std::uint32_t length;        // 16..65551
  std::uint8_t* destination;   // length - 16 octets; source itself, or no overlap
  bool authentic;              // out
};

struct AeadKernels {
  const char* name;     // in logs, and what WG_AEAD= asks for
  bool (*available)();  // CPUID has it, and XCR0 saves its registers
  void (*seal)(SealJob* jobs, std::size_t count) noexcept;
  void (*open)(OpenJob* jobs, std::size_t count) noexcept;
};

// One a file. aead.cpp alone chooses among them.
extern const AeadKernels kAeadPortable;  // libsodium, a packet at a time: the reference all others must equal
extern const AeadKernels kAeadIpsecMb;   // Intel's ipsec-mb, a packet at a time
extern const AeadKernels kAeadAvx2;      // our own: bursts together
extern const AeadKernels kAeadAvx512;    // our own: bursts together

}  // namespace wireplane
