"""Starts what is tested, for one unit at a time: whatever a unit leaves behind, the next one does not find."""

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path

NODES = 4
START_SECONDS_MAX = 15
# What the suite wants of a server that it is given.
REDIS_OPTIONS = ["--save", "", "--appendonly", "no", "--enable-debug-command", "yes", "--enable-module-command", "yes"]


class Servers:
    """A plain redis, or a proxy and its nodes. `port` is where to connect to."""

    def __init__(self, redis, proxy=None, options=()):
        """`redis` and `proxy` are programs; without a proxy it is a plain redis; `options` are the proxy's."""
        self.running = []
        self.directory = Path(tempfile.mkdtemp(prefix="vrc-tcl-"))
        try:
            ports = free_ports(NODES + 1 if proxy else 1)
            self.port, nodes = ports[0], ports[1:] or ports
            for port in nodes:
                self.start([redis, "--port", port, "--bind", "127.0.0.1", "--dir", self.directory, *REDIS_OPTIONS], port)
            for port in nodes:
                self.wait_for(port)
            if proxy:
                fixed = ",".join(f"127.0.0.1:{port}" for port in nodes)
                listen = ["--nodes", fixed, "--allow-node-config", "--listen", f"127.0.0.1:{self.port}"]
                self.start([proxy, "proxy", *listen, *options], self.port)
                self.wait_for(self.port)
        except BaseException:
            self.stop()
            raise

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stop()

    def start(self, argv, port):
        with open(self.directory / f"{port}.log", "wb") as log:
            argv = [str(arg) for arg in argv]
            # A session of its own: Ctrl-C reaches this program alone, which then stops its servers.
            self.running.append(subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True))

    def wait_for(self, port):
        deadline = time.monotonic() + START_SECONDS_MAX
        while time.monotonic() < deadline and self.running[-1].poll() is None:
            try:
                with socket.create_connection(("127.0.0.1", port), timeout=1) as client:
                    client.sendall(b"*2\r\n$3\r\nGET\r\n$5\r\nready\r\n")
                    if client.recv(64).startswith(b"$"):
                        return
            except OSError:
                pass
            time.sleep(0.02)
        raise RuntimeError(f"no server on port {port}:\n{(self.directory / f'{port}.log').read_text(errors='replace')[-2000:]}")

    def stop(self):
        for process in reversed(self.running):
            # A node may still run a script for ever; none has anything to save.
            os.kill(process.pid, signal.SIGKILL)
            process.wait()
        self.running = []
        shutil.rmtree(self.directory, ignore_errors=True)


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
