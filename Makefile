PYTHON ?= python3
BIN = .venv/bin

.PHONY: install quickstart test test-all test-gpu lint clean

install: .venv/installed

.venv/installed: setup.cfg pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -e .
	touch $@

.venv/installed-dev: .venv/installed
	$(BIN)/pip install --quiet --disable-pip-version-check -e '.[dev]'
	touch $@

quickstart: .venv/installed
	rm -rf runs/quickstart
	$(BIN)/qra study run study/quickstart --jobs 2
	$(BIN)/qra report runs/quickstart

lint: .venv/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test: lint
	$(BIN)/python -m pytest -n 2

test-all: lint
	$(BIN)/python -m pytest -n 2 -m 'not gpu'

# Installs nothing: what PYTHON lacks beside pytest may lie in the folder PACKAGES. IMAGES: CIFAR-10 as image folders.
test-gpu:
	PYTHONPATH="$(CURDIR)$(PACKAGES:%=:%)" QRA_TEST_IMAGES="$(IMAGES)" $(PYTHON) -m pytest -m gpu tests/gpu

clean:
	rm -rf .venv build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
