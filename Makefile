PYTHON ?= python3
BIN = .venv/bin

.PHONY: install quickstart reproduce docs test test-all test-minimum test-gpu lint clean

install: .venv/installed

.venv/installed: setup.cfg pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -e .
	touch $@

.venv/installed-dev: .venv/installed
	$(BIN)/pip install --quiet --disable-pip-version-check -e '.[dev]'
	touch $@

.venv/installed-docs: .venv/installed
	$(BIN)/pip install --quiet --disable-pip-version-check -e '.[docs]'
	touch $@

quickstart: .venv/installed
	rm -rf runs/quickstart
	$(BIN)/qra study run study/quickstart --jobs 2
	$(BIN)/qra report runs/quickstart

# The table of the published checkpoints, measured again: about an hour on a core of its own. N: examples of each attack.
# IMAGES: CIFAR-10 as image folders, which the table is of; if not given, the archive in data/, which gives a little more.
PUBLISHED = float-plain float-at pact-w4a4-plain pact-w4a4-at
N ?= 500
reproduce: .venv/installed
	for name in $(PUBLISHED); do \
	  $(BIN)/qra test --ckpt_path checkpoints/$$name --run runs/published/$$name \
	    --data $(if $(IMAGES),data/image_folder --data.root "$(IMAGES)",data/cifar10) \
	    --evaluation.n $(N) --evaluation.eps '[2/255, 8/255]' \
	    --trainer.callbacks+ callback/autoattack --trainer.callbacks.n $(N) --trainer.callbacks.chunk_size 100 || exit; \
	done
	$(BIN)/qra compare $(PUBLISHED:%=runs/published/%)

docs: .venv/installed-docs
	$(BIN)/python -m sphinx -W --keep-going -q -b html docs docs/_build/html
	@echo docs/_build/html/index.html

lint: .venv/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test: lint
	$(BIN)/python -m pytest -n 2 --dist worksteal

test-all: lint .venv/installed-docs
	$(BIN)/python -m pytest -n 2 --dist worksteal -m 'not gpu'

# With the lowest versions that setup.cfg allows; PYTHON is best the lowest as well.
test-minimum:
	$(PYTHON) -m venv .venv-minimum
	sed -nE 's/^ +([A-Za-z0-9_-]+)(\[[a-z]+\])?>=([0-9.]+).*/\1==\3/p' setup.cfg > .venv-minimum/lowest.txt
	.venv-minimum/bin/pip install --quiet --disable-pip-version-check -c .venv-minimum/lowest.txt -e '.[dev]'
	.venv-minimum/bin/python -m pytest -n 2 --dist worksteal

# Installs nothing: what PYTHON lacks beside pytest and its xdist may lie in the folder PACKAGES. IMAGES: CIFAR-10 as
# image folders. JOBS: tests at the same time.
JOBS ?= 4
test-gpu:
	PYTHONPATH="$(CURDIR)$(PACKAGES:%=:%)" QRA_TEST_IMAGES="$(IMAGES)" \
	  $(PYTHON) -m pytest -p no:benchmark -m gpu -n $(JOBS) tests/gpu

clean:
	rm -rf .venv .venv-minimum build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis docs/_build docs/generated
