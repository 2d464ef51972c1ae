"""What a user of the demo cluster may do to it, in order, and what must be seen each time."""

import time

from cluster import PARTS, Failure, await_that, run
from load import Load
from resp import Client

KEYS = 10_000
BATCH = 500
# Clients may be answered with errors for so long after a node was killed; it takes a second or so.
RECOVERY_S_MAX = 10
# `docker stop` kills what has not ended by itself after this time.
STOP_S = 10


def check(condition, words):
    if not condition:
        raise Failure(words)


def data_key(number):
    return f"data:{number}"


def read_data(client):
    """The numbers of those of the 10,000 keys that are there; each must hold what was written."""
    there = set()
    for start in range(0, KEYS, BATCH):
        numbers = range(start, start + BATCH)
        for number, held in zip(numbers, client.pipeline([("GET", data_key(number)) for number in numbers])):
            check(held in (None, f"value:{number}"), f"{data_key(number)} holds {held!r}")
            if held is not None:
                there.add(number)
    return there


class Story:
    def __init__(self, cluster):
        self.cluster = cluster
        self.data_homes = {}

    def chapters(self):
        return [
            self.the_demo_starts_it_and_what_it_says_to_try_works,
            self.it_is_well,
            self.every_part_is_as_it_should_be,
            self.keys_are_the_same_through_either_proxy,
            self.redis_benchmark_meets_no_error,
            self.a_killed_node_fails_its_own_keys_only,
            self.the_leading_coordinator_may_be_killed,
            self.nodes_can_be_added,
            self.the_master_may_be_restarted,
            self.every_part_stops_when_it_is_told_to,
        ]

    def the_demo_starts_it_and_what_it_says_to_try_works(self):
        text = self.cluster.sh("docker/demo", limit=240)
        lines = [line.strip() for line in text.splitlines() if line.startswith("    ")]
        # Other chapters do this.
        others = ("up -d --no-recreate --scale node=6", "run --rm load", "down")
        for words in others:
            check(any(line.endswith(words) for line in lines), f"the demo does not say: {words}")
        said = []
        for line in lines:
            if line.endswith(others):
                continue
            # Nobody sits at a terminal here.
            said.append(self.cluster.sh(line.replace(" exec proxy", " exec -T proxy")).strip())
            if line.startswith("docker kill"):
                # Somebody who types takes as long.
                self.cluster.await_nodes(PARTS["node"] - 1)
        check(len(said) == 11, f"the demo says to try {len(said)} things: {lines}")
        written, read, _, where, killed, gone, again, without, started, _, _ = said
        check((written, read, gone, again) == ("OK", "hello", "", "OK"), f"what the demo says to try does this: {said}")
        check(killed == started and killed in where, f"{killed} was killed, {started} started, and the key was on {where}")
        check("3 up" in without, f"this is the status without a node: {without}")
        self.cluster.await_nodes(PARTS["node"])

    def it_is_well(self):
        self.cluster.await_healthy()
        for part, count in PARTS.items():
            check(len(self.cluster.containers(part)) == count, f"there should be {count} of {part}")
        self.cluster.await_nodes(PARTS["node"])
        names = sorted(node["name"] for node in self.cluster.status()["nodes"])
        hosts = sorted(found["Config"]["Hostname"] for found in self.cluster.inspect(*self.cluster.containers("node")))
        check(names == hosts, f"nodes {names} are not named after their containers {hosts}")

    def every_part_is_as_it_should_be(self):
        """No root, PID 1 that passes signals on, nothing on disk, a memory limit."""
        for container in self.cluster.inspect(*self.cluster.containers()):
            name = container["Name"]
            check(self.cluster.within(container["Id"], "id", "-u").strip() != "0", f"{name} runs as root")
            first = self.cluster.within(container["Id"], "cat", "/proc/1/comm").strip()
            check(first == "tini", f"PID 1 of {name} is {first}")
            check(not container["Mounts"], f"{name} has volumes")
            check(container["HostConfig"]["ReadonlyRootfs"], f"{name} can write to its disk")
        for part, policy in (("master", "noeviction"), ("node", "allkeys-lru")):
            for container in self.cluster.containers(part):
                expect = {"save": "", "appendonly": "no", "maxmemory": str(64 << 20), "maxmemory-policy": policy}
                lines = self.cluster.within(container, "redis-cli", "CONFIG", "GET", *expect).split("\n")
                config = dict(zip(lines[::2], lines[1::2]))
                check(expect.items() <= config.items(), f"{part} is configured {config}")

    def keys_are_the_same_through_either_proxy(self):
        proxies = [Client(port) for port in self.cluster.ports]
        for start in range(0, KEYS, BATCH):
            writer = proxies[start // BATCH % 2]
            commands = [("SET", data_key(number), f"value:{number}") for number in range(start, start + BATCH)]
            check(set(writer.pipeline(commands)) == {"OK"}, "a SET failed")
        for start in range(0, KEYS, BATCH):
            reader = proxies[1 - start // BATCH % 2]
            held = reader.pipeline([("GET", data_key(number)) for number in range(start, start + BATCH)])
            check(held == [f"value:{number}" for number in range(start, start + BATCH)], "a key is not what the other proxy wrote")
        for client in proxies:
            with client:
                check(client("DBSIZE") == KEYS, "not all keys are counted")
        homes = {}
        for start in range(0, KEYS, BATCH):
            homes |= self.cluster.homes([data_key(number) for number in range(start, start + BATCH)])
        self.data_homes = {number: homes[data_key(number)] for number in range(KEYS)}
        check(len(set(self.data_homes.values())) == PARTS["node"], "not all nodes have keys")

    def redis_benchmark_meets_no_error(self):
        output = self.cluster.compose("run", "--rm", "-T", "load", limit=180)
        for proxy in ("proxy1", "proxy2"):
            check(proxy in output.splitlines(), f"{proxy} was not put under load:\n{output}")
        check(output.count('"GET"') == 2 and "rror" not in output, f"redis-benchmark says:\n{output}")

    def a_killed_node_fails_its_own_keys_only(self):
        victim = self.cluster.containers("node")[0]
        name = victim[:12]
        homes = self.cluster.homes([f"load:{number}" for number in range(400)])
        its_keys = {key for key, home in homes.items() if home == name}
        its_data = {number for number, home in self.data_homes.items() if home == name}
        check(its_keys and its_data, f"{name} has no keys")
        with Load(self.cluster.ports, list(homes)) as load:
            check(load.await_rounds(3) and not load.errors, f"errors before anything happened: {load.errors[:3]}")
            killed = time.monotonic()
            run("docker", "kill", victim)
            self.cluster.await_nodes(PARTS["node"] - 1)
            check(load.await_rounds(3), f"clients stand still: {load.errors[-3:]}")
            others = [error for error in load.errors if error[1] not in its_keys]
            check(not others, f"errors for keys of other nodes: {others[:3]}")
            recovery_s = max((when - killed for when, _, _ in load.errors), default=0)
            check(recovery_s <= RECOVERY_S_MAX, f"errors for {recovery_s:.1f} s: {load.errors[-3:]}")
            texts = sorted({text for _, _, text in load.errors})
            print(f"        {len(load.errors)} errors within {recovery_s:.2f} s, all for its keys: {texts[:3]}")

            errors = len(load.errors)
            run("docker", "start", victim)
            self.cluster.await_nodes(PARTS["node"])
            check(load.await_rounds(3), f"clients stand still: {load.errors[-3:]}")
            check(len(load.errors) == errors, f"errors as the node came back: {load.errors[errors:][:3]}")
            check(not load.wrong, f"wrong values: {load.wrong[:3]}")
            check(load.missing <= its_keys, f"other nodes lost keys: {sorted(load.missing - its_keys)[:3]}")
        # It came back empty: what it had is gone, and nothing else.
        with Client(self.cluster.ports[0]) as client:
            there = read_data(client)
            check(there == set(range(KEYS)) - its_data, "what it had should be gone, and nothing else")
            # And it serves.
            key = min(its_keys)
            client("SET", key, "back")
        check(self.cluster.within(victim, "redis-cli", "GET", key).strip() == "back", f"{name} does not serve {key}")
        self.cluster.await_healthy()

    def the_leading_coordinator_may_be_killed(self):
        leader = await_that("a coordinator leads", self.cluster.leader)
        with Load(self.cluster.ports, [f"load:{number}" for number in range(100)]) as load:
            check(load.await_rounds(1), f"clients stand still: {load.errors[-3:]}")
            run("docker", "kill", leader)
            following = await_that("the other coordinator leads", self.cluster.leader, 30)
            check(following != leader, "a killed coordinator leads")
            # What only a leader does: it notices that a node has gone, and that it is back.
            node = self.cluster.containers("node")[1]
            run("docker", "stop", "-t", str(STOP_S), node)
            self.cluster.await_nodes(PARTS["node"] - 1)
            run("docker", "start", node)
            self.cluster.await_nodes(PARTS["node"])
            check(load.await_rounds(3), f"clients stand still: {load.errors[-3:]}")
            check(not load.errors, f"a node that was stopped in good order cost errors: {load.errors[:3]}")
            check(not load.wrong, f"wrong values: {load.wrong[:3]}")
        run("docker", "start", leader)
        self.cluster.await_healthy()

    def nodes_can_be_added(self):
        with Load(self.cluster.ports, [f"load:{number}" for number in range(400)]) as load:
            self.cluster.compose("up", "-d", "--no-build", "--no-recreate", "--scale", "node=6")
            self.cluster.await_nodes(6)
            self.cluster.await_healthy()
            check(load.await_rounds(2), f"clients stand still: {load.errors[-3:]}")
            check(not load.errors, f"added nodes cost errors: {load.errors[:3]}")
            check(not load.wrong, f"wrong values: {load.wrong[:3]}")
        for node in self.cluster.status()["nodes"]:
            check(node["keys"] > 0 and 0.05 < node["share"] < 0.35, f"{node['name']} has {node['keys']} keys")

    def the_master_may_be_restarted(self):
        (master,) = self.cluster.containers("master")
        with Load(self.cluster.ports, [f"load:{number}" for number in range(400)]) as load:
            check(load.await_rounds(2), f"clients stand still: {load.errors[-3:]}")
            run("docker", "restart", "-t", str(STOP_S), master)
            # It comes back empty, and the map is written back.
            await_that("the master knows all nodes again", self.master_knows_all)
            self.cluster.await_healthy()
            check(load.await_rounds(2), f"clients stand still: {load.errors[-3:]}")
            check(not load.errors, f"errors for want of a master: {load.errors[:3]}")
            check(not load.wrong and not load.missing, f"wrong or lost: {load.wrong[:3]} {sorted(load.missing)[:3]}")

    def master_knows_all(self):
        try:
            return self.cluster.status()["nodes_up"] == 6
        except Failure:
            # It is not back yet.
            return False

    def every_part_stops_when_it_is_told_to(self):
        """All of them on SIGTERM, rather than by being killed."""
        for part in ("proxy1", "node", "coordinator", "proxy2", "master"):
            container = self.cluster.containers(part)[0]
            began = time.monotonic()
            run("docker", "stop", "-t", str(STOP_S), container)
            took_s = time.monotonic() - began
            (state,) = [found["State"] for found in self.cluster.inspect(container)]
            check(state["ExitCode"] == 0, f"{part} ended with {state['ExitCode']} after {took_s:.1f} s")
            print(f"        {part} stopped within {took_s:.1f} s")
