# Each target sets itself up: it makes .venv and installs what it needs, once.
# An installation is repeated when pyproject.toml or constraints.txt changes.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

# The first Python that is new enough; another one: make PYTHON=/path/to/python
NEW_ENOUGH := -c 'import sys; sys.exit(sys.version_info < (3, 11))'
PYTHON ?= $(shell for name in python3 python3.14 python3.13 python3.12 python3.11; do \
	$$name $(NEW_ENOUGH) 2>/dev/null && echo $$name && break; done)
BIN := .venv/bin
WORKERS ?= 2

# One thread per test worker; a benchmark or the demo takes what the machine has.
ONE_THREAD := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1
PIP := $(BIN)/python -m pip --disable-pip-version-check --no-input
INSTALL := $(PIP) install --constraint constraints.txt

BASE := .venv/.installed-base
FULL := .venv/.installed-full
DOCS := .venv/.installed-docs
BENCH := .venv/.installed-bench
PARITY := .venv/.installed-parity

.PHONY: help demo test test-reproduction parity bench bench-attribution bench-coverage bench-xdnn bench-conversion
.PHONY: bench-influence bench-metrics bench-methods demo-fix reproduce-fix
.PHONY: reproduce-xdnn reproduce-tfa reproduce-lds reproduce-harmonizing lint docs clean

help: ## Show the targets
	@grep -hE '^[a-z-]+:.*## ' Makefile | sed -E 's/^([a-z-]+):[^#]*## /  make \1\t/' | expand -t 24

demo: $(BASE) ## Audit a small network that learnt a planted shortcut; writes demo-audit/
	$(BIN)/whence demo

test: lint ## Everything that must be green: lint, types, layers, tests, doctests, examples
	$(ONE_THREAD) $(BIN)/python -m pytest -q -n $(WORKERS) --dist worksteal

test-reproduction: $(FULL) ## Small runs of the reproductions from end to end; minutes each
	$(ONE_THREAD) $(BIN)/python -m pytest -q -m "slow and reproduction"

parity: $(PARITY) ## Methods beside captum, zennit, pytorch-grad-cam, LXT, PAIR, SHAP, Quantus
	$(ONE_THREAD) $(BIN)/python -m pytest -q -n $(WORKERS) tests/parity tests/attribution/silent \
	  tests/attribution/relevance tests/attribution/test_guided.py tests/network/test_rules.py

lint: $(FULL) ## Ruff, formatting, mypy --strict, import contracts
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

bench: $(FULL) ## The speed table, each row measured beside its reference
	$(BIN)/python -m benchmarks

bench-attribution: $(BENCH) ## Attribution beside other libraries: passes, time, memory
	$(BIN)/python -m benchmarks.attribution

bench-coverage: $(FULL) ## Every method on every model of the list: ok, not applicable, or an error
	$(BIN)/python -m benchmarks.coverage --markdown docs/reference/coverage.md

bench-xdnn: $(FULL) ## X-Gradient beside integrated gradients; training steps with a prior
	$(BIN)/python -m benchmarks.xdnn

bench-conversion: $(FULL) ## What each of 21 models would have to change to be an X-DNN; a page of the manual
	$(BIN)/python -m benchmarks.conversion

bench-influence: $(BENCH) ## Training-data attribution beside other libraries, in training steps
	$(BIN)/python -m benchmarks.influence

bench-metrics: $(BENCH) ## Metrics of attributions beside Quantus: time, and the same figures
	$(BIN)/python -m benchmarks.metrics

bench-methods: $(FULL) ## Methods x metrics where the truth is planted, on a CNN and a ViT
	$(BIN)/python -m benchmarks.methods

# The reproductions are slow, go on where they were stopped, and need the shared data.
reproduce-xdnn: $(FULL) ## Hesse et al. 2021: accuracy, masking, contrast, priors, IDSDS; under an hour
	$(BIN)/python -m reproductions.xdnn

reproduce-tfa: $(FULL) ## Bacha and George 2025: training-feature maps and their baselines
	$(BIN)/python -m reproductions.tfa

reproduce-lds: $(FULL) ## Linear datamodelling score of every scorer, beside other libraries
	$(BIN)/python -m reproductions.lds

reproduce-harmonizing: $(FULL) ## Kadir et al. 2023: are features of one architecture known to others?
	$(BIN)/python -m reproductions.harmonizing

demo-fix: $(FULL) ## Find, fix, verify a planted shortcut, beside other ways; about ten minutes
	$(BIN)/python -m reproductions.fix --demo

reproduce-fix: $(FULL) ## The same with a natural shortcut, PetScenes64; half an hour
	$(BIN)/python -m reproductions.fix

docs: $(DOCS) ## The manual, in build/docs; a warning is an error
	$(BIN)/python -m sphinx -q -W --keep-going -b html docs build/docs

clean: ## Remove what the other targets made, .venv included
	rm -rf .venv build dist demo-audit .mypy_cache .ruff_cache .pytest_cache .hypothesis
	rm -rf .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# A virtual environment that was interrupted half-way has no stamp and is made again.
.venv/.made:
	@$(or $(PYTHON),false) $(NEW_ENOUGH) 2>/dev/null || { \
	  echo "whence needs Python 3.11 or newer, and '$(or $(PYTHON),python3)' is none." \
	       "Install one, or name it: make PYTHON=/path/to/python3.12" >&2; exit 1; }
	$(PYTHON) -m venv --clear .venv
	@touch $@

# A stamp is written only after the installation has ended well.
$(BASE): .venv/.made pyproject.toml constraints.txt
	@rm -f $@
	$(INSTALL) --quiet --editable .
	@touch $@

$(FULL): .venv/.made pyproject.toml constraints.txt
	@rm -f $@
	$(INSTALL) --quiet --editable '.[dev,torchvision,timm,transformers,superpixels,fit,figures,notebook,parity]'
	@touch $@ $(BASE)

$(BENCH): $(FULL)
	@rm -f $@
	$(INSTALL) --quiet --editable '.[bench]'
	@touch $@

# LXT's rules need torch alone; what it asks for beside is for language models.
$(PARITY): $(BENCH)
	@rm -f $@
	$(INSTALL) --quiet --no-deps 'lxt==2.1'
	@touch $@

$(DOCS): $(FULL)
	@rm -f $@
	$(INSTALL) --quiet --editable '.[docs]'
	@touch $@
