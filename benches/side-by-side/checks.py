"""Checks that a proxy answers right: before it is measured, and while it is."""

import itertools
import random
import socket
import threading

from suites import MULTI_KEYS

FILL_PIPELINE = 500
CHECKS = 200
# Seconds between two checks under load: some 20 requests a second more.
WATCH_EVERY = 0.1


class Client:
    """Speaks just enough of the protocol to check replies, and shares no code with what it checks."""

    def __init__(self, address, timeout=60):
        if isinstance(address, int):
            self.socket = socket.create_connection(("127.0.0.1", address), timeout=timeout)
            self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        else:
            self.socket = socket.socket(socket.AF_UNIX)
            self.socket.settimeout(timeout)
            self.socket.connect(str(address))
        self.file = self.socket.makefile("rb")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.file.close()
        self.socket.close()

    def ask(self, *requests):
        """Sends requests in one go and returns their replies."""
        self.socket.sendall(b"".join(map(encode, requests)))
        return [self.reply() for _ in requests]

    def reply(self):
        line = self.file.readline()
        kind, rest = line[:1], line[1:-2]
        if kind == b"+":
            return rest
        if kind == b":":
            return int(rest)
        if kind == b"$":
            return None if rest == b"-1" else self.file.read(int(rest) + 2)[:-2]
        if kind == b"*":
            return [self.reply() for _ in range(int(rest))]
        raise RuntimeError(f"unexpected reply {line[:200]!r}")


def encode(words):
    words = [word if isinstance(word, bytes) else str(word).encode() for word in words]
    return b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%b\r\n" % (len(word), word) for word in words)


def key(number):
    return f"key:{number:012}"


def value(number, size):
    return (b"%012d" % number).ljust(size, b"v")[:size] if size >= 12 else b"v" * size


def fill_and_check(name, address, count, size):
    """Gives every key of the run a value through the proxy, and reads some back in every way that is measured."""
    with Client(address) as client:
        step = max(1, min(FILL_PIPELINE, 2_000_000 // size))
        for start in range(0, count, step):
            numbers = range(start, min(start + step, count))
            for reply in client.ask(*(("SET", key(number), value(number, size)) for number in numbers)):
                expect(name, "SET", reply, b"OK")
        chance = random.Random(1)
        numbers = [chance.randrange(count) for _ in range(min(CHECKS, count))]
        for number in numbers:
            (reply,) = client.ask(("GET", key(number)))
            expect(name, "GET", reply, value(number, size))
        few = numbers[:MULTI_KEYS]
        # The last key of the MGET has no value.
        (reply,) = client.ask(("MGET", *map(key, few), "key:none"))
        expect(name, "MGET", reply, [value(number, size) for number in few] + [None])
        own = [f"check:{number}" for number in range(MULTI_KEYS)]
        pairs = list(itertools.chain.from_iterable((one, f"value of {one}") for one in own))
        set_all, get_all, deleted, again = client.ask(("MSET", *pairs), ("MGET", *own), ("DEL", *own), ("DEL", *own))
        expect(name, "MSET", set_all, b"OK")
        expect(name, "MGET", get_all, [one.encode() for one in pairs[1::2]])
        expect(name, "DEL", (deleted, again), (len(own), 0))


def expect(name, what, got, expected):
    if got != expected:
        raise RuntimeError(f"{name} answers {what} wrong: {str(got)[:200]} rather than {str(expected)[:200]}")


class Watch:
    """A client beside the load, that sets values of its own and must get them back, each after each."""

    def __init__(self, server):
        self.server, self.over, self.wrong = server, threading.Event(), None
        self.thread = threading.Thread(target=self.run)

    @staticmethod
    def none():
        """Where nothing can be checked."""
        watch = Watch(None)
        watch.thread = threading.Thread(target=lambda: None)
        return watch

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, kind, *_):
        self.over.set()
        self.thread.join()
        if self.wrong and kind is None:
            raise self.wrong

    def run(self):
        try:
            with Client(self.server.address) as client:
                for number in itertools.count():
                    words = [(f"watch:{index}", f"{number} of {index}") for index in range(MULTI_KEYS)]
                    *_, got, several = client.ask(
                        *(("SET", *pair) for pair in words), ("GET", words[0][0]), ("MGET", *(name for name, _ in words))
                    )
                    expect(self.server.name, "GET under load", got, words[0][1].encode())
                    expect(self.server.name, "MGET under load", several, [text.encode() for _, text in words])
                    if self.over.wait(WATCH_EVERY):
                        return
        except (OSError, RuntimeError) as error:
            self.wrong = RuntimeError(f"{self.server.name} under load: {error}")
