# What a person types. Each target says what it does; `make` alone lists them.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
CARGO ?= cargo

.PHONY: help setup build run demo lab test check bench fmt-check clippy deny docs-check fuzz-brief

help: ## Lists the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: ## Installs what is missing (Debian packages), or says what to install; a second run changes nothing
	@scripts/setup.sh

build: setup ## Builds everything, the libvirt worker included
	$(CARGO) build --workspace --bins

run: setup ## Builds and starts central and agent on this host, in the foreground (data in ./.run)
	@scripts/run.sh

demo: setup ## Boots a lab VM, breaks its storage, prints why it is stuck, cleans up (root)
	@scripts/demo.sh

lab: setup ## Plays the scenarios and prints a table; SCENARIO=name: one, with its timeline; RUNS=n: n times (root)
	@scripts/lab.sh

test: build ## Runs all tests; without root it leaves out those that boot a node, and lists them
	@scripts/test.sh

check: fmt-check clippy deny docs-check fuzz-brief ## Format, lints, dependencies, generated docs, short fuzz runs

bench: setup ## Measures the budget of the design on this machine
	@scripts/bench.sh

# The steps of `check`, each on its own.
fmt-check:
	$(CARGO) fmt --all --check

clippy:
	$(CARGO) clippy --workspace --all-targets -- -D warnings

deny:
	@scripts/deny.sh

# The generated catalogues in docs/ are what the tables in the code say.
docs-check:
	$(CARGO) test -q -p kulprit-tests --no-default-features --test docs

fuzz-brief:
	@scripts/fuzz.sh
