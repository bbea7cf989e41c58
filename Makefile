# make run | test | test-fast | test-long | bench | bench-full | chaos | multinode | slurm | monitoring | lint | install | clean
# Each makes .venv and installs into it first, where that is not done yet (scripts/setup.sh).
#   make run ARGS="ppo.steps=50 run.seed=1"     other settings
#   make run ACCELERATOR=cuda                   the CUDA builds instead of the CPU ones
#   make test ARGS="-k gae"                     some tests
#   make bench ARGS="rollout --blocks 5"        one benchmark

SHELL := /bin/bash
export ACCELERATOR ?= cpu
CONFIG ?= configs/quickstart.yaml
PYTEST := python -m pytest --verbose --durations=15

# Ahead of the rest, so that what is compiled at first use finds ninja though .venv is not activated.
export PATH := $(CURDIR)/.venv/bin:$(PATH)

.PHONY: run test test-fast test-long bench bench-full chaos multinode slurm monitoring lint install clean

run: install
	scale-rlhf run $(CONFIG) $(ARGS)

# Unit tests on both cores, then what starts Ray, vLLM and DeepSpeed, a test at a time. 5 is pytest's word for "none of that name".
test: test-fast
	$(PYTEST) tests --ignore tests/unit $(ARGS) || (($$? == 5))

test-fast: install
	$(PYTEST) -n 2 tests/unit $(ARGS) || (($$? == 5))

test-long: override ARGS := -m "" $(ARGS)
test-long: test

# 3M parameters in fp32. Figures count on a quiet machine alone.
bench: install
	python -m benchmarks $(ARGS)

# 50M parameters too, and bfloat16.
bench-full: install
	python -m benchmarks --full $(ARGS)

# Whole runs under random faults: N of them.
chaos: install
	python -m tests.chaos.campaign --runs $(or $(N),20) --seed $(or $(SEED),1) $(ARGS)

# Three hosts as network namespaces: root and iproute2.
multinode: install
	python -m tests.multinode $(ARGS)

# The batch scripts on a real Slurm on this machine: root, slurm-wlm and munge.
slurm: install
	$(PYTEST) -m "" -rs tests/launch/test_slurm.py $(ARGS)

# A live run, a real Prometheus and a browser in Ray's dashboard; skips what is not installed (prometheus, chromium, chromium-driver).
monitoring: install
	$(PYTEST) -m "" tests/unit/test_monitoring.py tests/integration/test_names.py tests/integration/test_live_monitoring.py $(ARGS)

lint: install
	ruff check .

install:
	@scripts/setup.sh

# The environment and what tools left behind; never runs/.
clean:
	rm -rf .venv build dist *.egg-info .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
