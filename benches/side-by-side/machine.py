"""What the figures depend on besides the programs that are compared."""

import os
import platform
import re
import subprocess
from pathlib import Path


def describe():
    model = re.search(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text())
    memory_kib = int(re.search(r"MemTotal:\s+(\d+)", Path("/proc/meminfo").read_text()).group(1))
    return {
        "cpu": model.group(1) if model else platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(memory_kib / 2**20),
        "kernel": platform.release().split("-")[0],
    }


def cores(which):
    """Those that this program may use: all, or one of them."""
    usable = os.sched_getaffinity(0)
    return {"all": usable, "one": {max(usable)}}[which]


def version(program):
    run = subprocess.run([program, "--version"], capture_output=True, text=True)
    number = re.search(r"\d+\.\d+(\.\d+)+", run.stdout + run.stderr)
    return f"{Path(program).name} {number.group(0) if number else 'of unknown version'}"
