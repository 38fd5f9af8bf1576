#!/usr/bin/env python3
"""Line and branch coverage of dataplane and control, per file and in all, by gcovr. Fails below the floors.

    tests/coverage.py BUILD [--jobs N] [--uncovered FILE]     --uncovered: which lines and branches of a file are not reached

Left out, and why (the README says it, too): branches that only an exception takes and that the compiler makes for
clean-up; both arms of WG_CHECK and WG_DCHECK (the failing one is our bug and ends the program), of seeded_fault (compiled
in elsewhere), and the inside of WG_LOG (its levels and limits have tests of their own).
"""
import argparse
import json
import os
import subprocess
import sys

FLOORS = {"line": 90.0, "branch": 90.0}
FOLDERS = ("dataplane", "control")
NOT_OURS = r".*\b(WG_CHECK|WG_DCHECK|seeded_fault|WG_LOG)\b.*"


def gcovr(build, jobs):
    root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    report = os.path.join(build, "coverage.json")
    command = ["gcovr", "--root", root, "--object-directory", build, "-j", str(jobs), "--json", report, "--exclude-throw-branches",
               "--exclude-unreachable-branches", "--exclude-branches-by-pattern", NOT_OURS, "--gcov-ignore-parse-errors"]
    for folder in FOLDERS:
        command += ["--filter", os.path.join(root, folder) + "/"]
    command += [os.path.join(build, folder) for folder in (*FOLDERS, "tests")]
    subprocess.run(command, check=True, stdout=sys.stderr)
    with open(report, encoding="utf-8") as file:
        return json.load(file)["files"]


def counts(file):
    lines = [line for line in file["lines"] if not line.get("gcovr/noncode")]
    branches = [branch for line in lines for branch in line["branches"]]
    return (sum(line["count"] > 0 for line in lines), len(lines), sum(b["count"] > 0 for b in branches), len(branches))


def show(name, count):
    def part(have, of):
        return f"{100.0 * have / of:5.1f} %" if of else "      -"
    return f"{name:44} lines {part(count[0], count[1])} of {count[1]:5}   branches {part(count[2], count[3])} of {count[3]:5}"


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("build")
    parser.add_argument("--jobs", default=2)
    parser.add_argument("--uncovered")
    given = parser.parse_args()
    files = gcovr(given.build, given.jobs)
    if given.uncovered:
        for file in files:
            if given.uncovered not in file["file"]:
                continue
            for line in file["lines"]:
                missed = sum(branch["count"] == 0 for branch in line["branches"])
                if line["count"] == 0 or missed:
                    print(f'{file["file"]}:{line["line_number"]}: count {line["count"]}, {missed} of {len(line["branches"])} branches missed')
        return 0
    below = False
    totals = [0, 0, 0, 0]
    for folder in FOLDERS:
        sums = [0, 0, 0, 0]
        for file in sorted(files, key=lambda f: f["file"]):
            if not file["file"].startswith(folder + "/"):
                continue
            count = counts(file)
            sums = [a + b for a, b in zip(sums, count)]
            if count[1]:
                print(show(file["file"], count))
        print(show(folder, sums))
        totals = [a + b for a, b in zip(totals, sums)]
        below |= 100.0 * sums[0] < FLOORS["line"] * sums[1] or 100.0 * sums[2] < FLOORS["branch"] * sums[3]
    print(f"lines {100.0 * totals[0] / totals[1]:.1f} %, branches {100.0 * totals[2] / totals[3]:.1f} %")
    return 1 if below else 0


if __name__ == "__main__":
    sys.exit(main())
