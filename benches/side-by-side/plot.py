"""Plots of what was measured, as SVG: results in, text out."""

import statistics
from html import escape

COLORS = {
    "vrc": "#c2410c",
    "vrc-io-uring": "#ea9a62",
    "predixy": "#1d4ed8",
    "twemproxy": "#0f766e",
    "envoy": "#7e22ce",
    "aster": "#a16207",
    "redis": "#6b7280",
    "floor": "#b8bcc4",
}
OTHER = "#333"
# Of the small charts: width, of that for names and figures, and height of a bar.
CELL, WORDS, NAME, BAR = 270, 140, 78, 15
LEFT, TOP = 16, 56


def medians(run, key):
    """By contender, of those that have such figures."""
    found = {name: [sample[key] for sample in samples if key in sample] for name, samples in run["samples"].items()}
    return {name: statistics.median(some) for name, some in found.items() if some}


def bars(result, metrics):
    """For each metric and point a small bar chart with its own scale: a row a metric, a column a point."""
    parts, y = [], TOP
    runs = result["runs"]
    for metric in metrics:
        parts.append(text(LEFT, y, f"{metric.heading} ({'less' if metric.less else 'more'} is better)", 13, "bold"))
        y += 8
        tallest = 0
        for column, run in enumerate(runs):
            found = medians(run, metric.key)
            x = LEFT + column * CELL
            parts.append(text(x, y + 12, run["label"], 11))
            most = max([0.0, *found.values()]) or 1.0
            for row, (name, value) in enumerate(found.items()):
                at = y + 18 + row * BAR
                length = max(1.0, value / most * (CELL - WORDS))
                parts += [text(x, at + 11, name, 10), rect(x + NAME, at + 2, length, BAR - 4, name)]
                parts.append(text(x + NAME + 4 + length, at + 11, metric.show(value), 10))
            tallest = max(tallest, len(found))
        y += 18 + BAR * tallest + 34
    return svg(LEFT + CELL * max(1, len(runs)) + 10, y, [text(LEFT, 28, subtitle(result), 13), *parts])


def overview(result):
    """CPU per request, all contenders side by side: a group of columns a point with its own scale, a row a command."""
    runs = [run for run in result["runs"] if medians(run, "cpu_us")]
    names = list(dict.fromkeys(name for run in runs for name in run["samples"]))
    column, gap, high, between = 36, 34, 110, 52
    parts, width, bottom = [], LEFT + NAME * 1.4 * len(names), 84
    for index, name in enumerate(names):
        x = LEFT + index * NAME * 1.4
        parts += [rect(x, 42, 11, 11, name), text(x + 15, 52, name, 12)]
    for test in dict.fromkeys(run["point"]["test"] for run in runs):
        x, bottom = LEFT, bottom + high
        for run in (run for run in runs if run["point"]["test"] == test):
            found = medians(run, "cpu_us")
            for place, name in enumerate(name for name in names if name in found):
                tall = max(1.0, found[name] / max(found.values()) * high)
                at = x + place * column
                parts.append(rect(at, bottom - tall, column - 5, tall, name))
                parts.append(text(at + (column - 5) / 2, bottom - tall - 4, short(found[name]), 11, anchor="middle"))
            parts.append(text(x + column * len(found) / 2 - 2, bottom + 17, run["label"], 12, anchor="middle"))
            x += column * len(found) + gap
        width, bottom = max(width, x), bottom + between
    heads = [text(LEFT, 26, "CPU of the proxy per request, us (less is better)", 14, "bold"), text(LEFT, bottom, subtitle(result), 10)]
    return svg(max(width, 640), bottom + 14, [*heads, *parts])


def short(value):
    return f"{value:.0f}" if value >= 10 else f"{value:.1f}" if value >= 1 else f"{value:.2f}".lstrip("0")


def subtitle(result):
    of = result["machine"]
    load = f"load average {result['load_average_before']:.1f} to {result['load_average_after']:.1f}"
    return f"{result['suite']}: {result['started']}, {of['cpu']}, {of['cores']} cores, Linux {of['kernel']}, medians, {load}"


def svg(width, height, parts):
    size = f'width="{width:.0f}" height="{height:.0f}" viewBox="0 0 {width:.0f} {height:.0f}"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="sans-serif">'
    return "\n".join([head, f'<rect width="{width:.0f}" height="{height:.0f}" fill="#fff"/>', *parts, "</svg>"]) + "\n"


def rect(x, y, width, height, name):
    return f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" fill="{COLORS.get(name, OTHER)}"/>'


def text(x, y, words, size, weight="normal", anchor="start"):
    return f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" font-weight="{weight}" text-anchor="{anchor}">{escape(words)}</text>'
