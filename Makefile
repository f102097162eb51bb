# A fresh machine needs two commands: `make demo` and `make test`. Both install into .venv first.

SHELL := /bin/bash
CORES ?= all
BIN := .venv/bin
PYTHON ?= $(shell for p in python3.13 python3.12 python3.11 python3; do \
	$$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null && echo $$p && break; done)
export OMP_NUM_THREADS ?= 1

.PHONY: help demo test check slurm

help:
	@echo "make demo   install, train seven methods on a phantom, render the report"
	@echo "make test   install, run all checks and tests"
	@echo "make check  only the checks (style, types, workflow)"
	@echo "make slurm  the workflow through a real SLURM on this machine (root, Debian or its kin)"

.venv/installed: requirements.lock pyproject.toml
	@[ -n "$(PYTHON)" ] || { echo "No Python 3.11 to 3.13 was found; install one, or say make PYTHON=/path/to/python."; exit 1; }
	@echo "Installing into .venv with $(PYTHON) (some minutes the first time)"
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r requirements.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable .
	@touch $@

demo: .venv/installed
	@$(BIN)/snakemake --cores $(CORES) --quiet rules host reason --configfile config/demo.yaml
	@echo "Open $(CURDIR)/reports/demo/index.html in a browser."

check: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/snakefmt --check Snakefile workflow
	$(BIN)/snakemake --lint
	$(BIN)/snakemake --lint --configfile config/demo.yaml

slurm: .venv/installed
	tests/slurm/run.sh

test: check
	OMP_WAIT_POLICY=PASSIVE $(BIN)/python -m pytest -n 2
