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
VICTIM  ?= reader
QUESTION ?= What survives a kill -9, and how does a cancel reach called tasks, as in oncall.md?
PYTEST  ?=
MINUTES ?= 5
FAULTS  ?= all
SEED    ?=
RESULTS ?=
SEEDS   ?= 2000
START   ?= 0
# Services are started hundreds of times: without their byte code each start compiles all modules anew, half a second of it.
unexport PYTHONDONTWRITEBYTECODE
SOAK_MINUTES = $(if $(filter command environment,$(firstword $(origin MINUTES))),$(MINUTES),90)

.DEFAULT_GOAL := help
.PHONY: help demo research test check lint bench simulate torture planted coverage slow soak reliability clean

help: ## list the targets
	@awk -F':.*## ' '/^[a-z]+:.*## /{printf "  make %-11s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo
	@echo "  make demo FOLDER=path BUS=kafka KILL=1 PACE=0.2 OUT=build/audit"
	@echo "  make research QUESTION='Who may cancel a run?' FOLDER=path KILL=1 VICTIM=coordinator"

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

# What is not given has other defaults than in `demo`.
given = $(if $(filter file,$(origin $(1))),$(2),$($(1)))
quoted = '$(subst ','\'',$(1))'

research: $(STAMP) ## ask a folder of documents: QUESTION='…' FOLDER=docs, KILL=1 VICTIM=reader
	@PACE='$(PACE)' $(BIN)/python -m examples.research $(call quoted,$(QUESTION)) $(call quoted,$(call given,FOLDER,docs)) --out $(call quoted,$(call given,OUT,build/research)) --bus '$(BUS)' $(if $(KILL),--kill --victim '$(VICTIM)') $(ARGS)

# The unit tests that work the engine; what only the simulation reaches does not count.
ENGINE := $(addprefix tests/unit/,coordinator schedules failing growing operating undoing arriving waits state versions)
# Unit tests share the cores; what starts processes and bounds their time has the machine to itself.
SHARED := --numprocesses auto --dist loadfile

test: $(STAMP) ## all tests of the quick tier, or those of PYTEST
ifneq ($(PYTEST),)
	@$(BIN)/python -m pytest $(PYTEST)
else
	@$(BIN)/python -m pytest $(SHARED) tests/unit $(addprefix --ignore ,$(ENGINE))
	@$(MAKE) --no-print-directory coverage
	@$(BIN)/python -m pytest --ignore tests/unit
endif

coverage: $(STAMP) ## the pure engine by its unit tests: 95 % of its branches at least
	@mkdir -p build/coverage
	@$(BIN)/python -m pytest $(SHARED) $(ENGINE) --cov --cov-report term

lint: $(STAMP)
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

check: lint test ## what CI runs: ruff, mypy, import rules, tests

bench: $(STAMP) ## the figures of docs/performance.md, as one table
	@$(BIN)/python -m benchmarks $(ARGS)

simulate: $(STAMP) ## drawn plans under drawn faults in a simulated world: SEEDS=2000 START=0
	@$(BIN)/python -m tests.simulation --seeds '$(SEEDS)' --start '$(START)' $(if $(RESULTS),--results '$(RESULTS)') $(ARGS)

slow: simulate ## the slow tier of CI: seeds, a slice of the torture
	@$(BIN)/python -m tests.torture --slice

planted: $(STAMP) ## do the checkers see? planted bugs against a suite: ARGS='--suite simulation --minutes 10'
	@$(BIN)/python -m tests.planted $(if $(RESULTS),--results '$(RESULTS)') $(ARGS)

torture: $(STAMP) ## faults on real processes: MINUTES=5 BUS=sqlite FAULTS=all SEED=7 RESULTS=folder
	@$(BIN)/python -m tests.torture --bus '$(BUS)' --minutes '$(MINUTES)' --faults '$(FAULTS)' $(if $(SEED),--seed '$(SEED)') $(if $(RESULTS),--results '$(RESULTS)') $(ARGS)

soak: $(STAMP) ## mixed load with faults for hours, nothing may grow: MINUTES=90 BUS=kafka SEED=7 RESULTS=folder
	@$(BIN)/python -m tests.soak --bus '$(BUS)' --minutes '$(SOAK_MINUTES)' $(if $(SEED),--seed '$(SEED)') $(if $(RESULTS),--results '$(RESULTS)') $(ARGS)

reliability: $(STAMP) ## docs/reliability.md and the lines of README, from docs/reliability/results
	@$(BIN)/python -m tests.reliability

clean: ## remove what was built here; keeps .holdfast (your runs)
	@rm -rf $(VENV) build dist .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis
	@find . -name __pycache__ -type d -not -path './.git/*' -prune -exec rm -rf {} +
