# make train   train a network, offline, on embedded data
# make test    the whole test suite; the CUDA kernels are run on the CPU if g++ is there
# make bench   the benchmarks against other libraries (installs them: about 1 GB)
# make bench-gpu   what a GPU can tell in MINUTES (6), by $(PYTHON), installing nothing
# make lint    ruff and mypy
# make docs    the documentation site, into build/site; its pages run their own code
# Each prepares .venv first if it is not there; PYTHON names the interpreter to build it with.

PYTHON ?= python3
MINUTES ?= 6
BIN := .venv/bin

.PHONY: train test bench bench-gpu lint docs clean

train: .venv/installed
	$(BIN)/gpubp train --data digits28 --sizes 784,30,10 --epochs 5

test: .venv/installed
	$(BIN)/python -m pytest

lint: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	# Types are checked as installed, where kernels/ is gpubp.kernels.
	rm -rf build && $(BIN)/python -m pip install --quiet --no-deps --target build/installed .
	cd build/installed && ../../$(BIN)/mypy --config-file ../../pyproject.toml -p gpubp

docs: .venv/installed-docs
	NO_MKDOCS_2_WARNING=1 PYTHONPATH=docs $(BIN)/mkdocs build --strict --quiet

bench: .venv/installed-bench
	$(BIN)/python bench/epoch.py

# On a machine with a GPU, with the Python that has CuPy, PyTorch and JAX: nothing is installed.
bench-gpu:
	$(PYTHON) bench/gpu.py --minutes $(MINUTES)

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "gpubp needs Python 3.11 or newer: run make PYTHON=python3.12, or another one"; exit 1; }
	$(PYTHON) -m venv .venv

.venv/installed: pyproject.toml .venv/bin/python
	$(BIN)/python -m pip install --quiet --editable ".[test,nvrtc]"
	@touch $@

.venv/installed-bench: .venv/installed
	$(BIN)/python -m pip install --quiet --editable ".[test,nvrtc,bench]"
	@touch $@

.venv/installed-docs: .venv/installed
	$(BIN)/python -m pip install --quiet --editable ".[test,docs]"
	@touch $@

clean:
	rm -rf .venv build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
