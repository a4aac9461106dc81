# tessella: `make venv` once, then `make demo`; `make test` before every commit.

PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
TORCH := $(shell grep '^torch==' constraints.txt)

.DEFAULT_GOAL := help
.PHONY: help venv demo test lint format results docs clean

help:  ## this list
	@sed -n 's/^\([a-z]*\):.*##/\1:/p' $(MAKEFILE_LIST) | awk -F: '{printf "make %-9s %s\n", $$1, $$2}'

venv: $(VENV)/.installed  ## an environment with exactly the versions of constraints.txt

# torch first and by its exact version: a newer one brings gigabytes of CUDA with it
$(VENV)/.installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt "$(TORCH)" setuptools
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable ".[test]"
	touch $@

demo: venv  ## train small systems on dates, digits, numbers and names, and write a page about them
	$(BIN)/tessella demo

test: lint  ## everything that must hold
	$(BIN)/python -m pytest -n 2

lint: venv  ## style, types and floors
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --level error
	$(BIN)/lint-imports

format: venv  ## mend what can be mended
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

results: venv  ## docs/results/*.json rendered as docs/results/README.md
	$(BIN)/python -m tessella.results docs/results

docs: venv  ## the pages of docs/ as a site in docs/_build
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable ".[docs]"
	$(BIN)/python -m sphinx -W --keep-going -q docs docs/_build/html

clean:  ## remove caches; the environment and the runs stay
	rm -rf .pytest_cache .ruff_cache .hypothesis .import_linter_cache build dist *.egg-info
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +
