# Needs Python 3.11 or newer, its venv module, and nothing else. `make` lists the targets.
# PYTHON=python3.13 chooses another Python, VENV=somewhere another place for the environment,
# ARGS="..." is handed on: make train ARGS="--epochs 60", make test ARGS="-k history".

PYTHON ?= python3
VENV ?= .venv
ARGS ?=
BIN := $(VENV)/$(if $(filter Windows_NT,$(OS)),Scripts,bin)

help:
	@echo "make train   learn to read handwritten digits, in a fresh environment in $(VENV)"
	@echo "make test    run the tests"
	@echo "make lint    ruff, mypy and import-linter"
	@echo "make proof   every long proof, written to docs/proof.md"
	@echo "make wheel   build the package into dist/"
	@echo "make clean   remove $(VENV), dist/ and what the tools left; runs/ stays"

train: $(VENV)/have-plot
	$(BIN)/gpu-backprop train $(ARGS)

test: $(VENV)/have-plot $(VENV)/have-test
	$(BIN)/python -m pytest $(ARGS)

lint: $(VENV)/have-lint
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

proof: $(VENV)/have-plot $(VENV)/have-test
	$(BIN)/python bench/proof.py

wheel: $(VENV)/pyvenv.cfg
	$(BIN)/python -m pip wheel --quiet --no-deps --wheel-dir dist .

clean:
	rm -rf $(VENV) dist .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache

# The environment holds this checkout itself, not a copy, so that it is set up again only when pyproject.toml changes.
$(VENV)/have-%: $(VENV)/pyvenv.cfg pyproject.toml
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".[$*]"
	@touch $@

$(VENV)/pyvenv.cfg:
	@$(PYTHON) -c 'import sys; v = sys.version_info; v >= (3, 11) or sys.exit("Python 3.11 or newer is needed; \
	$(PYTHON) is %d.%d. Name another: make PYTHON=python3.12" % v[:2])'
	$(PYTHON) -m venv $(VENV)

.PHONY: help train test lint proof wheel clean
.PRECIOUS: $(VENV)/have-%
