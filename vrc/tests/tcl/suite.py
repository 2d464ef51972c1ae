"""Runs units of redis's own test suite against a server that is there already, and tells which tests passed."""

import os
import re
import shutil
import signal
import subprocess
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

# As redis tests itself against an external server that may be a cluster: nothing that starts servers of its own, or that would need
# keys of different slots in one command. What is denied is about one process: its replicas, its files, its memory, its insides.
OPTIONS = ["--singledb", "--cluster-mode", "--ignore-encoding", "--ignore-digest", "--no-latency", "--durable", "--clients", "1"]
DENIED_TAGS = "needs:repl needs:debug needs:reset needs:save needs:config-maxmemory external:skip cluster:skip slow large-memory"
UNITS = """type/string type/incr type/list type/set type/zset type/hash type/stream type/stream-cgroups keyspace scan expire multi sort
bitops bitfield geo hyperloglog scripting functions pubsub protocol quit other dump tracking introspection acl info slowlog lazyfree
pause""".split()
# As redis's own CI runs it, which has DEBUG, replicas, files and a memory of its own; and the units where only that leaves a test.
WIDE_TAGS = "slow large-memory"
WIDE_UNITS = """type/list-2 type/list-3 printver info-command auth acl-v2 latency-monitor pubsubshard maxmemory introspection-2 limits
obuf-limits memefficiency wait querybuf networking client-eviction violations replybufsize""".split()
# Programs that tests call.
PROGRAMS = ["redis-server", "redis-cli", "redis-benchmark"]
# A unit that takes longer hangs: what passed before that counts. The longest takes 50 s on an idle machine.
UNIT_SECONDS_MAX = 300


@dataclass
class Outcome:
    """What became of one unit's tests."""

    passed: Counter = field(default_factory=Counter)
    # Test and what the suite says of it.
    failed: list = field(default_factory=list)
    # Why the unit ended before its end, if it did.
    broken: str = ""
    text: str = ""


class Suite:
    """A redis source tree's tests, in a directory of their own, so that nothing is written into the tree."""

    def __init__(self, tree, directory):
        self.directory = Path(directory)
        self.directory.mkdir()
        shutil.copy(Path(tree) / "runtest", self.directory)
        shutil.copytree(Path(tree) / "tests", self.directory / "tests", ignore=shutil.ignore_patterns("tmp"))
        (self.directory / "tests" / "tmp").mkdir()
        (self.directory / "src").mkdir()
        for program in PROGRAMS:
            (self.directory / "src" / program).symlink_to(shutil.which(program))

    def run(self, unit, port, own_port, denied, skipped=()):
        """Runs one unit but for the skipped tests against `port`; the suite's own two processes talk over a port from `own_port` - 32 on."""
        deny = " ".join(f"-{tag}" for tag in denied.split())
        argv = ["./runtest", "--host", "127.0.0.1", "--port", port, "--baseport", own_port, *OPTIONS, "--tags", deny]
        argv += ["--single", f"unit/{unit}"]
        for test in skipped:
            argv += ["--skiptest", test]
        process = subprocess.Popen(
            [str(arg) for arg in argv],
            cwd=self.directory,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        broken = ""
        try:
            output = process.communicate(timeout=UNIT_SECONDS_MAX)[0]
        except subprocess.TimeoutExpired:
            broken = f"no end within {UNIT_SECONDS_MAX} s"
        finally:
            # Its client process is left when it fails.
            stop_group(process)
        if broken:
            output = process.communicate()[0]
        return read(output.decode(errors="replace"), broken)


def stop_group(process):
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass


def read(output, broken):
    text = re.sub(r"\x1b\[[0-9;]*m", "", output)
    outcome = Outcome(broken=broken, text=text)
    outcome.passed = Counter(re.findall(r"^\[ok\]: (.*?)(?: \(\d+ ms\))?$", text, re.M))
    outcome.failed = re.findall(r"^\[err\]: (.*?) in tests/\S+\n?(.*)$", text, re.M)
    exception = re.search(r"^\[exception\]: (.*)$", text, re.M)
    if exception and not broken:
        outcome.broken = exception.group(1)
    return outcome
