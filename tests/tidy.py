#!/usr/bin/env python3
"""The rules of this tree that no compiler checks, and the sentences that tie tests to the protocol.

  tests/tidy.py check     include rules, file rules; one line a breach, exit status 1 if there is one
  tests/tidy.py proves    row <tab> file <tab> test, one line for each `proves:` in a test
  tests/tidy.py spec      paragraph <tab> file:line, one line for each `spec:` in the code
"""
import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
PARTS = ("dataplane", "drivers", "control", "bench", "tests")
MAY_INCLUDE = {  # control -> drivers -> dataplane; nothing knows bench or tests
    "dataplane": {"dataplane"},
    "drivers": {"drivers", "dataplane"},
    "control": {"control", "drivers", "dataplane"},
    "bench": {"bench", "control", "drivers", "dataplane", "tests"},
    "tests": {"tests", "bench", "control", "drivers", "dataplane"},
}
# The data plane asks the world nothing: no sockets, no threads, no clock, no DPDK, no console.
CLOSED_TO_DATAPLANE = re.compile(
    r"sys/socket\.h|netinet/.*|arpa/inet\.h|linux/.*|poll\.h|sys/epoll\.h|thread|mutex|condition_variable|future|chrono|ctime|time\.h"
    r"|sys/time\.h|iostream|fstream|pthread\.h|rte_.*")
CLOCK_IS_A_TYPE = {"dataplane/base/time.h"}  # durations, no clock
INTRINSICS = re.compile(r"(imm|x86|[a-z]mm|avx\w*)intrin\.h")
TARGET = re.compile(r'target\(("avx|[A-Z0-9_]+\))')  # a string, or a macro that is one
# Files that may name instructions: kernels (named after their instruction set) and the probe of the CPU.
KERNEL = re.compile(r"(avx2|avx512|sse|ifma|aesni|cpu)[^/]*\.(cpp|h)$|_kernels?\.cpp$|/(avx2|avx512)/")
LONG = 700
INCLUDE = re.compile(r'^\s*#\s*include\s*[<"]([^>"]+)[>"]')
# Classes of one letter: so the pattern is none of the paths that it finds.
MACHINE_PATH = re.compile(r"(?<![\w.])/(?:[w]ork|[f]arm)/|/[r]oot/|/[t]mp/(?:wp|bash_jobs)\b")
TEST = re.compile(r"^(TEST|TEST_F|TEST_P|TYPED_TEST|TYPED_TEST_P)\(\s*(\w+)\s*,\s*(\w+)\s*\)")
ROW = re.compile(r"\bP\d+b?\b")


def sources(*suffixes):
    for part in PARTS:
        for path in sorted((ROOT / part).rglob("*")):
            if path.suffix in suffixes and path.is_file():
                yield path.relative_to(ROOT)


def lines_of(path):
    return (ROOT / path).read_text(encoding="utf-8").splitlines()


def breaches_of_includes(path, lines):
    part = path.parts[0]
    for number, line in enumerate(lines, 1):
        match = INCLUDE.match(line)
        if not match:
            continue
        included = match.group(1)
        other = included.split("/")[0]
        if other in PARTS and "/" in included and other not in MAY_INCLUDE[part]:
            yield number, f"{part} may not include {other} ({included}): dependencies point control -> drivers -> dataplane"
        its_own = KERNEL.search(str(path)) or any(TARGET.search(line) for line in lines)
        if INTRINSICS.fullmatch(included) and part != "bench" and not its_own:
            yield number, (f"<{included}> belongs into kernel files, which are compiled with their own flags, or beside"
                           " functions that name their target")
        if part == "dataplane" and CLOSED_TO_DATAPLANE.fullmatch(included) and str(path) not in CLOCK_IS_A_TYPE:
            yield number, f"dataplane asks the world nothing: <{included}> (time, threads and packets come in as arguments)"
        if included.startswith("rte_") and part in ("dataplane", "control"):
            yield number, f"DPDK ({included}) stays in drivers"


def breaches_of_file(path, lines):
    text = "\n".join(lines)
    if path.suffix == ".h":
        if "#pragma once" not in text:
            yield 1, "a header begins with #pragma once after its opening comment"
        if path.parts[0] not in ("tests", "bench") and not text.lstrip().startswith("//"):
            yield 1, "a header opens with a comment that tells its whole idea"
        if not re.search(r"\b(struct|class|enum|constexpr|using|concept|extern|namespace|void)\b|^#define\b", text, re.M):
            yield 1, "a header that declares nothing"
    for number, line in enumerate(lines, 1):
        if MACHINE_PATH.search(line):
            yield number, "a path of one machine"
        if "\t" in line:
            yield number, "a tab"


def check():
    broken, long_files = 0, []
    for path in sources(".h", ".cpp", ".c"):
        lines = lines_of(path)
        for number, sentence in [*breaches_of_includes(path, lines), *breaches_of_file(path, lines)]:
            print(f"{path}:{number}: {sentence}")
            broken += 1
        if len(lines) > LONG:
            long_files.append(f"{path} ({len(lines)})")
    for row, path, test in proves():
        if test is None:
            print(f"{path}: `proves: {row}` stands above no test")
            broken += 1
    if long_files:
        print(f"warning: over {LONG} lines, is each still one noun? {', '.join(long_files)}")
    return broken


def proves():
    """(row, file, 'TEST_F Suite.Name') for every `proves:` in the comment above a test; test None if there is none."""
    for path in sources(".cpp"):
        if path.parts[0] != "tests":
            continue
        waiting, last_comment = [], -1
        for number, line in enumerate(lines_of(path)):
            test = TEST.match(line)
            if line.lstrip().startswith("//"):
                if "proves:" in line and (not waiting or number == last_comment + 1):
                    waiting += ROW.findall(line.split("proves:", 1)[1])
                last_comment = number
            elif test:
                for row in waiting:
                    yield row, path, f"{test.group(1)} {test.group(2)}.{test.group(3)}"
                waiting = []
            elif waiting and line.strip() and not line.startswith("template"):
                for row in waiting:
                    yield row, path, None
                waiting = []


def spec():
    for path in sources(".h", ".cpp"):
        for number, line in enumerate(lines_of(path), 1):
            if "// spec:" in line or re.match(r"\s*//.*\bspec: ", line):
                yield line.split("spec:", 1)[1].strip(), f"{path}:{number}"


def main():
    what = sys.argv[1] if len(sys.argv) == 2 else "check"
    if what == "check":
        broken = check()
        print(f"tidy: {broken} breach(es)")
        sys.exit(1 if broken else 0)
    if what == "proves":
        for row in proves():
            print("\t".join(map(str, row)))
    elif what == "spec":
        for row in spec():
            print("\t".join(row))
    else:
        sys.exit(__doc__)


if __name__ == "__main__":
    main()
