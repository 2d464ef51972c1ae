"""Load on this proxy and on others, side by side, in front of the same nodes: `make bench`, or python3 benches/side-by-side.

Needs redis-server (or valkey-server) and redis-benchmark. Rivals are used if they are there: see contenders.py and ../README.md.
"""

import argparse
import json
import shlex
import shutil
import signal
import sys
import time
from pathlib import Path

import contenders
import machine
import report
import suites
from bench import Bench, say
from budget import until
from servers import Servers, files_max

DEFAULT_OUT = contenders.REPOSITORY / "target" / "side-by-side"


def arguments():
    names = [contender.name for contender in contenders.ALL]
    parser = argparse.ArgumentParser(prog="benches/side-by-side", description=__doc__.split("\n")[0])
    words = {"type": lambda text: text.split(",")}
    numbers = {"type": lambda text: [int(word) for word in text.split(",")], "metavar": "N,N"}
    parser.add_argument("--suite", **words, default=["pipeline"], metavar="NAME,NAME",
                        help=f"what is measured, some of {','.join(suites.BY_NAME)}, or all [default: pipeline]")
    parser.add_argument("--budget", type=float, metavar="SECONDS", help="about so long for all of it; runs and rounds are made to fit")
    parser.add_argument("--rounds", type=int,
                        help="runs of each proxy at each point, interleaved [default: 5; with a budget: what fits, up to 15]")
    parser.add_argument("--quick", action="store_true", help="a sanity run: one short round a point; its figures mean little")
    parser.add_argument("--only", **words, help=f"some of {','.join(names)}", metavar="NAME,NAME")
    parser.add_argument("--tests", type=lambda text: text.upper().split(","), metavar="GET,SET",
                        help="instead of the suites' own: of GET,SET,MGET,MSET,DEL")
    parser.add_argument("--pipelines", **numbers, help="likewise: pipeline depths")
    parser.add_argument("--clients", **numbers, help="likewise: connections")
    parser.add_argument("--sizes", **numbers, help="likewise: bytes of a value")
    parser.add_argument("--workers", **numbers, help="likewise: threads of each proxy")
    parser.add_argument("--cores", **words, metavar="NAME,NAME",
                        help=f"likewise: who has which cores, some of {','.join(machine.PLACES)}")
    parser.add_argument("--out", type=Path, default=DEFAULT_OUT, help="where results go [default: target/side-by-side]")
    parser.add_argument("--report", action="store_true", help="measure nothing, but write tables and plots anew from the JSON in --out")
    options = parser.parse_args()
    if options.suite == ["all"]:
        options.suite = list(suites.BY_NAME)
    known = [
        (options.only, names),
        (options.tests, ["GET", "SET", "MGET", "MSET", "DEL"]),
        (options.suite, list(suites.BY_NAME)),
        (options.cores, list(machine.PLACES)),
    ]
    for given, right in known:
        for word in given or []:
            if word not in right:
                parser.error(f"{word} is none of {', '.join(right)}")
    return options


def overrides(options):
    dimensions = {"test": options.tests, "pipeline": options.pipelines, "clients": options.clients}
    return {**dimensions, "value_bytes": options.sizes, "workers": options.workers, "cores": options.cores}


def find(only):
    """What is installed of what is asked for."""
    found = []
    for contender in contenders.ALL:
        if only and contender.name not in only:
            continue
        here = contender.find()
        if here:
            found.append(here)
        else:
            named = f"put {contender.program_name} on the PATH, or name it by {contender.variable}"
            say(f"{contender.name}: not here. To have it: {contender.how_to_get}; then {named}")
    if not found:
        sys.exit("there is nothing to measure")
    if not any(type(each) in contenders.RIVALS for each in found):
        say("No other proxy is here to compare with. The figures below stand alone.")
    return found


def without_out(words):
    """Where the results went is of no interest to who reads them."""
    kept, words = [], iter(words)
    for word in words:
        if word == "--out":
            next(words)
        elif not word.startswith("--out="):
            kept.append(word)
    return kept


def main():
    options = arguments()
    if options.report:
        return report_anew(options.out)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    node_program = shutil.which("redis-server") or shutil.which("valkey-server")
    if not node_program or not shutil.which("redis-benchmark"):
        sys.exit("redis-server (or valkey-server) and redis-benchmark are needed")
    files = files_max()
    found = find(options.only)
    command = shlex.join(["python3", "benches/side-by-side", *without_out(sys.argv[1:])])
    chosen = [suites.BY_NAME[name] for name in options.suite]
    deadline = time.monotonic() + options.budget if options.budget else None
    failures = []
    for index, suite in enumerate(chosen):
        left = sum(each.weight for each in chosen[index:])
        with Servers() as servers:
            bench = Bench(suite, found, servers, node_program, options, command)
            points = [point for point in suite.points(overrides(options)) if fits(point, files)]
            text = None
            for result in bench.run(points, until(time.monotonic(), deadline, suite.weight, left)):
                # After each point, so that a run that is stopped has not been for nothing.
                text = report.write(options.out, result)
            print(text or f"{suite.name}: none of them can be measured there", flush=True)
            failures += bench.failures
    say(f"Written: a table, a plot and the JSON of each suite in {options.out}")
    for failure in failures:
        say(f"FAILED: {failure}")
    return int(any(failure.startswith("vrc") for failure in failures))


def fits(point, files):
    """A server needs a file a client, and some."""
    if point.clients + 500 <= files:
        return True
    say(f"{point.clients} clients need more open files than the {files} that are allowed here (ulimit -Hn): left out")
    return False


def report_anew(directory):
    for name in suites.BY_NAME:
        path = directory / f"{name}.json"
        if path.exists():
            report.write(directory, json.loads(path.read_text()))
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit("stopped")
    except RuntimeError as error:
        sys.exit(str(error))
