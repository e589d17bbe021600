# Every target sets up what it needs in .venv, on a fresh machine too.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test test-slow test-device lint docs bench clean

demo: .venv/.demo  ## train a small network for a minute, with probes attached by one line
	$(BIN)/python -m examples.demo

test: .venv/.dev  ## everything but the slow tests and those of an accelerator
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 --dist worksteal

test-slow: .venv/.dev  ## the slow and statistical tests
	$(BIN)/python -m pytest -q -m slow

test-device: .venv/.dev  ## on the accelerator that torch finds, or on the CPU
	$(BIN)/python -m pytest -q -m device

lint: .venv/.dev  ## style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: .venv/.docs  ## the pages of docs/, into docs/_build/html; offline, and every warning is an error
	OMP_NUM_THREADS=1 $(BIN)/python -m sphinx -n -W --keep-going -q -d docs/_build/doctrees docs docs/_build/html
	@echo "docs/_build/html/index.html"

bench: .venv/.dev  ## side by side with bare PyTorch (and with peers, where they are installed)
	$(BIN)/python benchmarks/overhead.py
	$(BIN)/python benchmarks/tangent_kernel.py
	$(BIN)/python benchmarks/path_complexity.py

clean:
	rm -rf .venv docs/_build

.venv/.demo: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --editable '.[analysis]'
	touch $@

.venv/.dev: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $@

.venv/.docs: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --editable '.[docs]'
	touch $@
