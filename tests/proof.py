#!/usr/bin/env python3
"""What the tests proved, and whether they can fail.

  tests/proof.py faults BUILD [--jobs N] [--budget SECONDS] [--left-out FILE]
      For each row of the protocol checklist and each test that says it proves it: run the test under the row's seeded
      fault (WG_FAULT=P12), in a build with -DWIREPLANE_SEEDED_FAULTS=ON. The test must fail. Writes BUILD/faults.json.
      With a budget, a tenth of the rows that changes with the day comes first; what the time does not allow is told.
  tests/proof.py count DIR
      "passed failed skipped" over GoogleTest's JSON reports in DIR, and over what DIR/ctest.xml knows beside them (scripts,
      programs that died), then a line for each test that failed or was left out.
  tests/proof.py table DIR [FAULTS.JSON] [PROTOCOL.md]
      The protocol table: row, test, its result, its result under the fault.
"""
import concurrent.futures
import json
import os
import pathlib
import re
import subprocess
import sys
import time
import xml.etree.ElementTree

import tidy

SEED_TIMEOUT_S = 90


def row_key(row):
    return int(re.sub(r"\D", "", row)), row


def proofs():
    """[(row, program, Suite.Name)], each once."""
    found = {(row, path.stem, test.split()[1]) for row, path, test in tidy.proves() if test}
    return sorted(found, key=lambda proof: (row_key(proof[0]), proof[1:]))


def run_under_fault(build, row, program, test):
    suite, name = test.split(".")
    test_filter = f"{suite}.{name}:*/{suite}.{name}/*:*/{suite}.{name}:{suite}/*.{name}:{suite}.{name}/*"
    binary = pathlib.Path(build, program).resolve()
    environment = dict(os.environ, WG_FAULT=row.rstrip("b"))
    environment.pop("GTEST_OUTPUT", None)
    environment.setdefault("WG_SHARED", str(tidy.ROOT.parent / "shared"))
    began = time.monotonic()
    try:
        run = subprocess.run([binary, f"--gtest_filter={test_filter}", "--gtest_brief=1"], env=environment, timeout=SEED_TIMEOUT_S,
                             stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace",
                             cwd=binary.parent, check=False)
        if re.search(r"^\[=+\] 0 tests", run.stdout, re.M) or re.search(r"Running 0 tests", run.stdout):
            result = "no such test"
        elif run.returncode != 0:
            result = "fails"
        elif "SKIPPED" in run.stdout:
            result = "skipped"
        else:
            result = "PASSES"
    except subprocess.TimeoutExpired:
        result = "hangs"  # noticed, if late: ctest has a time limit too
    except OSError as error:
        result = f"cannot run: {error.strerror}"
    return {"row": row, "program": program, "test": test, "result": result, "seconds": round(time.monotonic() - began, 1)}


def option(name, default):
    return sys.argv[sys.argv.index(name) + 1] if name in sys.argv else default


def faults(build):
    everything = proofs()
    rows = sorted({row for row, _, _ in everything}, key=row_key)
    today = int(time.time() // 86400) % 10
    turn = {row: (index - today) % 10 for index, row in enumerate(rows)}
    queue = sorted(everything, key=lambda proof: turn[proof[0]])
    deadline = time.monotonic() + float(option("--budget", "inf"))
    must = [proof for proof in queue if turn[proof[0]] == 0]

    def run(proof):
        if proof not in must and time.monotonic() > deadline:
            return {"row": proof[0], "program": proof[1], "test": proof[2], "result": "left out", "seconds": 0}
        return run_under_fault(build, *proof)

    with concurrent.futures.ThreadPoolExecutor(int(option("--jobs", "2"))) as pool:
        results = list(pool.map(run, queue))
    pathlib.Path(build, "faults.json").write_text(json.dumps(results, indent=1), encoding="utf-8")
    caught = sum(result["result"] in ("fails", "hangs") for result in results)
    left_out = sum(result["result"] == "left out" for result in results)
    skipped = sum(result["result"] == "skipped" for result in results)
    wrong = [result for result in results if result["result"] not in ("fails", "hangs", "left out", "skipped")]
    for result in wrong:
        print(f"{result['row']}: {result['program']} {result['test']}: {result['result']} under its seeded fault, and should fail")
    if left_out:
        print(f"{left_out} of {len(results)} seeded faults had no time today (all: deploy/test.sh --full)")
    print(caught, len(wrong), skipped)
    sys.exit(1 if wrong else 0)


def reports(directory):
    """{program: {Suite.Name: [results]}}; parameters and types of a test are folded into its name."""
    found = {}
    for path in sorted(pathlib.Path(directory).glob("*.json")):
        try:
            report = json.loads(path.read_text(encoding="utf-8"))
        except ValueError:
            continue
        for suite in report.get("testsuites", []):
            for case in suite["testsuite"]:
                bare = [part for part in suite["name"].split("/") if not part.isdigit()]
                name = f"{bare[-1]}.{case['name'].split('/')[0]}"
                result = "failed" if case.get("failures") else "skipped" if case.get("result") == "SKIPPED" else \
                    "passed" if case.get("status") == "RUN" else None
                if result:
                    why = " ".join(entry.get("message", "") for entry in case.get("skipped", []) + case.get("failures", []))
                    found.setdefault(path.stem, {}).setdefault(name, []).append((result, " ".join(why.split())[:160]))
    return found


def without_report(directory, reported):
    """(name, result, why) of the tests of ctest that left no report of their own."""
    junit = pathlib.Path(directory, "ctest.xml")
    if not junit.exists():
        return
    for case in xml.etree.ElementTree.parse(junit).getroot().iter("testcase"):
        if case.get("name") not in reported:
            result = {"run": "passed", "fail": "failed"}.get(case.get("status"), "skipped")
            output = (case.findtext("system-out") or "").strip().splitlines()
            yield case.get("name"), result, output[-1][:160] if output else case.get("status")


def count(directory):
    tests = [(program, name, *result) for program, names in reports(directory).items() for name, results in names.items() for result in results]
    tests += [(name, "", result, why) for name, result, why in without_report(directory, {test[0] for test in tests})]
    print(*(sum(test[2] == kind for test in tests) for kind in ("passed", "failed", "skipped")))
    for program, name, result, why in tests:
        if result != "passed":
            print(f"{result}: {program} {name}: {why}")


def table(directory, faults_json, protocol):
    results = reports(directory)
    under_fault = {}
    if faults_json and os.path.exists(faults_json):
        for entry in json.loads(pathlib.Path(faults_json).read_text(encoding="utf-8")):
            under_fault[entry["row"], entry["program"], entry["test"]] = entry["result"]
    print(f"{'row':5} {'test':92} {'result':8} under fault")
    proven = set()
    for row, program, test in proofs():
        each = {result for result, _ in results.get(program, {}).get(test, [])}
        verdict = "failed" if "failed" in each else "passed" if "passed" in each else "skipped" if each else "not run"
        print(f"{row:5} {program + ' ' + test:92} {verdict:8} {under_fault.get((row, program, test), 'not run')}")
        proven.add(row)
    if protocol and os.path.exists(protocol):
        rows = re.findall(r"^\| (P\d+b?) \|", pathlib.Path(protocol).read_text(encoding="utf-8"), re.M)
        missing = sorted(set(rows) - proven, key=row_key)
        print(f"{len(proven)} rows have a test of their own; none yet: {' '.join(missing) or '-'}")


def main():
    command, arguments = (sys.argv[1], sys.argv[2:]) if len(sys.argv) > 2 else (None, [])
    if command == "faults":
        faults(arguments[0])
    elif command == "count":
        count(arguments[0])
    elif command == "table":
        table(arguments[0], *(arguments[1:] + [None, None])[:2])
    else:
        sys.exit(__doc__)


if __name__ == "__main__":
    main()
