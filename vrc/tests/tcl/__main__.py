"""Redis's own test suite against the proxy and against a plain redis, compared: `make tcl REDIS_TESTS=…`.

What counts are the tests that a plain redis passes as an external server. Each that the proxy with four nodes does not pass has to be
listed in docs/differences.md, with its reason.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import differences
import suite
from servers import Servers

REPOSITORY = Path(__file__).resolve().parents[3]
# The suite looks for a port of its own from 32 below the one it is given; two that run beside each other need different ones.
OWN_PORT = 21111
OWN_PORTS_APART = 64


def arguments():
    parser = argparse.ArgumentParser(prog="make tcl", description=__doc__.split("\n")[0])
    parser.add_argument("--tests", default=os.environ.get("REDIS_TESTS", ""), help="redis's source tree, of redis-server's version [env: REDIS_TESTS]")
    parser.add_argument("--wide", action="store_true", help="also what is about one process: DEBUG, replicas, files, memory; never fails")
    parser.add_argument("--units", type=lambda text: text.split(","), metavar="UNIT,UNIT", help="as in: type/list,multi [default: all]")
    parser.add_argument("--program", type=Path, default=REPOSITORY / "target" / "debug" / "vrc", help="the proxy's program [default: target/debug/vrc]")
    parser.add_argument("--proxy", type=str.split, default=[], metavar="OPTIONS", help='further options of the proxy, as in: --proxy "--workers 1"')
    parser.add_argument("--jobs", type=int, default=1, help="units that run beside each other [default: 1]")
    parser.add_argument("--out", type=Path, default=REPOSITORY / "target" / "tcl", help="where what the suite says is kept [default: target/tcl]")
    options = parser.parse_args()
    options.units = options.units or suite.UNITS + (suite.WIDE_UNITS if options.wide else [])
    options.denied = suite.WIDE_TAGS if options.wide else suite.DENIED_TAGS
    return options


def why_not(tree):
    """Why the suite cannot be run here, or None."""
    if not tree:
        return "no source tree of redis is given: make tcl REDIS_TESTS=/path/to/redis"
    version_file = Path(tree) / "src" / "version.h"
    if not (Path(tree) / "tests" / "test_helper.tcl").is_file() or not version_file.is_file():
        return f"{tree} is no source tree of redis"
    missing = [program for program in ["tclsh", *suite.PROGRAMS] if not shutil.which(program)]
    if missing:
        return f"{', '.join(missing)} not found"
    version = re.search(r'REDIS_VERSION "([^"]+)"', version_file.read_text()).group(1)
    says = subprocess.run(["redis-server", "--version"], capture_output=True, text=True, check=True).stdout
    return None if f"v={version} " in says else f"the tests are redis {version}'s, and redis-server is: {says.strip()}"


class Runner:
    """Runs units, each against servers of its own."""

    def __init__(self, options, directory):
        self.options, self.directory, self.known = options, Path(directory), differences.documented()
        self.free = list(range(options.jobs))
        options.out.mkdir(parents=True, exist_ok=True)

    def run(self, unit, name, proxy, options):
        job = self.free.pop()
        try:
            where = self.directory / str(job)
            tests = suite.Suite(self.options.tests, where)
            with Servers(shutil.which("redis-server"), proxy, options) as servers:
                skipped = [test for of, test in self.known.hanging if of == unit] if proxy else []
                outcome = tests.run(unit, servers.port, OWN_PORT + job * OWN_PORTS_APART, self.options.denied, skipped)
                log = servers.directory / f"{servers.port}.log"
                outcome.text += f"\n--- the server's log ---\n{log.read_text(errors='replace')[-20000:]}"
            shutil.rmtree(where)
        finally:
            self.free.append(job)
        (self.options.out / f"{unit.replace('/', '-')}.{name}.txt").write_text(outcome.text)
        return outcome

    def compare(self, unit):
        return unit, self.run(unit, "redis", None, []), self.run(unit, "proxy", self.options.program, self.options.proxy)


def report(results):
    """Prints what differs; returns how many differences nobody has explained."""
    known = differences.documented()
    total, units, lost, unexplained = 0, [], [], []
    for unit, redis, proxy in results:
        units.append(unit)
        missing = list((redis.passed - proxy.passed).elements())
        total += redis.passed.total()
        lost += [(unit, test) for test in missing]
        print(f"{unit}: {redis.passed.total() - len(missing)} of {redis.passed.total()}", flush=True)
        if redis.broken:
            print(f"    a plain redis's run broke off: {redis.broken}")
        if proxy.broken:
            print(f"    the proxy's run broke off: {proxy.broken}")
        said = dict(proxy.failed)
        for test in missing:
            reason = known.reason(unit, test)
            if reason:
                print(f"    {test}\n        listed: {reason}")
            else:
                unexplained.append((unit, test))
                print(f"    {test}\n        NOT LISTED: {said.get(test, 'it did not come to it')}")
    for listed in known.unneeded(lost, units):
        print(f"listed as a difference, but it passes: {listed}")
    share = 100 * (total - len(lost)) / max(total, 1)
    print(f"{total - len(lost)} of {total} tests that pass against a plain redis pass through the proxy: {share:.1f} %")
    return len(unexplained)


def main():
    options = arguments()
    reason = why_not(options.tests)
    if reason:
        print(f"redis's test suite is skipped: {reason}", file=sys.stderr)
        return 0
    with tempfile.TemporaryDirectory(prefix="vrc-tcl-") as directory, ThreadPoolExecutor(options.jobs) as pool:
        runner = Runner(options, directory)
        unexplained = report(pool.map(runner.compare, options.units))
    if unexplained and not options.wide:
        print(f"{unexplained} differences are not listed in {differences.DOCUMENT.relative_to(REPOSITORY)}", file=sys.stderr)
    return 1 if unexplained and not options.wide else 0


if __name__ == "__main__":
    sys.exit(main())
