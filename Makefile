# Five commands: make demo | test | lint | bench | test-gpu. `install` runs by itself when needed.
# SIZE=smoke|demo|full and TEXT=path/*.parquet are settings of `make demo`.
SHELL := /bin/bash
SIZE ?= demo
TEXT ?=
RUNS ?= runs
VENV := .venv
PYTHON := $(VENV)/bin/python
STAMP := $(VENV)/.installed

.PHONY: help install demo demo-full test test-long test-gpu lint format bench bench-gpu clean
help:
	@sed -n 's/^## //p' $(MAKEFILE_LIST)

## install    make .venv and install the tested set of packages (Python >= 3.12)
install: $(STAMP)

$(STAMP): setup.py constraints.txt Makefile tools/find_python.sh
	@python="$$(bash tools/find_python.sh)" && echo "using $$python ($$($$python --version))" && \
	  $$python -m venv $(VENV)
	$(PYTHON) -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

## demo       the whole chain on this machine; ends with runs/demo/report.html
demo: $(STAMP)
	$(PYTHON) examples/quickstart/demo.py --size $(SIZE) \
	  --output $(RUNS)/$(SIZE)$(if $(TEXT),-text) $(if $(TEXT),--text $(TEXT))

## demo-full  adds the tokenizer without VQ and three seeds of both language models
demo-full:
	$(MAKE) demo SIZE=full

## test       all tests that need neither a GPU nor an hour
test: $(STAMP)
	$(PYTHON) -m pytest -q

## test-long  campaigns run by hand
test-long: $(STAMP)
	$(PYTHON) -m pytest -q --override-ini addopts="-ra --strict-markers --import-mode=importlib" tests/long

## test-gpu   tests that need an NVIDIA GPU
test-gpu: $(STAMP)
	$(PYTHON) -m pytest -q --override-ini addopts="-ra --strict-markers --import-mode=importlib" tests/gpu

## bench      times against named peers, into benchmarks/results
bench: $(STAMP)
	$(PYTHON) benchmarks/indexing.py
	$(PYTHON) benchmarks/language_model.py
	$(PYTHON) kernels/vq_lookup/benchmark.py
	$(PYTHON) kernels/codebook_update/benchmark.py

## bench-gpu  the same for what runs on an NVIDIA GPU
bench-gpu: $(STAMP)
	$(PYTHON) benchmarks/training_gpu.py
	$(PYTHON) kernels/vq_lookup/benchmark.py
	$(PYTHON) kernels/codebook_update/benchmark.py
	$(PYTHON) benchmarks/bulk_tokenization.py --gpu

## lint       ruff, pyright, import-linter
lint: $(STAMP)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/lint-imports
	$(VENV)/bin/pyright --pythonpath $(PYTHON)

## format     rewrite the code in the project's style
format: $(STAMP)
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .

clean:
	rm -rf $(VENV) runs build ./*.egg-info
