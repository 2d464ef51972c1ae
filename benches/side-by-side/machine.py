"""What the figures depend on besides the programs that are compared."""

import os
import platform
import re
import subprocess
from pathlib import Path

# How the cores are shared, by the name of the way.
PLACES = {
    "all": "wherever",
    "one": "all on one core",
    "clients": "proxy beside the generator",
    "nodes": "proxy beside the nodes",
}


def describe():
    model = re.search(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text())
    memory_kib = int(re.search(r"MemTotal:\s+(\d+)", Path("/proc/meminfo").read_text()).group(1))
    return {
        "cpu": model.group(1) if model else platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(memory_kib / 2**20),
        "kernel": platform.release().split("-")[0],
    }


def places(which):
    """The cores of the load generator, of proxies, and of nodes. Where there are two groups, each has a half."""
    usable = sorted(os.sched_getaffinity(0))
    half = len(usable) // 2
    first, second, last = set(usable[:half] or usable), set(usable[half:]), {usable[-1]}
    return {
        "all": (set(usable),) * 3,
        "one": (last,) * 3,
        "clients": (first, first, second),
        "nodes": (first, second, second),
    }[which]


def cpu_ns():
    """Processor time that all programs, the kernel and its interrupts have had so far; in steps of a hundredth of a second, as a rule."""
    user, nice, system, _idle, _iowait, irq, softirq = map(int, Path("/proc/stat").read_text().split(maxsplit=8)[1:8])
    return (user + nice + system + irq + softirq) * 1_000_000_000 // os.sysconf("SC_CLK_TCK")


def version(program):
    run = subprocess.run([program, "--version"], capture_output=True, text=True)
    number = re.search(r"\d+\.\d+(\.\d+)+", run.stdout + run.stderr)
    return f"{Path(program).name} {number.group(0) if number else 'of unknown version'}"
