"""Load on this proxy and on others, side by side, in front of the same nodes: `make bench`, or python3 benches/side-by-side.

Needs redis-server (or valkey-server) and redis-benchmark. Rivals are used if they are there: see contenders.py and ../README.md.
"""

import argparse
import itertools
import os
import shlex
import shutil
import signal
import sys
import time
from pathlib import Path

import contenders
import load
import report
from servers import Servers, start_nodes

NODES = 4


def arguments():
    names = [contender.name for contender in contenders.ALL]
    parser = argparse.ArgumentParser(prog="benches/side-by-side", description=__doc__.split("\n")[0])
    numbers = {"type": lambda text: [int(word) for word in text.split(",")], "metavar": "N,N"}
    parser.add_argument("--quick", action="store_true", help="a sanity run of less than a minute; its figures mean little")
    parser.add_argument("--rounds", type=int, help="runs of each proxy at each point, interleaved [default: 5; quick: 1]")
    parser.add_argument("--tests", type=lambda text: text.upper().split(","), default=["GET", "SET", "MGET"], metavar="GET,SET,MGET")
    parser.add_argument("--pipelines", **numbers, help="pipeline depths [default: 1,16,64; quick: 1,16]")
    parser.add_argument("--workers", **numbers, default=[1], help="threads of each proxy [default: 1]")
    parser.add_argument("--clients", **numbers, default=[50], help="connections [default: 50]")
    parser.add_argument("--sizes", **numbers, default=[64], help="bytes of a value [default: 64]")
    parser.add_argument("--only", type=lambda text: text.split(","), help=f"some of {','.join(names)}", metavar="NAME,NAME")
    parser.add_argument("--out", type=Path, default=contenders.REPOSITORY / "target" / "side-by-side", help="where results go")
    options = parser.parse_args()
    options.rounds = options.rounds or (1 if options.quick else 5)
    options.pipelines = options.pipelines or ([1, 16] if options.quick else [1, 16, 64])
    for word in [*(options.only or []), *options.tests]:
        if word not in [*names, "GET", "SET", "MGET"]:
            parser.error(f"{word} is none of {', '.join(names)}, GET, SET, MGET")
    return options


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
            say(f"{contender.name}: not found; put {contender.program_name} on the PATH, or name it by {contender.variable}")
    if not any(type(each) in contenders.RIVALS for each in found):
        say("No other proxy is here to compare with. The figures below stand alone.")
    return found


def describe(contender, workers):
    return {"version": contender.version(), "command": contender.command(workers), "config": contender.config(workers)}


def without_out(words):
    """Where the results went is of no interest to who reads them."""
    kept, words = [], iter(words)
    for word in words:
        if word == "--out":
            next(words)
        elif not word.startswith("--out="):
            kept.append(word)
    return kept


def say(text):
    print(text, file=sys.stderr, flush=True)


def main():
    options = arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    node_program = shutil.which("redis-server") or shutil.which("valkey-server")
    if not node_program or not shutil.which("redis-benchmark"):
        sys.exit("redis-server (or valkey-server) and redis-benchmark are needed")
    found = find(options.only)
    rivals = [each.name for each in found if type(each) in contenders.RIVALS]
    result = {
        "started": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        "command": shlex.join(["python3", "benches/side-by-side", *without_out(sys.argv[1:])]),
        "machine": report.machine(),
        "nodes": NODES,
        "rounds": options.rounds,
        "quick": options.quick,
        "base": rivals[0] if rivals else None,
        "programs": {each.name: describe(each, options.workers[0]) for each in found},
        "load_average_before": os.getloadavg()[0],
        "runs": [],
    }
    with Servers() as servers:
        nodes = start_nodes(servers, node_program, NODES)
        for workers in options.workers:
            here = [each for each in found if workers <= each.threads_max]
            proxies = {each.name: each.start(servers, nodes, workers) for each in here}
            for size in options.sizes:
                for proxy in proxies.values():
                    load.fill_and_check(proxy.name, proxy.port, size)
                for clients, test, pipeline in itertools.product(options.clients, options.tests, options.pipelines):
                    point = load.Point(test, pipeline, clients, size, workers)
                    result["runs"].append(run(point, proxies, options))
                    result["load_average_after"] = os.getloadavg()[0]
                    # After each point, so that a run that is stopped has not been for nothing.
                    text = report.write(options.out, result)
            servers.stop(proxies.values())
    print(text)
    say(f"Written: side-by-side.md, .json and .svg in {options.out}")


def run(point, proxies, options):
    """All rounds of one point: forwards, then backwards, so that what drifts does not favour anybody."""
    requests = point.requests(options.quick)
    samples = {name: [] for name in proxies}
    for number in range(options.rounds):
        order = list(proxies.items())
        for name, proxy in order if number % 2 == 0 else reversed(order):
            samples[name].append(load.measure(proxy, point, requests))
    medians = ", ".join(f"{name} {report.median(of, 'cpu_us'):.2f}" for name, of in samples.items())
    say(f"{point.label()}, {point.clients} clients, {point.value_bytes} bytes, {point.workers} worker(s): CPU us/request {medians}")
    command = shlex.join(point.command("PORT", requests))
    return {"point": vars(point), "label": point.label(), "command": command, "samples": samples}


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit("stopped")
    except RuntimeError as error:
        sys.exit(str(error))
