"""Clients that write and read all the time, and note every error and every wrong value."""

import threading
import time

from resp import Client, ErrorReply


class Load:
    """One client a proxy and share of the keys. Each key belongs to one client, which so knows what it must hold."""

    def __init__(self, ports, keys):
        self.keys = keys
        self.errors = []  # (time, key, text)
        self.wrong = []  # (key, held, expected)
        self.missing = set()  # keys of which an acknowledged value was lost
        self.rounds = [0] * len(ports)
        self.is_over = threading.Event()
        shares = [keys[number :: len(ports)] for number in range(len(ports))]
        self.threads = [
            threading.Thread(target=self.play, args=(number, port, share), daemon=True)
            for number, (port, share) in enumerate(zip(ports, shares))
        ]

    def __enter__(self):
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self.is_over.set()
        for thread in self.threads:
            thread.join(60)

    def play(self, number, port, keys):
        expected = {}
        try:
            with Client(port) as client:
                while not self.is_over.is_set():
                    for key in keys:
                        self.visit(client, key, expected, f"{key}-{self.rounds[number]}")
                    self.rounds[number] += 1
        except (OSError, ValueError) as error:
            self.errors.append((time.monotonic(), None, f"connection to a proxy: {error!r}"))

    def visit(self, client, key, expected, value):
        """Reads what was written last time, and writes something else."""
        held, written = client.pipeline([("GET", key), ("SET", key, value)])
        if isinstance(held, ErrorReply):
            self.errors.append((time.monotonic(), key, str(held)))
        elif key in expected and held is None:
            self.missing.add(key)
        elif key in expected and held not in expected[key]:
            self.wrong.append((key, held, expected[key]))
        if isinstance(written, ErrorReply):
            # Nobody knows whether it was done.
            expected.setdefault(key, set()).add(value)
            self.errors.append((time.monotonic(), key, str(written)))
        else:
            expected[key] = {value}

    def await_rounds(self, count):
        """Until every client has been through its keys so many times from now on."""
        goals = [rounds + count for rounds in self.rounds]
        deadline = time.monotonic() + 60
        while any(rounds < goal for rounds, goal in zip(self.rounds, goals)):
            if time.monotonic() > deadline or not all(thread.is_alive() for thread in self.threads):
                return False
            time.sleep(0.05)
        return True
