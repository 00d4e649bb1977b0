# Everything a person or CI runs. `make help` lists the targets.
# Needs Python 3.11+, make and git; the rest is set up in .venv (with uv where it is there, else pip).

PYTHON  ?= python3
VENV    := .venv
BIN     := $(VENV)/bin
STAMP   := $(VENV)/.installed
UV      := $(shell command -v uv 2>/dev/null)

FOLDER  ?= .
OUT     ?= build/audit
BUS     ?= sqlite
PACE    ?=
KILL    ?=
PYTEST  ?=

.DEFAULT_GOAL := help
.PHONY: help demo test check lint bench clean

help: ## list the targets
	@awk -F':.*## ' '/^[a-z]+:.*## /{printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo
	@echo "  make demo FOLDER=path BUS=kafka KILL=1 PACE=0.2 OUT=build/audit"

$(STAMP): pyproject.toml constraints.txt
ifdef UV
	@test -d $(VENV) || $(UV) venv --quiet --python $(PYTHON) $(VENV)
	@$(UV) pip install --quiet --python $(BIN)/python --constraint constraints.txt --editable '.[dev,audit]'
else
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev,audit]'
endif
	@touch $@

demo: $(STAMP) ## audit a folder with agents: BUS=sqlite|kafka, KILL=1 kills one half-way
	@PACE='$(PACE)' $(BIN)/python -m examples.audit '$(FOLDER)' --out '$(OUT)' --bus '$(BUS)' $(if $(KILL),--kill) $(ARGS)

test: $(STAMP) ## all tests of the quick tier
	@$(BIN)/python -m pytest $(PYTEST)

lint: $(STAMP)
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

check: lint test ## what CI runs: ruff, mypy, import rules, tests

bench: $(STAMP) ## the figures of docs/performance.md, as one table
	@$(BIN)/python -m benchmarks $(ARGS)

clean: ## remove what was built here; keeps .holdfast (your runs)
	@rm -rf $(VENV) build dist .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis
	@find . -name __pycache__ -type d -not -path './.git/*' -prune -exec rm -rf {} +
