# Two commands: `make demo` and `make test`. Both set up .venv from the lock first.
PYTHON ?= $(shell command -v python3.12 >/dev/null 2>&1 && python3.12 -c '' 2>/dev/null && echo python3.12 || echo python3.11)
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# Ray starts many processes: each would compile all of satray where none may write it down.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: help setup demo test lint types unit pipelines clean lock

help:            ## list the targets
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 14

$(STAMP): requirements.lock pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --editable .
	touch $@

setup: $(STAMP)  ## create .venv and install the locked set

demo: $(STAMP)   ## generate a small archive and run the whole line on it
	$(BIN)/python jobs/demo.py out=runs/demo

lint: $(STAMP)   ## ruff, the floors of the house, files of at most 600 lines
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-cache
	@! find satray jobs -name '*.py' -exec wc -l {} + | grep -v ' total$$' | awk '$$1 > 600' | grep .

types: $(STAMP)  ## mypy, strict
	$(BIN)/mypy

test: lint types ## lint, types and all tests
	$(BIN)/python -m pytest -n 2 --dist loadgroup --no-loadscope-reorder

unit: $(STAMP)   ## the tests that start no Ray
	$(BIN)/python -m pytest -m "not pipeline and not s3"

lock: $(STAMP)   ## write requirements.lock from what .venv holds
	echo "# Exact versions for Python 3.11 and 3.12 on Linux; \`make lock\` renews them." > requirements.lock
	$(BIN)/python -m pip freeze --exclude-editable >> requirements.lock

clean:           ## remove .venv and caches
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis
