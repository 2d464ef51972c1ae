"""Counts the hot path's instructions under callgrind and compares them with the committed baseline: `make bench-guard`.

Fails if a scenario takes over 5 % more than its baseline. Counts hardly depend on the load of the machine, unlike times; they do
depend on the compiler and on the processor's vector units. After a change that is meant, `python3 benches/guard.py --refresh` writes
a new baseline, to be committed with the change that explains it.
"""

import argparse
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
BASELINE = REPOSITORY / "benches" / "guard-baseline.json"
LIMIT = 1.05
# What starting takes is the same in both runs, so the difference is the rounds' alone.
ROUNDS_FEW, ROUNDS_MANY = 100, 600


def build():
    """Builds the example and returns its path."""
    cargo = ["cargo", "build", "--release", "-p", "vrc-benches", "--example", "hot_path", "--message-format=json-render-diagnostics"]
    run = subprocess.run(cargo, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True)
    if run.returncode != 0:
        sys.exit(run.returncode)
    messages = [json.loads(line) for line in run.stdout.splitlines() if line.startswith("{")]
    built = [message for message in messages if message["reason"] == "compiler-artifact"]
    return next(message["executable"] for message in built if message["target"]["name"] == "hot_path")


def instructions(program, scenario, rounds):
    argv = ["valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null", program, scenario, str(rounds)]
    # An empty environment: its size moves the stack, and with it a few instructions.
    run = subprocess.run(argv, capture_output=True, text=True, env={"PATH": "/usr/bin:/bin:/usr/local/bin"})
    collected = re.search(r"Collected : (\d+)", run.stderr)
    if run.returncode != 0 or not collected:
        sys.exit(f"{' '.join(argv)} failed:\n{run.stderr[-2000:]}")
    return int(collected.group(1))


def count(program):
    """Instructions a request or reply, by scenario."""
    listed = subprocess.run([program], capture_output=True, text=True, check=True).stdout
    found = {}
    for name, each in (line.split() for line in listed.splitlines()):
        spent = instructions(program, name, ROUNDS_MANY) - instructions(program, name, ROUNDS_FEW)
        found[name] = round(spent / (ROUNDS_MANY - ROUNDS_FEW) / int(each), 1)
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--refresh", action="store_true", help="write a new baseline")
    options = parser.parse_args()
    if not shutil.which("valgrind"):
        print("bench-guard: valgrind is not installed, so nothing was counted and nothing compared")
        return 0
    rustc = subprocess.run(["rustc", "--version"], cwd=REPOSITORY, capture_output=True, text=True).stdout.strip()
    counts = count(build())
    if options.refresh:
        BASELINE.write_text(json.dumps({"rustc": rustc, "instructions": counts}, indent=2) + "\n")
        print(f"bench-guard: wrote a baseline of {len(counts)} scenarios")
        return 0
    return compare(json.loads(BASELINE.read_text()), counts, rustc)


def compare(baseline, counts, rustc):
    known = baseline["instructions"]
    failed = False
    print(f"{'instructions each':20} {'baseline':>10} {'now':>10} {'ratio':>7}")
    for name in {**known, **counts}:
        before, now = known.get(name), counts.get(name)
        if before is None or now is None:
            failed = True
            print(f"{name:20} {before or '-':>10} {now or '-':>10}          only in {'the program' if now else 'the baseline'}")
            continue
        ratio = now / before
        failed |= ratio > LIMIT
        word = "  TOO MANY" if ratio > LIMIT else "  fewer: refresh the baseline" if ratio < 2 - LIMIT else ""
        print(f"{name:20} {before:>10} {now:>10} {ratio:>7.3f}{word}")
    if rustc != baseline["rustc"]:
        print(f"The baseline is of {baseline['rustc']}, this is {rustc}: that alone may change counts.")
    if failed:
        print("bench-guard: FAILED. If the change is meant: python3 benches/guard.py --refresh, and say why in the commit.")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
