"""The demo cluster as the test sees it: docker compose under a project of its own, and docker for single containers."""

import json
import os
import pathlib
import random
import shutil
import socket
import subprocess
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
LABEL = "com.docker.compose."
PARTS = {"master": 1, "coordinator": 2, "node": 4, "proxy1": 1, "proxy2": 1}


class Failure(Exception):
    """Something is not as it should be."""


def run(*words, limit=60, env=None, check=True, cwd=ROOT):
    """Runs a program. Returns its standard output, or with check=False the finished process."""
    try:
        done = subprocess.run(words, cwd=cwd, env=env, timeout=limit, text=True, stdin=subprocess.DEVNULL, capture_output=True)
    except subprocess.TimeoutExpired as error:
        raise Failure(f"{' '.join(words)}: not done within {limit} s") from error
    if not check:
        return done
    if done.returncode != 0:
        raise Failure(f"{' '.join(words)}: exit status {done.returncode}\n{done.stdout[-4000:]}{done.stderr[-4000:]}")
    return done.stdout


def await_that(what, look, limit=60):
    """Looks again and again until there is something to see, and returns that."""
    deadline = time.monotonic() + limit
    while True:
        seen = look()
        if seen:
            return seen
        if time.monotonic() > deadline:
            raise Failure(f"not within {limit} s: {what}")
        time.sleep(0.2)


def find_composes():
    """docker compose v2 and docker-compose 1.29, by version, as far as they are there."""
    found = {}
    for words in (["docker", "compose"], ["docker-compose"]):
        if shutil.which(words[0]) and run(*words, "version", check=False).returncode == 0:
            # docker-compose may be v2 by another name.
            found.setdefault(version_of(words), words)
    return found


def version_of(compose):
    return run(*compose, "version", "--short").strip().lstrip("v")


def free_port():
    """Below those that outgoing connections take, so that it is still free when Docker publishes it."""
    while True:
        port = random.randrange(20000, 30000)
        with socket.socket() as listener:
            try:
                listener.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port


class Cluster:
    def __init__(self, compose):
        # What is run as docker compose, from now on.
        self.compose_words = compose
        self.project = f"vrctest{os.getpid()}"
        self.image = f"{self.project}-image"
        self.ports = [free_port(), free_port()]
        self.env = {
            **os.environ,
            "VRC_IMAGE": self.image,
            "PROXY1_PORT": str(self.ports[0]),
            "PROXY2_PORT": str(self.ports[1]),
            "LOAD_REQUESTS": "20000",
            # No node goes down for being slow on a busy machine.
            "VRC_GUEST_FLUSH_TIMEOUT": "5s",
            "VRC_RECHECK": "2s",
        }

    def compose(self, *words, limit=120, check=True):
        words = [*self.compose_words, "-p", self.project, "-f", "docker/compose.yml", *words]
        return run(*words, limit=limit, env=self.env, check=check)

    def sh(self, words, limit=120):
        """What a shell command writes that somebody gives who works with this cluster."""
        env = {**self.env, "COMPOSE": " ".join(self.compose_words), "COMPOSE_PROJECT_NAME": self.project}
        return run("sh", "-c", words, limit=limit, env=env)

    def build(self, limit):
        """The image as a user builds it."""
        self.compose("build", "master", limit=limit)

    def build_with(self, program):
        """The image around a program that was compiled here already: what `cargo build` takes is spared. False if it does not
        run there, as one that needs a newer libc."""
        runtime = f"{self.project}-runtime"
        run("docker", "build", "-t", runtime, "--target", "runtime", "-f", "docker/Dockerfile", ".", limit=300)
        with tempfile.TemporaryDirectory() as context:
            shutil.copy(program, f"{context}/vrc")
            if shutil.which("strip"):
                run("strip", f"{context}/vrc")
            pathlib.Path(context, "Dockerfile").write_text(f"FROM {runtime}\nCOPY vrc /usr/local/bin/vrc\n")
            run("docker", "build", "-t", self.image, context, limit=120)
        return run("docker", "run", "--rm", self.image, "--version", check=False).returncode == 0

    def containers(self, part=None):
        """Ids of the project's containers, those that have ended included."""
        filters = ["--filter", f"label={LABEL}project={self.project}"]
        if part:
            filters += ["--filter", f"label={LABEL}service={part}"]
        return run("docker", "ps", "-a", "-q", *filters).split()

    def inspect(self, *containers):
        return json.loads(run("docker", "inspect", *containers)) if containers else []

    def await_healthy(self, limit=90):
        """Until every container says that it is well."""
        def look():
            states = [found["State"] for found in self.inspect(*self.containers())]
            return states and all(state.get("Health", {}).get("Status") == "healthy" for state in states)
        await_that("all containers healthy", look, limit)

    def within(self, container, *words, limit=30):
        """What a program in a container writes."""
        return run("docker", "exec", container, *words, limit=limit)

    def status(self):
        """`vrc status`, asked in a container that takes no part in what happens."""
        return json.loads(self.within(self.containers("proxy1")[0], "vrc", "status", "--json"))

    def await_nodes(self, up, limit=60):
        await_that(f"{up} nodes up", lambda: self.status()["nodes_up"] == up, limit)

    def homes(self, keys):
        """Which node each key is at home on."""
        words = ["vrc", "where", "--json", *keys]
        return {each["key"]: each["home"] for each in json.loads(self.within(self.containers("proxy1")[0], *words))}

    def leader(self):
        """The container of the coordinator that leads, by its own word."""
        for container in self.containers("coordinator"):
            asked = run("docker", "exec", container, "vrc", "health", check=False)
            if asked.returncode == 0 and json.loads(asked.stdout)["leading"]:
                return container
        return None

    def leavings(self):
        """What of the project is still there."""
        label = f"label={LABEL}project={self.project}"
        found = [*self.containers()]
        for kind in ("network", "volume"):
            found += run("docker", kind, "ls", "-q", "--filter", label).split()
        return found

    def logs(self):
        done = self.compose("logs", "--no-color", "--tail", "40", check=False)
        return done.stdout + done.stderr

    def remove(self):
        self.compose("down", "--volumes", "--remove-orphans", "--timeout", "10", limit=120)

    def remove_images(self):
        for image in (self.image, f"{self.project}-runtime"):
            run("docker", "image", "rm", "-f", image, check=False)
