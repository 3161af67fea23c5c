# `make help` lists what there is. Two commands do everything on a fresh machine: `make demo` and `make test`.
# PYTHON, TORCH and SIZE can be set on the command line, e.g. `make demo SIZE=12 TORCH=torch==2.11.0`.
SHELL := /bin/bash
.DEFAULT_GOAL := help
PYTHON ?= python3
TORCH ?= torch==2.13.0
SIZE ?= 100
PROFILE ?= tiny
NAME ?= noise
TOPOLOGY ?= local
SEEDS ?= 10000
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed-$(subst /,_,$(PYTHON))-$(TORCH)
# Spinning OpenMP threads starve their neighbours on a shared machine; waiting ones do not (docs/concepts.md).
export OMP_WAIT_POLICY := PASSIVE
export TOKENIZERS_PARALLELISM := false
export HF_HUB_OFFLINE := 1

.PHONY: help setup demo up test test-system sim lint format bench models clean distclean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sort | awk -F ':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

$(STAMP): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade-strategy only-if-needed "$(TORCH)"
	$(BIN)/pip install --quiet -e ".[dev]"
	@rm -f $(VENV)/.installed-*
	@touch "$@"

setup: $(STAMP) ## create .venv and install the project into it

demo: $(STAMP) ## generate SIZE answers with the strong model and report what they would cost to upload
	$(BIN)/bitweir demo --size $(SIZE) --profile $(PROFILE)

up: $(STAMP) ## serve the API through a gate until Ctrl-C; TOPOLOGY=local is the only one built
	$(BIN)/bitweir up --topology $(TOPOLOGY) --profile $(PROFILE)

models: $(STAMP) ## build the embedded models of PROFILE (tiny or reference); resumable
	$(BIN)/bitweir models build --profile $(PROFILE)

test: $(STAMP) ## everything but clusters, namespaces and browsers; under 10 minutes on 2 cores
	$(BIN)/python -m pytest -m "not system and not gpu" -n 2 --dist loadgroup --no-loadscope-reorder --durations=20

test-system: $(STAMP) ## wheels, clusters, namespaces, browsers; serial, under 30 minutes
	$(BIN)/python -m pytest -m system --durations=20

sim: $(STAMP) ## live through SEEDS simulated worlds of the link; a failure is a seed
	$(BIN)/python -m tests.simulation.link_world --seeds $(SEEDS)

lint: $(STAMP) ## ruff, mypy --strict, import contracts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(STAMP) ## rewrite the code in the house format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(STAMP) ## run one benchmark: make bench NAME=noise; writes benchmarks/results/NAME.json
	$(BIN)/python -m benchmarks.$(NAME)

clean: ## remove what building and testing left behind; models and runs stay
	rm -rf build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +

distclean: clean ## also remove the environment, the built models and all runs
	rm -rf $(VENV) models runs
