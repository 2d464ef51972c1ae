# `make up` is all a new user needs; `make help` lists the rest.

CARGO ?= cargo
# Further arguments of `vrc up`, as in: make up ARGS="--nodes 8 --listen :7379"
ARGS ?=
# Options of the fault runner, as in: make chaos CHAOS="--seed 7 --duration 600 --kinds node-kill,master-kill"
CHAOS ?=
# How many histories to play, as in: make simulate SEEDS=1000000
SEEDS ?= 100000
# Options of the side-by-side benchmark, as in: make bench BENCH="--suite all --budget 1800"
BENCH ?=
# How many nodes and readers `make bench-membership` plays
SIZE ?= 1000 1000
# Redis's source tree, of redis-server's version, whose tests `make tcl` runs; and options, as in: TCL="--units type/list,multi --jobs 2"
REDIS_TESTS ?=
TCL ?=
# Options of the demo cluster's test: DOCKER_TEST="--program target/release/vrc" spares compiling in the image
DOCKER_TEST ?=

.DEFAULT_GOAL := help
.PHONY: help up test tcl simulate chaos lint bench bench-membership bench-guard docker-demo docker-test cargo redis

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-17s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

up: cargo redis ## Build, and run a whole cluster on this machine until Ctrl-C (ARGS="--nodes 8" …)
	@$(CARGO) run --release -p vrc -- up $(ARGS)

test: cargo redis ## Run all tests, end to end ones against real redis servers
	@if command -v python3 >/dev/null; then python3 -m unittest discover -s benches/side-by-side -p tests.py; \
	else echo "python3 is not here: tests of the side-by-side benchmark are left out"; fi
	$(CARGO) test --workspace --no-fail-fast

simulate: cargo ## Play SEEDS histories (100,000 unless told) of membership in a simulated world; one alone: VRC_SEED=17 make simulate
	VRC_SEEDS=$(SEEDS) $(CARGO) test -p vrc-cluster --lib simulation_holds -- --nocapture

tcl: cargo redis ## Run redis's own test suite through the proxy, and compare (REDIS_TESTS=/path/to/redis; all: TCL=--help)
	$(CARGO) build -p vrc
	@REDIS_TESTS="$(REDIS_TESTS)" python3 vrc/tests/tcl $(TCL)

chaos: cargo redis ## Play faults to a whole cluster under checked traffic (CHAOS="--seed 7 --duration 600"; all: CHAOS=--help)
	$(CARGO) build -p vrc -p vrc-chaos
	@target/debug/vrc-chaos $(CHAOS)

lint: cargo ## Check formatting, and what clippy has to say
	$(CARGO) fmt --check
	$(CARGO) clippy --workspace --all-targets -- -D warnings

bench: cargo redis ## Load on this proxy and on others, side by side (BENCH="--suite all --budget 1800"; see benches/README.md)
	$(CARGO) build --release -p vrc
	$(CARGO) build --release -p vrc-floor
	python3 benches/side-by-side $(BENCH)

bench-membership: cargo redis ## What membership costs the master of a large cluster, and how readers behave (SIZE="1000 1000": nodes, readers)
	$(CARGO) run --release -p vrc-benches --example membership -- $(SIZE)

bench-guard: cargo ## Count the hot path's instructions; more than 5 % over the baseline fails
	python3 benches/guard.py

docker-demo: ## Start a whole cluster in containers, and say what to try (needs Docker; stop: docker compose -f docker/compose.yml down)
	@docker/demo

docker-test: ## Try that cluster in earnest: load, kills, restarts, scaling (DOCKER_TEST="--program target/release/vrc")
	@PYTHONDONTWRITEBYTECODE=1 python3 docker/test $(DOCKER_TEST)

cargo:
	@command -v $(CARGO) >/dev/null || { echo "Rust is not here: see https://rustup.rs" >&2; exit 1; }

redis:
	@scripts/ensure-redis
