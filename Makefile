PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: help setup demo demo-compare test test-slow check format clean

help:
	@echo "make demo          learn a potential for alanine dipeptide (about 4 minutes)"
	@echo "make demo-compare  the same, active against random selection"
	@echo "make test          run the tests"
	@echo "make test-slow     run the tests that take minutes, too"
	@echo "make check         format, lint, types, import rules"

setup: $(BIN)/.ready

$(BIN)/.ready: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "PAL needs Python 3.11 or newer: make PYTHON=python3.11 ..."; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $@

demo: setup
	$(BIN)/pal run --fresh examples/alanine/pal.toml

demo-compare: setup
	$(BIN)/python examples/alanine/compare.py

test: setup
	$(BIN)/python -m pytest -m 'not slow'

test-slow: setup
	$(BIN)/python -m pytest

check: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: setup
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf $(VENV) runs
