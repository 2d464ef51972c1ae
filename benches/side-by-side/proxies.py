"""The processes of a suite: the nodes, and the proxies in front of them, with the keys that they need."""

import contextlib

import swap
from checks import Client, fill_and_check
from servers import free_ports, start_nodes

NODES = 4


class Proxies:
    """Starts proxies as points need them, and sees to it that each has its keys."""

    def __init__(self, servers, node_program, follow):
        self.servers, self.node_program = servers, node_program
        self.nodes = [node.address for node in start_nodes(servers, node_program, NODES)]
        # Whether proxies follow a master's node map, rather than know their nodes; those maps, by contender; and one that nobody follows.
        self.follow, self.maps = follow, {}
        self.ignored_map = self.new_map() if follow else None
        # By contender, workers and transport.
        self.shared_ones = {}
        # Contenders that have given the keys values, and the size of those. Each has its own way of placing keys.
        self.filled, self.filled_bytes = set(), 0

    def shared(self, each, point):
        """The process that all runs at such points share, with its keys."""
        key = (each.name, point.workers, point.transport)
        if key not in self.shared_ones:
            self.shared_ones[key] = self.start(each, point)
            if each.keeps:
                self.filled.discard(each.name)
        self.fill(each, self.shared_ones[key], point)
        return self.shared_ones[key]

    @contextlib.contextmanager
    def fresh(self, each, point):
        """A process that has done nothing before, for once. Its keys are given by another, unless it keeps them itself."""
        if not each.keeps and not self.has_keys(each, point):
            with self.once(each, point) as other:
                self.fill(each, other, point)
        with self.once(each, point) as proxy:
            if each.keeps:
                fill_and_check(each.name, proxy.address, point.keyspace(), point.value_bytes)
            yield proxy

    @contextlib.contextmanager
    def once(self, each, point):
        proxy = self.start(each, point)
        try:
            yield proxy
        finally:
            self.servers.stop([proxy])

    def start(self, each, point):
        if not self.follow:
            return each.start(self.servers, self.nodes, point)
        self.maps[each.name] = self.new_map()
        return each.start_with_master(self.servers, self.maps[each.name].master, point)

    def new_map(self):
        """A map in a master of its own."""
        (port,) = free_ports(1)
        self.servers.start("master", [self.node_program, "--port", port, "--bind", "127.0.0.1", "--save", ""], port)
        new = swap.Map(port, self.nodes)
        new.publish(swap.WEIGHTS[0])
        return new

    def has_keys(self, each, point):
        return not each.serves or (each.name in self.filled and point.value_bytes == self.filled_bytes)

    def fill(self, each, proxy, point):
        """Gives it its keys, if it does not have them."""
        if self.has_keys(each, point):
            return
        if point.value_bytes != self.filled_bytes:
            for node in self.nodes:
                with Client(node) as client:
                    client.ask(("FLUSHALL",))
            self.filled, self.filled_bytes = set(), point.value_bytes
        fill_and_check(each.name, proxy.address, point.keyspace(), point.value_bytes)
        # Those that move with the map have to be at both places.
        for weight in reversed(swap.WEIGHTS) if self.follow else ():
            self.maps[each.name].publish(weight)
            self.maps[each.name].wait_until_followed()
            fill_and_check(each.name, proxy.address, point.keyspace(), point.value_bytes)
        self.filled.add(each.name)
