"""Checks that a proxy answers right, and puts load on it."""

import random
import re
import socket
import subprocess
from dataclasses import dataclass

MGET_KEYS = 10
FILL_PIPELINE = 500
CHECKS = 200


@dataclass(frozen=True)
class Point:
    """One thing to measure."""

    test: str
    pipeline: int
    clients: int
    value_bytes: int
    workers: int

    def label(self):
        return f"{self.test} -P {self.pipeline}"

    def group(self):
        """What is the same for a whole table."""
        return (self.workers, self.clients, self.value_bytes)

    def keyspace(self):
        return keyspace(self.value_bytes)

    def requests(self, quick):
        """So many that a run takes about a second."""
        count = max(60_000, min(25_000 * self.pipeline, 800_000))
        if self.test == "MGET":
            count //= 8
        count = min(count, 2_000_000_000 // max(self.value_bytes, 64) // 8)
        return max(count // (12 if quick else 1), self.clients * self.pipeline * 4)

    def command(self, port, requests):
        argv = ["redis-benchmark", "-p", str(port), "-c", str(self.clients), "-d", str(self.value_bytes)]
        argv += ["-r", str(self.keyspace()), "-n", str(requests), "-P", str(self.pipeline), "--precision", "3"]
        if self.test == "MGET":
            return argv + ["mget"] + ["key:__rand_int__"] * MGET_KEYS
        return argv + ["-t", self.test.lower()]


def keyspace(value_bytes):
    """As many keys as fit in a small machine's memory, at most 100,000."""
    return max(100, min(100_000, 128_000_000 // value_bytes))


class Client:
    """Speaks just enough of the protocol to check replies, and shares no code with what it checks."""

    def __init__(self, port):
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=30)
        self.file = self.socket.makefile("rb")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.socket.close()

    def ask(self, *requests):
        """Sends requests in one go and returns their replies."""
        self.socket.sendall(b"".join(map(encode, requests)))
        return [self.reply() for _ in requests]

    def reply(self):
        line = self.file.readline()
        kind, rest = line[:1], line[1:-2]
        if kind == b"+":
            return rest
        if kind == b":":
            return int(rest)
        if kind == b"$":
            return None if rest == b"-1" else self.file.read(int(rest) + 2)[:-2]
        if kind == b"*":
            return [self.reply() for _ in range(int(rest))]
        raise RuntimeError(f"unexpected reply {line[:200]!r}")


def encode(words):
    words = [word if isinstance(word, bytes) else str(word).encode() for word in words]
    return b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%b\r\n" % (len(word), word) for word in words)


def key(number):
    return f"key:{number:012}"


def value(number, size):
    return (b"%012d" % number).ljust(size, b"v")[:size] if size >= 12 else b"v" * size


def fill_and_check(name, port, size):
    """Gives every key of the run a value through the proxy, and reads some back in every way that is measured."""
    count = keyspace(size)
    with Client(port) as client:
        step = max(1, min(FILL_PIPELINE, 2_000_000 // size))
        for start in range(0, count, step):
            numbers = range(start, min(start + step, count))
            for reply in client.ask(*(("SET", key(number), value(number, size)) for number in numbers)):
                expect(name, "SET", reply, b"OK")
        chance = random.Random(1)
        numbers = [chance.randrange(count) for _ in range(CHECKS)]
        for number, reply in zip(numbers, client.ask(*(("GET", key(number)) for number in numbers))):
            expect(name, "GET", reply, value(number, size))
        few = numbers[:MGET_KEYS]
        expected = [value(number, size) for number in few] + [None]
        # The last key of the MGET has no value.
        (reply,) = client.ask(("MGET", *map(key, few), "key:none"))
        expect(name, "MGET", reply, expected)


def expect(name, what, got, expected):
    if got != expected:
        raise RuntimeError(f"{name} answers {what} wrong: {str(got)[:200]} rather than {str(expected)[:200]}")


def measure(server, point, requests):
    """One run of the load generator."""
    before = server.cpu_ns()
    argv = point.command(server.port, requests)
    run = subprocess.run(argv, capture_output=True, text=True, start_new_session=True)
    cpu_ns = server.cpu_ns() - before
    # Progress is written over itself with carriage returns.
    text = run.stdout.replace("\r", "\n")
    throughput = re.search(r"throughput summary: ([\d.]+) requests per second", text)
    latency = re.search(r"avg\s+min\s+p50\s+p95\s+p99\s+max\s+([\d.\s]+)", text)
    if run.returncode != 0 or not throughput or not latency:
        raise RuntimeError(f"{' '.join(argv)} failed ({run.returncode}) on {server.name}:\n{text[-800:]}{run.stderr[-800:]}")
    _, _, p50, _, p99, _ = map(float, latency.group(1).split()[:6])
    return {
        "cpu_us": cpu_ns / 1e3 / requests,
        "rps": float(throughput.group(1)),
        "p50_ms": p50,
        "p99_ms": p99,
        "p99.9_ms": percentile(text, 99.9) or p99,
    }


def percentile(text, wanted):
    """From the distribution that redis-benchmark prints; its steps are fine enough at this end."""
    steps = re.findall(r"([\d.]+)% <= ([\d.]+) milliseconds \(cumulative", text)
    return next((float(ms) for percent, ms in steps if float(percent) >= wanted), None)
