"""Swaps a proxy's topology while it is under load: node maps are published as a coordinator publishes them."""

import json
import threading
import time

import load
from checks import Client

NODE_SET, EPOCH, CONFIRMED, BUS = "rvolcluster:nodeset", "rvolcluster:epoch", "rvolcluster:proxies", "RedisVolatileClusterBus"
# Weights of the first node, in turn.
WEIGHTS = (1, 2)
CONFIRM_SECONDS_MAX = 15


class Map:
    """The node map of a master that nobody else writes."""

    def __init__(self, master, nodes):
        self.master, self.nodes, self.epoch = master, nodes, 0

    def publish(self, weight):
        """Writes and announces a new map, in which the first node has that weight."""
        self.epoch += 1
        found = node_map(self.nodes, weight)
        fields = [text for name, node in found.items() for text in (name, json.dumps(node))]
        message = json.dumps({"type": "update_nodes", "nodeMap": found, "epoch": self.epoch})
        with Client(self.master) as client:
            client.ask(("HSET", NODE_SET, *fields), ("SET", EPOCH, self.epoch), ("PUBLISH", BUS, message))

    def wait_until_followed(self):
        """Until the proxy says that it goes by the last map: otherwise nothing was swapped."""
        deadline = time.monotonic() + CONFIRM_SECONDS_MAX
        while time.monotonic() < deadline:
            with Client(self.master) as client:
                (said,) = client.ask(("HVALS", CONFIRMED))
            # EPOCH BEAT LEAST.
            if any(each.split()[0] == str(self.epoch).encode() for each in said):
                return
            time.sleep(0.05)
        raise RuntimeError(f"the proxy does not follow the map: it confirmed {said}, and the map's epoch is {self.epoch}")


def node_map(nodes, weight):
    """All nodes up, as the wire contract has them."""
    return {
        f"127.0.0.1:{port}": {
            "config": {"host": "127.0.0.1", "port": port},
            "weight": weight if index == 0 else 1,
            "up": True,
            "stateChangeTime": 1,
            "name": f"127.0.0.1:{port}",
        }
        for index, port in enumerate(nodes)
    }


class Swapper:
    """Publishes one map after another for as long as it is entered. Nobody need follow them."""

    def __init__(self, published, a_second):
        self.map, self.every, self.over = published, 1 / a_second, threading.Event()
        self.thread = threading.Thread(target=self.run)

    def __enter__(self):
        self.thread.start()

    def __exit__(self, *_):
        self.over.set()
        self.thread.join()

    def run(self):
        number = 0
        while not self.over.wait(self.every):
            number += 1
            self.map.publish(WEIGHTS[number % 2])


def measure(proxy, followed, ignored, point, requests):
    """A run with swaps, between two in which as much is published that the proxy does not follow."""

    def run(published):
        # Who looks whether values are right would look in the wrong place meanwhile: nobody moves its keys with the map.
        with Swapper(published, point.swaps):
            return load.measure(proxy, point, requests, watch=False)

    calm, found = run(ignored), run(followed)
    followed.wait_until_followed()
    calm_again = run(ignored)
    return beside(found, calm, calm_again)


def beside(found, calm, calm_again):
    """What was found with swaps, with what there was without before and after."""
    limit = calm["p99.9_ms"]
    return {
        **found,
        "slower": load.slower_than(found["distribution"], limit),
        "calm_slower": load.slower_than(calm_again["distribution"], limit),
        **{f"calm_{name}": (calm[name] + calm_again[name]) / 2 for name in ("cpu_us", "p99.9_ms", "max_ms")},
    }
