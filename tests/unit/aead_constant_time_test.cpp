// No branch and no address in our kernels depends on a secret.
//
// valgrind's memcheck tracks, bit by bit, what derives from undefined memory, and complains when a branch or an address
// does. So keys and plaintext are declared undefined, and a kernel runs: what memcheck reports is a leak (Langley's
// ctgrind). It cannot execute AVX-512; for that kernel the one comparison of secrets is read in its machine code
// instead.
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>
#include <valgrind/memcheck.h>

#include <array>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include "dataplane/aead/aead_kernels.h"
#include "dataplane/aead/cpu.h"

namespace wireplane {
namespace {

constexpr std::uint32_t kSizes[] = {0, 1, 15, 16, 17, 64, 65, 127, 200, 300, 576, 1000, 1420};
constexpr std::size_t kRoom = 1600;

struct Burst {
  std::array<std::uint8_t, 32 * 24> keys{};
  std::vector<std::uint8_t> text = std::vector<std::uint8_t>(24 * kRoom);
  std::array<std::uint8_t, 128> head{};
  std::vector<SealJob> seals;
  std::vector<OpenJob> opens;
};

void make(Burst& burst, std::size_t count, std::size_t start) {
  burst.seals.clear();
  for (std::size_t i = 0; i < count; ++i) {
    std::uint8_t* const place = &burst.text[i * kRoom];
    const std::uint32_t head = i % 3 == 0 ? 40 : 0;
    burst.seals.push_back({&burst.keys[32 * i], i, burst.head.data(), head, kSizes[(start + i) % std::size(kSizes)],
                           place + head, place, static_cast<std::uint32_t>(i % 16)});
  }
}

// Runs under valgrind only. `what` is kernel/operation; its errors are the process's errors.
void child(const std::string& what) {
  const std::string name = what.substr(0, what.find('/')), operation = what.substr(what.find('/') + 1);
  static Burst burst;
  if (operation == "leak") {  // the control: memcheck must see this
    VALGRIND_MAKE_MEM_UNDEFINED(burst.keys.data(), 1);
    if (burst.keys[0] == 7) std::puts("seven");
    return;
  }
  const AeadKernels* const aead =
      name == "avx2" ? &kAeadAvx2 : &kAeadPortable;  // directly: no self-test, no other kernel
  if (!aead->available()) std::_Exit(3);
  for (const std::size_t count : {1u, 2u, 3u, 8u, 11u, 24u}) {
    make(burst, count, count);
    if (operation == "seal") {
      VALGRIND_MAKE_MEM_UNDEFINED(burst.keys.data(), burst.keys.size());
      VALGRIND_MAKE_MEM_UNDEFINED(burst.text.data(), burst.text.size());
      VALGRIND_MAKE_MEM_UNDEFINED(burst.head.data(), burst.head.size());
      aead->seal(burst.seals.data(), count);
    } else {
      aead->seal(burst.seals.data(), count);
      burst.opens.clear();
      for (const SealJob& job : burst.seals) {
        const std::uint32_t length = job.head_length + job.body_length + job.padding + 16;
        burst.opens.push_back({job.key, job.counter, job.destination, length, job.destination, false});
      }
      burst.opens[count / 2].counter ^= 1;  // a forgery
      VALGRIND_MAKE_MEM_UNDEFINED(burst.keys.data(), burst.keys.size());
      aead->open(burst.opens.data(), count);
      for (OpenJob& job : burst.opens) VALGRIND_MAKE_MEM_DEFINED(&job.authentic, sizeof job.authentic);
    }
    VALGRIND_MAKE_MEM_DEFINED(burst.keys.data(), burst.keys.size());
    VALGRIND_MAKE_MEM_DEFINED(burst.text.data(), burst.text.size());
    VALGRIND_MAKE_MEM_DEFINED(burst.head.data(), burst.head.size());
  }
}

const int child_ran = [] {
  if (const char* const what = std::getenv("WG_CONSTANT_TIME_CHILD"); what != nullptr) {
    child(what);
    std::fflush(stdout);
    std::_Exit(VALGRIND_COUNT_ERRORS == 0 ? 0 : 9);
  }
  return 0;
}();

// The verdict on a tag is public, and open branches on it at once: `authentic`, and what is deciphered. Those branches
// stand in open_some itself; all that touches key stream or text are functions below it, and stay watched.
std::string suppressions() { return "{\n  the verdict is public\n  Memcheck:Cond\n  fun:*open_some*\n}\n"; }

int run_under_valgrind(const std::string& what) {
  char path[] = "/tmp/wireplane_suppressions_XXXXXX";
  const int file = mkstemp(path);
  if (file < 0) return -1;
  const std::string text = suppressions();
  const bool written = write(file, text.data(), text.size()) == static_cast<ssize_t>(text.size());
  close(file);
  char self[4096] = {};
  if (!written || readlink("/proc/self/exe", self, sizeof self - 1) < 0) return -1;
  const std::string command = "WG_CONSTANT_TIME_CHILD=" + what + " valgrind --quiet --suppressions=" + path +
                              " --error-limit=no --read-inline-info=no '" + self + "' 2>&1";
  std::string output;
  std::FILE* const pipe = popen(command.c_str(), "r");
  if (pipe == nullptr) return -1;
  char line[512];
  while (std::fgets(line, sizeof line, pipe) != nullptr) output += line;
  const int status = pclose(pipe);
  std::remove(path);
  const int code = WIFEXITED(status) ? WEXITSTATUS(status) : -1;
  if (code != 0 && what.find("leak") == std::string::npos) std::printf("%s\n", output.substr(0, 4000).c_str());
  return code;
}

bool valgrind_is_here() { return std::system("valgrind --version > /dev/null 2>&1") == 0; }

// Goal: the method finds what it looks for.
TEST(ConstantTime, ABranchOnASecretIsNoticed) {
  if (!valgrind_is_here()) GTEST_SKIP() << "valgrind is not installed";
  EXPECT_EQ(run_under_valgrind("none/leak"), 9);
}

// Goal: sealing reveals nothing of keys and plaintext by its branches and addresses.
TEST(ConstantTime, SealingBranchesOnNoSecret) {
  if (!valgrind_is_here()) GTEST_SKIP() << "valgrind is not installed";
  if (cpu_has_avx2()) {
    EXPECT_EQ(run_under_valgrind("avx2/seal"), 0);
  }
  EXPECT_EQ(run_under_valgrind("portable/seal"), 0);
}

// Goal: nor does opening, but for the verdict.
TEST(ConstantTime, OpeningBranchesOnTheVerdictAlone) {
  if (!valgrind_is_here()) GTEST_SKIP() << "valgrind is not installed";
  if (cpu_has_avx2()) {
    EXPECT_EQ(run_under_valgrind("avx2/open"), 0);
  }
}

// Goal: the AVX-512 kernel's comparison of tags has no branch.
// Method: its machine code, from this very program.
TEST(ConstantTime, TheAvx512TagComparisonHasNoBranch) {
  ASSERT_NE(kAeadAvx512.seal, nullptr);  // linked in
  char self[4096] = {};
  ASSERT_GT(readlink("/proc/self/exe", self, sizeof self - 1), 0);
  const std::string command =
      std::string{"objdump -d --no-show-raw-insn --disassemble=aead_avx512_tags_equal '"} + self + "' 2>/dev/null";
  std::FILE* const pipe = popen(command.c_str(), "r");
  ASSERT_NE(pipe, nullptr);
  std::string code;
  char line[512];
  bool inside = false;
  while (std::fgets(line, sizeof line, pipe) != nullptr) {
    if (std::strstr(line, "<aead_avx512_tags_equal>:") != nullptr) {
      inside = true;
    } else if (inside && line[0] == ' ') {
      code += line;
    }
  }
  pclose(pipe);
  if (code.empty()) GTEST_SKIP() << "objdump is not installed, or the kernel is not linked";
  EXPECT_EQ(code.find("\tj"), std::string::npos) << code;  // any jump
  EXPECT_EQ(code.find("call"), std::string::npos) << code;
  EXPECT_NE(code.find("ret"), std::string::npos) << code;
  EXPECT_NE(code.find("xor"), std::string::npos) << code;
}

}  // namespace
}  // namespace wireplane
