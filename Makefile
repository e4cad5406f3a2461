# One command each. The environment in .venv is made when it is missing or its inputs have changed.

PYTHON ?= python3
# Tests wait more than they compute: two processes a core. In the order of the folders, so that the long ones begin first.
PROCESSES ?= $(shell $(PYTHON) -c "import os; print(min(8, 2 * (os.cpu_count() or 1)))")
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
BENCH_STAMP := $(VENV)/.installed-bench
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.DEFAULT_GOAL := help
.PHONY: help demo test chaos check check-latest bench gpu mutate dist containers clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-13s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: $(STAMP) ## train a tiny LoRA and sample every checkpoint beside it; pictures in demo-output/
	$(BIN)/rushes demo --once

test: $(STAMP) ## run the tests (ARGS="-k name" for some of them)
	$(BIN)/python -m pytest --numprocesses $(PROCESSES) --dist loadfile --no-loadscope-reorder --durations 20 $(ARGS)

chaos: $(STAMP) ## five minutes of killed workers, stopped workers and a crashing Redis; is anything lost?
	PYTHONPATH=tests $(BIN)/python tests/acceptance/chaos.py --seconds 300

check: $(STAMP) ## lint, formatting, types, the order of the rooms
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python tests/house/layers.py
	$(BIN)/pyright --pythonpath $(BIN)/python

check-latest: ## the fast half of the tests with the newest versions of every dependency (WITH="torch==2.13.0" pins some)
	test -x .venv-latest/bin/python || $(PYTHON) -m venv .venv-latest
	.venv-latest/bin/python -m pip install --quiet --upgrade --upgrade-strategy eager --editable '.[dev]' $(WITH)
	.venv-latest/bin/python -m pytest tests/unit tests/house --numprocesses $(PROCESSES) --dist loadfile $(ARGS)

bench: $(BENCH_STAMP) ## run the benchmarks one after the other; results in benchmarks/results/
	@for file in $$(grep -l __main__ benchmarks/*.py); do echo "== $$file"; $(BIN)/python "$$file" || exit 1; done

dist: $(STAMP) ## build the distribution, install each extra from it on every Python that is here, run the demo from it
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[release]'
	$(BIN)/python scripts/dist.py $(ARGS)

containers: $(STAMP) ## build the images and run the compose file, a quarter of an hour (ARGS=--bare on a Debian without Docker, as root)
	$(BIN)/python scripts/containers $(ARGS)

gpu: ## check a real GPU, on a bare box, in six minutes (WHEELS=folder for what it lacks, ARGS=--small without a GPU)
	$(if $(wildcard $(BIN)/python),$(BIN)/python,$(PYTHON)) benchmarks/gpu/run.py $(if $(WHEELS),--wheels $(WHEELS)) $(ARGS)

mutate: $(STAMP) ## put small faults into a copy of the code: do the tests notice? (ARGS="--only lease" for some)
	$(BIN)/python tests/mutations/run.py $(ARGS)

clean: ## remove the environment
	rm -rf $(VENV) .venv-latest

$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

$(BENCH_STAMP): $(STAMP)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev,bench]'
	touch $@
