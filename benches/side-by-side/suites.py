"""What can be measured: suites of points, as data. Decides nothing else, and touches nothing."""

import itertools
from dataclasses import asdict, dataclass, field, replace

from machine import PLACES

KIB, MIB = 2**10, 2**20
# Values of one run that may be under way at once, in bytes: what bounds the clients of large values.
UNDER_WAY_MAX = 80 * MIB
# What one run moves at most, in bytes.
MOVED_MAX = 2**30
# What all values of a run take, in bytes.
VALUES_MAX = 256_000_000
MULTI_KEYS = 10
# From so many clients on, what connecting costs is measured by itself and taken off.
MANY_CLIENTS = 500


@dataclass(frozen=True)
class Point:
    """One thing to measure."""

    test: str = "GET"
    pipeline: int = 1
    clients: int = 50
    value_bytes: int = 64
    workers: int = 1
    transport: str = "tcp"
    # Changes of the node map a second.
    swaps: int = 0
    # Who has which cores: see machine.PLACES.
    cores: str = "all"

    def requests(self, scale=1.0):
        """So many that a run takes about a second; `scale` makes it shorter."""
        count = max(60_000, min(25_000 * self.pipeline, 800_000))
        if self.test in ("MGET", "MSET", "DEL"):
            count //= 8
        if self.clients >= MANY_CLIENTS:
            count *= 2
        count = min(count, MOVED_MAX // self.value_bytes)
        return max(int(count * scale), self.clients * self.pipeline * 4)

    def keyspace(self):
        """As many keys as fit in a small machine's memory, at most 100,000."""
        return max(8, min(100_000, VALUES_MAX // self.value_bytes))

    def bytes_under_way(self):
        """How much of values clients and nodes may have sent that the other side has not."""
        return self.clients * self.pipeline * self.value_bytes


@dataclass(frozen=True)
class Suite:
    """Points that are measured and shown together. Each point is one of every dimension."""

    name: str
    about: str
    # How it is measured: by a load generator, or in a way of its own (see __main__.KINDS).
    kind: str = "load"
    # Its part of the time when several suites share it.
    weight: float = 1.0
    # A process of its own for every run, since its memory is looked at.
    fresh: bool = False
    # The dimension whose first value all others are compared with.
    growth: str = ""
    dimensions: dict = field(default_factory=dict)

    def points(self, overrides=None):
        """All points, with some dimensions' values replaced."""
        chosen = {**self.dimensions, **{name: values for name, values in (overrides or {}).items() if values}}
        names = list(chosen)
        points = [Point(**dict(zip(names, values))) for values in itertools.product(*chosen.values())]
        return [point if "clients" in chosen else replace(point, clients=clients_for(point)) for point in points]


def clients_for(point):
    """50, or fewer where their values would take too much memory."""
    return max(4, min(50, UNDER_WAY_MAX // (point.value_bytes * point.pipeline)))


def label(point, points):
    """What tells a point from the others of its suite."""
    differ = [name for name, value in asdict(point).items() if any(asdict(other)[name] != value for other in points)]
    words = [f"{point.test} -P {point.pipeline}"]
    say = {
        "value_bytes": size(point.value_bytes),
        "clients": f"{point.clients:,} clients",
        "workers": f"{point.workers} worker{'s' if point.workers > 1 else ''}",
        "transport": {"tcp": "TCP", "unix": "unix socket"}[point.transport],
        "swaps": f"{point.swaps} swaps/s" if point.swaps else "no swap",
        "cores": PLACES[point.cores],
    }
    # How many clients follows from the size.
    skip = {"clients"} if "value_bytes" in differ else set()
    return ", ".join(words + [text for name, text in say.items() if name in differ and name not in skip])


def size(count):
    """Bytes as people say them."""
    for unit, name in ((MIB, "MiB"), (KIB, "KiB")):
        if count >= unit and count % unit == 0:
            return f"{count // unit} {name}"
    return f"{count} bytes"


ALL = [
    Suite(
        "pipeline",
        "GET, SET, and MGET of 10 keys over 4 nodes, by pipeline depth: one worker, 50 clients, values of 64 bytes.",
        weight=4,
        dimensions={"test": ["GET", "SET", "MGET"], "pipeline": [1, 16, 64]},
    ),
    Suite(
        "commands",
        "Other commands on 10 keys over 4 nodes each. DEL is of keys that are not there, which is the same to a proxy.",
        weight=1.5,
        dimensions={"test": ["MSET", "DEL"], "pipeline": [1, 16]},
    ),
    Suite(
        "sizes",
        "By value size, with each proxy's memory: a new process for each run, its peak above what it had before the load, beside "
        "what clients had under way (clients x pipeline x size).",
        weight=4,
        fresh=True,
        dimensions={"value_bytes": [64, KIB, 10 * KIB, MIB, 20 * MIB], "test": ["GET", "SET"]},
    ),
    Suite(
        "clients",
        f"By clients. From {MANY_CLIENTS} on, what connecting costs is measured by itself and taken off.",
        weight=2,
        growth="clients",
        dimensions={"clients": [50, 500, 5_000], "test": ["GET"]},
    ),
    Suite(
        "workers",
        "By worker threads. The load generator has one thread, and shares the cores: throughput says little here, CPU per request does.",
        weight=2,
        growth="workers",
        dimensions={"workers": [1, 2], "test": ["GET", "SET"], "pipeline": [1, 16]},
    ),
    Suite(
        "places",
        "By whom the proxy shares a core with, which the scheduler decides otherwise, anew in every run: waking somebody on another core costs the "
        "one who wakes, and those on the same core take turns, so that more is there to be done at a time.",
        weight=1.5,
        dimensions={"cores": list(PLACES), "test": ["GET", "SET"], "pipeline": [1]},
    ),
    Suite(
        "unix",
        "Clients come by a unix socket, or by TCP; nodes by TCP.",
        weight=2,
        growth="transport",
        dimensions={"transport": ["tcp", "unix"], "test": ["GET"], "pipeline": [1, 16]},
    ),
    Suite(
        "alone",
        "One client that waits for each reply: what a proxy adds to the median of a direct connection to a node. All take turns "
        "within each round. Python's own time is in all figures but the difference. On all cores most of it is waking a core that has nothing "
        "else to do, which takes as long as the machine makes it take; where client, proxy and node share one core, which never rests, the "
        "rest is left.",
        kind="alone",
        weight=0.5,
        dimensions={"test": ["GET"], "clients": [1], "cores": ["all", "one"]},
    ),
    Suite(
        "where",
        "Where CPU goes: by perf's samples, what part of it is in which call of the kernel or part of the program. Sending on a machine's own "
        "loopback includes the work of receiving. Calls are counted by strace, under which all is slower and more comes at a time.",
        kind="where",
        weight=1,
        dimensions={"test": ["GET", "MGET"], "pipeline": [1, 16]},
    ),
    Suite(
        "idle",
        "Memory for each of so many connections that did one GET and wait: growth of the proxy's resident memory, so without the kernel's.",
        kind="idle",
        weight=0.5,
        dimensions={"test": ["GET"], "clients": [5_000]},
    ),
    Suite(
        "swap",
        "The topology is swapped under full load: the node map in the master changes a node's weight to and fro, and 15 % of the slots "
        "with it. Each key is at both places. Beside it two runs without swaps, right before and after, in which the same maps are published "
        "to a master that no proxy follows. If swaps slow nothing down, as many requests take longer than the first one's p99.9 with swaps "
        "as in the second one: 0.1 %, but for what runs differ by.",
        kind="swap",
        weight=1,
        dimensions={"test": ["GET"], "pipeline": [1, 16], "swaps": [10]},
    ),
]
BY_NAME = {suite.name: suite for suite in ALL}
