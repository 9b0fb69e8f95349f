# What each target does stands behind it; `make help` prints that.

SHELL := /bin/bash
.DEFAULT_GOAL := help
.PHONY: help setup build up down test check fix bench chaos

BIN := target/release

help: ## this list
	@awk -F':.*## ' '/^[a-z]+:.*## /{printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: ## what the machine must have: Debian packages, cargo-nextest, kubectl
	@.ci/setup

build: setup ## the optimized programs
	@cargo build --release --workspace --bins

up: build ## a local cluster: 3 servers, 2 nodes, a sample app
	@$(BIN)/kontiki up

down: ## removes the local cluster, all of it
	@if [ -x $(BIN)/kontiki ]; then $(BIN)/kontiki down; else echo "nothing was built, so nothing is up"; fi

test: setup ## format, lints, all tests; as root the end-to-end tests too
	@cargo fmt --all --check
	@cargo clippy --workspace --all-targets --quiet -- -D warnings
	@cargo build --workspace --bins
	@cargo nextest run --workspace

check: ## format and lints alone
	@cargo fmt --all --check
	@cargo clippy --workspace --all-targets -- -D warnings

fix: ## formats, and mends what the lints can mend
	@cargo clippy --workspace --all-targets --fix --allow-dirty --allow-staged
	@cargo fmt --all

bench: build ## the budget table, measured on this machine beside etcd
	@$(BIN)/kontiki-chaos bench

chaos: build ## hurts clusters and checks that nothing acknowledged is lost
	@$(BIN)/kontiki-chaos run
