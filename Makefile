# Two commands do all the set-up on a machine with Python (3.11 or newer), make and git:
#   make quickstart   creates .venv, installs, runs the whole chain on handwritten digits
#   make test         creates .venv, installs, then ruff, mypy --strict and pytest
PYTHON ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11; do \
  $$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo $$p; break; }; done)
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
RUN_ARGS ?=

.PHONY: quickstart test all-tests slow tensorrt-bindings tensorrt-rtx format clean
.DEFAULT_GOAL := quickstart

$(INSTALLED): pyproject.toml
	@test -n "$(PYTHON)" || { echo "error: no Python 3.11 or newer found; install one, or: make PYTHON=/path/to/python" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e ".[dev]"
	@touch $@

quickstart: $(INSTALLED)
	$(BIN)/autoformer run recipes/quickstart.yaml $(RUN_ARGS)

# With all-tests: those of make slow among them, which saves importing and making twice what both need. In the order of the folders:
# files of few tests, which would come last, are the longest there, and one core would wait for them.
all-tests: AMONG := --no-loadscope-reorder -m "not gpu and not tensorrt"
test all-tests: $(INSTALLED)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	@$(BIN)/mypy > $(VENV)/mypy.log 2>&1 & checking=$$!; \
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist loadfile -q $(AMONG); tested=$$?; \
	wait $$checking; checked=$$?; cat $(VENV)/mypy.log; exit $$((tested | checked))

# What takes longer than make test may: more random architectures, many kills, the report in a browser, README commands in full.
slow: $(INSTALLED)
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist loadfile --no-loadscope-reorder -q -m "slow and not gpu and not tensorrt"

# NVIDIA's Python bindings of TensorRT 8.6 to 11.4, not installed but laid beside, for the tests that compare our code with them.
tensorrt-bindings: $(INSTALLED)
	$(BIN)/python -m tests.support.tensorrt_bindings $(VENV)/tensorrt-bindings

# NVIDIA's TensorRT-RTX: a real parser and builder, which need no GPU. Tests use it where it is.
tensorrt-rtx: $(INSTALLED)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e ".[tensorrt-rtx]"

format: $(INSTALLED)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf $(VENV) build *.egg-info .mypy_cache .ruff_cache .pytest_cache
