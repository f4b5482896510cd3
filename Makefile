# Both `make demo` and `make test` start from nothing but Python 3.11 and pip.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
BENCH ?= .venv-bench
CONFIG ?= plans/quick.toml

.PHONY: demo test check audit docs bench-env clean

demo: $(STAMP)
	$(BIN)/fedspill demo --out fedspill-demo

test: $(STAMP)
	$(BIN)/python -m pytest -n 2

check: $(STAMP)
	$(BIN)/ruff format --check src tests benchmarks
	$(BIN)/ruff check src tests benchmarks
	$(BIN)/pyright
	$(BIN)/lint-imports
	$(BIN)/python -m benchmarks.documents.attacks_table --check
	$(BIN)/python -m benchmarks.documents.listings --check

audit: $(STAMP)
	$(BIN)/fedspill audit $(CONFIG)

docs: $(STAMP)
	$(BIN)/python -m benchmarks.documents.attacks_table
	$(BIN)/python -m benchmarks.documents.listings

# The constraints keep PyTorch at one version, so that no later install replaces it by another build.
$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed, got %d.%d" % sys.version_info[:2])'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch==2.13.0
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

bench-env: $(BENCH)/.installed

$(BENCH)/.installed: pyproject.toml constraints.txt
	test -x $(BENCH)/bin/python || $(PYTHON) -m venv $(BENCH)
	$(BENCH)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch==2.13.0
	$(BENCH)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[bench]'
	touch $@

clean:
	rm -rf $(VENV) $(BENCH) fedspill-demo
