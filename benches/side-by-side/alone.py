"""The latency that one client alone sees, which waits for each reply before it asks anew."""

import time

from checks import Client, encode, expect, key, value

# Requests that one proxy is asked before it is the next one's turn, and how often each has its turn in a round.
BATCH, TURNS = 100, 20


def round_of(servers, direct, point, scale=1.0):
    """Asks all in turn, and a node directly; returns a sample of each by its name."""
    wanted = value(0, point.value_bytes)
    took = {name: [] for name in [direct.name, *servers]}
    clients = {name: Client(server.address) for name, server in {direct.name: direct, **servers}.items()}
    request = encode((point.test, key(0)))
    try:
        for name, client in clients.items():
            if name == direct.name:
                client.ask(("SET", key(0), wanted))
            expect(name, point.test, client.ask((point.test, key(0)))[0], wanted)
        for turn in range(max(2, int(TURNS * scale))):
            # Forwards, then backwards.
            for name in list(clients) if turn % 2 == 0 else reversed(list(clients)):
                took[name] += batch(clients[name], request)
    finally:
        for client in clients.values():
            client.socket.close()
    median = percentile(took[direct.name], 50)
    return {name: sample(ns, median) for name, ns in took.items()}


def batch(client, request):
    """How long each of the requests took, in ns."""
    reply_bytes = len(exchange(client.socket, request))
    took = []
    for _ in range(BATCH):
        start = time.perf_counter_ns()
        client.socket.sendall(request)
        # Small replies come whole; what if not is asked for again.
        got = len(client.socket.recv(65_536))
        while got < reply_bytes:
            got += len(client.socket.recv(65_536))
        took.append(time.perf_counter_ns() - start)
    return took


def exchange(socket, request):
    socket.sendall(request)
    return socket.recv(65_536)


def sample(ns, direct_median):
    p50 = percentile(ns, 50)
    return {"p50_us": p50 / 1e3, "p99_us": percentile(ns, 99) / 1e3, "added_us": (p50 - direct_median) / 1e3}


def percentile(values, percent):
    """The least value that so many percent do not exceed."""
    ordered = sorted(values)
    return ordered[max(0, -(-len(ordered) * percent // 100) - 1)]
