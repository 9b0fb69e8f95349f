# What each target does stands behind it; `make help` prints that.

SHELL := /bin/bash
.DEFAULT_GOAL := help
.PHONY: help setup build up down test check fix bench chaos chaos-quick chaos-long simulated simulator

# `PROFILE=dev` builds faster and runs slower.
PROFILE ?= release
BIN = target/$(if $(filter dev,$(PROFILE)),debug,$(PROFILE))

help: ## this list
	@awk -F':.*## ' '/^[a-z-]+:.*## /{printf "  make %-11s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: ## what the machine must have: Debian packages, cargo-nextest, kubectl
	@.ci/setup

build: setup ## the optimized programs
	@cargo build --profile $(PROFILE) --workspace --bins

up: build ## a local cluster: 3 servers, 2 nodes, a sample app
	@$(BIN)/kontiki up

down: ## removes the local cluster, all of it
	@if [ -x $(BIN)/kontiki ]; then $(BIN)/kontiki down; else echo "nothing was built, so nothing is up"; fi

SIMULATED = -p kontiki-chaos --no-default-features --features simulation

test: setup ## format, lints, all tests, simulated clusters; as root end-to-end tests and `make chaos` too
	@cargo fmt --all --check
	@cargo clippy --workspace --all-targets --quiet -- -D warnings
	@cargo clippy $(SIMULATED) --all-targets --quiet -- -D warnings
	@cargo build --workspace --bins
	@cargo nextest run --workspace
	@$(MAKE) --no-print-directory $(if $(filter 0,$(shell id -u)),chaos PROFILE=dev,simulated)

check: ## format and lints alone
	@cargo fmt --all --check
	@cargo clippy --workspace --all-targets -- -D warnings

fix: ## formats, and mends what the lints can mend
	@cargo clippy --workspace --all-targets --fix --allow-dirty --allow-staged
	@cargo fmt --all

bench: build ## the budget table, measured on this machine beside etcd
	@cargo build --release -p kontiki-store --example kv
	@$(BIN)/kontiki-chaos bench

chaos: simulated build ## hurts clusters, simulated and real, and checks that nothing acknowledged is lost: under 10 minutes
	@$(BIN)/kontiki-chaos power-cut --cuts 200 --threads 4
	@$(BIN)/kontiki-chaos run

chaos-quick: simulated build ## `make chaos` without power cuts and the longer scenarios
	@$(BIN)/kontiki-chaos run --quick

MINUTES ?= 60
chaos-long: build ## the same at random, until MINUTES (60) are over
	@$(BIN)/kontiki-chaos long --minutes $(MINUTES)

simulated: simulator ## the simulated part of `make chaos`: needs no root
	@target/simulator/kontiki-sim mutants
	@target/simulator/kontiki-sim run --runs 300

simulator: setup ## the simulator alone, at target/simulator/kontiki-sim
	@cargo build --quiet --profile simulator $(SIMULATED) --bin kontiki-sim
