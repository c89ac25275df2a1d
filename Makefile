# Each target sets up what it needs: the only things to have are Python 3.11+, make and the package registry.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: demo test test-long check bench answers model docs clean

demo: $(READY)        ## the main job: fetch, validate, load and prove the quickstart adapters
	@$(BIN)/python manifests/quickstart/demo.py

answers: $(READY)     ## a real model: the base's answer beside each adapter's
	@$(BIN)/python manifests/quickstart/answers.py

test: check           ## every check and every test (under 10 minutes on 2 cores)
	$(BIN)/python -m pytest

test-long: check      ## the soak, the full kill runs, the big corpora
	$(BIN)/python -m pytest -m "not gpu" --hypothesis-profile=new

check: $(READY)       ## format, lint, types, floors
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(READY)       ## every benchmark, each beside its peers
	@set -e; for script in benchmarks/*.py; do echo "== $$script"; $(BIN)/python $$script; done

docs: $(READY)        ## the generated pages: docs/rules.md and docs/engines.md
	@$(BIN)/python docs/build.py

model: $(READY)       ## builds SmolLM2-135M-Instruct into .assets/
	@$(BIN)/python manifests/quickstart/build_model.py

$(READY): pyproject.toml
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "Installing lora-cli and its tools into $(VENV) ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	@touch $@

clean:
	rm -rf $(VENV) .assets .demo .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
