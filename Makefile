# make run     set up (once) and start the server          make run ARGS="--http-port 9000"
# make demo    start it, let a simulated device ask a question, check the spoken answer
# make test    linters, types, imports, tests
# make bench   measurements                                make bench ARGS="..."
# make lint    format the code and check it
# make docs    write config.example.yaml and docs/settings.md anew from the settings tree
# make lock    choose the newest fitting versions anew
# make clean   remove what set-up made (not data/)
#
# Needs Python 3.11 or newer and make; nothing is installed outside this directory. Another Python: make run PYTHON=...

.DEFAULT_GOAL := help
.PHONY: help run demo test bench lint docs lock clean setup setup-dev
.DELETE_ON_ERROR:

ARGS ?=
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --no-input
PIP_INSTALL := $(PIP) install --quiet --no-deps --no-build-isolation

# The first interpreter that is new enough and able to make a virtual environment.
FIND_PYTHON = for python in $(or $(PYTHON),python3 python3.13 python3.12 python3.11 python); do \
	if "$$python" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then echo "$$python"; break; fi; done

help:
	@sed -n 's/^# \(make .*\)/\1/p' Makefile

run: setup $(VENV)/.models
	@exec $(BIN)/xiaozhi-bridge serve $(ARGS)

demo: setup $(VENV)/.models
	@exec $(BIN)/xiaozhi-bridge demo $(ARGS)

test: setup-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m pytest --cov --cov-report=term:skip-covered $(ARGS)

bench: setup-dev $(VENV)/.models
	$(BIN)/python -m bench $(ARGS)

lint: setup-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/mypy
	$(BIN)/lint-imports

docs: setup
	$(BIN)/xiaozhi-bridge config example > config.example.yaml
	$(BIN)/xiaozhi-bridge config reference > docs/settings.md

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis .coverage dist

# -- set-up: each step leaves a stamp and is done again only when its input changes -------------------------------------
setup: $(VENV)/.project
setup-dev: $(VENV)/.project $(VENV)/.dev

$(VENV)/.venv:
	@python=$$($(FIND_PYTHON)); \
	if [ -z "$$python" ]; then \
		echo "Python 3.11 or newer with the venv module is needed; found: $$(python3 --version 2>&1)."; \
		echo "Debian, Ubuntu, Raspberry Pi OS: sudo apt install python3 python3-venv. macOS: brew install python."; \
		echo "An interpreter in another place: make run PYTHON=/path/to/python3"; \
		exit 1; \
	fi; \
	echo "Making $(VENV) with $$($$python --version)"; \
	"$$python" -m venv --clear $(VENV)
	@touch $@

$(VENV)/.build: requirements-build.lock $(VENV)/.venv
	@$(PIP_INSTALL) --require-hashes -r requirements-build.lock
	@touch $@

# misaki says "Python < 3.13" for the sake of parts that we do not use; what we use of it runs on 3.13.
$(VENV)/.locked: requirements.lock $(VENV)/.build
	@echo "Installing the packages of requirements.lock (1.4 GB on disk with the models; once)"
	@$(PIP_INSTALL) --require-hashes --ignore-requires-python -r requirements.lock
	@touch $@

$(VENV)/.project: pyproject.toml $(VENV)/.locked
	@$(PIP_INSTALL) -e .
	@touch $@

$(VENV)/.dev: requirements-dev.lock $(VENV)/.build
	@echo "Installing the tools of requirements-dev.lock"
	@$(PIP_INSTALL) --require-hashes -r requirements-dev.lock
	@touch $@

# A model that cannot be had does not keep the server from starting: it says what is missing, and the next run tries again.
$(VENV)/.models: $(VENV)/.project
	@if $(BIN)/xiaozhi-bridge models fetch; then touch $@; else echo "Going on without these models."; fi

# -- the lock: hashes for every platform, no addresses -----------------------------------------------------------------
UV_EXPORT = uv export --quiet --frozen --format requirements-txt --no-header --no-emit-project

lock: SHELL := /bin/bash
lock: .SHELLFLAGS := -euo pipefail -c
lock:
	@python=$$($(FIND_PYTHON)); here=$$PWD; scratch=$$(mktemp -d); trap 'rm -rf "$$scratch"' EXIT; \
	"$$python" -m venv "$$scratch/venv"; "$$scratch/venv/bin/python" -m pip install --quiet --disable-pip-version-check uv; \
	cp pyproject.toml LICENSE "$$scratch"; touch "$$scratch/README.md"; cd "$$scratch"; PATH="$$scratch/venv/bin:$$PATH"; \
	uv lock --quiet --python "$$python"; \
	$(UV_EXPORT) --no-dev --all-extras --output-file requirements.lock >/dev/null; \
	$(UV_EXPORT) --only-group build --output-file requirements-build.lock >/dev/null; \
	$(UV_EXPORT) --only-group dev --output-file requirements-dev.lock >/dev/null; \
	for lock in requirements.lock requirements-build.lock requirements-dev.lock; do \
		if grep -nE '://|^-' $$lock; then echo "$$lock: an address or an option stands in it"; exit 1; fi; \
		{ echo "# Made by 'make lock'; install with --no-deps --require-hashes (see Makefile)."; cat $$lock; } > "$$here/$$lock"; \
		echo "$$lock: $$(grep -c '==' $$lock) packages"; \
	done
