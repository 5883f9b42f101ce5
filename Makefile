# Two commands: `make demo` and `make test`. Both set up .venv from the locks first.
runs = $(shell command -v $(1) >/dev/null 2>&1 && $(1) -c '' 2>/dev/null && echo $(1))
PYTHON ?= $(firstword $(foreach version,3.12 3.13 3.11,$(call runs,python$(version))) python3.11)
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
RUNTIME := $(VENV)/.runtime
DEV := $(VENV)/.dev
# Ray starts many processes: each would compile all of satray where none may write it down.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: help setup demo test lint types unit lock clean

help:            ## list the targets
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 14

$(RUNTIME): requirements.lock pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) --require-hashes -r requirements.lock
	$(PIP) --no-deps --no-build-isolation --editable .
	touch $@

$(DEV): $(RUNTIME) requirements-dev.lock
	$(PIP) --require-hashes -r requirements-dev.lock
	touch $@

setup: $(RUNTIME) ## create .venv and install what the jobs need
demo: $(RUNTIME) ## generate a small archive and run the whole line on it
	$(BIN)/python jobs/demo.py out=runs/demo

lint: $(DEV)     ## ruff, the floors of the house, files of at most 600 lines
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-cache
	@! find satray jobs -name '*.py' -exec wc -l {} + | grep -v ' total$$' | awk '$$1 > 600' | grep .

types: $(DEV)    ## mypy, strict
	$(BIN)/mypy

test: lint types ## lint, types and all tests
	$(BIN)/python -m pytest -n 2 --dist loadgroup --no-loadscope-reorder

unit: $(DEV)     ## the tests that start no Ray
	$(BIN)/python -m pytest -m "not pipeline and not s3"

# Versions stay as they are locked where pyproject.toml lets them; `make lock UPGRADE=--upgrade` renews.
COMPILE = $(BIN)/uv pip compile pyproject.toml --quiet --universal --generate-hashes --no-annotate \
	--no-emit-index-url --custom-compile-command "make lock" $(UPGRADE)

lock: $(RUNTIME) ## write both locks, with hashes, from pyproject.toml
	$(PIP) uv
	$(COMPILE) --output-file requirements.lock
	$(COMPILE) --extra dev --constraint requirements.lock --output-file requirements-dev.lock

clean:           ## remove .venv and caches
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis
