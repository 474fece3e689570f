# The two commands: `make figures` and `make test`. Each sets up .venv on first use.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: figures test bench clean
.DELETE_ON_ERROR:

figures: $(STAMP)
	$(BIN)/ldyn report all

test: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/python -m pytest -n 2 --dist loadgroup

bench: $(STAMP)
	$(BIN)/python -m benchmarks

# --no-compile keeps a quarter of the bytes off the disk; modules are compiled when first imported.
$(STAMP): requirements.lock pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or later is needed: make PYTHON=/path/to/python3.11")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check --quiet --no-compile --no-deps -r requirements.lock -e .
	touch $@

# Removes the environment; results are removed by `ldyn clean`.
clean:
	rm -rf $(VENV) build *.egg-info
