#include "dataplane/aead/aead.h"

#include <algorithm>
#include <array>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <iterator>

namespace wireplane {
namespace {

// RFC 8439 appendix A.1, test vector #2: the key stream block 1 of an all-zero key and nonce.
constexpr std::uint8_t kZeroKeyBlock1[64] = {
    0x9f, 0x07, 0xe7, 0xbe, 0x55, 0x51, 0x38, 0x7a, 0x98, 0xba, 0x97, 0x7c, 0x73, 0x2d, 0x08, 0x0d,
    0xcb, 0x0f, 0x29, 0xa0, 0x48, 0xe3, 0x65, 0x69, 0x12, 0xc6, 0x53, 0x3e, 0x32, 0xee, 0x7a, 0xed,
    0x29, 0xb7, 0x21, 0x76, 0x9c, 0xe6, 0x4e, 0x43, 0xd5, 0x71, 0x33, 0xb0, 0x74, 0xd8, 0x39, 0xd5,
    0x31, 0xed, 0x1f, 0x28, 0x51, 0x0a, 0xfb, 0x45, 0xac, 0xe1, 0x0a, 0x1f, 0x4b, 0x79, 0x4d, 0x6f};

// RFC 8439 appendix A.5: key, nonce (whose first four octets are zero) and ciphertext as printed there. Its additional
// data cannot pass our contract, which has none, so the tag is the one of the same message without it.
constexpr std::uint8_t kA5Key[32] = {0x1c, 0x92, 0x40, 0xa5, 0xeb, 0x55, 0xd3, 0x8a, 0xf3, 0x33, 0x88,
                                     0x86, 0x04, 0xf6, 0xb5, 0xf0, 0x47, 0x39, 0x17, 0xc1, 0x40, 0x2b,
                                     0x80, 0x09, 0x9d, 0xca, 0x5c, 0xbc, 0x20, 0x70, 0x75, 0xc0};
constexpr std::uint64_t kA5Counter = 0x0807060504030201;  // nonce 00 00 00 00 01 02 03 04 05 06 07 08
constexpr char kA5Plain[] =
    "Internet-Drafts are draft documents valid for a maximum of six months and may be updated, replaced, or obsoleted "
    "by "
    "other documents at any time. It is inappropriate to use Internet-Drafts as reference material or to cite them "
    "other "
    "than as /\xe2\x80\x9c"
    "work in progress./\xe2\x80\x9d";
constexpr std::uint8_t kA5Sealed[] = {
    0x64, 0xa0, 0x86, 0x15, 0x75, 0x86, 0x1a, 0xf4, 0x60, 0xf0, 0x62, 0xc7, 0x9b, 0xe6, 0x43, 0xbd, 0x5e, 0x80, 0x5c,
    0xfd, 0x34, 0x5c, 0xf3, 0x89, 0xf1, 0x08, 0x67, 0x0a, 0xc7, 0x6c, 0x8c, 0xb2, 0x4c, 0x6c, 0xfc, 0x18, 0x75, 0x5d,
    0x43, 0xee, 0xa0, 0x9e, 0xe9, 0x4e, 0x38, 0x2d, 0x26, 0xb0, 0xbd, 0xb7, 0xb7, 0x3c, 0x32, 0x1b, 0x01, 0x00, 0xd4,
    0xf0, 0x3b, 0x7f, 0x35, 0x58, 0x94, 0xcf, 0x33, 0x2f, 0x83, 0x0e, 0x71, 0x0b, 0x97, 0xce, 0x98, 0xc8, 0xa8, 0x4a,
    0xbd, 0x0b, 0x94, 0x81, 0x14, 0xad, 0x17, 0x6e, 0x00, 0x8d, 0x33, 0xbd, 0x60, 0xf9, 0x82, 0xb1, 0xff, 0x37, 0xc8,
    0x55, 0x97, 0x97, 0xa0, 0x6e, 0xf4, 0xf0, 0xef, 0x61, 0xc1, 0x86, 0x32, 0x4e, 0x2b, 0x35, 0x06, 0x38, 0x36, 0x06,
    0x90, 0x7b, 0x6a, 0x7c, 0x02, 0xb0, 0xf9, 0xf6, 0x15, 0x7b, 0x53, 0xc8, 0x67, 0xe4, 0xb9, 0x16, 0x6c, 0x76, 0x7b,
    0x80, 0x4d, 0x46, 0xa5, 0x9b, 0x52, 0x16, 0xcd, 0xe7, 0xa4, 0xe9, 0x90, 0x40, 0xc5, 0xa4, 0x04, 0x33, 0x22, 0x5e,
    0xe2, 0x82, 0xa1, 0xb0, 0xa0, 0x6c, 0x52, 0x3e, 0xaf, 0x45, 0x34, 0xd7, 0xf8, 0x3f, 0xa1, 0x15, 0x5b, 0x00, 0x47,
    0x71, 0x8c, 0xbc, 0x54, 0x6a, 0x0d, 0x07, 0x2b, 0x04, 0xb3, 0x56, 0x4e, 0xea, 0x1b, 0x42, 0x22, 0x73, 0xf5, 0x48,
    0x27, 0x1a, 0x0b, 0xb2, 0x31, 0x60, 0x53, 0xfa, 0x76, 0x99, 0x19, 0x55, 0xeb, 0xd6, 0x31, 0x59, 0x43, 0x4e, 0xce,
    0xbb, 0x4e, 0x46, 0x6d, 0xae, 0x5a, 0x10, 0x73, 0xa6, 0x72, 0x76, 0x27, 0x09, 0x7a, 0x10, 0x49, 0xe6, 0x17, 0xd9,
    0x1d, 0x36, 0x10, 0x94, 0xfa, 0x68, 0xf0, 0xff, 0x77, 0x98, 0x71, 0x30, 0x30, 0x5b, 0xea, 0xba, 0x2e, 0xda, 0x04,
    0xdf, 0x99, 0x7b, 0x71, 0x4d, 0x6c, 0x6f, 0x2c, 0x29, 0xa6, 0xad, 0x5c, 0xb4, 0x02, 0x2b, 0x02, 0x70, 0x9b, 0x6e,
    0x35, 0x70, 0xb1, 0xac, 0xaa, 0xf1, 0xf2, 0x4f, 0x2a, 0x64, 0x4f, 0x01, 0xac, 0xd1, 0x2b};

constexpr std::size_t kTag = 16;
constexpr std::size_t kRoom = 2200;  // octets a packet of the self-test may have

bool seals_and_opens(const AeadKernels& kernels, const std::uint8_t* key, std::uint64_t counter, const char* plain,
                     const std::uint8_t* sealed, std::uint32_t length, bool check_tag) {
  std::array<std::uint8_t, 512> out{}, back{};
  SealJob seal{key, counter, nullptr, 0, length, reinterpret_cast<const std::uint8_t*>(plain), out.data(), 0};
  kernels.seal(&seal, 1);
  if (std::memcmp(out.data(), sealed, length + (check_tag ? kTag : 0)) != 0) return false;
  OpenJob open{key, counter, out.data(), length + static_cast<std::uint32_t>(kTag), back.data(), false};
  kernels.open(&open, 1);
  if (!open.authentic || std::memcmp(back.data(), plain, length) != 0) return false;
  out[length] ^= 1;
  std::fill(back.begin(), back.end(), std::uint8_t{0});
  kernels.open(&open, 1);
  return !open.authentic && std::all_of(back.begin(), back.end(), [](std::uint8_t octet) { return octet == 0; });
}

// Bursts of every size up to 40 with mixed lengths, heads and paddings: the same octets as the portable kernel, and
// back.
bool equals_portable(const AeadKernels& kernels) {
  constexpr std::size_t kMost = 40;
  std::vector<std::uint8_t> body(kMost * kRoom), head(128), mine(kMost * kRoom), theirs(kMost * kRoom),
      keys(kMost * 32);
  std::uint64_t random = 0x9e3779b97f4a7c15;
  const auto next = [&random] { return random = random * 6364136223846793005u + 1442695040888963407u, random >> 33; };
  for (auto* octets : {&body, &head, &keys}) std::generate(octets->begin(), octets->end(), next);
  for (std::size_t count = 1; count <= kMost; ++count) {
    std::vector<SealJob> a, b;
    std::vector<OpenJob> c;
    for (std::size_t i = 0; i < count; ++i) {
      const auto head_length = static_cast<std::uint32_t>(count % 3 == 0 ? 0 : next() % 129);
      const auto length = static_cast<std::uint32_t>(count % 4 == 0 ? 64 : next() % (i % 2 == 0 ? 2000 : 200));
      const auto padding = static_cast<std::uint32_t>(next() % 16);
      a.push_back(
          {&keys[i * 32], next(), head.data(), head_length, length, &body[i * kRoom], &mine[i * kRoom], padding});
      b.push_back(a.back());
      b.back().destination = &theirs[i * kRoom];
    }
    kernels.seal(a.data(), count);
    kAeadPortable.seal(b.data(), count);
    for (const SealJob& job : b) {
      const std::uint32_t length = job.head_length + job.body_length + job.padding + static_cast<std::uint32_t>(kTag);
      std::uint8_t* const other = mine.data() + (job.destination - theirs.data());
      if (std::memcmp(job.destination, other, length) != 0) return false;
      c.push_back({job.key, job.counter, other, length, other, false});
    }
    c.back().counter ^= 1;  // one forgery a burst
    kernels.open(c.data(), count);
    for (std::size_t i = 0; i < count; ++i) {
      if (c[i].authentic != (i + 1 < count)) return false;
      if (!c[i].authentic) continue;
      const SealJob& job = b[i];
      if (job.head_length != 0 && std::memcmp(c[i].destination, job.head, job.head_length) != 0) return false;
      if (job.body_length != 0 && std::memcmp(c[i].destination + job.head_length, job.body, job.body_length) != 0) {
        return false;
      }
    }
  }
  return true;
}

// Which kernel serves which burst shape, as measured (README.md): our AVX-512 kernel from two packets on. A single
// packet, or two unlike ones, leave most of its lanes idle; there ipsec-mb's code for one packet is a little faster.
constexpr std::uint32_t kPairLongest = 2048;  // octets; beyond, even two packets fill the lanes
constexpr std::uint32_t kAlike = 64;          // octets

bool left_to_ipsec_mb(std::uint32_t first, std::uint32_t last, std::size_t count) {
  if (count == 1) return true;
  return std::max(first, last) < kPairLongest && std::max(first, last) - std::min(first, last) > kAlike;
}
void seal_by_shape(SealJob* jobs, std::size_t count) noexcept {
  const bool few = count == 1 || count == 2;
  if (few && left_to_ipsec_mb(jobs[0].body_length, jobs[count - 1].body_length, count)) {
    for (std::size_t i = 0; i < count; ++i) kAeadIpsecMb.seal(jobs + i, 1);
  } else {
    kAeadAvx512.seal(jobs, count);
  }
}
void open_by_shape(OpenJob* jobs, std::size_t count) noexcept {
  const bool few = count == 1 || count == 2;
  if (few && left_to_ipsec_mb(jobs[0].length, jobs[count - 1].length, count)) {
    for (std::size_t i = 0; i < count; ++i) kAeadIpsecMb.open(jobs + i, 1);
  } else {
    kAeadAvx512.open(jobs, count);
  }
}
bool both_available() { return kAeadAvx512.available() && kAeadIpsecMb.available(); }

const AeadKernels kByShape = {"by_shape", both_available, seal_by_shape, open_by_shape};

constexpr const AeadKernels* kBestFirst[] = {&kByShape, &kAeadAvx512, &kAeadAvx2, &kAeadIpsecMb, &kAeadPortable};

struct Choice {
  std::vector<Aead> kernels;  // usable, best first
  std::vector<const Aead*> usable;
  const Aead* chosen = nullptr;
  std::vector<std::string> report;
  std::string complaint;
};

void weigh(Choice& choice, const AeadKernels& kernels) {
  const std::string name = kernels.name;
  if (!kernels.available()) {
    choice.report.push_back(name + ": no (the processor or the system lacks what it needs)");
  } else if (!Aead::self_test(kernels)) {
    choice.report.push_back(name + ": no (self-test failed)");
    std::fprintf(stderr, "wireplane: AEAD kernel %s FAILED its self-test on this processor and is left out\n",
                 kernels.name);
  } else {
    choice.kernels.emplace_back(kernels);
    choice.report.push_back(name + ": usable");
  }
}

Choice choose() {
  Choice choice;
  for (const AeadKernels* kernels : kBestFirst) weigh(choice, *kernels);
  if (choice.kernels.empty()) choice.kernels.emplace_back(kAeadPortable);  // never nothing; weigh() has complained
  for (const Aead& aead : choice.kernels) choice.usable.push_back(&aead);
  choice.chosen = choice.usable.front();

  if (const char* const forced = std::getenv("WG_AEAD"); forced != nullptr && *forced != '\0') {
    const auto found = std::find_if(choice.usable.begin(), choice.usable.end(),
                                    [forced](const Aead* aead) { return std::string_view{aead->name()} == forced; });
    if (found != choice.usable.end()) {
      choice.chosen = *found;
    } else {
      choice.complaint = "WG_AEAD=" + std::string{forced} + " names no kernel that can run here; these can:";
      for (const Aead* aead : choice.usable) choice.complaint += ' ' + std::string{aead->name()};
      std::fprintf(stderr, "wireplane: %s\n", choice.complaint.c_str());
    }
  }
  for (std::string& line : choice.report) {
    if (line == std::string{choice.chosen->name()} + ": usable") line = std::string{choice.chosen->name()} + ": chosen";
  }
  return choice;
}

const Choice& choice() {
  static const Choice once = [] {
    Choice made = choose();
    return made;
  }();
  return once;
}

}  // namespace

bool Aead::self_test(const AeadKernels& kernels) {
  const std::array<char, 64> zeros{};
  const std::array<std::uint8_t, 32> zero_key{};
  return seals_and_opens(kernels, zero_key.data(), 0, zeros.data(), kZeroKeyBlock1, 64, false) &&
         seals_and_opens(kernels, kA5Key, kA5Counter, kA5Plain, kA5Sealed, sizeof kA5Plain - 1, true) &&
         equals_portable(kernels);
}

const Aead& Aead::chosen() { return *choice().chosen; }

const Aead* Aead::find(std::string_view name) {
  for (const Aead* aead : choice().usable) {
    if (name == aead->name()) return aead;
  }
  return nullptr;
}

std::span<const Aead* const> Aead::usable() { return choice().usable; }
std::vector<std::string> Aead::report() { return choice().report; }
std::string Aead::complaint() { return choice().complaint; }

}  // namespace wireplane
