"""Puts load on a proxy by redis-benchmark, and reads what that says."""

import bisect
import re
import subprocess

import machine
from checks import Watch
from suites import MANY_CLIENTS, MULTI_KEYS

# Bytes under way from which on memory is compared with them.
UNDER_WAY_MIN = 256 * 1024
RANDOM_KEY = "key:__rand_int__"


def command(point, requests, address):
    """The load generator's arguments; `address` is a port or a socket's path."""
    argv = ["redis-benchmark", *(["-p", str(address)] if point.transport == "tcp" else ["-s", str(address)])]
    argv += ["-c", str(point.clients), "-d", str(point.value_bytes), "-r", str(point.keyspace())]
    argv += ["-n", str(requests), "-P", str(point.pipeline), "--precision", "3"]
    several = {
        "MGET": [RANDOM_KEY] * MULTI_KEYS,
        "MSET": [RANDOM_KEY, "v" * point.value_bytes] * MULTI_KEYS,
        "DEL": ["gone:__rand_int__"] * MULTI_KEYS,
    }
    if point.test in several:
        return argv + [point.test.lower(), *several[point.test]]
    return argv + ["-t", point.test.lower()]


def measure(server, point, requests, watch=True):
    """One run, and what it cost the server."""
    # What connecting costs would be much of it, spread over few requests.
    connected = point.clients if point.clients >= MANY_CLIENTS else 0
    connecting = cpu_of(server, point, connected)[1] if connected else (0, 0)
    resting_kib = server.rss_kib()
    server.forget_peak()
    with Watch(server) if watch else Watch.none():
        text, took = cpu_of(server, point, requests)
    said = parse(text)
    peak = max(0, server.peak_kib() - resting_kib) * 1024
    cpu_us, machine_us = ((ns - before) / 1e3 / (requests - connected) for ns, before in zip(took, connecting))
    return {
        "cpu_us": cpu_us,
        "machine_us": machine_us,
        "rps": said["rps"],
        "mb_s": said["rps"] * point.value_bytes / 1e6,
        **{name: said[name] for name in ("p50_ms", "p99_ms", "p99.9_ms", "max_ms")},
        "peak_mib": peak / 2**20,
        # Beside less than that, what a proxy takes once would be most of it.
        **({"peak_ratio": peak / point.bytes_under_way()} if point.bytes_under_way() >= UNDER_WAY_MIN else {}),
        "distribution": said["distribution"],
    }


def cpu_of(server, point, requests):
    """What the generator said of a run, and the processor time, in ns, of the server and of the whole machine meanwhile."""
    before, machine_before = server.cpu_ns(), machine.cpu_ns()
    argv = command(point, requests, server.address)
    run = subprocess.run(argv, capture_output=True, text=True, start_new_session=True)
    if point.clients >= MANY_CLIENTS:
        server.settle()
    took = server.cpu_ns() - before, machine.cpu_ns() - machine_before
    if run.returncode != 0 or "throughput summary" not in run.stdout:
        raise RuntimeError(f"{' '.join(argv)[:300]} failed ({run.returncode}):\n{run.stdout[-500:]}{run.stderr[-500:]}")
    return run.stdout, took


def parse(text):
    """What redis-benchmark says. Progress is written over itself with carriage returns."""
    text = text.replace("\r", "\n")
    throughput = re.search(r"throughput summary: ([\d.]+) requests per second", text)
    latency = re.search(r"avg\s+min\s+p50\s+p95\s+p99\s+max\s+([\d.\s]+)", text)
    if not throughput or not latency:
        raise RuntimeError(f"redis-benchmark is not understood:\n{text[-800:]}")
    _, _, p50, _, p99, most = map(float, latency.group(1).split()[:6])
    # Two tables, one finer at the end and one in steps of 0.1 ms, made into one.
    steps = re.findall(r"([\d.]+)% <= ([\d.]+) milliseconds \(cumulative", text)
    distribution = sorted({(float(ms), float(percent)) for percent, ms in steps})
    return {
        "rps": float(throughput.group(1)),
        "p50_ms": p50,
        "p99_ms": p99,
        "p99.9_ms": at_percent(distribution, 99.9) or most,
        "max_ms": most,
        "distribution": distribution,
    }


def at_percent(distribution, wanted):
    """The latency within which so many percent were answered."""
    return next((ms for ms, percent in distribution if percent >= wanted), None)


def slower_than(distribution, ms):
    """How many percent took longer."""
    index = bisect.bisect_right(distribution, (ms, 100.1))
    return 100.0 - (distribution[index - 1][1] if index else 0.0)
