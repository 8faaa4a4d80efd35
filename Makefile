# The environment is made once in .venv, with the versions of constraints.txt.
PYTHON ?= python3
VENV   ?= .venv
# The build of torch: cpu, cuda, or what this machine can use.
TORCH  ?= auto
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip install --disable-pip-version-check --constraint constraints.txt

.DEFAULT_GOAL := help
.PHONY: help demo test slow fuzz faults gpu check format clean

help:  ## show this list
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## */\t/' | expand -t 12

demo: $(VENV)/.demo  ## embed a small synthetic set with distillmos, train heads on it, show the result as a page
	$(BIN)/qamro-extract --dataset demo --data-dir demo/audio --encoder distillmos --out demo/emb.h5
	$(BIN)/qamro-train --cache demo/emb.h5 --cv group --out demo/run --report demo/report.html

test: $(VENV)/.test  ## run the test suite: about five minutes on two quiet cores
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 -m "not slow"

slow: $(VENV)/.test  ## run the tests that take longer: real audio, interpreted kernels, README's examples
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 -m slow --ignore tests/test_faults.py

fuzz: $(VENV)/.test  ## 10,000 hostile files a door and 1,000 command lines, within the hour; the result goes to benchmarks/results
	OMP_NUM_THREADS=1 $(BIN)/python tests/fuzz --cases 10000 --out benchmarks/results/fuzz.json

faults: $(VENV)/.test  ## 60 failing system calls under each command that writes (30 where figures are drawn), a quarter of an hour; the result goes to benchmarks/results
	FAULTS_OUT=benchmarks/results/faults.json OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -m slow tests/test_faults.py

gpu:  ## all that a GPU is to show, about twelve minutes, to benchmarks/results/gpu; SMALL=1: tiny, on a CPU too
	$(if $(wildcard $(BIN)/python),$(BIN)/python,$(PYTHON)) benchmarks/gpu.py $(if $(SMALL),--small) $(if $(GPU_OUT),--out $(GPU_OUT))

check: $(VENV)/.test  ## ruff (lint and format), mypy and the arrows between rooms, without changing a file
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/.test  ## let ruff mend what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:  ## remove the environment, the demo and the tools' caches
	rm -rf $(VENV) demo .pytest_cache .mypy_cache .ruff_cache .hypothesis *.egg-info

$(VENV)/bin/python:
	@$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 11))" || { echo "error: $(PYTHON) is not Python 3.11 or newer; name one: make PYTHON=python3.11"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	@# Older ones say nothing for minutes while they unpack.
	-$(PIP) 'pip>=25.1'

$(VENV)/.torch-$(TORCH): $(VENV)/bin/python install_torch.py constraints.txt
	$(BIN)/python install_torch.py $(TORCH)
	@rm -f $(VENV)/.torch-*
	@touch $@

$(VENV)/.demo: $(VENV)/.torch-$(TORCH) setup.cfg constraints.txt
	$(PIP) --editable '.[distillmos]'
	@touch $@

$(VENV)/.test: $(VENV)/.torch-$(TORCH) setup.cfg constraints.txt
	$(PIP) --editable '.[test]'
	@# Its weights are all we read; what it asks for needs a C compiler.
	$(PIP) --no-deps Resemblyzer
	@touch $@ $(VENV)/.demo
