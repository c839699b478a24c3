# Needs make and Python 3.11 or newer; everything else is installed into .venv by the targets themselves.

PYTHON ?=
VENV := .venv
BENCH := .bench
LOWEST := build/lowest
NEWEST := build/newest
BIN := $(VENV)/bin
PIP := -m pip install --quiet --disable-pip-version-check

# How the demo trains, and where it writes: a new folder each time.
DEMO_OPTIONS ?= --num-envs 8 --n-steps 128 --batch-size 256
ifndef DEMO_OUT
DEMO_OUT := runs/demo/$(shell date +%Y%m%d-%H%M%S)
endif

PYTEST_OPTIONS ?=
PARALLEL := --numprocesses auto --maxprocesses 4 --dist worksteal
BENCH_OPTIONS ?=

.NOTPARALLEL:
.PHONY: help setup demo test test-slow test-browser test-lowest test-newest lint format bench ablation docs clean

help:
	@echo 'make setup        install the package and its development tools into $(VENV)'
	@echo 'make demo         train PPO on CartPole-v1, evaluate it and write a video'
	@echo 'make test         check style and types, run the quick tests'
	@echo 'make test-slow    run the tests that take minutes'
	@echo 'make test-browser test the comparison page and the handbook in chromium, which must be installed'
	@echo 'make test-lowest  run the quick tests with the lowest versions of the dependencies'
	@echo 'make test-newest  run the quick tests with the newest Python and the newest versions of the dependencies'
	@echo 'make lint         check style and types'
	@echo 'make format       write the list of names, format the code in the style that lint checks'
	@echo 'make bench        compare speed with other libraries, in an environment of its own'
	@echo 'make ablation     train the PPO paper'\''s table of surrogates again: takes several nights, can be continued'
	@echo 'make docs         build the documentation into site/'
	@echo 'make clean        remove environments, caches and site/; runs/ stays'

# -- environments: a stamp in each says that it agrees with pyproject.toml and constraints.txt ------------------

# Shell: sets $$python to a Python that can make an environment, or prints the reason and stops.
find_python = python=; for candidate in $(PYTHON) python3.11 python3 python3.12 python3.13; do \
	if $$candidate -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then \
		python=$$candidate; break; fi; done; \
	if [ -z "$$python" ]; then \
		echo 'No Python 3.11 or newer with venv was found (tried: $(PYTHON) python3.11 python3 python3.12 python3.13).' >&2; \
		echo 'Install one (on Debian and Ubuntu: python3.11 and python3.11-venv), or name it: make $(or $(firstword $(MAKECMDGOALS)),setup) PYTHON=/path/to/python3' >&2; \
		exit 1; fi

# Shell: makes the environment $(1) unless it already works.
make_venv = if ! $(1)/bin/python -m pip --version >/dev/null 2>&1; then \
	$(find_python); echo "Making $(1) with $$($$python --version)"; rm -rf $(1); $$python -m venv $(1); fi

$(VENV)/.dev: pyproject.toml constraints.txt
	@$(call make_venv,$(VENV))
	@echo 'Installing the package and its development tools into $(VENV) (a minute or two, once)'
	@$(BIN)/python $(PIP) --editable '.[dev]' --constraint constraints.txt
	@touch $@

$(VENV)/.demo: pyproject.toml constraints.txt
	@$(call make_venv,$(VENV))
	@if [ ! $(VENV)/.dev -nt pyproject.toml ] || [ ! $(VENV)/.dev -nt constraints.txt ]; then \
		echo 'Installing what the demo needs into $(VENV) (a minute, once)'; \
		$(BIN)/python $(PIP) --editable '.[demo]' --constraint constraints.txt; fi
	@touch $@

$(VENV)/.docs: pyproject.toml constraints.txt
	@$(call make_venv,$(VENV))
	@echo 'Installing what the documentation needs into $(VENV) (once)'
	@$(BIN)/python $(PIP) --editable '.[docs]' --constraint constraints.txt
	@touch $@

$(BENCH)/.bench: pyproject.toml constraints.txt
	@$(call make_venv,$(BENCH))
	@echo 'Installing the libraries to compare with into $(BENCH) (a few minutes, once)'
	@$(BENCH)/bin/python $(PIP) --editable '.[bench]' --constraint constraints.txt
	@touch $@

$(LOWEST)/.lowest: pyproject.toml constraints-lowest.txt
	@$(call make_venv,$(LOWEST))
	@echo 'Installing the lowest versions of the dependencies into $(LOWEST) (a minute, once)'
	@$(LOWEST)/bin/python $(PIP) --editable '.[test]' --constraint constraints-lowest.txt
	@touch $@

# -- the targets that users call --------------------------------------------------------------------------------

setup: $(VENV)/.dev

demo: $(VENV)/.demo
	$(BIN)/advantage train ppo CartPole-v1 --total-timesteps 100_000 --seed 0 $(DEMO_OPTIONS) --out $(DEMO_OUT)
	$(BIN)/advantage eval $(DEMO_OUT) --episodes 20
	$(BIN)/advantage enjoy $(DEMO_OUT) --episodes 2 --video $(DEMO_OUT)/videos/demo.mp4
	@echo
	@echo 'Trained, evaluated and recorded as a video. The run is in $(DEMO_OUT):'
	@echo '  curve.png, videos/demo.mp4, progress.csv, episodes.csv, checkpoints/'
	@echo 'Next:'
	@echo '  . $(BIN)/activate'
	@echo '  advantage list                                  algorithms and environments'
	@echo '  advantage train ppo --help                      every option'
	@echo '  advantage train ppo Pendulum-v1 --total-timesteps 200_000 --gamma 0.9'

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

format: setup
	$(BIN)/python tests/package_names.py
	$(BIN)/ruff check --fix --exit-zero --quiet .
	$(BIN)/ruff format .

test: lint
	$(BIN)/python -m pytest $(PARALLEL) $(PYTEST_OPTIONS)

test-browser: setup
	$(BIN)/python $(PIP) --editable '.[browser]' --constraint constraints.txt
	$(BIN)/python -m pytest -m browser $(PYTEST_OPTIONS)

test-slow: setup
	XLA_FLAGS= $(BIN)/python -m pytest -m slow --timeout 3600 $(PYTEST_OPTIONS)
	XLA_FLAGS= $(BIN)/python -m pytest -k promise $(PARALLEL) $(PYTEST_OPTIONS)

# Warnings of old versions cannot be fixed here, so they are only shown.
test-lowest: $(LOWEST)/.lowest
	$(LOWEST)/bin/python -m pytest $(PARALLEL) -o filterwarnings=default $(PYTEST_OPTIONS)

# What is newest changes without any file here, so there is no stamp. A warning is an error: it says what breaks next.
test-newest: PYTHON := $(or $(PYTHON),python3.13 python3.12)
test-newest:
	@$(call make_venv,$(NEWEST))
	@echo 'Installing the newest versions of the dependencies into $(NEWEST) (a minute)'
	@$(NEWEST)/bin/python $(PIP) --upgrade --upgrade-strategy eager --editable '.[test]'
	$(NEWEST)/bin/python -m pytest $(PARALLEL) $(PYTEST_OPTIONS)

bench: $(BENCH)/.bench
	$(BENCH)/bin/python benchmarks/run.py $(BENCH_OPTIONS)

ablation: $(VENV)/.dev
	$(BIN)/python benchmarks/ablation.py $(BENCH_OPTIONS)

docs: $(VENV)/.docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	@echo "Built site/index.html"

clean:
	rm -rf $(VENV) $(BENCH) build dist site .pytest_cache .ruff_cache
	find advantage tests examples benchmarks -name __pycache__ -type d -prune -exec rm -rf {} + 2>/dev/null || true
