// A fuzz target without a fuzzer: runs each file it is given, and each file of each folder, once. For compilers without
// libFuzzer, for debuggers, and for seeded faults: WG_FAULT=P36 build/faults/replay_engine tests/fuzz/corpus/engine
#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <vector>

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size);
extern "C" std::size_t LLVMFuzzerMutate(std::uint8_t*, std::size_t size, std::size_t) { return size; }

namespace {

void run(const std::filesystem::path& path) {
  std::ifstream file{path, std::ios::binary};
  const std::vector<char> octets{std::istreambuf_iterator<char>{file}, {}};
  static_cast<void>(LLVMFuzzerTestOneInput(reinterpret_cast<const std::uint8_t*>(octets.data()), octets.size()));
}

}  // namespace

int main(int count, char** arguments) {
  unsigned runs = 0;
  for (int i = 1; i < count; ++i) {
    if (!std::filesystem::is_directory(arguments[i])) {
      run(arguments[i]);
      ++runs;
      continue;
    }
    for (const auto& entry : std::filesystem::directory_iterator{arguments[i]}) {
      run(entry.path());
      ++runs;
    }
  }
  std::printf("%u inputs\n", runs);
  return runs == 0 ? 1 : 0;
}
