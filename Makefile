# The two commands a user needs: `make conformance` and `make test`. Both prepare .venv themselves.
PYTHON ?= $(shell command -v python3.11 || command -v python3 || echo python3.11)
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.ready
WORKERS ?= 2
# Many tests wait for a process or a deadline.
TEST_WORKERS ?= 4
# Mutants spend a part of their time waiting for what does not come.
MUTANT_WORKERS ?= 5

.PHONY: conformance test setup lint types imports tests suite mutants foreign soak lock clean

conformance: $(STAMP)
	$(BIN)/edgecase run -n $(WORKERS)

test: lint types imports tests suite mutants

setup: $(STAMP)

# Nothing is compiled: every dependency is a wheel from the lock, checked by hash.
$(STAMP): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || \
	  { echo "edgecase needs Python 3.11: found none as $(PYTHON); install it or call 'make PYTHON=/path/to/python3.11'"; exit 2; }
	@echo "setup: creating $(VENV) from requirements.lock"
	@test -x $(BIN)/pip || $(PYTHON) -m venv --clear $(VENV) || \
	  { rm -rf $(VENV); echo "$(PYTHON) cannot make a virtual environment: install its venv module (Debian: python3-venv)"; exit 2; }
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --only-binary :all: --require-hashes -r requirements.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(STAMP)
	$(BIN)/mypy

imports: $(STAMP)
	$(BIN)/lint-imports --no-logo

tests: $(STAMP)
	$(BIN)/python -m pytest -n $(TEST_WORKERS) tests

suite: $(STAMP)
	$(BIN)/edgecase run -n $(WORKERS)

# Every mutant, each to its first kill, compared with what the suite gave just now. The whole matrix, with what is proven
# and what is not, is part of `make soak`.
mutants: suite
	$(BIN)/edgecase mutants --quick -n $(MUTANT_WORKERS) --control build/report/run.json

# Foreign engines and peers, from a lock with hashes, under .foreign (ignored). What it could not get it says.
foreign: $(STAMP)
	$(BIN)/edgecase foreign install

# Long proofs, once per change of substance: many runs in other orders and on a busy machine, noise, fuzz.
soak: $(STAMP)
	$(BIN)/python -m pytest -m soak -s tests
	$(BIN)/edgecase soak --minutes 10
	$(BIN)/edgecase mutants -n $(MUTANT_WORKERS)

lock:
	@command -v uv >/dev/null || { echo "make lock needs uv"; exit 2; }
	uv pip compile --quiet --python-version 3.11 --generate-hashes --no-emit-package edgecase requirements.in -o requirements.lock

clean:
	rm -rf $(VENV) build .mypy_cache .ruff_cache .pytest_cache
