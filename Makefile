# Everything a newcomer needs: `make demo`, `make test`, `make lint`. The first one installs.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
DEMO ?= digits
OUT ?= demo-$(DEMO)
EXTRAS ?= eval,report,dev

.PHONY: help install demo test lint format docs pages wheel clean

help:
	@echo 'make demo               train, distil, sample and compare; writes $(OUT)/report.html'
	@echo 'make demo DEMO=markov   the same on a problem with a known answer, without training'
	@echo 'make test               the test suite (two processes)'
	@echo 'make lint               ruff and pyright'
	@echo 'make pages              put committed results into README.md and docs/'
	@echo 'EXTRAS=…                what is installed beside the core: $(EXTRAS)'
	@echo 'make docs               the documentation as a site in build/site'
	@echo 'make wheel              build dist/*.whl'
	@echo 'make clean              remove the virtual environment and build products'

install: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info; v >= (3, 11) or sys.exit("fewjump needs Python 3.11 or newer, this is %d.%d: set PYTHON=..." % v[:2])'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[$(EXTRAS)]'
	touch $@

demo: $(STAMP)
	$(BIN)/fewjump demo $(DEMO) --out $(OUT)

test: $(STAMP)
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder -q -m 'not gpu and not slow and not network'

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(STAMP)
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[docs]'
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

pages: $(STAMP)
	$(BIN)/python -m experiments.pages

wheel: $(STAMP)
	rm -rf dist
	$(BIN)/python -m build --wheel

clean:
	rm -rf $(VENV) build dist .pytest_cache .ruff_cache .hypothesis
