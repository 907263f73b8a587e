# `make demo` and `make test` set everything up by themselves; the environment is installed once and reused.
SHELL := /bin/bash
.DEFAULT_GOAL := help
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed

.PHONY: help demo test fast lint bench acceptance system clients proto clean

help:  ## Show the targets
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev,scale,tracing]'
	touch $@

demo: $(STAMP)  ## Run the whole chain on the miniature world; open demo/report.html
	$(BIN)/penfield demo --out demo

test: $(STAMP) system clients lint  ## Lint, then run all tests (quick and slow)
	$(BIN)/python -m pytest -m "not slow"
	$(BIN)/python -m pytest -n 0 -m slow

fast: $(STAMP)  ## Run the quick tests only
	$(BIN)/python -m pytest -m "not slow"

# The report is tested in a real browser, several servers behind a real load balancer. Without root these tests skip
# and say why.
system:
	@{ command -v chromium && command -v nginx; } >/dev/null || test "$$(id -u)" != 0 || \
	  (apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq \
	   chromium fonts-dejavu-core nginx-light >/dev/null)

# Both need protobuf 6, which the package's own environment does not have.
clients: .venv-proto/.installed .venv-oip/.installed

.venv-proto/.installed:
	$(PYTHON) -m venv .venv-proto
	.venv-proto/bin/python -m pip install --quiet grpcio-tools==1.81.1
	touch $@

.venv-oip/.installed:
	$(PYTHON) -m venv .venv-oip
	.venv-oip/bin/python -m pip install --quiet 'tritonclient[grpc]==2.73.0'
	touch $@

proto: .venv-proto/.installed  ## Generate service/generated from the protos
	.venv-proto/bin/python service/proto/generate.py

lint: $(STAMP)  ## Check style, types and the one-way imports between rooms
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(STAMP)  ## Measure speed and memory beside peers (long)
	$(BIN)/python benchmarks/ridge.py
	$(BIN)/python benchmarks/ridge_memory.py
	$(BIN)/python benchmarks/extraction.py
	$(BIN)/python benchmarks/miniature_world.py
	$(BIN)/python benchmarks/transformer.py
	$(BIN)/python benchmarks/token_memory.py
	$(BIN)/python benchmarks/algonauts.py
	$(BIN)/python benchmarks/latent_decoder.py
	$(BIN)/python benchmarks/reconstruction_batch.py

acceptance: $(STAMP)  ## Studies over seeds: what is recovered of what was planted (long)
	$(BIN)/python benchmarks/transformer_truth.py
	$(BIN)/python benchmarks/centred_targets.py --out benchmarks/results/centred_targets.json
	$(BIN)/python benchmarks/pictures_truth.py
	$(BIN)/python benchmarks/cross_subject.py

clean:  ## Remove the environment and everything generated
	rm -rf .venv .venv-proto .venv-oip demo .pytest_cache .mypy_cache .ruff_cache
