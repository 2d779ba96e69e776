SHELL := bash
PY := .venv/bin/python

# Nothing but .venv may decide what the targets import.
unexport PYTHONPATH PYTHONHOME
# The set-up leaves it to the first import to compile a module; kept from it, every process would.
unexport PYTHONDONTWRITEBYTECODE
export PYTHONNOUSERSITE := 1

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-newest test-openmmlab gpu lint docs clean clean-env

help: ## show this list
	@sed -n 's/^\([a-z-]*\):.*## /\1|/p' Makefile | while IFS='|' read -r name text; do \
		printf '  make %-15s %s\n' "$$name" "$$text"; done

setup: ## make .venv ready (about two minutes once; MMCV_OPS=compiled: also compile mmcv's operators)
	@bash tools/setup_env.sh

demo: setup ## run the demo, on a GPU if there is one
	@bash tools/demo.sh

test: setup ## run the tests on all cores; make test ARGS='-k name' runs some of them
	@$(PY) -m pytest -n "$$(getconf _NPROCESSORS_ONLN)" --maxprocesses 4 --dist worksteal $(ARGS)

# Build, forward, load, train, evaluate: what must also work on other releases.
CORE := $(patsubst %,tests/%.py,$(addprefix layers/test_,window attention recompute) \
	$(addprefix backbones/test_,gcvit scalablevit gg_transformer gpvit backbones) \
	checkpoints/test_checkpoints $(addprefix engine/test_,optim hooks resume) \
	$(addprefix e2e/test_,end_to_end families_end_to_end))

test-newest: ## run the core of the tests on the newest torch and torchvision, in .venv-newest
test-openmmlab: ## run the core of the tests on the last open-mmlab releases, in .venv-openmmlab
test-newest test-openmmlab: test-%:
	@bash tools/setup_env.sh $*
	@PATH="$$PWD/.venv-$*/bin:$$PATH" python -m pytest -p no:cacheprovider \
		-n "$$(getconf _NPROCESSORS_ONLN)" --maxprocesses 4 --dist worksteal $(CORE) $(ARGS)

gpu: ## measure what only a GPU can show into gpu.json; make gpu PART=2 for one part of eight
	@$(or $(PYTHON),$(PY)) tools/gpu_report.py $(if $(PART),--part $(PART))

lint: setup ## check style and types
	@$(PY) -m ruff check .
	@$(PY) -m ruff format --check .
	@$(PY) -m mypy

docs: setup ## build the documentation into docs/_build/html
	@$(PY) -m sphinx -W --keep-going -q docs docs/_build/html
	@echo "open docs/_build/html/index.html"

clean: ## remove build outputs and caches, keep .venv
	rm -rf build dist docs/_build *.egg-info .pytest_cache .hypothesis .mypy_cache .ruff_cache
	find . -name __pycache__ -not -path './.venv*/*' -prune -exec rm -rf {} +

clean-env: ## remove .venv and its like; the next set-up makes them anew
	rm -rf .venv .venv-newest .venv-openmmlab .setup
