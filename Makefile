# Each target sets itself up: it makes .venv and installs what it needs, once.
# An installation is repeated when pyproject.toml or constraints.txt changes.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

PYTHON ?= python3
BIN := .venv/bin
WORKERS ?= 2

# One thread per test worker; a benchmark or the demo takes what the machine has.
ONE_THREAD := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1
PIP := $(BIN)/python -m pip --disable-pip-version-check --no-input
INSTALL := $(PIP) install --constraint constraints.txt

BASE := .venv/.installed-base
FULL := .venv/.installed-full
DOCS := .venv/.installed-docs

.PHONY: help demo test bench lint docs clean

help: ## Show the targets
	@grep -hE '^[a-z]+:.*## ' Makefile | sed -E 's/^([a-z]+):[^#]*## /  make \1\t/' | expand -t 16

demo: $(BASE) ## Audit a small network that learnt a planted shortcut; writes demo-audit/
	$(BIN)/whence demo

test: lint ## Everything that must be green: lint, types, layers, tests, doctests, examples
	$(ONE_THREAD) $(BIN)/python -m pytest -q -n $(WORKERS) --dist worksteal

lint: $(FULL) ## Ruff, formatting, mypy --strict, import contracts
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(FULL) ## The speed table, each row measured beside its reference
	$(BIN)/python -m benchmarks

docs: $(DOCS) ## The manual, in build/docs; a warning is an error
	$(BIN)/python -m sphinx -q -W --keep-going -b html docs build/docs

clean: ## Remove what the other targets made, .venv included
	rm -rf .venv build dist demo-audit .mypy_cache .ruff_cache .pytest_cache .hypothesis
	rm -rf .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# A virtual environment that was interrupted half-way has no stamp and is made again.
.venv/.made:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "whence needs Python 3.11 or newer; '$(PYTHON)' is $$($(PYTHON) --version 2>&1)." \
	       "Name another one: make PYTHON=python3.12" >&2; exit 1; }
	$(PYTHON) -m venv --clear .venv
	@touch $@

# A stamp is written only after the installation has ended well.
$(BASE): .venv/.made pyproject.toml constraints.txt
	@rm -f $@
	$(INSTALL) --quiet --editable .
	@touch $@

$(FULL): .venv/.made pyproject.toml constraints.txt
	@rm -f $@
	$(INSTALL) --quiet --editable '.[dev,torchvision,timm,transformers]'
	@touch $@ $(BASE)

$(DOCS): $(FULL)
	@rm -f $@
	$(INSTALL) --quiet --editable '.[docs]'
	@touch $@
