# make demo         the whole method on a synthetic dataset, on a CPU
# make test         lint, types and every test that needs neither a GPU nor minutes for itself
# make leak-check   the proof that no label of an unlabelled case is ever opened
# make thorough     the tests that take minutes each
# make kill-check   60 kills of nnssl_run at seeded moments; each run has to end as an undisturbed one does
# Other targets: venv, lint, types, format, clean. PYTHON, VENV and JOBS can be set: make test PYTHON=python3.12 JOBS=8
# VENV is made for these targets alone, and anew whenever pyproject.toml changes.

PYTHON ?= python3
# processes that run tests
JOBS ?= 2
VENV ?= .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

# torch takes every core unless told otherwise, which makes small networks slower and shared machines unusable.
export OMP_NUM_THREADS ?= 2
# Threads that spin while they wait slow everything else down.
export OMP_WAIT_POLICY ?= PASSIVE
export PIP_DISABLE_PIP_VERSION_CHECK ?= 1

.PHONY: venv demo test lint types leak-check thorough kill-check format clean
.DEFAULT_GOAL := test

venv: $(INSTALLED)

$(INSTALLED): pyproject.toml
	@test ! -e $(VENV) || test -f $(VENV)/.made_by_make || test -f $@ || \
		{ echo "$(VENV) was not made by this Makefile, and would be emptied: remove it, or name another VENV" >&2; exit 1; }
	$(PYTHON) -m venv --clear $(VENV)
	touch $(VENV)/.made_by_make
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $@

demo: venv
	$(BIN)/nnssl_demo -o demo

test: lint types
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m 'not gpu and not thorough' -n $(JOBS) --dist loadfile --no-loadscope-reorder

lint: venv
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/codespell

types: venv
	$(BIN)/mypy

leak-check: venv
	$(BIN)/python -m pytest -rA tests/test_leak_check.py

thorough: venv
	$(BIN)/python -m pytest -m thorough

kill-check: venv
	rm -rf build/kill-check
	PYTHONPATH=. $(BIN)/python -W ignore tests/support/kill_check.py build/kill-check --kills 60
	NNSSL_LONG_TESTS=1 $(BIN)/python -m pytest tests/training/test_resumed_weights.py

format: venv
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) build dist demo htmlcov .coverage .coverage.* .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find nnunet_ssl trainers tests -name __pycache__ -type d -prune -exec rm -rf {} +
