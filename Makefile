# `make help` lists what there is. Every target sets up what it needs: Python 3.11 to 3.13 and make are enough.

.DEFAULT_GOAL := help
SHELL := /bin/bash

first_python = $(shell for python in $(1); do "$$python" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' \
	2>/dev/null && echo "$$python" && break; done)

PYTHON ?= $(call first_python,python3.13 python3.12 python3.11 python3)
PYTHON_OLDEST ?= $(call first_python,python3.11 $(PYTHON))
VENV ?= .venv
VENV_OLDEST := build/venv-oldest
# For what a target runs: `make test ARGS="tests/chassis -k drain"`, `make demo ARGS=--help`.
ARGS ?=

BIN := $(VENV)/bin
READY := $(VENV)/.project
READY_OLDEST := $(VENV_OLDEST)/.project
# Environments of their own beside $(VENV), each from requirements/NAME.txt.
BESIDE := oldest mlserver ray
READY_SERVERS := build/venv-mlserver/.project build/venv-ray/.project
PROTOS := proto/leyline/v1 $(wildcard proto/leyline/v1/*.proto) proto/stubs.py
DESCRIPTORS := build/leyline-v1.binpb
BASELINE := proto/baseline.binpb
GO_MODULES := clients/go services/tamiyo_go
# Into DIR/leylinev1: $(call generate_go,DIR)
generate_go = cd clients/go && $(abspath $(BIN))/buf generate $(abspath $(DESCRIPTORS)) --template buf.gen.yaml --path leyline --clean -o $(abspath $(1))
ROOMS := $(wildcard $(addprefix tests/,chassis contract kasmina leyline simic tamiyo))

.PHONY: help
help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "%-26s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: demo
demo: $(READY) $(DESCRIPTORS) ## Watch a network grow under a policy that learns while it serves
	$(BIN)/leyline demo $(ARGS)

.PHONY: up
up: $(READY) $(DESCRIPTORS) ## Run the three services on this machine
	$(BIN)/leyline up $(ARGS)

.PHONY: test
test: $(READY) $(DESCRIPTORS) ## Run every test, or those that ARGS names
ifdef ARGS
	$(BIN)/python -m pytest $(ARGS)
else
# Containers last and one after the other: beside other tests on few cores they wait for each other.
	status=0; $(BIN)/python -m pytest -n 2 --dist loadfile --ignore tests/containers || status=$$?; \
	$(BIN)/python -m pytest tests/containers -s || status=$$?; exit $$status
endif

.PHONY: test-oldest
test-oldest: $(READY_OLDEST) ## Run the tests of the rooms with the oldest admitted dependencies
	$(VENV_OLDEST)/bin/python proto/stubs.py --stubs clients/python
	$(VENV_OLDEST)/bin/python -m pytest -n 2 -m "not lengthy" $(ROOMS) $(ARGS)

# -count=1, because Go's cache of results does not see a change of proto/testdata, which lies outside its modules.
.PHONY: test-go
test-go: check-proto-go ## Check and test the Go modules, with the race detector (needs Go 1.26 and a C compiler)
	@unformatted=$$(gofmt -l $(GO_MODULES)); test -z "$$unformatted" || { echo "Not formatted by gofmt: $$unformatted" >&2; exit 1; }
	for module in $(GO_MODULES); do (cd $$module && go vet ./... && go test -race -count=1 ./...) || exit 1; done

.PHONY: check-proto-go
check-proto-go: $(READY) $(DESCRIPTORS)
	$(call generate_go,build/go)
	diff -r build/go/leylinev1 clients/go/leylinev1 || { echo "The Go stubs are not those of the contract: make proto-go" >&2; exit 1; }

.PHONY: check
check: check-style check-types check-layers check-contract check-locks ## Run every check that runs no test

.PHONY: check-style
check-style: $(READY)
	$(BIN)/ruff check
	$(BIN)/ruff format --check

.PHONY: check-types
check-types: $(READY) $(DESCRIPTORS)
	$(BIN)/mypy

.PHONY: check-layers
check-layers: $(READY) $(DESCRIPTORS)
	$(BIN)/lint-imports

.PHONY: check-contract
check-contract: $(READY) $(DESCRIPTORS)
	$(BIN)/buf lint $(DESCRIPTORS) --config proto/buf.yaml --path leyline
	$(BIN)/buf breaking $(DESCRIPTORS) --config proto/buf.yaml --path leyline --against $(BASELINE)

.PHONY: check-locks
check-locks: $(READY)
	$(BIN)/python requirements/lock.py --check

.PHONY: format
format: $(READY) ## Format the code, and mend what ruff can
	$(BIN)/ruff check --fix-only
	$(BIN)/ruff format

.PHONY: bench
bench: $(READY) $(DESCRIPTORS) $(READY_SERVERS) ## Measure the rows of tests/benchmarks/rows.json into build/bench.json (20 minutes)
	$(BIN)/python -m tests.benchmarks $(ARGS)

.PHONY: study-baseline
study-baseline: $(READY) $(DESCRIPTORS) ## Train the weak host without seeds on all of CIFAR-100, 30 epochs (quarter of an hour)
	$(BIN)/python -m tests.studies.depth_and_time --baseline --out docs/findings/baseline.json $(ARGS)

.PHONY: study-depth-and-time
study-depth-and-time: $(READY) $(DESCRIPTORS) ## Measure what a seed is worth by depth and time of growing (half an hour)
	$(BIN)/python -m tests.studies.depth_and_time --out docs/findings/depth-and-time.json $(ARGS)

.PHONY: study-seeding
study-seeding: $(READY) $(DESCRIPTORS) ## Measure ways to train and blend an isolated seed (three quarters of an hour)
	$(BIN)/python -m tests.studies.seeding --out docs/findings/seeding.json $(ARGS)

.PHONY: study-seeding-to-the-end
study-seeding-to-the-end: $(READY) $(DESCRIPTORS) ## Compare both shadow paths to the end of the episode (half an hour)
	$(BIN)/python -m tests.studies.seeding --to-the-end --out docs/findings/seeding-to-the-end.json $(ARGS)

.PHONY: study-learning
study-learning: $(READY) $(DESCRIPTORS) ## Learn policies on the growth simulator, beside controls (three quarters of an hour)
	$(BIN)/python -m tests.studies.learning --out docs/findings/learning.json $(ARGS)

.PHONY: study-growing
study-growing: $(READY) $(DESCRIPTORS) ## Let a policy learn for two hours on CIFAR-100, and compare it (three and a half hours; resumes)
	$(BIN)/python -m tests.studies.growing --out docs/findings/growing.json $(ARGS)

.PHONY: test-growth-full
test-growth-full: $(READY) $(DESCRIPTORS) ## Random lives of seeds and kill points, in full (10,000 steps)
	LEYLINE_GROWTH_STEPS=10000 $(BIN)/python -m pytest tests/kasmina/network tests/kasmina/training --timeout 3600 $(ARGS)

.PHONY: soak-kasmina
soak-kasmina: $(READY) $(DESCRIPTORS) ## Kill a run 50 times, and play 200 runs in one service (ten minutes)
	LEYLINE_SOAK=1 $(BIN)/python -m pytest tests/kasmina/runs/test_many_runs.py --timeout 3600 -s $(ARGS)

.PHONY: determinism
determinism: $(READY) $(DESCRIPTORS) ## Compare what 8 trainers and 1 teach, whatever is killed, in full (five minutes, or more beside other work)
	LEYLINE_DETERMINISM=full $(BIN)/python -m pytest tests/integration/test_determinism.py --timeout 3600 -s $(ARGS)

.PHONY: kill-simic
kill-simic: $(READY) $(DESCRIPTORS) ## Kill Simic, and PostgreSQL under it, 200 times each; restart with a million rows (quarter of an hour)
	LEYLINE_KILLS=200 LEYLINE_ROWS=1000000 $(BIN)/python -m pytest tests/faults --timeout 7200 -s $(ARGS)

.PHONY: faults
faults: $(READY) $(DESCRIPTORS) ## Kill, pause, cut off and fill up containers of the stack, 20 rounds (ten minutes; needs Docker)
	LEYLINE_FAULTS=full $(BIN)/python -m pytest tests/containers/test_faults.py tests/containers/test_full_disk.py --timeout 7200 -s $(ARGS)

.PHONY: fuzz-tamiyo
fuzz-tamiyo: $(READY) $(DESCRIPTORS) ## Send Tamiyo 100,000 inputs that are mostly wrong (ten minutes)
	LEYLINE_FUZZ_INPUTS=17000 $(BIN)/python -m pytest tests/tamiyo/test_fuzz.py --timeout 3600 -s $(ARGS)

.PHONY: test-cuda
test-cuda: $(READY) $(DESCRIPTORS) ## Run the tests of isolation, resumption and telemetry on a GPU
	LEYLINE_TEST_DEVICE=cuda $(BIN)/python -m pytest tests/kasmina/network tests/kasmina/training tests/kasmina/data $(ARGS)

.PHONY: migration
migration: $(READY) $(DESCRIPTORS) ## Write the migration of Simic's database to what its schema says (ARGS="'what changes'")
	$(BIN)/python -m tests.simic.make_migration $(ARGS)

.PHONY: proto
proto: $(DESCRIPTORS) ## Generate Python stubs and descriptors from the contract

.PHONY: proto-go
proto-go: $(READY) $(DESCRIPTORS) ## Generate the Go stubs, which are committed, from the contract (needs Go 1.26)
	$(call generate_go,clients/go)

.PHONY: proto-baseline
proto-baseline: $(READY) ## Make today's contract the one that later changes are compared with
	$(BIN)/python proto/stubs.py --baseline $(BASELINE)

.PHONY: lock
lock: $(READY) ## Resolve requirements/ from pyproject.toml (ARGS=--upgrade for newer versions)
	$(BIN)/python requirements/lock.py $(ARGS)

.PHONY: setup
setup: $(READY) $(DESCRIPTORS) ## Install everything that is needed here into .venv

.PHONY: clean
clean: ## Remove what can be made again, except .venv
	rm -rf build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	rm -f clients/python/leyline/v1/*_pb2*.py*

# An environment is made once; its two stamps tell which lock it holds, and that the project was installed into it.
$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "No Python 3.11 to 3.13 found: install one, or name it with PYTHON=..." >&2; exit 1; }
	"$(PYTHON)" -m venv $(VENV) || { rm -rf $(VENV); exit 1; }

# $(call install,PYTHON,LOCK): by uv, which uses all cores and keeps one copy of what several environments have. Compiled like
# pip's, or where PYTHONDONTWRITEBYTECODE is set each start would compile all anew.
install = $(1) -m pip install --quiet --no-deps --require-hashes -r requirements/installer.txt \
	&& $(1) -m uv pip install --python $(1) --quiet --system-certs --compile-bytecode --no-deps --require-hashes -r $(2)

$(VENV)/.lock: requirements/lock.txt requirements/installer.txt | $(BIN)/python
	@echo "Installing the locked requirements into $(VENV): PyTorch and CUDA are gigabytes, so this takes minutes once."
	$(call install,$(BIN)/python,$<)
	@touch $@

$(READY): $(VENV)/.lock pyproject.toml setup.py
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	@touch $@

$(BESIDE:%=build/venv-%/bin/python):
	@test -n "$(PYTHON_OLDEST)" || { echo "No Python 3.11 to 3.13 found: install one, or name it with PYTHON_OLDEST=..." >&2; exit 1; }
	"$(PYTHON_OLDEST)" -m venv $(@:/bin/python=) || { rm -rf $(@:/bin/python=); exit 1; }

$(BESIDE:%=build/venv-%/.lock): build/venv-%/.lock: requirements/%.txt requirements/installer.txt | build/venv-%/bin/python
	$(call install,build/venv-$*/bin/python,$<)
	@touch $@

$(BESIDE:%=build/venv-%/.project): build/venv-%/.project: build/venv-%/.lock pyproject.toml setup.py
	build/venv-$*/bin/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	@touch $@

$(DESCRIPTORS): $(READY) $(PROTOS)
	$(BIN)/python proto/stubs.py --stubs clients/python --descriptors $@
