"""Where a server's processor time goes, and how often it calls the kernel: by perf and strace, while it is under load."""

import re
import shutil
import signal
import subprocess
import time
from collections import Counter
from pathlib import Path

import load

SAMPLES_A_SECOND = 1_999
# perf and strace need a moment until they watch.
ATTACH_SECONDS = 1.0
# Of the requests of a run, how many are made under strace, which slows a server down several times.
STRACE_SCALE = 0.1
# Calls that are rarer than one in so many requests are not of requests.
CALLS_MIN = 0.01
# What our own time is spent on, by the name of the function that a sample is in; the first that matches.
PARTS = [
    ("framing", r"vrc_cluster::resp"),
    ("command table, keys", r"vrc_cluster::command"),
    ("routing", r"vrc_cluster::(route|topology|placement)|crc16"),
    ("merging", r"vrc_cluster::merge"),
    ("sessions and node connections", r"vrc_proxy::core"),
    ("driver, runtime", r"vrc_proxy|tokio|mio::|io_uring"),
    ("copying bytes", r"mem(move|cpy|set|cmp)"),
    ("allocating", r"malloc|free|realloc|calloc"),
]


def measure(server, point, requests):
    """CPU per request, divided into parts, and calls of the kernel per request."""
    found = load.measure(server, point, requests)
    return {
        "cpu_us": found["cpu_us"],
        **{f"us in {part}": share * found["cpu_us"] for part, share in shares(server, point, requests).items()},
        **{f"calls of {name}, each request": count for name, count in calls(server, point, few(point, requests)).items()},
    }


def few(point, requests):
    """Requests under strace; not so few that what is called for each connection would be much of it."""
    return max(int(requests * STRACE_SCALE), point.clients * point.pipeline * 20)


def shares(server, point, requests):
    """What part of the samples is in each part."""
    if not shutil.which("perf"):
        return {}
    data = Path(f"{server.log}.perf")
    pid = str(server.process.pid)
    argv = ["perf", "record", "-q", "-e", "cpu-clock", "-F", str(SAMPLES_A_SECOND), "-g", "-p", pid, "-o", str(data)]
    beside(argv, server, point, requests)
    script = ["perf", "script", "-i", str(data), "-F", "ip,sym,dso"]
    text = subprocess.run(script, capture_output=True, text=True, check=True).stdout
    data.unlink()
    return divide(text)


def calls(server, point, requests):
    """How often each call of the kernel is made, for a request. Under strace, so when the server is slow and more comes at a time."""
    if not shutil.which("strace"):
        return {}
    out = Path(f"{server.log}.strace")
    beside(["strace", "-c", "-f", "-p", str(server.process.pid), "-o", str(out)], server, point, requests)
    counted = count(out.read_text())
    return {name: number / requests for name, number in counted.items() if number / requests >= CALLS_MIN}


def beside(argv, server, point, requests):
    """Runs the load while another program watches the server."""
    with subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True) as watching:
        time.sleep(ATTACH_SECONDS)
        try:
            load.measure(server, point, requests, watch=False)
        finally:
            watching.send_signal(signal.SIGINT)


def divide(script):
    """From what `perf script` says to the part of the samples that is in each part."""
    found = Counter(part_of(stack) for stack in re.split(r"\n\s*\n", script) if stack.strip())
    total = sum(found.values())
    return {part: number / total for part, number in found.most_common()}


def part_of(stack):
    """The call of the kernel that a sample is in, or what part of the program."""
    lines = stack.strip().splitlines()
    names = [line.split()[1] for line in lines]
    if "do_syscall_64" in names[1:]:
        # What that calls is the call's own function: __x64_sys_sendto, ksys_read, do_writev.
        return "the kernel: " + re.sub(r"^(__\w+?_sys_|ksys_|do_)", "", names[names.index("do_syscall_64") - 1])
    if "[kernel" in lines[0]:
        return "the kernel: the rest, and interrupts"
    return next((part for part, name in PARTS if re.search(name, lines[0])), "other code")


def count(text):
    """From what `strace -c` says to the number of calls by name."""
    rows = re.findall(r"^\s*[\d.]+\s+[\d.]+\s+\d+\s+(\d+)\s+(?:\d+\s+)?(\w+)$", text, re.MULTILINE)
    return {name: int(number) for number, name in rows if name != "total"}
