# make help        what can be done here
SHELL := /bin/bash
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

# The first interpreter that is new enough; PYTHON=/path/to/python overrides it.
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11 python; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
BIN := .venv/bin
STAMP := .venv/.installed
HOST ?= 127.0.0.1
PORT ?= 8000

BENCHMARKS := engine step simulation elastic-throughput slo layouts sharing multi-model gmlake overhead tier-io \
	fragmentation nimble validation published-h100 plan paper-ellm paper-pagedattention paper-layerkv paper-prism paper-mooncake

# Another library beside the first, where there was a compiler: products in tiles of AMX, in software.
MODELLED = $(firstword $(wildcard build/*-*/modelled))
TILED_TESTS := tests/cpu/test_tiles.py tests/cpu/test_ops.py tests/cpu/test_attention.py \
	tests/cpu/test_native_attention.py tests/cpu/test_batch_invariance.py
UNDER_SANITIZERS = LD_PRELOAD="$$(g++ -print-file-name=libasan.so) $$(g++ -print-file-name=libubsan.so)" \
	ASAN_OPTIONS=detect_leaks=0

# The machine's own Python where its PyTorch finds a device, with nothing installed, or .venv's.
WITH_DEVICE = for python in $(PYTHON) $(BIN)/python; do \
	if $$python -c 'import torch; assert torch.cuda.is_available()' 2>/dev/null; then break; fi; python=; done; \
	if test -z "$$python"; then echo "no CUDA device that the PyTorch of $(PYTHON) or .venv finds: nothing was run (docs/gpu.md)"; \
	exit 0; fi; export PYTHONPATH="$(CURDIR)/src$${PYTHONPATH:+:$$PYTHONPATH}";

.PHONY: help install serve test test-null test-gpu check sanitize wheel format bench bench-gpu-all

help:  ## this list
	@sed -n 's/^\([a-z%-]*\):.*## \(.*\)/make \1\t\2/p' Makefile | expand -t 20

install: $(STAMP)  ## a virtual environment in .venv with everything in it

$(STAMP): pyproject.toml $(wildcard native/*.* native/level/*.*)
	@test -n "$(PYTHON)" || { echo "error: eLLM needs Python 3.11 or newer; name one with PYTHON=" >&2; exit 2; }
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@echo "installing eLLM and what it needs into .venv: 1.5 GB and some minutes the first time"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	@touch $@

serve: $(STAMP)  ## serve the bundled model on 127.0.0.1:8000 (HOST= and PORT= change it)
	@exec $(BIN)/ellm serve --host $(HOST) --port $(PORT)

test: $(STAMP)  ## every tier: null, cpu, gpu (one line where there is none), e2e
	$(BIN)/python -m pytest $(wildcard tests/null tests/cpu tests/gpu tests/e2e)
	$(if $(MODELLED),$(BIN)/python -m pytest --native $(MODELLED) $(TILED_TESTS))

test-null: $(STAMP)  ## the tier that needs no tensor library, in a minute
	$(BIN)/python -m pytest tests/null

test-gpu:  ## the tier that needs a CUDA device, by $(PYTHON) if its PyTorch finds one (docs/gpu.md)
	@$(WITH_DEVICE) $$python -m pytest tests/gpu

bench-gpu-all:  ## every benchmark that needs a CUDA device, tests/gpu first; 14 minutes, results in $OUT or results-gpu
	@$(WITH_DEVICE) PYTHON=$$python benchmarks/gpu/everything.sh

check: $(STAMP)  ## format, lint, types, import contracts, size budget
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python tools/size_budget.py

sanitize: $(STAMP)  ## native kernels under the address and undefined-behaviour sanitizers
	cmake -S native -B build/sanitized -DELLM_SANITIZE=ON -DELLM_AMX_MODEL=ON -DCMAKE_BUILD_TYPE=None
	cmake --build build/sanitized --parallel 2
	$(UNDER_SANITIZERS) $(BIN)/python -m pytest --native build/sanitized \
		tests/cpu/test_ops.py tests/cpu/test_logits.py tests/cpu/test_attention.py \
		tests/cpu/test_native_attention.py
	$(UNDER_SANITIZERS) $(BIN)/python -m pytest --native build/sanitized/modelled $(TILED_TESTS)

wheel: $(STAMP)  ## dist/*.whl with the native library in it, for machines without a compiler
	$(BIN)/python -m pip wheel --quiet --disable-pip-version-check --no-deps --wheel-dir dist .
	@ls dist/*.whl

format: $(STAMP)  ## rewrite the sources in the house style
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(BENCHMARKS:%=bench-%)  ## every benchmark and its figure, one after the other; some hours, most of them multi-model

bench-%: $(STAMP)  ## one benchmark, as bench-slo; some minutes each, bench-engine an hour (benchmarks/ lists them)
	$(BIN)/python benchmarks/$*/run.py
	@if test -f benchmarks/$*/plot.py; then $(BIN)/python benchmarks/$*/plot.py; fi
