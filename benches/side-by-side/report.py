"""What was measured, as JSON and as markdown. All but `write` is pure: results in, text out."""

import json
import statistics
from dataclasses import dataclass
from typing import Callable

import plot

OURS = ["vrc", "vrc-io-uring"]


@dataclass(frozen=True)
class Metric:
    """One kind of figure: its key in a sample, what it is called, how it is shown, and whether less is better."""

    key: str
    heading: str
    show: Callable[[float], str]
    less: bool = True
    # Suites that show it; empty for all that have it.
    suites: tuple = ()
    # Whether its ratio to another's says something.
    ratio: bool = True


def digits(count):
    return lambda value: f"{value:,.{count}f}"


def significant(value):
    """Three digits or so, whether it is 0.0123 or 12,300."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


METRICS = [
    Metric("cpu_us", "CPU per request, us", significant),
    Metric("machine_us", "CPU of all together, us", significant),
    Metric("rps", "Throughput, 1,000 requests/s", lambda value: significant(value / 1e3), less=False),
    Metric("mb_s", "Throughput, MB/s of values", significant, less=False, suites=("sizes",)),
    Metric("p50_ms", "p50, ms", digits(3)),
    Metric("p99_ms", "p99, ms", digits(3)),
    Metric("p99.9_ms", "p99.9, ms", digits(3)),
    Metric("max_ms", "slowest, ms", digits(3), suites=("swap",)),
    Metric("calm_cpu_us", "without swaps, mean of two runs: CPU per request, us", significant, ratio=False),
    Metric("calm_p99.9_ms", "without swaps, mean of two runs: p99.9, ms", digits(3), ratio=False),
    Metric("calm_max_ms", "without swaps, mean of two runs: slowest, ms", digits(3), ratio=False),
    Metric("slower", "with swaps: above the first run's p99.9, % of requests", digits(2), ratio=False),
    Metric("calm_slower", "without swaps, second run: above the first run's p99.9, % of requests", digits(2), ratio=False),
    Metric("peak_mib", "memory at peak, MiB more than at rest", significant, suites=("sizes",)),
    Metric("peak_ratio", "the same, by what was under way", significant, suites=("sizes",), ratio=False),
    Metric("p50_us", "p50, us", digits(1), ratio=False),
    Metric("p99_us", "p99, us", digits(1), ratio=False),
    Metric("added_us", "added to a direct connection's median, us", digits(1)),
    Metric("idle_kib", "memory an idle connection, KiB", digits(2)),
]


def write(directory, result):
    """Writes all three, and returns the markdown."""
    directory.mkdir(parents=True, exist_ok=True)
    name = result["suite"]
    text = markdown(result)
    (directory / f"{name}.json").write_text(json.dumps(result, indent=1) + "\n")
    (directory / f"{name}.md").write_text(text)
    (directory / f"{name}.svg").write_text(plot.bars(result, metrics_of(result)))
    if name == "pipeline":
        (directory / "overview.svg").write_text(plot.overview(result))
    return text


def metrics_of(result):
    """The metrics that this suite shows, and whose figures are there."""
    there = list(dict.fromkeys(key for run in result["runs"] for samples in run["samples"].values() for sample in samples for key in sample))
    known = [metric for metric in METRICS if metric.key in there and (not metric.suites or result["suite"] in metric.suites)]
    # Parts of the time, and calls, are named by what was found.
    found = [key for prefix in ("us in ", "calls of ") for key in there if key.startswith(prefix)]
    return known + [Metric(key, key, digits(2), ratio=False) for key in found]


def values(samples, key):
    return [sample[key] for sample in samples if key in sample]


def median(samples, key):
    """None if no sample has it."""
    found = values(samples, key)
    return statistics.median(found) if found else None


def ratios(run, name, base, key):
    """Of each round's pair."""
    pairs = zip(run["samples"].get(name, []), run["samples"].get(base, []))
    return [one[key] / other[key] for one, other in pairs if other.get(key, 0) > 0 and key in one]


def spread(found):
    return f"**{statistics.median(found):.2f}** ({min(found):.2f}–{max(found):.2f})" if found else ""


def names_in(runs):
    return list(dict.fromkeys(name for run in runs for name in run["samples"]))


def rounds_of(result):
    counts = {len(samples) for run in result["runs"] for samples in run["samples"].values()}
    return "1 round" if counts == {1} else f"{min(counts)} rounds" if len(counts) == 1 else f"{min(counts)} to {max(counts)} rounds"


def markdown(result):
    of = result["machine"]
    lines = [f"# {result['suite'].capitalize()}", "", result["about"], ""]
    lines += [
        f"{result['started']}, {of['cpu']}, {of['cores']} cores, {of['memory_gib']} GiB, Linux {of['kernel']}. "
        f"{result['nodes']} nodes ({result['node']}), {rounds_of(result)}, interleaved; load average "
        f"{result['load_average_before']:.1f} before, {result['load_average_after']:.1f} after. The load generator, the nodes and the "
        "proxy share the cores.",
        "",
    ]
    metrics = metrics_of(result)
    names = names_in(result["runs"])
    for name in OURS:
        if result["base"] in names and name in names:
            lines += [*versus(result["runs"], name, result["base"], metrics), ""]
    if result["growth"]:
        lines += [*growth(result, names), ""]
    lines += [*table(result["runs"], names, metrics), ""]
    if result["failures"]:
        lines += ["Left out, since it failed:", "", *(f"- {failure}" for failure in result["failures"]), ""]
    lines += ["## Programs", "", "| | version | command |", "| --- | --- | --- |"]
    lines += [f"| {name} | {program['version']} | `{program['command']}` |" for name, program in result["programs"].items() if name in names]
    lines += ["", f"Measured by `{result['command']}`"]
    commands = list(dict.fromkeys(run["command"] for run in result["runs"] if "command" in run))
    if commands:
        lines[-1] += f"; the load, by {result['generator']}, is"
        lines += ["", "```", *commands, "```"]
    return "\n".join(lines) + "\n"


def versus(runs, name, base, metrics):
    """One of ours beside a rival."""
    shown = [metric for metric in metrics if metric.ratio]
    lines = [
        f"{name} beside {base}: the median of each round's ratio, and its least and greatest.",
        "",
        "| | " + " | ".join(metric.heading.split(",")[0] for metric in shown) + " |",
        "| --- |" + " --- |" * len(shown),
    ]
    for run in runs:
        cells = [spread(ratios(run, name, base, metric.key)) for metric in shown]
        if any(cells):
            lines.append(f"| {run['label']} | " + " | ".join(cells) + " |")
    return lines


def growth(result, names):
    """Each contender's CPU per request beside its own at the first value of the dimension."""
    dimension = result["growth"]
    lines = [
        f"CPU per request beside each one's own at the first of the {dimension}: ratio of medians.",
        "",
        "| | " + " | ".join(names) + " |",
        "| --- |" + " --- |" * len(names),
    ]
    for run, first in with_first(result["runs"], dimension):
        cells = []
        for name in names:
            now, before = (median(each["samples"].get(name, []), "cpu_us") for each in (run, first))
            cells.append(f"{now / before:.2f}" if now and before else "")
        lines.append(f"| {run['label']} | " + " | ".join(cells) + " |")
    return lines


def with_first(runs, dimension):
    """Each run that is not the first of its dimension, and the run that is, all else alike."""
    pairs = []
    for run in runs:
        alike = [other for other in runs if {**other["point"], dimension: None} == {**run["point"], dimension: None}]
        if alike[0] is not run:
            pairs.append((run, alike[0]))
    return pairs


def table(runs, names, metrics):
    lines = ["Medians:", "", "| | | " + " | ".join(names) + " |", "| --- | --- |" + " --- |" * len(names)]
    for metric in metrics:
        for run in runs:
            found = [median(run["samples"].get(name, []), metric.key) for name in names]
            if any(value is not None for value in found):
                cells = ["" if value is None else metric.show(value) for value in found]
                lines.append(f"| {metric.heading} | {run['label']} | " + " | ".join(cells) + " |")
    return lines
