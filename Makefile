# The two commands: `make run` and `make test`. Everything lives in .venv; nothing is installed outside it.
PYTHON ?= python3.11
PROFILE ?= cpu
BIN := .venv/bin
LOCKS := locks/$(PROFILE).txt
export PIP_DISABLE_PIP_VERSION_CHECK := 1
# Bytecode is written once, at installation: without it vLLM takes minutes to start.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: run test soak setup setup-dev lint types contracts check bench bench-gpu lock schemas clean

run: setup ## Reconcile this repository's own commit, serve the model, ask it three things, verify its chain
	$(BIN)/python tests/e2e/main_job.py

# JOBS=2 runs so many files side by side, in the order of their names; then, alone, what takes every core by itself.
test: setup-dev ## Run the tests; JOBS=2 in two processes
ifdef JOBS
	$(BIN)/python -m pytest -m "not e2e and not soak" -n $(JOBS) --dist loadfile --no-loadscope-reorder
	$(BIN)/python -m pytest -m e2e
else
	$(BIN)/python -m pytest
endif

soak: setup-dev ## The long forms of the tests: faults and contention, full size
	$(BIN)/python -m pytest -m soak --timeout=3600

check: lint types contracts ## What CI checks before the tests

lint: setup-dev
	$(BIN)/ruff check engine tests models .github
	$(BIN)/ruff format --check engine tests models .github

types: setup-dev
	$(BIN)/mypy

contracts: setup-dev
	$(BIN)/lint-imports

bench: setup-dev ## Measure what the README quotes
	$(BIN)/python tests/bench/main_job.py
	$(BIN)/python tests/bench/plan.py
	$(BIN)/python tests/bench/ledger.py
	$(BIN)/python tests/bench/trust.py
	$(BIN)/python tests/bench/tlog.py
	$(BIN)/python tests/bench/train.py
	$(BIN)/python tests/bench/resume.py
	$(BIN)/python tests/bench/nanotron.py
	$(BIN)/python tests/bench/curate.py

bench-gpu: ## Training on CUDA devices, with the packages of PYTHON=.. (docs/training.md): .venv has a CPU's torch
	PYTHONPATH=engine:. $(PYTHON) tests/bench/train_gpu.py

schemas: setup ## JSON Schemas for editors, in .forge/schemas; and of what is signed, in docs/schemas
	$(BIN)/forge schema
	$(BIN)/python -m forge.attest.schemas docs/schemas

setup: .venv/.$(PROFILE)
setup-dev: .venv/.cpu .venv/.dev .venv/.outside

.venv/bin/python:
	$(PYTHON) -c 'import sys; assert sys.version_info >= (3, 11), "Forge needs Python 3.11 or newer: make PYTHON=python3.12"'
	$(PYTHON) -m venv .venv

.venv/.core .venv/.cpu: .venv/.%: locks/%.txt pyproject.toml | .venv/bin/python
	$(BIN)/pip install --quiet --no-deps -r locks/$*.txt
	$(BIN)/pip install --quiet --no-deps --no-build-isolation --editable .
	$(BIN)/python locks/check.py $*
	touch $@

.venv/.dev: locks/dev.txt .venv/.cpu
	$(BIN)/pip install --quiet --no-deps -r locks/dev.txt
	touch $@

# Verifiers that Forge did not write, in a second language: what package-lock.json fixes; no script of theirs is run.
.venv/.outside: tests/outside/package-lock.json .venv/.dev
	$(BIN)/python tests/outside/node.py
	touch $@

# Renew the locks (needs uv). Exact versions only: no index, no host, no local path. torch's CUDA packages are left out:
# a CPU wheel needs none of them, and locks/check.py refuses a CUDA build.
lock: ## Renew locks/*.txt; UPGRADE=1 takes the newest versions
	uv pip compile -q pyproject.toml --python-version 3.11 --no-annotate --no-header --no-emit-index-url \
	  --no-emit-find-links $(if $(UPGRADE),--upgrade) --extra cpu --override locks/overrides.txt -o locks/cpu.txt
	sed -i -E '/^(nvidia-|cuda-)/d' locks/cpu.txt
	uv pip compile -q pyproject.toml --python-version 3.11 --no-annotate --no-header --no-emit-index-url \
	  --no-emit-find-links -c locks/cpu.txt -o locks/core.txt
	uv pip compile -q pyproject.toml --python-version 3.11 --no-annotate --no-header --no-emit-index-url \
	  --no-emit-find-links -c locks/cpu.txt --extra dev --override locks/overrides.txt -o locks/dev.txt

clean: ## Remove the environment and everything that was made
	rm -rf .venv .forge tests/outside/node_modules
