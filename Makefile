# Every target sets up its own .venv first. PYTHON chooses the interpreter, 3.11 or newer.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
NODE_STAMP := tests/node/node_modules/.installed
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
PYTEST := $(BIN)/python -m pytest
N ?= 50
EVENTS ?= 50000
SOAK_MINUTES ?= 60
DOCUMENTS ?= 100000
# How many processes run the tests side by side; `make JOBS=0` is one, in this process.
JOBS ?= auto

# Rooms whose branches are covered whole, by their own tests (exclusions are named in pyproject.toml). The lanes' model
# test explores; what it happens to reach is no coverage, and tracing makes it slow.
COVERED := queue contracts.signing contracts.keys
COVERED_TESTS = $(filter-out %_model.py,$(wildcard $(addsuffix *.py,$(addprefix tests/test_,retry health lane contract sign))))

# What `make power` runs.
POWER_TESTS := tests/test_power.py tests/test_disk_faults.py tests/test_migration_kills.py

.DEFAULT_GOAL := help
.PHONY: help demo check lint types cover test bench bench-all soak shape crash filters power reliability hostile boot pythons lowest lock
.PHONY: clean night schemathesis

help:
	@echo "make demo [ARGS=--once]  show the whole thing in seconds"
	@echo "make check               all that must hold: lint, types, branch coverage, tests"
	@echo "make test [ARGS=...]     the tests alone; JOBS=n: in so many processes"
	@echo "make crash [N=500]       kill -9 under load, N times"
	@echo "make power [N=1000]      cut the power at N system calls; also: failing disks, killed migrations"
	@echo "make reliability [N=500] all of these, N times, and write what was found into docs/RELIABILITY.md"
	@echo "make filters             100,000 random filters and documents against a plain evaluator, two minutes; DOCUMENTS=n"
	@echo "make night [EVENTS=50000] a night at the operator's desk, which docs/OPERATING.md tells, played and told anew"
	@echo "make hostile [ARGS=--quick]  hostile receivers, addresses and connections: facts and figures, an hour or so"
	@echo "make schemathesis [N=50] every call with requests made of its own OpenAPI document: some minutes"
	@echo "make bench [ARGS=...]    measure against the bare pipeline: the main rows, 20 minutes; ARGS=ROW names some"
	@echo "make bench-all           all rows: 40 minutes"
	@echo "make soak                an hour at half load, SOAK_MINUTES=n; then 1,000 power cuts"
	@echo "make boot                install the unit under a real systemd, in a container, and try it: root, ten minutes"
	@echo "make pythons             the tests on every Python from 3.11 to 3.14 that is here"
	@echo "make lowest              the tests on the lowest versions that pyproject.toml allows"
	@echo "make lock                resolve anew: the lock files, the SBOM, the table of licences"
	@echo "make shape [ARGS=...]    sizes of the code, and what one delivery passes"

$(STAMP): pyproject.toml requirements-dev.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "relay needs Python 3.11 or newer; this is $$($(PYTHON) --version). Try: make PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { echo "On Debian and Ubuntu: apt-get install python3-venv" >&2; exit 1; }
	$(PIP) --require-hashes --requirement requirements-dev.lock
	$(PIP) --no-deps --no-build-isolation --editable .
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
	$(PYTEST) -q --numprocesses $(JOBS) --dist worksteal $(COVERED_TESTS) $(addprefix --cov=relay.,$(COVERED)) --cov-branch --cov-fail-under=100 \
	  --cov-report=term-missing:skip-covered

test: $(STAMP) $(NODE_STAMP)
	$(PYTEST) --numprocesses $(JOBS) --dist worksteal $(ARGS)

crash: $(STAMP)
	CRASH_KILLS=$(N) $(PYTEST) -v tests/test_crash.py $(ARGS)

power: $(STAMP)
	POWER_CUTS=$(N) DISK_FAULTS=$(N) $(PYTEST) -v $(POWER_TESTS) $(ARGS)

# Every call with thousands of requests that are made of /openapi.json. It needs packages that nothing else needs, so it has
# an environment of its own.
SCHEMATHESIS := .venv-schemathesis/bin/st

$(SCHEMATHESIS):
	$(PYTHON) -m venv .venv-schemathesis
	.venv-schemathesis/bin/pip install --quiet --disable-pip-version-check 'schemathesis>=4.32,<5'

schemathesis: $(STAMP) $(SCHEMATHESIS)
	$(BIN)/python .ci/schemathesis $(CURDIR)/$(SCHEMATHESIS) --phases coverage,fuzzing --max-examples $(N) $(ARGS)

# The figures of docs/RELIABILITY.md: a row says how much was tried, what was lost, and which command tries it again.
reliability: export RELIABILITY_FIGURES := $(CURDIR)/bench/out/reliability.jsonl
reliability: $(STAMP)
	@mkdir -p bench/out && rm -f $(RELIABILITY_FIGURES)
	POWER_CUTS=$(N) DISK_FAULTS=$(N) CRASH_KILLS=$(N) $(PYTEST) -v $(POWER_TESTS) tests/test_crash.py $(ARGS)
	$(BIN)/python -m tests.support.figures $(RELIABILITY_FIGURES) docs/RELIABILITY.md

filters: $(STAMP)
	FILTER_DOCUMENTS=$(DOCUMENTS) $(PYTEST) -v tests/test_filters.py -k 'plain_ones or random_pairs' $(ARGS)

night: $(STAMP)
	NIGHT_EVENTS=$(EVENTS) NIGHT_TELL=1 $(PYTEST) -v tests/test_night.py $(ARGS)

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
	@$(MAKE) power N=1000

boot:
	tests/boot/run

pythons:
	@for version in 3.11 3.12 3.13 3.14; do \
	  if ! command -v python$$version >/dev/null; then echo "python$$version is not here"; \
	  else $(MAKE) test PYTHON=python$$version VENV=.venv-$$version || exit 1; fi; done

# uv resolves; it is not needed for anything else.
TOOLS := .venv-tools/bin
COMPILE := $(TOOLS)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --custom-compile-command "make lock"

$(TOOLS):
	$(PYTHON) -m venv .venv-tools
	$(TOOLS)/pip install --quiet --disable-pip-version-check 'uv>=0.13' 'cyclonedx-bom>=7.5'

lock: $(TOOLS)
	$(COMPILE) pyproject.toml --output-file requirements.lock
	$(COMPILE) pyproject.toml --extra dev --constraint requirements.lock --output-file requirements-dev.lock
	$(PYTHON) -m venv --clear .venv-runtime
	.venv-runtime/bin/pip install --quiet --disable-pip-version-check --require-hashes --requirement requirements.lock
	.venv-runtime/bin/pip uninstall --quiet --yes pip setuptools
	$(TOOLS)/cyclonedx-py environment --pyproject pyproject.toml --mc-type application --output-reproducible \
	  --output-file docs/sbom.cdx.json .venv-runtime
	$(PYTHON) .ci/licences docs/sbom.cdx.json > docs/LICENCES.md

lowest: $(TOOLS)
	$(PYTHON) -m venv --clear .venv-lowest
	$(TOOLS)/uv pip install --quiet --python .venv-lowest --resolution lowest-direct --editable '.[dev]'
	.venv-lowest/bin/python -m pytest --numprocesses $(JOBS) --dist worksteal $(ARGS)

clean:
	rm -rf .venv .venv-* tests/node/node_modules .mypy_cache .ruff_cache .pytest_cache .hypothesis .coverage bench/out
