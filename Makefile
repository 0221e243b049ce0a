# Everything a person types. `make run` and `make test` do their own set-up.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
PEERS := $(VENV)/peers

# Expanded when it is used, which is after the set-up.
IMAGES ?= $(shell $(BIN)/python -c "import pathlib, skimage; print(pathlib.Path(skimage.__file__).parent / 'data')" 2>/dev/null)
OUT ?= out
MODEL ?=
ARGS ?=

export PREFECT_SERVER_ANALYTICS_ENABLED ?= false
export DO_NOT_TRACK ?= 1
export RAY_USAGE_STATS_ENABLED ?= 0

.PHONY: help run test test-faults lint bench up down clean

help:  ## what can be made
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "shardseer needs Python 3.11 or newer; try make PYTHON=python3.12 …"; exit 2; }
	@echo "Setting up $(VENV) with the pinned versions: a few minutes and about 7 GB, once."
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "  installing (PyTorch is the large one) …"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $@
	@echo "  done."

run: $(READY)  ## classify IMAGES (default: scikit-image's photographs) into OUT through Prefect and Ray
	@$(BIN)/shardseer classify "$(IMAGES)" \
		--output "$(OUT)" $(if $(MODEL),--model "$(MODEL)") --prefect --workers ray $(ARGS)

# What is given (IMAGES, OUT, MODEL, PORT) is in its environment, what is not given stays as it was: no defaults of this file.
up: $(READY)  ## a Prefect server and a worker on this machine, with the nightly deployment of IMAGES into OUT
	@$(BIN)/python -m deploy.local up

down: $(READY)  ## end them and every run of theirs
	@$(BIN)/python -m deploy.local down

# Side by side where a test keeps to itself; one after another where many share one Ray or one Prefect server.
ALONE := tests/pipeline tests/benchmarks
test: $(READY)  ## the whole suite
	@status=0; $(BIN)/python -m pytest -m "not faults" --numprocesses auto --maxprocesses 8 --dist loadfile $(ALONE) || status=1; \
		$(BIN)/python -m pytest -m "not faults" $(ALONE:%=--ignore=%) || status=1; exit $$status

test-faults: $(READY)  ## the long fault suite: everything is killed at every boundary
	@status=0; $(BIN)/python -m pytest tests/faults || status=1; \
		$(BIN)/python -m pytest -m faults --ignore=tests/faults || status=1; exit $$status

lint: $(READY)  ## formatting, lints, types
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy

# Daft wants an older pyarrow than ours: it gets a folder beside the venv's own packages, which only it looks into.
$(PEERS)/.ready: $(READY) benchmarks/peers/requirements.txt
	@echo "Installing Daft, to be measured against, into $(PEERS) …"
	@rm -rf $(PEERS)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --target $(PEERS) \
		--requirement benchmarks/peers/requirements.txt
	@touch $@

bench: $(PEERS)/.ready  ## measure against the roof and against other systems (25 minutes; ARGS=--quick: 4)
	@$(BIN)/python -m benchmarks.compare $(ARGS)

clean:  ## remove what was built, keep outputs
	@rm -rf $(VENV) build *.egg-info .pytest_cache .mypy_cache .ruff_cache
