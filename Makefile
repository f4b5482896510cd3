# Both `make demo` and `make test` start from nothing but Python 3.11 and pip.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
BENCH ?= .venv-bench
CONFIG ?= plans/quick.toml

.PHONY: demo test fuzz check audit docs bench-env constraints clean

demo: $(STAMP)
	$(BIN)/fedspill demo --out fedspill-demo

test: $(STAMP)
	$(BIN)/python -m pytest -n 2

# 10,000 broken plans and files, new ones each time, and a kill at every file operation; 300 and some are in `make test`.
FUZZ ?= 10000
fuzz: $(STAMP)
	FEDSPILL_FUZZ=$(FUZZ) OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 tests/fuzz tests/cli/test_kills.py

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

# uv reads metadata only, so nothing big is fetched, and it keeps each pin that nothing forbids. UPGRADE lifts pins.
# The libraries of PyTorch's CUDA build are left out: torch pins them itself, and the CPU build has none.
constraints:
	set -e; tmp=$$(mktemp -d); trap 'rm -rf "$$tmp"' EXIT; cp constraints.txt "$$tmp"; \
	$(PYTHON) -m venv "$$tmp/venv"; \
	"$$tmp/venv/bin/python" -m pip install --quiet --disable-pip-version-check -c constraints.txt uv; \
	"$$tmp/venv/bin/uv" pip compile --quiet --python-version 3.11 --python-platform linux --no-annotate \
	  --custom-compile-command 'make constraints' --extra dev --extra text --extra search --extra privacy $(UPGRADE) \
	  --output-file "$$tmp/constraints.txt" pyproject.toml constraints.in; \
	grep -vE '^(cuda-|nvidia-|triton=)' "$$tmp/constraints.txt" > constraints.txt

clean:
	rm -rf $(VENV) $(BENCH) fedspill-demo
