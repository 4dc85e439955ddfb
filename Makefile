PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

.PHONY: setup demo test parity faults bench evidence evidence-short check lock clean

setup: $(VENV)/.installed  ## .venv with the package and the command .venv/bin/infifusion

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit("infifusion needs Python >= 3.11, found " + sys.version.split()[0] + "; set PYTHON=python3.11" if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV)
	$(PIP) --upgrade pip
	$(PIP) torch
	$(PIP) --editable .
	touch $@

$(VENV)/.tested: $(VENV)/.installed
	$(PIP) --editable ".[test]"
	touch $@

$(VENV)/.benched: $(VENV)/.tested
	$(PIP) --editable ".[bench]"
	touch $@

$(VENV)/.checked: $(VENV)/.tested
	$(PIP) --editable ".[check]"
	touch $@

demo: setup  ## three tiny specialists fused into one pivot, offline, in minutes
	$(BIN)/infifusion demo --run-dir runs/demo

test: $(VENV)/.tested  ## the whole test suite
	$(BIN)/python -m pytest -n 2 --dist loadfile

parity: $(VENV)/.tested  ## every merge case against mergekit
	INFIFUSION_PARITY=all $(BIN)/python -m pytest -n 2 tests/parity

faults: $(VENV)/.tested  ## kill, stop, fill, take away: every fault, and whether anything is lost
	$(BIN)/python tests/faults/harness.py --faults 200 --seed 0 --json runs/faults.json

bench: $(VENV)/.benched  ## every table of docs/performance.md; JSON in runs/bench
	mkdir -p runs/bench
	$(BIN)/python benchmarks/align_and_fuse.py --json runs/bench/align_and_fuse.json
	$(BIN)/python benchmarks/teacher_pass.py --json runs/bench/teacher_pass.json
	$(BIN)/python benchmarks/two_processes.py --json runs/bench/two_processes.json
	$(BIN)/python benchmarks/distill_step.py --json runs/bench/distill_step.json
	$(BIN)/python benchmarks/plan_vs_run.py --json runs/bench/plan_vs_run.json
	$(BIN)/python benchmarks/merge_vs_mergekit.py --repeats 3 --their-repeats 1 \
		--work runs/bench/merge --json runs/bench/merge.json

evidence: setup  ## every sweep of benchmarks/evidence, then docs/results.md
	$(BIN)/python benchmarks/evidence.py

evidence-short: setup  ## one seed of three sweeps, in runs/evidence-short, beside docs/results.md
	mkdir -p runs/evidence-short
	cp docs/results.md runs/evidence-short/results.md
	$(BIN)/python benchmarks/evidence.py --seeds 1 --only confirm,few_labels,same_start --work runs/evidence-short \
		--docs runs/evidence-short/results.md

check: $(VENV)/.checked  ## format, lint, types, fast tests
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright
	$(BIN)/python -m pytest -m "not slow"

lock: $(VENV)/.checked  ## write constraints.txt from what is installed
	$(BIN)/python -m pip freeze --exclude-editable | sed 's/^torch==\([0-9.]*\).*/torch==\1/' > constraints.txt

clean:
	rm -rf $(VENV) build dist src/*.egg-info
