# Targets are the table of contents: `make help`. ARGS="key=value ..." reaches the program.
PYTHON ?= python3
ARGS ?=
SHARD ?=
VENV := .venv
RUN := $(VENV)/bin/python
STAMP := $(VENV)/.setup-done

.DEFAULT_GOAL := help
.PHONY: help setup run sweep wandb-sync rollouts figures doses toys front equal-quality benchmark test test-slow check clean

help:  ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## */  make \1\t/' | expand -t 22

setup: $(STAMP)  ## make .venv with everything at the versions of constraints.txt

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' || \
		{ echo "error: $(PYTHON) is not Python 3.11, 3.12 or 3.13: give PYTHON=<one that is>" >&2; exit 2; }
	test -x $(RUN) || $(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet -c constraints.txt -e '.[dev,sweep]'
	@touch $@

run: $(STAMP)  ## one fine-tune on the embedded model (ARGS="budget=16 seed=1")
	$(RUN) -m pd_finetune.run method=mask budget=4 $(ARGS)

sweep: $(STAMP)  ## the write-up's comparison: every method, budget and seed (SHARD=0/4 for a part)
	$(RUN) -m pd_finetune.run -m experiment=write_up $(if $(SHARD),shard=$(SHARD)) $(ARGS)

wandb-sync: $(STAMP)  ## send the runs that W&B logged offline to its server
	$(RUN) scripts/wandb_sync.py $(ARGS)

figures: $(STAMP)  ## figures, tables and the page of results from the runs there are
	$(RUN) -m pd_finetune.figures $(ARGS)

rollouts: $(STAMP)  ## continuations of fixed prompts, before and after each arm's edits
	$(RUN) -m pd_finetune.rollouts $(ARGS)

doses: $(STAMP)  ## what one scalar could do at best, in each shipped decomposition and in an SVD
	$(RUN) -m pd_finetune.studies.doses $(ARGS)

toys: $(STAMP)  ## ground truth: train, decompose and score the toys, three seeds
	$(RUN) -m pd_finetune.studies.toys $(ARGS)

front: $(STAMP)  ## decompositions over minimality: CI-L0 against KL, training curves (hours)
	$(RUN) -m pd_finetune.studies.front $(ARGS)

equal-quality: $(STAMP)  ## the merged recipe in a fifth of the time of the paper's (hours)
	$(RUN) -m pd_finetune.studies.equal_quality $(ARGS)

benchmark: $(STAMP)  ## time a decomposition step against a plain reference
	$(RUN) -m benchmarks.decompose $(ARGS)

check: $(STAMP)  ## lint, formatting and types
	$(RUN) -m ruff check pd_finetune hydra_plugins tests scripts benchmarks
	$(RUN) -m ruff format --check pd_finetune hydra_plugins tests scripts benchmarks
	$(RUN) -m mypy

test: check  ## check, then the tests (ARGS="-k cli")
	$(RUN) -m pytest $(ARGS)

test-slow: $(STAMP)  ## the tests that test leaves out: several processes, compilers, memory
	$(RUN) -m pytest -m slow $(ARGS)

clean:  ## remove caches and build products, not results
	rm -rf build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find pd_finetune hydra_plugins tests scripts benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +
