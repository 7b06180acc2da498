# Every target works from a bare clone: it makes .venv first.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
PACKAGES := sandbox plugins/format plugins/language plugins/math plugins/code
BIN := .venv/bin
export OMP_NUM_THREADS ?= 2

.PHONY: install demo test test-all lint dist clean

install: .venv/.installed

.venv/.installed: constraints.txt pyproject.toml $(PACKAGES:%=%/pyproject.toml)
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt \
		--editable '.[train,plot,tensorboard,dev]' $(PACKAGES:%=--editable %)
	touch $@

demo: install
	$(BIN)/grpo train examples/calculator/grpo.yaml $(ARGS)
	$(BIN)/grpo plot runs/calculator

# Two test processes, one thread each: two torch threads beside a neighbour stall each other.
test: install
	OMP_NUM_THREADS=1 $(BIN)/pytest --numprocesses 2 -m "not slow" tests plugins sandbox

test-all: install
	OMP_NUM_THREADS=1 $(BIN)/pytest tests plugins sandbox

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy grpo_core $(patsubst %/__init__.py,%,$(wildcard $(PACKAGES:%=%/grpo_*/__init__.py)))

dist: install
	rm -rf dist
	for p in . $(PACKAGES); do $(BIN)/python -m build --quiet --wheel --outdir dist $$p || exit 1; done

clean:
	rm -rf .venv dist build runs
