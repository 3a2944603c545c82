PYTHON ?= python3
BIN = .venv/bin

.PHONY: install quickstart test test-all lint clean

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
	for name in plain at; do \
		$(BIN)/qra fit --config configs/pipeline/quickstart-$$name.yaml --run runs/quickstart/$$name && \
		$(BIN)/qra test --ckpt_path runs/quickstart/$$name/best.ckpt \
			--evaluation.n 300 --evaluation.eps '[2/255, 4/255, 8/255]' || exit; \
	done
	@echo "The same two networks, unattacked and under PGD-20 at 2, 4 and 8/255:"
	$(BIN)/qra compare runs/quickstart/plain runs/quickstart/at

lint: .venv/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test: lint
	$(BIN)/python -m pytest -n 2

test-all: lint
	$(BIN)/python -m pytest -n 2 -m 'not gpu'

clean:
	rm -rf .venv build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
