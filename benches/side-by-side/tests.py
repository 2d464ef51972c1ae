"""Tests of what is pure here: `python3 -m unittest discover -s benches/side-by-side -p tests.py`."""

import os
import sys
import time
import unittest
import xml.etree.ElementTree as xml

import alone
import budget
import load
import machine
import plot
import report
import servers
import suites
import swap
import where
from suites import MIB, Point

SAID = """
====== GET ======
  1000 requests completed in 0.02 seconds

Latency by percentile distribution:
0.000% <= 0.239 milliseconds (cumulative count 1)
50.000% <= 0.695 milliseconds (cumulative count 500)
99.805% <= 1.503 milliseconds (cumulative count 998)
99.902% <= 1.607 milliseconds (cumulative count 999)
100.000% <= 2.015 milliseconds (cumulative count 1000)

Cumulative distribution of latencies:
0.000% <= 0.103 milliseconds (cumulative count 0)
45.000% <= 0.607 milliseconds (cumulative count 450)
99.700% <= 1.407 milliseconds (cumulative count 997)
100.000% <= 2.103 milliseconds (cumulative count 1000)

Summary:
  throughput summary: 58823.53 requests per second
  latency summary (msec):
          avg       min       p50       p95       p99       max
        0.703     0.232     0.695     0.919     1.103     2.015
"""


def sample(**figures):
    return {"cpu_us": 10.0, "rps": 50_000.0, "p50_ms": 0.5, "p99_ms": 1.0, "p99.9_ms": 2.0, **figures}


def result(**changes):
    """Two points, of which twemproxy has one, in two rounds."""
    runs = [
        {
            "point": {"test": "GET", "workers": workers},
            "label": f"GET <{workers}>",
            "command": "redis-benchmark -t get",
            "samples": {
                "vrc": [sample(cpu_us=6.0 * workers), sample(cpu_us=9.0 * workers)],
                "predixy": [sample(cpu_us=12.0), sample(cpu_us=12.0)],
                **({"twemproxy": [sample()] * 2} if workers == 1 else {}),
            },
        }
        for workers in (1, 2)
    ]
    machine = {"cpu": "a processor", "cores": 2, "memory_gib": 4, "kernel": "6.1"}
    program = {"version": "1.0", "command": "serve"}
    return {
        "suite": "workers",
        "about": "About it.",
        "growth": "workers",
        "started": "today",
        "command": "python3 it",
        "machine": machine,
        "nodes": 4,
        "node": "redis-server 7",
        "generator": "redis-benchmark 7",
        "base": "predixy",
        "programs": {name: program for name in ("vrc", "predixy", "twemproxy", "envoy")},
        "load_average_before": 0.5,
        "load_average_after": 1.5,
        "failures": [],
        "runs": runs,
        **changes,
    }


class Reports(unittest.TestCase):
    def test_ratios_are_of_each_rounds_pair(self):
        lines = report.markdown(result()).splitlines()
        self.assertIn("vrc beside predixy: the median of each round's ratio, and its least and greatest.", lines)
        # 6/12 and 9/12.
        self.assertTrue(any(line.startswith("| GET <1> | **0.62** (0.50–0.75) | **1.00** (1.00–1.00) |") for line in lines), lines)

    def test_medians_and_gaps(self):
        lines = report.markdown(result()).splitlines()
        self.assertIn("| CPU per request, us | GET <1> | 7.50 | 12.0 | 10.0 |", lines)
        self.assertIn("| CPU per request, us | GET <2> | 15.0 | 12.0 |  |", lines)

    def test_growth_is_beside_ones_own_first(self):
        self.assertIn("| GET <2> | 2.00 | 1.00 |  |", report.markdown(result()).splitlines())
        self.assertNotIn("CPU per request beside each one's own", report.markdown(result(growth="")))

    def test_only_what_was_measured_is_named(self):
        text = report.markdown(result(base=None, failures=["aster: it died"]))
        self.assertNotIn("beside predixy:", text)
        self.assertNotIn("| envoy |", text)
        self.assertIn("- aster: it died", text)

    def test_figures_of_one_suite_alone(self):
        runs = [{"point": {}, "label": "GET", "samples": {"vrc": [{"idle_kib": 1.234}]}}]
        lines = report.markdown(result(runs=runs, growth="", suite="idle")).splitlines()
        self.assertIn("| memory an idle connection, KiB | GET | 1.23 |", lines)
        keys = {metric.key for metric in report.metrics_of(result(runs=runs, suite="idle"))}
        self.assertEqual(keys, {"idle_kib"})

    def test_no_round_finished(self):
        self.assertIn("Medians:", report.markdown(result(runs=[{"point": {}, "label": "GET", "samples": {"vrc": []}}], growth="")))


class Plots(unittest.TestCase):
    def test_are_xml_with_a_bar_for_each_figure(self):
        for text, metrics in ((plot.bars(result(), report.metrics_of(result())), 5), (plot.overview(result()), 1)):
            root = xml.fromstring(text)
            found = root.findall("{http://www.w3.org/2000/svg}rect")
            # The ground, and five figures a metric; the overview has a legend of three, too.
            self.assertEqual(len(found), 1 + 5 * metrics + (3 if metrics == 1 else 0))
            for each in found:
                self.assertLessEqual(float(each.get("x", 0)) + float(each.get("width")), float(root.get("width")))
                self.assertLessEqual(float(each.get("y", 0)) + float(each.get("height")), float(root.get("height")))
            self.assertIn("GET <2>", [each.text for each in root.iter("{http://www.w3.org/2000/svg}text")])


class Loads(unittest.TestCase):
    def test_what_the_generator_says(self):
        said = load.parse("GET: 123.0\r" + SAID)
        expected = {"rps": 58823.53, "p50_ms": 0.695, "p99_ms": 1.103, "p99.9_ms": 1.607, "max_ms": 2.015}
        self.assertEqual({name: said[name] for name in expected}, expected)
        for ms, percent in ((0.05, 100.0), (0.607, 55.0), (1.41, 0.3), (1.607, 0.098), (2.5, 0.0)):
            self.assertAlmostEqual(load.slower_than(said["distribution"], ms), percent, msg=ms)

    def test_what_it_does_not_say(self):
        for text in ("", "GET: 5.0", SAID[:400]):
            with self.assertRaises(RuntimeError):
                load.parse(text)

    def test_commands(self):
        argv = load.command(Point("MSET", pipeline=16), 100, 7379)
        self.assertEqual(argv[:3], ["redis-benchmark", "-p", "7379"])
        self.assertEqual((argv.count("key:__rand_int__"), argv.count("v" * 64)), (10, 10))
        self.assertEqual(load.command(Point(transport="unix"), 100, "/a/b")[1:3], ["-s", "/a/b"])
        self.assertEqual(load.command(Point("SET"), 100, 1)[-2:], ["-t", "set"])

    def test_percentiles(self):
        self.assertEqual([alone.percentile([30, 10, 20, 40], percent) for percent in (1, 50, 75, 100)], [10, 20, 30, 40])
        self.assertEqual(alone.sample([5_000, 9_000, 7_000], 4_000), {"p50_us": 7.0, "p99_us": 9.0, "added_us": 3.0})


class Suites(unittest.TestCase):
    def test_all_points_are_told_apart_and_bounded(self):
        for suite in suites.ALL:
            points = suite.points()
            labels = [suites.label(point, points) for point in points]
            self.assertEqual(len(set(labels)), len(points), suite.name)
            for point in points:
                self.assertLessEqual(point.bytes_under_way(), suites.UNDER_WAY_MAX)
                self.assertLessEqual(point.keyspace() * point.value_bytes, suites.VALUES_MAX)
                self.assertGreaterEqual(point.requests(0.0001), point.clients * point.pipeline)

    def test_dimensions_can_be_replaced(self):
        points = suites.BY_NAME["pipeline"].points({"test": ["GET"], "value_bytes": [20 * MIB], "workers": None})
        self.assertEqual({(point.test, point.value_bytes, point.workers) for point in points}, {("GET", 20 * MIB, 1)})
        self.assertEqual([point.clients for point in points], [4, 4, 4])
        self.assertEqual([suites.size(count) for count in (64, 1024, 20 * MIB)], ["64 bytes", "1 KiB", "20 MiB"])


class Budgets(unittest.TestCase):
    def test_time_is_shared_by_weight(self):
        self.assertEqual(budget.until(100, 200, 1, 4), 125)
        self.assertEqual(budget.until(300, 200, 1, 4), 300)
        self.assertIsNone(budget.until(100, None, 1, 4))

    def test_runs_are_shortened_before_rounds_are_dropped(self):
        self.assertEqual([budget.scale(seconds, 4) for seconds in (None, 1_000, 9, 0)], [1.0, 1.0, 0.5, budget.SCALE_MIN])

    def test_rounds(self):
        def count(rounds, seconds_each):
            now = 0
            while rounds.another(now):
                now += seconds_each
            return rounds.done

        self.assertEqual(count(budget.Rounds(None, None), 10), budget.ROUNDS_DEFAULT)
        self.assertEqual(count(budget.Rounds(2, None), 10), 2)
        self.assertEqual(count(budget.Rounds(None, 35), 10), 3)
        self.assertEqual(count(budget.Rounds(2, 35), 10), 2)
        self.assertEqual(count(budget.Rounds(None, 5), 10), 1)
        self.assertEqual(count(budget.Rounds(None, 1_000), 10), budget.ROUNDS_MAX)


class Where(unittest.TestCase):
    def test_samples_are_divided(self):
        def stack(*frames):
            return "".join(f"\t  ff12 {frame}\n" for frame in frames)

        kernel = "([kernel.kallsyms])"
        send = stack(f"tcp_sendmsg {kernel}", f"__x64_sys_sendto {kernel}", f"do_syscall_64 {kernel}", "__send (/usr/lib/libc.so.6)")
        write = stack(f"tcp_sendmsg {kernel}", f"do_writev {kernel}", f"do_syscall_64 {kernel}", "writev (/usr/lib/libc.so.6)")
        user = stack("vrc_proxy::core::forward::go (/a/vrc)", "vrc_cluster::route::main (/a/vrc)")
        interrupt = stack(f"net_rx_action {kernel}", "vrc_proxy::core (/a/vrc)")
        found = where.divide("\n" + "\n\n".join([send, user, write, interrupt, stack("[unknown] (/a/vrc)")]))
        parts = ["the kernel: sendto", "the kernel: writev", "the kernel: the rest, and interrupts", "other code", "sessions and node connections"]
        self.assertEqual(found, {part: 0.2 for part in parts})
        self.assertEqual(where.divide(""), {})

    def test_calls_are_counted(self):
        text = """% time     seconds  usecs/call     calls    errors syscall
------ ----------- ----------- --------- --------- ----------------
 46.28    0.036877          15      2420           sendto
  3.01    0.002396          43        55         3 accept4
------ ----------- ----------- --------- --------- ----------------
100.00    0.079674          14      5482         3 total
"""
        self.assertEqual(where.count(text), {"sendto": 2420, "accept4": 55})


class Cores(unittest.TestCase):
    @unittest.skipUnless(hasattr(os, "sched_setaffinity"), "the system does not tell")
    def test_servers_share_one_for_a_while(self):
        with servers.Servers() as running:
            here = os.sched_getaffinity(0)

            def start():
                (port,) = servers.free_ports(1)
                listen = f"import socket; each = socket.create_server(('127.0.0.1', {port}))\nwhile True: each.accept()[0].sendall(b'+OK\\r\\n')"
                return running.start("it", [sys.executable, "-c", listen], port, question=("PING",))

            def cores(*started):
                return {frozenset(os.sched_getaffinity(task)) for task in [0, *(task for server in started for task in server.tasks())]}

            first, gone = start(), start()
            gone.stop()
            with running.placed(*machine.places("one")):
                later = start()
                self.assertEqual([len(each) for each in cores(first, later)], [1])
            self.assertEqual(cores(first, later), {frozenset(here)})

    @unittest.skipUnless(hasattr(os, "sched_setaffinity"), "the system does not tell")
    def test_whoever_the_proxy_is_beside_has_its_cores(self):
        self.assertEqual(machine.places("all"), (os.sched_getaffinity(0),) * 3)
        for which, beside in (("clients", 0), ("nodes", 2)):
            places = machine.places(which)
            self.assertEqual(places[1], places[beside])
            self.assertEqual(len(set.union(*places)), len(os.sched_getaffinity(0)))


class Machines(unittest.TestCase):
    @unittest.skipUnless(os.path.exists("/proc/stat"), "the system does not tell")
    def test_processor_time_grows_by_what_is_done(self):
        before, deadline = machine.cpu_ns(), time.monotonic() + 60
        while machine.cpu_ns() - before < 50_000_000:
            self.assertLess(time.monotonic(), deadline)


class Swaps(unittest.TestCase):
    def test_what_is_slower_is_told_beside_what_runs_differ_by(self):
        def run(slowest_ms):
            return {**sample(), "max_ms": slowest_ms, "distribution": [(1.0, 99.0), (2.0, 99.9), (slowest_ms, 100.0)]}

        slow = {**run(9.0), "cpu_us": 12.0, "distribution": [(1.0, 99.0), (2.0, 99.5), (9.0, 100.0)]}
        found = swap.beside(slow, run(3.0), {**run(5.0), "cpu_us": 14.0})
        self.assertAlmostEqual(found["slower"], 0.5)
        self.assertAlmostEqual(found["calm_slower"], 0.1)
        told = {name: found[name] for name in ("cpu_us", "calm_cpu_us", "max_ms", "calm_max_ms")}
        self.assertEqual(told, {"cpu_us": 12.0, "calm_cpu_us": 12.0, "max_ms": 9.0, "calm_max_ms": 4.0})

    def test_maps_differ_by_a_weight(self):
        one, other = (swap.node_map([7401, 7402], weight) for weight in swap.WEIGHTS)
        self.assertNotEqual(one, other)
        self.assertEqual(one.keys(), other.keys())
        self.assertEqual(one["127.0.0.1:7402"], other["127.0.0.1:7402"])


if __name__ == "__main__":
    unittest.main()
