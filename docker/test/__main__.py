"""The demo cluster of docker/compose.yml, tried in earnest: `make docker-test`, or python3 docker/test [--program PATH].

By docker compose v2 and by docker-compose 1.29, one after the other, where both are there. Says that it is skipped, and ends well, where no
container can be run. Whatever it starts is gone when it ends."""

import argparse
import signal
import sys
import time

from cluster import Cluster, Failure, find_composes, run, version_of
from story import Story

BASE = "debian:bookworm-slim"
# Compiling with fat LTO on two busy cores.
BUILD_S_MAX = 3600
STORY_S_MAX = 900


def why_not():
    """Why no container can be run here; None if they can."""
    try:
        asked = run("docker", "info", "--format", "{{.ServerVersion}}", check=False)
    except FileNotFoundError:
        return "there is no docker"
    if asked.returncode != 0:
        return f"no Docker daemon answers ({last_line(asked.stderr)})"
    if not find_composes():
        return "there is neither docker compose nor docker-compose"
    if run("docker", "image", "inspect", BASE, check=False).returncode != 0:
        pulled = run("docker", "pull", "-q", BASE, limit=300, check=False)
        if pulled.returncode != 0:
            return f"the image {BASE} cannot be had ({last_line(pulled.stderr)})"
    return None


def last_line(text):
    return "".join(text.strip().splitlines()[-1:])


def out_of_time(*_):
    raise Failure("out of time")


def stopped(*_):
    raise Failure("told to stop")


def timed(words, work):
    began = time.monotonic()
    print(f"docker test: {words}", flush=True)
    result = work()
    print(f"        done in {time.monotonic() - began:.1f} s", flush=True)
    return result


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--program", help="build the image around this program rather than compile one in it")
    parser.add_argument("--compose", help="what to run as docker compose, such as docker-compose [default: each that is there]")
    args = parser.parse_args()
    try:
        reason = why_not()
    except Failure as error:
        reason = str(error)
    if reason:
        print(f"docker test: SKIPPED, nothing of docker/ was tested: {reason}")
        return 0
    signal.signal(signal.SIGALRM, out_of_time)
    signal.signal(signal.SIGTERM, stopped)
    composes = {version_of(args.compose.split()): args.compose.split()} if args.compose else find_composes()
    cluster = Cluster(next(iter(composes.values())))
    passed, is_over = 0, False
    try:
        signal.alarm(BUILD_S_MAX)
        is_built = args.program and timed("the image, around a program that is here", lambda: cluster.build_with(args.program))
        if args.program and not is_built:
            print(f"        {args.program} does not run in the image: another is compiled there")
        if not is_built:
            timed("the image", lambda: cluster.build(BUILD_S_MAX))
        for version, cluster.compose_words in composes.items():
            print(f"docker test: by {' '.join(cluster.compose_words)} {version}", flush=True)
            signal.alarm(STORY_S_MAX)
            for chapter in Story(cluster).chapters():
                timed(chapter.__name__.replace("_", " "), chapter)
                passed += 1
            timed("nothing is left when it goes down", lambda: go_down(cluster))
            passed += 1
        is_over = True
    except (Failure, KeyboardInterrupt, OSError) as error:
        print(f"docker test: FAILED: {error if isinstance(error, Failure) else repr(error)}")
        signal.alarm(120)
        print(cluster.logs())
    finally:
        signal.alarm(240)
        try:
            cluster.remove()
        finally:
            cluster.remove_images()
            signal.alarm(0)
    failed = 0 if is_over else 1
    print(f"docker: {passed} passed, {failed} failed")
    return failed


def go_down(cluster):
    cluster.remove()
    left = cluster.leavings()
    if left:
        raise Failure(f"left behind: {left}")


if __name__ == "__main__":
    sys.exit(main())
