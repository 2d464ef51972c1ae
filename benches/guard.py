"""Counts the hot path's instructions under callgrind and compares them with the committed baseline: `make bench-guard`.

Fails if a scenario takes over 5 % more than its baseline. Counts do not depend on the load of the machine, unlike times, and hardly on its
processor; they do depend on the compiler: with another than the baseline's it only tells. After a change that is meant,
`python3 benches/guard.py --refresh` writes a new baseline, to be committed with the change that explains it.
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
BASELINE = REPOSITORY / "benches" / "guard-baseline.json"
LIMIT = 1.05
# What starting takes is the same in both runs, so the difference is the rounds' alone.
ROUNDS_FEW, ROUNDS_MANY = 20, 120


def build():
    """Builds the program that goes the hot path, and returns where it is."""
    cargo = ["cargo", "build", "--profile", "guard", "-p", "vrc-benches", "--bin", "hot_path", "--message-format=json-render-diagnostics"]
    run = subprocess.run(cargo, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True)
    if run.returncode != 0:
        sys.exit(run.returncode)
    messages = [json.loads(line) for line in run.stdout.splitlines() if line.startswith("{")]
    built = [message for message in messages if message["reason"] == "compiler-artifact"]
    return next(message["executable"] for message in built if message["target"]["name"] == "hot_path")


def instructions(program, scenario, rounds):
    argv = ["valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null", program, scenario, str(rounds)]
    # A small environment, the same everywhere: what starting makes of it is not of the hot path.
    run = subprocess.run(argv, capture_output=True, text=True, env={"PATH": "/usr/bin:/bin:/usr/local/bin"})
    collected = re.search(r"Collected : (\d+)", run.stderr)
    if run.returncode != 0 or not collected:
        sys.exit(f"{' '.join(argv)} failed:\n{run.stderr[-2000:]}")
    return int(collected.group(1))


def count(program, only):
    """Instructions a request or reply, by scenario."""
    listed = subprocess.run([program], capture_output=True, text=True, check=True).stdout
    scenarios = [line.split() for line in listed.splitlines()]
    scenarios = [(name, each) for name, each in scenarios if not only or name in only]
    runs = [(program, name, rounds) for name, _ in scenarios for rounds in (ROUNDS_FEW, ROUNDS_MANY)]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        counted = list(pool.map(lambda run: instructions(*run), runs))
    spent = (many - few for few, many in zip(counted[::2], counted[1::2]))
    return {name: round(of / (ROUNDS_MANY - ROUNDS_FEW) / int(each), 1) for (name, each), of in zip(scenarios, spent)}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--refresh", action="store_true", help="write a new baseline")
    parser.add_argument("only", nargs="*", metavar="SCENARIO", help="some of them [default: all]")
    options = parser.parse_args()
    if not shutil.which("valgrind"):
        sys.exit("bench-guard: valgrind is needed, and not installed (Debian: apt-get install valgrind)")
    rustc = subprocess.run(["rustc", "--version"], cwd=REPOSITORY, capture_output=True, text=True).stdout.strip()
    counts = count(build(), options.only)
    baseline = json.loads(BASELINE.read_text())
    if options.only:
        known = baseline["instructions"]
        counts = {name: counts.get(name, known.get(name)) for name in {**known, **counts}}
    if options.refresh:
        BASELINE.write_text(json.dumps({"rustc": rustc, "instructions": counts}, indent=2) + "\n")
        print(f"bench-guard: wrote a baseline of {len(counts)} scenarios")
        return 0
    return compare(baseline, counts, rustc)


def compare(baseline, counts, rustc):
    known = baseline["instructions"]
    failed = False
    print(f"{'instructions each':22} {'baseline':>10} {'now':>10} {'ratio':>7}")
    for name in {**known, **counts}:
        before, now = known.get(name), counts.get(name)
        if before is None or now is None:
            failed = True
            print(f"{name:22} {before or '-':>10} {now or '-':>10}          only in {'the program' if now else 'the baseline'}")
            continue
        ratio = now / before
        failed |= ratio > LIMIT
        word = "  TOO MANY" if ratio > LIMIT else "  fewer: refresh the baseline" if ratio < 2 - LIMIT else ""
        print(f"{name:22} {before:>10} {now:>10} {ratio:>7.3f}{word}")
    if rustc != baseline["rustc"]:
        print(f"bench-guard: NOT COMPARED: the baseline is of {baseline['rustc']}, this is {rustc}.")
        print("Refresh it: python3 benches/guard.py --refresh")
        return 0
    if failed:
        print("bench-guard: FAILED. If the change is meant: python3 benches/guard.py --refresh, and say why in the commit.")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
