# Every target sets up its own .venv first. PYTHON chooses the interpreter, 3.11 or newer.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
NODE_STAMP := tests/node/node_modules/.installed
PYTEST := $(BIN)/python -m pytest
N ?= 50
SOAK_MINUTES ?= 60
# How many processes run the tests side by side; `make JOBS=0` is one, in this process.
JOBS ?= auto

# Rooms whose branches are covered whole, by their own tests (exclusions are named in pyproject.toml). The lanes' model
# test explores; what it happens to reach is no coverage, and tracing makes it slow.
COVERED := queue contracts.signing contracts.keys
COVERED_TESTS = $(filter-out %_model.py,$(wildcard $(addsuffix *.py,$(addprefix tests/test_,retry health lane contract sign))))

.DEFAULT_GOAL := help
.PHONY: help demo check lint types cover test bench bench-all soak shape crash hostile clean

help:
	@echo "make demo [ARGS=--once]  show the whole thing in seconds"
	@echo "make check               all that must hold: lint, types, branch coverage, tests"
	@echo "make test [ARGS=...]     the tests alone; JOBS=n: in so many processes"
	@echo "make crash [N=500]       kill -9 under load, N times"
	@echo "make hostile [ARGS=--quick]  hostile receivers, addresses and connections: facts and figures, an hour or so"
	@echo "make bench [ARGS=...]    measure against the bare pipeline: the main rows, 20 minutes; ARGS=ROW names some"
	@echo "make bench-all           all rows: 40 minutes"
	@echo "make soak                an hour at half load; SOAK_MINUTES=n"
	@echo "make shape [ARGS=...]    sizes of the code, and what one delivery passes"

$(STAMP): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "relay needs Python 3.11 or newer; this is $$($(PYTHON) --version). Try: make PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { echo "On Debian and Ubuntu: apt-get install python3-venv" >&2; exit 1; }
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@

# The npm verifier is one more witness. Without npm, or with its registry out of reach, the tests that need it are skipped
# and say so; the stamp stands for an install that worked, and the next run tries again.
$(NODE_STAMP): tests/node/package-lock.json
	@if ! command -v npm >/dev/null; then echo "npm is not here: its tests are skipped"; \
	elif npm ci --loglevel=error --no-audit --no-fund --fetch-retries=1 --fetch-timeout=20000 --prefix tests/node; \
	then touch $@; else rm -rf $(@D); echo "npm could not install: its tests are skipped" >&2; fi

demo: $(STAMP)
	@$(BIN)/relay demo $(ARGS)

check: lint types cover test

lint: $(STAMP)
	$(BIN)/ruff format --check
	$(BIN)/ruff check

types: $(STAMP)
	$(BIN)/mypy

cover: $(STAMP) $(NODE_STAMP)
	$(PYTEST) -q $(COVERED_TESTS) $(addprefix --cov=relay.,$(COVERED)) --cov-branch --cov-fail-under=100 \
	  --cov-report=term-missing:skip-covered

test: $(STAMP) $(NODE_STAMP)
	$(PYTEST) --numprocesses $(JOBS) --dist worksteal $(ARGS)

crash: $(STAMP)
	CRASH_KILLS=$(N) $(PYTEST) -v tests/test_crash.py $(ARGS)

# Facts on every event loop with every parser, and 20,000 generated addresses; then the figures, each of which is judged.
hostile: $(STAMP)
	HOSTILE=1 $(PYTEST) --hypothesis-profile=hostile --timeout 600 tests/test_hostile.py tests/test_guard.py
	@missed=0; for figures in hostile_receivers slow_loris hostile_clients; do \
	  $(BIN)/python -m bench.$$figures $(ARGS) || missed=1; done; exit $$missed

shape: $(STAMP)
	@$(BIN)/python bench/shape.py $(ARGS)

bench: $(STAMP)
	@$(BIN)/python -m bench.run $(ARGS)

bench-all: $(STAMP)
	@$(BIN)/python -m bench.run --all $(ARGS)

soak: $(STAMP)
	@$(BIN)/python -m bench.soak --minutes $(SOAK_MINUTES)

clean:
	rm -rf $(VENV) tests/node/node_modules .mypy_cache .ruff_cache .pytest_cache .hypothesis .coverage bench/out
