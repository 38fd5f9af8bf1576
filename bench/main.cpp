// wireplane-bench: one Google Benchmark program for everything that can be measured in one process. Names read
// area/case/implementation/size[/scale]; README.md says how to read a number.
#include <benchmark/benchmark.h>

#include "dataplane/aead/aead.h"

int main(int argc, char** argv) {
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 1;
  std::string kernels;
  for (const std::string& line : wireplane::Aead::report()) kernels += (kernels.empty() ? "" : ", ") + line;
  benchmark::AddCustomContext("aead", kernels);
  benchmark::RunSpecifiedBenchmarks();
  benchmark::Shutdown();
}
