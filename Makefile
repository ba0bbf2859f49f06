# Needs Python 3.11 or newer, its venv module, and nothing else. `make` lists the targets.
# PYTHON=python3.13 chooses another Python, VENV=somewhere another place for the environment,
# ARGS="..." is handed on: make train ARGS="--epochs 60", make test ARGS="-k history", make test ARGS="-n 0 --pdb".

PYTHON ?= python3
VENV ?= .venv
ARGS ?=
# The extra that has CuPy for your driver: cuda13, or cuda12 for drivers before 580 and for V100.
CUDA ?= cuda13
# What runs a program on an emulated CUDA device, for tests that need one where there is none.
EMULATOR ?=
# bench-cuda13: what others do on the device is measured too.
BENCH ?=
# Where PyTorch has wheels without CUDA, which are a tenth of those of PyPI.
CPU_WHEELS ?= https://download.pytorch.org/whl/cpu
BIN := $(VENV)/$(if $(filter Windows_NT,$(OS)),Scripts,bin)

help:
	@echo "make train   learn to read handwritten digits, in a fresh environment in $(VENV)"
	@echo "make test    run the tests"
	@echo "make lint    ruff, mypy, import-linter; hadolint and zizmor for docker/ and .github/"
	@echo "make docs    the pages and the reference as a site, in site/; it is read without a network"
	@echo "make proof   every long proof, written to docs/proof.md"
	@echo "make kernels compile every CUDA kernel for every architecture; no GPU is needed"
	@echo "make bench   on a CPU, how fast it is beside PyTorch, JAX and others, and how that grows; 35 minutes"
	@echo "make tables  how good the networks are that train makes of twelve tables, beside what others make; an hour"
	@echo "make gpu-check   on a CUDA device: is it in order, do the tests pass, how fast is all of it; with what PYTHON has"
	@echo "make gpu-env     into $(VENV), what gpu-check needs: make gpu-check PYTHON=$(BIN)/python"
	@echo "make dist    build the source archive and the wheel into dist/, as they would be released"
	@echo "make wheel   the same, and once more a wheel with the kernels of a CPU prebuilt"
	@echo "make release-check   test what make dist built on every Python that is here, with old and new NumPy; 40 minutes"
	@echo "make clean   remove $(VENV), dist/, site/ and what the tools left; runs/ stays"

train: $(VENV)/have-plot
	$(BIN)/gpu-backprop train $(ARGS)

# One process for each core, up to eight; tests/conftest.py says which takes what.
test: $(VENV)/have-plot $(VENV)/have-test
	$(BIN)/python -m pytest -n auto --maxprocesses 8 $(ARGS)

lint: $(VENV)/have-lint
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/hadolint docker/*.Dockerfile
	$(BIN)/zizmor --offline --quiet .github/workflows

# A warning is an error, as a link that leads nowhere. The variable keeps off an advertisement of mkdocs-material.
docs: $(VENV)/have-docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict $(ARGS)

proof: $(VENV)/have-plot $(VENV)/have-test nvrtc
	$(BIN)/python bench/proof.py --cuda13 $(VENV)-nvrtc13/bin/python --cuda12 $(VENV)-nvrtc12/bin/python \
		--emulator "$(EMULATOR)" $(ARGS)

# The machine should do nothing else meanwhile. ARGS is handed to bench/compare.py; ARGS=--quick only shows that all of
# it runs, and keeps no figures.
bench: $(VENV)/have-torch $(VENV)/have-plot,bench
	$(BIN)/python bench/compare.py $(ARGS)
	$(BIN)/python bench/growth.py $(filter --quick,$(ARGS))
	$(BIN)/python bench/levers.py $(filter --quick,$(ARGS))
	$(BIN)/python bench/blas.py $(filter --quick,$(ARGS))
	$(BIN)/python bench/denormals.py $(filter --quick,$(ARGS))
	$(BIN)/python bench/plot.py

# The machine should do nothing else meanwhile. ARGS is handed on: make tables ARGS="--choose --splits 2".
tables: $(VENV)/have-torch $(VENV)/have-plot,tables
	$(BIN)/python bench/tables.py $(ARGS)
	$(BIN)/python bench/plot.py

# Where this fails, PyTorch comes with the other peers, from wherever pip takes things.
$(VENV)/have-torch: $(VENV)/pyvenv.cfg
	-$(BIN)/python -m pip install --quiet --disable-pip-version-check --retries 1 --timeout 20 --no-deps \
		--index-url $(CPU_WHEELS) "torch>=2.13"
	@touch $@

# With what PYTHON has, without a network: neither this package nor anything else is installed.
gpu-check:
	@PYTHONPATH="$(CURDIR)$(PYTHONPATH:%=:%)" $(EMULATOR) $(PYTHON) bench/gpu_check.py $(ARGS)

# Where PYTHON has no CuPy: make gpu-env, then make gpu-check PYTHON=.venv/bin/python. PyTorch and JAX are measured beside
# it where they are installed: BENCH=bench-cuda13 installs them too, some GB.
gpu-env: $(VENV)/have-plot $(VENV)/have-test $(VENV)/have-$(CUDA) $(BENCH:%=$(VENV)/have-%)

kernels: nvrtc
	$(VENV)-nvrtc13/bin/python bench/kernels.py
	$(VENV)-nvrtc12/bin/python bench/kernels.py --arch sm_70

# CuPy and NVRTC for CUDA 13 and for CUDA 12, which cannot be installed together. They compile; a driver they need not.
nvrtc:
	$(MAKE) VENV=$(VENV)-nvrtc13 $(VENV)-nvrtc13/have-test,nvrtc13
	$(MAKE) VENV=$(VENV)-nvrtc12 $(VENV)-nvrtc12/have-test,nvrtc12

# The wheel is made of the source archive, and is for all platforms.
dist: $(VENV)/have-dist
	rm -rf dist
	$(BIN)/python -m build --outdir dist
	$(BIN)/twine check --strict dist/*

# And with the kernels of a CPU; GPU_BACKPROP_COMPILER names another compiler.
wheel: dist
	$(BIN)/python bench/prebuilt.py dist

release-check: dist
	$(BIN)/python bench/release_check.py dist $(ARGS)

clean:
	rm -rf $(VENV) $(VENV)-nvrtc12 $(VENV)-nvrtc13 dist site .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache

# The environment holds this checkout itself, not a copy, so that it is set up again only when pyproject.toml changes.
$(VENV)/have-%: $(VENV)/pyvenv.cfg pyproject.toml
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".[$*]"
	@touch $@

$(VENV)/pyvenv.cfg:
	@$(PYTHON) -c 'import sys; v = sys.version_info; v >= (3, 11) or sys.exit("Python 3.11 or newer is needed; \
	$(PYTHON) is %d.%d. Name another: make PYTHON=python3.12" % v[:2])'
	$(PYTHON) -m venv $(VENV)

.PHONY: help train test lint docs proof bench tables gpu-check gpu-env kernels nvrtc dist wheel release-check clean
.PRECIOUS: $(VENV)/have-%
