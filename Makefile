# Every command of this repository. `make` alone lists them.
.DEFAULT_GOAL := help
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c

# The harness is an ordinary crate of the workspace: it builds the rest.
E2E := cargo run --quiet --package e2e --

# The load of a benchmark must not be slower than what it measures.
BENCH := cargo run --release --quiet --package e2e -- bench

# Seeds that `make sim` plays.
SEEDS ?= 10000

.PHONY: help
help: ## List the targets
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  %-14s %s\n", $$1, $$2}'

.PHONY: prerequisites
prerequisites:
	@missing=""; for tool in cargo go cc python3 java mvn; do command -v $$tool >/dev/null || missing="$$missing $$tool"; done; \
	if [ -n "$$missing" ]; then echo "missing:$$missing (see README, \"What the machine needs\")" >&2; exit 1; fi

.PHONY: run
run: prerequisites ## Bring a real cluster up, install the chart, call every building block, print the table
	@echo "building the harness (the first build takes some minutes)"
	$(E2E) run

.PHONY: stop
stop: ## End the cluster of `make run` and leave nothing behind
	$(E2E) down

.PHONY: test
test: prerequisites unit e2e ## Everything: unit tests first, the cluster last

.PHONY: unit
unit: ## Tests that need no cluster
	cargo test --workspace --exclude e2e --no-fail-fast
	cargo test --package e2e --lib --bins

.PHONY: fuzz
fuzz: ## Hostile input and races: the property tests for longer (PROPTEST_CASES)
	PROPTEST_CASES=$${PROPTEST_CASES:-20000} cargo test --package identity --package sentry

.PHONY: e2e
e2e: prerequisites ## Tests against a real cluster, which this brings up
	$(E2E) test

.PHONY: test-compat
test-compat: prerequisites ## Older sidecars and upgrades from upstream (long)
	$(E2E) test --compat

.PHONY: bench-actors
bench-actors: prerequisites ## Actors with real sidecars while placement is disturbed (long)
	$(E2E) up
	$(E2E) actors

.PHONY: sim
sim: ## Placement's simulation: make sim SEEDS=100000; SIM_SEED=n replays one seed
	SIM_SEEDS=$(SEEDS) cargo test --package placement --test sim $(if $(SIM_SEED),-- --nocapture --test-threads 1)

.PHONY: bench
bench: bench-placement bench-sentry ## Both benchmarks

.PHONY: bench-placement
bench-placement: ## Placement beside upstream's: time, rounds, CPU, memory (7 minutes)
	$(BENCH) placement

.PHONY: bench-sentry
bench-sentry: ## Sentry beside upstream's: CPU per certificate, latency, memory (7 minutes)
	$(BENCH) sentry

.PHONY: verify
verify: ## Read-only checks: format, lints, docs, generated files, licences
	cargo fmt --all --check
	cargo clippy --locked --workspace --all-targets -- --deny warnings
	RUSTDOCFLAGS="--deny warnings" cargo doc --workspace --no-deps --document-private-items
	cargo run --quiet --package crds --bin crdgen -- --check
	cargo deny check bans licenses sources
	crates/h2/check

.PHONY: fix
fix: ## The writing counterpart of `verify`
	cargo fmt --all
	cargo run --quiet --package crds --bin crdgen

.PHONY: golden
golden: ## Rewrite golden files; review the diff
	UPDATE_GOLDEN=1 cargo test --workspace --exclude e2e --no-fail-fast

.PHONY: images
images: ## Build the four images with Docker
	for component in operator sentry placement injector; do \
		docker build --file e2e/Dockerfile --build-arg COMPONENT=$$component --tag localhost/dapr/$$component:1.18.3 .; \
	done
