"""Runs one suite: gives each contender its turn at each point, and collects the samples."""

import os
import sys
import time
from dataclasses import asdict

import alone
import contenders
import idle
import load
import machine
import swap
import where
from budget import Rounds, scale, until
from proxies import NODES, Proxies
from suites import label

# Of a usual run, what one of `--quick` is.
QUICK_SCALE = 0.1


def say(text):
    print(text, file=sys.stderr, flush=True)


class Bench:
    """One suite, with the contenders that are there."""

    def __init__(self, suite, found, servers, node_program, options, command):
        self.suite, self.found, self.options = suite, found, options
        self.proxies = Proxies(servers, node_program, follow=suite.kind == "swap")
        self.failures = []
        rivals = [each.name for each in found if type(each) in contenders.RIVALS]
        self.result = {
            "suite": suite.name,
            "about": suite.about,
            "growth": suite.growth,
            "started": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
            "command": command,
            "machine": machine.describe(),
            "nodes": NODES,
            "base": rivals[0] if rivals else None,
            "programs": {each.name: describe(each) for each in found},
            "generator": machine.version("redis-benchmark"),
            "node": machine.version(node_program),
            "load_average_before": os.getloadavg()[0],
            "load_average_after": os.getloadavg()[0],
            "failures": self.failures,
            "runs": [],
        }

    def run(self, points, deadline):
        """Measures all points, and yields the result after each."""
        for index, point in enumerate(points):
            now = time.monotonic()
            here = [each for each in self.found if self.can(each, point)]
            ends = until(now, deadline, 1, len(points) - index)
            how_long = QUICK_SCALE if self.options.quick else scale(ends and ends - now, max(1, len(here)))
            rounds = Rounds(1 if self.options.quick else self.options.rounds, ends)
            run = {"point": asdict(point), "label": label(point, points), "samples": {}}
            if self.suite.kind in ("load", "swap", "where"):
                words = load.command(point, point.requests(how_long), "PORT")
                run["command"] = " ".join(word if len(word) < 100 else "VALUE" for word in words)
            with self.proxies.servers.placed(*machine.places(point.cores)):
                self.measure(point, here, rounds, how_long, run["samples"])
            if run["samples"]:
                self.result["runs"].append(run)
                self.result["load_average_after"] = os.getloadavg()[0]
                say(f"{self.suite.name}: {run['label']}, {rounds.done} round{'s' if rounds.done > 1 else ''}")
                yield self.result

    def can(self, each, point):
        fits = {"load": True, "where": each.serves, "swap": each.follows, "idle": each.serves, "alone": each.serves and not each.keeps}
        return each.can(point) and fits[self.suite.kind]

    def measure(self, point, here, rounds, how_long, samples):
        """All rounds of one point: forwards, then backwards, so that what drifts does not favour anybody. Who fails is left out."""
        if self.suite.kind == "alone":
            return self.measure_alone(point, here, rounds, how_long, samples)
        if not self.suite.fresh:
            # What takes long comes before the first round, whose time is measured too.
            here = [each for each in here if self.attempt(each, point, lambda: self.proxies.shared(each, point))]
        while here and rounds.another(time.monotonic()):
            for each in here if rounds.done % 2 else here[::-1]:
                sample = self.attempt(each, point, lambda: self.measure_one(each, point, how_long))
                if sample:
                    # All that is wanted of it has been read off.
                    sample.pop("distribution", None)
                    samples.setdefault(each.name, []).append(sample)
            here = [each for each in here if len(samples.get(each.name, [])) == rounds.done]

    def measure_one(self, each, point, how_long):
        if self.suite.kind == "idle":
            with self.proxies.fresh(each, point) as proxy:
                return idle.measure(proxy, point)
        requests = point.requests(how_long)
        if self.suite.fresh:
            with self.proxies.fresh(each, point) as proxy:
                return load.measure(proxy, point, requests, each.serves)
        proxy = self.proxies.shared(each, point)
        if self.suite.kind == "where":
            return where.measure(proxy, point, requests)
        if point.swaps:
            return swap.measure(proxy, self.proxies.maps[each.name], self.proxies.ignored_map, point, requests)
        return load.measure(proxy, point, requests, each.serves)

    def measure_alone(self, point, here, rounds, how_long, samples):
        """All at once, in turn."""
        here = {each.name: self.attempt(each, point, lambda: self.proxies.shared(each, point)) for each in here}
        servers = {name: server for name, server in here.items() if server}
        with self.proxies.once(contenders.Alone.find(), point) as direct:
            self.proxies.servers.take_for_node(direct)
            while rounds.another(time.monotonic()):
                for name, sample in alone.round_of(servers, direct, point, how_long).items():
                    samples.setdefault(name, []).append(sample)

    def attempt(self, each, point, action):
        """What it returns; None if it fails, which is taken note of."""
        try:
            return action()
        except (RuntimeError, OSError) as error:
            # In one line, as the table needs it.
            text = " ".join(f"{each.name}, {self.suite.name}, {label(point, [])}: {error}".split())[:500]
            say(text)
            self.failures.append(text)
            return None


def describe(contender):
    return {"version": contender.version(), "command": contender.command(1), "config": contender.config(1)}
