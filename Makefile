# `make up` is all a new user needs; `make help` lists the rest.

CARGO ?= cargo
# Further arguments of `vrc up`, as in: make up ARGS="--nodes 8 --listen :7379"
ARGS ?=
# Options of the fault runner, as in: make chaos CHAOS="--seed 7 --duration 600 --kinds node-kill,master-kill"
CHAOS ?=
# How many histories to play, as in: make simulate SEEDS=1000000
SEEDS ?= 100000
# Options of the side-by-side benchmark, as in: make bench BENCH="--quick --workers 1,2"
BENCH ?=
# Redis's source tree, of redis-server's version, whose tests `make tcl` runs; and options, as in: TCL="--units type/list,multi --jobs 2"
REDIS_TESTS ?=
TCL ?=

.DEFAULT_GOAL := help
.PHONY: help up test tcl simulate chaos lint bench bench-guard cargo redis

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-12s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

up: cargo redis ## Build, and run a whole cluster on this machine until Ctrl-C (ARGS="--nodes 8" …)
	@$(CARGO) run --release -p vrc -- up $(ARGS)

test: cargo redis ## Run all tests, end to end ones against real redis servers
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

bench: cargo ## Load on this proxy and on others, side by side (BENCH="--quick"; rivals: see benches/README.md)
	$(CARGO) build --release -p vrc
	python3 benches/side-by-side $(BENCH)

bench-guard: cargo ## Count the hot path's instructions; more than 5 % over the baseline fails
	python3 benches/guard.py

cargo:
	@command -v $(CARGO) >/dev/null || { echo "Rust is not here: see https://rustup.rs" >&2; exit 1; }

redis:
	@scripts/ensure-redis
