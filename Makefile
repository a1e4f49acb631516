# `make run` and `make test` from a fresh clone; `make help` lists the rest.
PYTHON ?= python3
# More arguments for pip, for example a CPU build of torch from its own index:
#   make test PIP_ARGS="--extra-index-url https://download.pytorch.org/whl/cpu"
PIP_ARGS ?=
# More arguments for the command, for example ARGS="--set ep.slots_per_rank=4"
ARGS ?=

VENV := .venv
BIN := $(VENV)/bin
CORE := $(VENV)/.installed-core
DEV := $(VENV)/.installed-dev
PIP := $(BIN)/python -m pip install --disable-pip-version-check --quiet $(PIP_ARGS)

.DEFAULT_GOAL := help
.PHONY: help run install dev test fuzz lint format bench readme docs trace-check constraints clean

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || \
	  { echo "error: $(PYTHON) is not Python 3.11 or newer; install one and say make PYTHON=python3.12" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(CORE): pyproject.toml constraints.txt | $(BIN)/python
	@echo "installing the simulator into $(VENV) (about a minute)"
	@$(PIP) -c constraints.txt -e .
	@touch $@

$(DEV): pyproject.toml constraints.txt | $(BIN)/python
	@echo "installing the simulator and the test tools into $(VENV) (a few minutes: torch is large)"
	@$(PIP) -c constraints.txt -e '.[dev]'
	@touch $@ $(CORE)

install: $(CORE)  ## install the simulator alone into .venv

dev: $(DEV)  ## install it with everything the tests need (torch among it)

run: $(CORE)  ## replay the recorded trace through five policies: a table and plots
	$(BIN)/ultraep-sim run $(ARGS)

test: $(DEV)  ## run the tests
	$(BIN)/python -m pytest -n 2 --ignore=tests/benchmarks $(ARGS)

fuzz: $(DEV)  ## read 100,000 damaged files (about half an hour)
	$(BIN)/python -m tests.fuzz_nightly $(ARGS)

lint: $(DEV)  ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(DEV)  ## let ruff mend what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(DEV)  ## time the planner and the replay
	$(BIN)/python -m pytest -n 0 tests/benchmarks $(ARGS)

readme: $(CORE)  ## recompute the table and the picture of the README, and the pages of docs/
	$(BIN)/python docs/refresh_readme.py
	$(BIN)/python docs/refresh_accuracy.py
	$(BIN)/python docs/refresh_what_if.py
	$(BIN)/python docs/refresh_synth.py
	$(BIN)/python docs/refresh_calibrate.py

docs: $(DEV)  ## build the API reference into build/docs; a warning is an error
	$(BIN)/python docs/build_api.py build/docs

trace-check: $(DEV)  ## retrain the first steps and compare with the shipped traces
	$(BIN)/python traces/make_traces.py check

constraints: $(DEV)  ## write the installed versions into constraints.txt
	@{ echo "# Exact versions CI and the README's commands install (pip install -c). Regenerate: make constraints"; \
	   $(BIN)/python -m pip list --format=freeze --exclude-editable --disable-pip-version-check 2>/dev/null \
	     | grep -E '^[A-Za-z0-9._-]+==' | grep -vE '^(pip|setuptools|wheel)==' | sed -E 's/\+[A-Za-z0-9.]+$$//'; \
	 } > constraints.txt.new && mv constraints.txt.new constraints.txt

clean:  ## remove what the targets made
	rm -rf $(VENV) runs build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .benchmarks
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
