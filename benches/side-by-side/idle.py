"""What an idle connection takes of a proxy's memory."""

import contextlib

from checks import Client, expect, key, value

# Connections that come first, so that what a proxy sets up once does not count.
FIRST = 200


def measure(server, point):
    """Opens connections that do one command each, and returns by how much the proxy grew for each of them."""
    with contextlib.ExitStack() as open_ones:
        connect(server, point, FIRST, open_ones)
        before = server.rss_kib()
        connect(server, point, point.clients, open_ones)
        return {"idle_kib": (server.rss_kib() - before) / point.clients}


def connect(server, point, count, open_ones):
    for number in range(count):
        client = open_ones.enter_context(Client(server.address))
        number %= point.keyspace()
        (reply,) = client.ask(("GET", key(number)))
        expect(server.name, "GET", reply, value(number, point.value_bytes))
