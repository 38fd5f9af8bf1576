#!/usr/bin/env python3
"""Runs wireplane-bench's aead cases interleaved and prints the table of dataplane/aead/README.md.

    bench/aead_table.py build/release/wireplane-bench [--shapes] [--cold] [--repetitions N] [--min-time S]
                        [--before "flock FILE chrt -f 50 taskset -c 1"]

Every figure is the median of the repetitions; a row's are all of one run, in random order, so that a lock before it is held
for seconds only. The ratio is the faster of ipsec-mb's two interfaces divided by ours.
"""
import argparse
import collections
import json
import statistics
import subprocess

SIZES = ["0", "16", "64", "128", "256", "512", "1024", "1280", "1420", "8192", "imix", "uniform"]


def run(program, pattern, options):
    command = [*options.before.split(), program, f"--benchmark_filter={pattern}", "--benchmark_format=json", f"--benchmark_min_time={options.min_time}",
               f"--benchmark_repetitions={options.repetitions}", "--benchmark_enable_random_interleaving=true"]
    report = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    samples = collections.defaultdict(list)
    for row in report["benchmarks"]:
        if row["run_type"] == "iteration" and "ns_per_packet" in row:
            samples[row["name"].split("/repeats")[0]].append(row["ns_per_packet"])
    return {name: statistics.median(values) for name, values in samples.items()}


def ratio(ours, *rivals):
    return f"{min(rivals) / ours:.2f}" if ours else "-"


def by_size(program, options, suffix=""):
    kernels = ["by_shape", "avx2", "ipsec_mb", "ipsec_mb_job", "ipsec_mb_avx2", "openssl", "portable"]
    ns = {}
    for size in SIZES:
        limits = "" if suffix else f"|aead/(port|register)_limit/{size}$"
        ns |= run(program, f"aead/(seal|open)/({'|'.join(kernels)})/{size}{suffix}$" + limits, options)
    for operation in ["seal", "open"]:
        print(f"\n| {operation}{suffix}, ns a packet | by_shape | ipsec-mb burst | job | ratio | OpenSSL | libsodium | port limit | registers' limit | "
              "avx2 | ipsec-mb's AVX2 | ratio |\n|" + "---|" * 12)
        for size in SIZES:
            def of(kernel):
                return ns.get(f"aead/{operation}/{kernel}/{size}{suffix}", float("nan"))
            limits = []
            for kind in ["port", "register"]:
                limit = ns.get(f"aead/{kind}_limit/{size}")
                limits.append(f"{limit:.0f} ({100 * limit / of('by_shape'):.0f} %)" if limit else "-")
            share = " | ".join(limits)
            print(f"| {size} | {of('by_shape'):.0f} | {of('ipsec_mb'):.0f} | {of('ipsec_mb_job'):.0f} | "
                  f"**{ratio(of('by_shape'), of('ipsec_mb'), of('ipsec_mb_job'))}** | {of('openssl'):.0f} | {of('portable'):.0f} | "
                  f"{share} | {of('avx2'):.0f} | {of('ipsec_mb_avx2'):.0f} | {ratio(of('avx2'), of('ipsec_mb_avx2'))} |")


def by_batch(program, options):
    sizes, batches = [*SIZES[:3], "256", "512", *SIZES[8:]], [1, 2, 4, 8, 16, 64]
    ns = {}
    for size in sizes:
        ns |= run(program, f"aead/(seal|open)/(by_shape|ipsec_mb|ipsec_mb_job)/{size}/batch", options)
    for operation in ["seal", "open"]:
        print(f"\n| {operation}, ratio | " + " | ".join(f"batch {n}" for n in batches) + " |\n|" + "---|" * (len(batches) + 1))
        for size in sizes:
            cells = []
            for n in batches:
                ours, *rivals = (ns[f"aead/{operation}/{kernel}/{size}/batch{n}"] for kernel in ["by_shape", "ipsec_mb", "ipsec_mb_job"])
                cells.append(ratio(ours, *rivals))
            print(f"| {size} | " + " | ".join(cells) + " |")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program")
    parser.add_argument("--shapes", action="store_true", help="batches of 1 to 64 instead of the sizes")
    parser.add_argument("--cold", action="store_true", help="buffers beyond L2 instead of warm ones")
    parser.add_argument("--before", default="", help="what each run of the program is started with")
    parser.add_argument("--repetitions", type=int, default=9)
    parser.add_argument("--min-time", type=float, default=0.02)
    options = parser.parse_args()
    if options.shapes:
        by_batch(options.program, options)
    else:
        by_size(options.program, options, "/cold" if options.cold else "")


if __name__ == "__main__":
    main()
