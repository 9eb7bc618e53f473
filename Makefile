PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
MACE := $(VENV)-mace/bin
MPICH := $(VENV)-mpich/bin
INSTALL := $(BIN)/python -m pip install --quiet --constraint constraints.txt --editable
# Tests that share the cores: of single processes, or of whole campaigns that nothing disturbs. The
# others look at how processes wait, die and return, and have the machine to themselves.
SHARING := $(addprefix tests/,e2e/test_kernel_grid.py examples/test_hydrogen_networks.py \
	controller docs exchange kernels ledger monitor simulate testing transport)
# The tests that MACE's environment runs.
MACE_TESTS := tests/kernels/test_mace.py tests/kernels/test_graph_potentials.py \
	tests/examples/test_bismuth_mace.py tests/examples/test_hydrogen_networks.py

.PHONY: help setup demo demo-compare slurm openfoam test test-slow check format clean

help:
	@echo "make demo          learn a potential for alanine dipeptide (about 4 minutes)"
	@echo "make demo-compare  the same, active against random selection"
	@echo "make test          run the tests (about 25 minutes, with all that they install)"
	@echo "make slurm         install what the tests of batch jobs need (root on Debian)"
	@echo "make openfoam      install what the test of the channel by OpenFOAM needs (likewise)"
	@echo "make test-slow     run the tests that take minutes, too"
	@echo "make check         format, lint, types, import rules"

setup: $(BIN)/.demo

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "PAL needs Python 3.11 or newer: make PYTHON=python3.11 ..."; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(BIN)/.demo: $(BIN)/python pyproject.toml constraints.txt
	$(INSTALL) '.[demo]'
	@touch $@

$(BIN)/.dev: $(BIN)/python pyproject.toml constraints.txt
	$(INSTALL) '.[dev]'
	@touch $@

# MACE and NequIP ask for different versions of one library, so MACE is tested on its own.
$(MACE)/.ready: $(BIN)/.dev
	$(PYTHON) -m venv $(VENV)-mace
	$(VENV)-mace/bin/python -m pip install --quiet -c constraints.txt -e '.[xtb,mace,test]'
	@touch $@

# One MPI library per environment: Open MPI is in the first one, and MPICH is tested beside it.
$(MPICH)/.ready: $(BIN)/python pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)-mpich
	$(MPICH)/python -m pip install --quiet -c constraints.txt -e '.[test]' 'mpi4py>=4' 'mpich>=5'
	@touch $@

demo: $(BIN)/.demo
	$(BIN)/pal run --fresh examples/alanine/pal.toml

demo-compare: $(BIN)/.demo
	$(BIN)/pal compare active=examples/alanine/pal.toml random=examples/alanine/random.toml

# The tests of batch jobs run a small Slurm of their own, where root on Debian can install it.
slurm:
	@tests/batch/install_slurm.sh

# The example of a channel is calculated by OpenFOAM, too, where it is installed.
openfoam:
	@tests/examples/install_openfoam.sh

test: $(BIN)/.dev $(MACE)/.ready $(MPICH)/.ready slurm openfoam
	$(BIN)/python -m pytest -m 'not slow' -n 2 --dist loadfile $(SHARING)
	$(BIN)/python -m pytest -m 'not slow' --durations=25 $(addprefix --ignore=,$(SHARING))
	$(MACE)/python -m pytest -m 'not slow' -n 2 --dist loadfile $(MACE_TESTS)

test-slow: $(BIN)/.dev $(MACE)/.ready $(MPICH)/.ready slurm openfoam
	$(BIN)/python -m pytest
	$(MACE)/python -m pytest $(MACE_TESTS)

check: $(BIN)/.dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(BIN)/.dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf $(VENV) $(VENV)-mace $(VENV)-mpich runs
