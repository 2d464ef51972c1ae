"""What was measured, as JSON, as markdown and as a plot."""

import json
import os
import platform
import re
import statistics
from html import escape

# Key of a sample, heading, how a value is shown, and whether less is better.
METRICS = [
    ("cpu_us", "CPU per request, us", lambda value: f"{value:.2f}", True),
    ("rps", "Throughput, 1,000 requests/s", lambda value: f"{value / 1e3:.1f}", False),
    ("p50_ms", "p50, ms", lambda value: f"{value:.3f}", True),
    ("p99_ms", "p99, ms", lambda value: f"{value:.3f}", True),
    ("p99.9_ms", "p99.9, ms", lambda value: f"{value:.3f}", True),
]
COLORS = {"vrc": "#c2410c", "predixy": "#1d4ed8", "twemproxy": "#0f766e", "envoy": "#7e22ce", "aster": "#a16207", "redis": "#6b7280"}


def machine():
    """What the figures depend on besides the programs."""
    with open("/proc/cpuinfo") as info:
        model = re.search(r"model name\s*:\s*(.+)", info.read())
    with open("/proc/meminfo") as info:
        memory_kib = int(re.search(r"MemTotal:\s+(\d+)", info.read()).group(1))
    return {
        "cpu": model.group(1) if model else platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(memory_kib / 2**20),
        "kernel": platform.release().split("-")[0],
    }


def median(samples, metric):
    return statistics.median(sample[metric] for sample in samples)


def ratios(run, name, base, metric):
    """Of each round's pair."""
    pairs = zip(run["samples"][name], run["samples"][base])
    return [one[metric] / other[metric] for one, other in pairs if other[metric] > 0]


def write(directory, result):
    """Writes all three, and returns the markdown."""
    directory.mkdir(parents=True, exist_ok=True)
    text = markdown(result)
    (directory / "side-by-side.json").write_text(json.dumps(result, indent=1) + "\n")
    (directory / "side-by-side.md").write_text(text)
    (directory / "side-by-side.svg").write_text(svg(result))
    return text


def groups(result):
    """Runs by what is the same for a whole table."""
    found = {}
    for run in result["runs"]:
        point = run["point"]
        found.setdefault((point["workers"], point["clients"], point["value_bytes"]), []).append(run)
    return found


def names_in(runs):
    return list(dict.fromkeys(name for run in runs for name in run["samples"]))


def markdown(result):
    of, base = result["machine"], result["base"]
    lines = [
        "# Side by side",
        "",
        f"{result['started']}, {of['cpu']}, {of['cores']} cores, {of['memory_gib']} GiB, Linux {of['kernel']}. "
        f"{result['nodes']} nodes, {result['rounds']} rounds, interleaved; load average {result['load_average_before']:.1f} before, "
        f"{result['load_average_after']:.1f} after. The load generator, the nodes and the proxy share the cores.",
        "",
    ]
    for (workers, clients, value_bytes), runs in groups(result).items():
        threads = f"{workers} worker{'s' if workers > 1 else ''}"
        lines += [f"## {threads}, {clients} clients, values of {value_bytes} bytes", ""]
        if base:
            lines += [*versus(runs, base), ""]
        lines += [*table(runs), ""]
    lines += ["## Programs", "", "| | version | command |", "| --- | --- | --- |"]
    for name, program in result["programs"].items():
        lines.append(f"| {name} | {program['version']} | `{program['command']}` |")
    lines += ["", f"Measured by `{result['command']}`; the load is", "", "```"]
    lines += dict.fromkeys(run["command"] for run in result["runs"])
    lines += ["```", ""]
    return "\n".join(lines)


def versus(runs, base):
    lines = [
        f"vrc beside {base}: the median of each round's ratio, and its least and greatest.",
        "",
        "| | CPU per request | throughput | p50 | p99 | p99.9 |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for run in runs:
        if not {"vrc", base} <= run["samples"].keys():
            continue
        cells = []
        for metric, *_ in METRICS:
            all_of_them = ratios(run, "vrc", base, metric)
            spread = f"{min(all_of_them):.2f}–{max(all_of_them):.2f}"
            cells.append(f"**{statistics.median(all_of_them):.2f}** ({spread})")
        lines.append(f"| {run['label']} | " + " | ".join(cells) + " |")
    return lines


def table(runs):
    names = names_in(runs)
    lines = ["Medians:", "", "| | | " + " | ".join(names) + " |", "| --- | --- |" + " --- |" * len(names)]
    for metric, heading, show, _ in METRICS:
        for run in runs:
            cells = [show(median(run["samples"][name], metric)) if name in run["samples"] else "" for name in names]
            lines.append(f"| {heading} | {run['label']} | " + " | ".join(cells) + " |")
    return lines


def svg(result):
    """For each metric and point a small bar chart with its own scale: a row a metric, a column a point."""
    cell_width, bar, gap, left, top = 230, 15, 34, 16, 56
    parts, y = [], top
    width = left
    for (workers, clients, value_bytes), runs in groups(result).items():
        names = names_in(runs)
        parts.append(label(left, y, f"{workers} worker(s), {clients} clients, values of {value_bytes} bytes", 14, "bold"))
        y += 22
        width = max(width, left + cell_width * len(runs))
        for metric, heading, show, less in METRICS:
            parts.append(label(left, y, f"{heading} ({'less' if less else 'more'} is better)", 12, "bold"))
            y += 8
            for column, run in enumerate(runs):
                x = left + column * cell_width
                parts.append(label(x, y + 12, run["label"], 11))
                medians = {name: median(run["samples"][name], metric) for name in names if name in run["samples"]}
                most = max(medians.values()) or 1
                for row, (name, value) in enumerate(medians.items()):
                    at = y + 18 + row * bar
                    length = max(1.0, value / most * (cell_width - 130))
                    parts.append(label(x, at + 11, name, 10))
                    parts.append(
                        f'<rect x="{x + 58}" y="{at + 2}" width="{length:.1f}" height="{bar - 4}" fill="{COLORS.get(name, "#333")}"/>'
                    )
                    parts.append(label(x + 62 + length, at + 11, show(value), 10))
            y += 18 + bar * len(names) + gap
    of = result["machine"]
    title = f"{result['started']}, {of['cpu']}, {of['cores']} cores, Linux {of['kernel']}, {result['rounds']} rounds, medians"
    head = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width + 10}" height="{y}" font-family="sans-serif">',
        f'<rect width="{width + 10}" height="{y}" fill="#fff"/>',
        label(left, 28, title, 13),
    ]
    return "\n".join([*head, *parts, "</svg>"]) + "\n"


def label(x, y, text, size, weight="normal"):
    return f'<text x="{x:.1f}" y="{y}" font-size="{size}" font-weight="{weight}">{escape(text)}</text>'
