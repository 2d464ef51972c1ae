"""Starts servers on free ports, and stops every one of them whatever happens."""

import os
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path

START_SECONDS_MAX = 15


class Server:
    """A process that listens on a port."""

    def __init__(self, name, argv, port, log):
        self.name, self.argv, self.port, self.log = name, argv, port, log
        with open(log, "wb") as out:
            # A session of its own: Ctrl-C reaches this program alone, which then stops its servers in order.
            self.process = subprocess.Popen(
                argv, stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True
            )

    def wait_until_it_answers(self):
        deadline = time.monotonic() + START_SECONDS_MAX
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                break
            try:
                with socket.create_connection(("127.0.0.1", self.port), timeout=1) as client:
                    client.sendall(b"*2\r\n$3\r\nGET\r\n$5\r\nready\r\n")
                    if client.recv(64).startswith(b"$"):
                        return self
            except OSError:
                pass
            time.sleep(0.05)
        tail = Path(self.log).read_text(errors="replace")[-2000:]
        raise RuntimeError(f"{self.name} did not start (status {self.process.poll()}):\n{tail}")

    def cpu_ns(self):
        """User and system time of all its threads so far."""
        total = 0
        tasks = f"/proc/{self.process.pid}/task"
        for thread in os.listdir(tasks):
            with open(f"{tasks}/{thread}/schedstat") as stat:
                total += int(stat.read().split()[0])
        return total

    def rss_kib(self):
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(r"VmRSS:\s+(\d+)", status).group(1))

    def stop(self):
        for how in (signal.SIGTERM, signal.SIGKILL):
            if self.process.poll() is None:
                self.process.send_signal(how)
                try:
                    self.process.wait(5)
                except subprocess.TimeoutExpired:
                    pass


class Servers:
    """All servers of a run, in a directory of their own that goes with them."""

    def __init__(self):
        self.running = []
        self.directory = Path(tempfile.mkdtemp(prefix="vrc-bench-"))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        # A second Ctrl-C must not leave half of them running.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        self.stop(self.running)
        shutil.rmtree(self.directory, ignore_errors=True)

    def start(self, name, argv, port):
        server = Server(name, [str(arg) for arg in argv], port, self.directory / f"{name}-{port}.log")
        self.running.append(server)
        return server.wait_until_it_answers()

    def stop(self, servers):
        for server in reversed(list(servers)):
            server.stop()
            self.running.remove(server)


def free_ports(count):
    """Ports that nobody listens on now, all different."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()


def start_nodes(servers, program, count):
    """Plain redis servers that keep nothing on disk."""
    nodes = []
    for number, port in enumerate(free_ports(count)):
        volatile = ["--save", "", "--appendonly", "no", "--dir", servers.directory]
        nodes.append(servers.start(f"node{number}", [program, "--port", port, "--bind", "127.0.0.1", *volatile], port))
    return nodes
