"""Starts servers on free ports, and stops every one of them whatever happens."""

import contextlib
import os
import re
import resource
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path

from checks import Client

START_SECONDS_MAX = 15
# How often and how long, in seconds, is looked whether a server has come to rest, and with which part of a core it has.
SETTLE_LOOKS_MAX, SETTLE_LOOK, SETTLED_PART = 40, 0.05, 0.05


class Server:
    """A process that listens on a port, or on a socket in a directory."""

    def __init__(self, name, argv, address, log):
        self.name, self.argv, self.address, self.log = name, argv, address, log
        # Whether it is a node, rather than what stands in front of nodes: they may have other cores.
        self.is_node = False
        with open(log, "wb") as out:
            # A session of its own: Ctrl-C reaches this program alone, which then stops its servers in order.
            self.process = subprocess.Popen(
                argv, stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True
            )

    def wait_until_it_answers(self, question):
        deadline = time.monotonic() + START_SECONDS_MAX
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                break
            try:
                with Client(self.address, timeout=1) as client:
                    client.ask(question)
                    return self
            except (OSError, RuntimeError):
                pass
            time.sleep(0.05)
        tail = Path(self.log).read_text(errors="replace")[-2000:]
        raise RuntimeError(f"{self.name} did not start (status {self.process.poll()}):\n{tail}")

    def cpu_ns(self):
        """User and system time of all its threads so far."""
        total = 0
        for task in self.tasks():
            with open(f"/proc/{self.process.pid}/task/{task}/schedstat") as stat:
                total += int(stat.read().split()[0])
        return total

    def tasks(self):
        """The numbers of its threads."""
        return [int(task) for task in os.listdir(f"/proc/{self.process.pid}/task")]

    def settle(self):
        """Until it has done what there is to do when clients have left: hardly anything for some moments."""
        for _ in range(SETTLE_LOOKS_MAX):
            before = self.cpu_ns()
            time.sleep(SETTLE_LOOK)
            if self.cpu_ns() - before < SETTLE_LOOK * SETTLED_PART * 1e9:
                return

    def rss_kib(self):
        return self.status_kib("VmRSS")

    def peak_kib(self):
        """The most that was resident since `forget_peak`."""
        return self.status_kib("VmHWM")

    def forget_peak(self):
        Path(f"/proc/{self.process.pid}/clear_refs").write_text("5")

    def status_kib(self, name):
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(rf"{name}:\s+(\d+)", status).group(1))

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
        # Those of proxies and of nodes, once that is decided.
        self.cores = None
        self.directory = Path(tempfile.mkdtemp(prefix="vrc-bench-"))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        # A second Ctrl-C must not leave half of them running.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        self.stop(self.running)
        shutil.rmtree(self.directory, ignore_errors=True)

    def start(self, name, argv, address, question=("GET", "ready")):
        """Starts a server and waits until it answers that."""
        log = self.directory / f"{name}-{Path(str(address)).name}.log"
        server = Server(name, [str(arg) for arg in argv], address, log)
        self.running.append(server)
        self.place(server)
        return server.wait_until_it_answers(question)

    def free_address(self, transport):
        """A port, or the path of a socket that is not there yet."""
        (port,) = free_ports(1)
        return port if transport == "tcp" else self.directory / f"{port}.sock"

    @contextlib.contextmanager
    def placed(self, generator, proxies, nodes):
        """Keeps this program, the servers that run, and those that are started meanwhile, to these cores."""
        before = os.sched_getaffinity(0)
        try:
            self.keep_to(generator, proxies, nodes)
            yield
        finally:
            self.keep_to(before, before, before)

    def keep_to(self, generator, proxies, nodes):
        os.sched_setaffinity(0, generator)
        self.cores = proxies, nodes
        for server in self.running:
            self.place(server)

    def take_for_node(self, server):
        """It is a node from here on."""
        server.is_node = True
        self.place(server)

    def place(self, server):
        """Keeps all threads that a server has, and those that it will start, to its cores."""
        if self.cores:
            proxies, nodes = self.cores
            # Who has ended meanwhile needs no core.
            with contextlib.suppress(ProcessLookupError, FileNotFoundError):
                for task in server.tasks():
                    os.sched_setaffinity(task, nodes if server.is_node else proxies)

    def stop(self, servers):
        for server in reversed(list(servers)):
            server.stop()
            self.running.remove(server)


def files_max():
    """How many files a process may open, raised to what is allowed: a server that is started inherits it."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


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
        node = servers.start(f"node{number}", [program, "--port", port, "--bind", "127.0.0.1", *volatile], port)
        servers.take_for_node(node)
        nodes.append(node)
    return nodes
