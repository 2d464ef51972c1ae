"""The proxies that are compared: where their programs are, what they are told, and how they are started.

Each is given one address to listen on, the same nodes at equal weight, as many worker threads as asked for, and otherwise its
defaults; what is not default is said at its `write_config`.
"""

import json
import os
import re
import shlex
import shutil
import subprocess
import tempfile
from pathlib import Path

from servers import free_ports

REPOSITORY = Path(__file__).resolve().parents[2]


class Contender:
    """One program."""

    name = ""
    # Environment variable that names the program, and what it is called where it is installed.
    variable, program_name = "", ""
    version_argv = ["--version"]
    # It cannot use more threads than this.
    threads_max = 64

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

    def start(self, servers, nodes, workers):
        (port,) = free_ports(1)
        config = servers.directory / f"{self.name}-{port}.conf"
        self.write_config(config, port, [node.port for node in nodes], workers)
        return servers.start(self.name, self.argv(config, port, nodes, workers), port)

    def write_config(self, path, port, nodes, workers):
        pass

    def argv(self, config, port, nodes, workers):
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


class Vrc(Contender):
    name, variable, program_name = "vrc", "VRC", "vrc"

    @classmethod
    def find(cls):
        built = REPOSITORY / os.environ.get("CARGO_TARGET_DIR", "target") / "release" / "vrc"
        named = os.environ.get(cls.variable)
        program = named or built
        if not Path(program).exists():
            raise SystemExit("vrc is not built: cargo build --release -p vrc")
        return cls(str(program))

    def version(self):
        git = ["git", "-C", str(REPOSITORY), "describe", "--always", "--dirty", "--exclude=*"]
        commit = subprocess.run(git, capture_output=True, text=True).stdout.strip()
        return f"{super().version()} ({commit or 'unknown commit'})"

    def argv(self, config, port, nodes, workers):
        addresses = ",".join(f"127.0.0.1:{node.port}" for node in nodes) or "NODES"
        listen = f"127.0.0.1:{port}"
        return [self.program, "proxy", "--nodes", addresses, "--listen", listen, "--workers", workers, "--log", "error"]


class Predixy(Contender):
    name, variable, program_name = "predixy", "PREDIXY", "predixy"

    def write_config(self, path, port, nodes, workers):
        # Its samples of log lines are switched off: by default it writes some for requests, and they cost time.
        samples = [f"Log{level}Sample 0" for level in ("Verb", "Debug", "Info", "Notice", "Warn", "Error")]
        groups = [f"Group g{index} {{\n+ 127.0.0.1:{node}\n}}" for index, node in enumerate(nodes)]
        path.write_text(
            "\n".join(
                ["Name bench", f"Bind 127.0.0.1:{port}", f"WorkerThreads {workers}", "Log /dev/null", *samples]
                + ["Authority {\nAuth {\nMode write\n}\n}"]
                + ["StandaloneServerPool {\nRefreshMethod fixed\nHash crc16\nDistribution modula\nDatabases 16"]
                + groups
                + ["}\n"]
            )
        )

    def argv(self, config, port, nodes, workers):
        return [self.program, config]


class Twemproxy(Contender):
    name, variable, program_name = "twemproxy", "TWEMPROXY", "nutcracker"
    threads_max = 1

    def write_config(self, path, port, nodes, workers):
        servers = "\n".join(f"    - 127.0.0.1:{node}:1" for node in nodes)
        path.write_text(
            f"bench:\n  listen: 127.0.0.1:{port}\n  hash: fnv1a_64\n  distribution: ketama\n  redis: true\n"
            f"  auto_eject_hosts: false\n  servers:\n{servers}\n"
        )
        (self.stats_port,) = free_ports(1)

    def argv(self, config, port, nodes, workers):
        stats = self.stats_port if nodes else "PORT"
        return [self.program, "-c", config, "-v", "0", "-s", stats]


class Envoy(Contender):
    name, variable, program_name = "envoy", "ENVOY", "envoy"

    def write_config(self, path, port, nodes, workers):
        def address(number):
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
                "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address(node)}} for node in nodes]}],
            },
        }
        listener = {
            "name": "bench",
            "address": address(port),
            "filter_chains": [{"filters": [{"name": "envoy.filters.network.redis_proxy", "typed_config": proxy}]}],
        }
        path.write_text(json.dumps({"static_resources": {"listeners": [listener], "clusters": [cluster]}}))
        path.rename(path.with_suffix(".json"))

    def argv(self, config, port, nodes, workers):
        config = config.with_suffix(".json") if isinstance(config, Path) else config
        quiet = ["--log-level", "off", "--disable-hot-restart"]
        return [self.program, "-c", config, "--concurrency", workers, *quiet]


class Aster(Contender):
    name, variable, program_name = "aster", "ASTER", "aster-proxy"

    def write_config(self, path, port, nodes, workers):
        servers = ", ".join(f'"127.0.0.1:{node}:1 n{index}"' for index, node in enumerate(nodes))
        path.write_text(
            f'[[clusters]]\nname = "bench"\nlisten_addr = "127.0.0.1:{port}"\ncache_type = "redis"\n'
            f"thread = {workers}\nservers = [{servers}]\n"
        )

    def argv(self, config, port, nodes, workers):
        return [self.program, "--config", config]


class Alone(Contender):
    """One of the nodes without any proxy: what the load generator can get out of this machine."""

    name, variable, program_name = "redis", "REDIS_SERVER", "redis-server"
    threads_max = 1

    @classmethod
    def find(cls):
        return super().find() or cls.valkey()

    @classmethod
    def valkey(cls):
        found = shutil.which("valkey-server")
        return cls(found) if found else None

    def start(self, servers, nodes, workers):
        (port,) = free_ports(1)
        volatile = ["--save", "", "--appendonly", "no", "--dir", servers.directory]
        return servers.start("alone", [self.program, "--port", port, "--bind", "127.0.0.1", *volatile], port)

    def argv(self, config, port, nodes, workers):
        return [self.program, "--port", port, "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]


# In the order in which tables show them; the first rival that is there is what all are compared with.
RIVALS = [Predixy, Twemproxy, Envoy, Aster]
ALL = [Vrc, *RIVALS, Alone]
