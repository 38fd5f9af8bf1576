#!/usr/bin/env python3
"""Line and branch coverage of dataplane and control, per file and in all, by clang's source-based coverage. Fails below
the floors.

    tests/coverage.py BUILD                  the table; BUILD/profiles holds what the tests left (LLVM_PROFILE_FILE)
    tests/coverage.py BUILD --missed FILE    which lines and branches of a file were not reached

A branch is one outcome of one condition in the source: the compiler's own (exceptions, clean-up) are none; instantiations
of a template count as one. Left out are conditions on lines with WG_CHECK or WG_DCHECK (the failing arm is our bug and
ends the program), seeded_fault (compiled in elsewhere) and WG_LOG (its level and limit have tests of their own).
"""
import argparse
import glob
import json
import os
import re
import subprocess
import sys

FLOORS = {"dataplane": (95.0, 90.0), "control": (95.0, 90.0)}  # lines, branches
FOLDERS = tuple(FLOORS)
NOT_COUNTED = re.compile(r"\b(WG_CHECK|WG_DCHECK|seeded_fault|WG_LOG)\b")
ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def exported(build):
    profile = os.path.join(build, "all.profdata")
    raw = os.path.join(build, "profiles.txt")
    with open(raw, "w", encoding="utf-8") as file:
        file.write("\n".join(glob.glob(os.path.join(build, "profiles", "*.profraw"))))
    subprocess.run(["llvm-profdata", "merge", "-sparse", "-failure-mode=all", "-f", raw, "-o", profile], check=True)
    programs = sorted(glob.glob(os.path.join(build, "*_test")))
    command = ["llvm-cov", "export", "-format=text", "-skip-functions", "-instr-profile", profile, programs[0]]
    for program in programs[1:]:
        command += ["-object", program]
    answer = subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=sys.stderr)
    return json.loads(answer.stdout)["data"][0]["files"]


def branches_of(file, source):
    """{place: [times true, times false]}; instantiations of a template count as one."""
    found = {}
    for line, column, _, _, true, false, *_ in file["branches"]:
        if line <= len(source) and NOT_COUNTED.search(source[line - 1]):
            continue
        both = found.setdefault((line, column), [0, 0])
        both[0] += true
        both[1] += false
    return found


def part(have, of):
    return f"{100.0 * have / of:5.1f} %" if of else "      -"


def show(name, have):
    return f"{name:44} lines {part(have[0], have[1])} of {have[1]:5}   branches {part(have[2], have[3])} of {have[3]:5}"


def show_missed(file, source):
    for (line, _), (true, false) in sorted(branches_of(file, source).items()):
        if not (true and false):
            print(f"{line:5} never {'reached' if not true and not false else 'true' if not true else 'false'}: {source[line - 1].strip()}")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("build")
    parser.add_argument("--missed")
    given = parser.parse_args()
    folders = {folder: [0, 0, 0, 0] for folder in FOLDERS}
    for file in sorted(exported(given.build), key=lambda f: f["filename"]):
        name = os.path.relpath(file["filename"], ROOT)
        if name.split("/")[0] not in FOLDERS:
            continue
        with open(file["filename"], encoding="utf-8") as text:
            source = text.read().split("\n")
        if given.missed:
            if given.missed in name:
                show_missed(file, source)
            continue
        found = branches_of(file, source).values()
        lines = file["summary"]["lines"]
        have = (lines["covered"], lines["count"], sum((t > 0) + (f > 0) for t, f in found), 2 * len(found))
        if have[1]:
            print(show(name, have))
        folders[name.split("/")[0]] = [a + b for a, b in zip(folders[name.split("/")[0]], have)]
    if given.missed:
        return 0
    below = False
    for name, have in folders.items():
        print(show(name, have))
        below |= 100.0 * have[0] < FLOORS[name][0] * have[1] or 100.0 * have[2] < FLOORS[name][1] * have[3]
    print("; ".join(f"{name}: lines {part(h[0], h[1]).strip()}, branches {part(h[2], h[3]).strip()}" for name, h in folders.items()))
    return 1 if below else 0


if __name__ == "__main__":
    sys.exit(main())
