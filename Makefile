# One obvious command per chore; each sets up .venv when it is missing or out of date.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
WORKSPACE ?= quickstart-workspace

.PHONY: help quickstart test test-heavy test-exhaustive test-browser screenshots lint bench install clean compose-env

help:
	@echo "make quickstart   value the built-in pool (no network beyond package installation)"
	@echo "make test         the test suite"
	@echo "make test-heavy   whole valuations against a real server: kills, appends, the quickstart"
	@echo "make test-exhaustive  more moments of kills than test-heavy has time for"
	@echo "make test-browser the part of test-heavy that looks at pages in Chromium"
	@echo "make screenshots  the pictures in docs/images, of the quickstart"
	@echo "make compose-env  random secrets for docker-compose.yml, in deployments/.env"
	@echo "make lint         ruff and mypy"
	@echo "make bench        every benchmark that README and docs quote"

install: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "Python 3.11 or newer is needed; name one with: make PYTHON=python3.11 ..."; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch==2.13.0
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $(STAMP)

quickstart: $(STAMP)
	$(BIN)/nncift quickstart --workspace $(WORKSPACE)

# Two files at a time: every worker has a Prefect server of its own, so more would need much memory.
test: $(STAMP)
	$(BIN)/python -m pytest -m "not heavy" -n 2 --dist loadfile tests

# Three at a time: they wait for servers and processes more than they compute.
test-heavy: $(STAMP)
	$(BIN)/python -m pytest -m "heavy and not exhaustive" -n 3 --dist loadfile tests

test-exhaustive: $(STAMP)
	$(BIN)/python -m pytest -m exhaustive tests

test-browser: $(STAMP)
	$(BIN)/python -m pytest -m browser tests

# Minutes: it values the built-in pool first.
screenshots: $(STAMP)
	NNCIFT_REQUIRE_BROWSER=1 NNCIFT_SCREENSHOTS=docs/images \
	  $(BIN)/python -m pytest -m browser -k "screenshots or operations_page" tests/browser

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(STAMP)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[bench]'
	$(BIN)/python benchmarks/matrix.py
	$(BIN)/python benchmarks/scale.py
	$(BIN)/python benchmarks/selection.py
	$(BIN)/python benchmarks/storage.py
	$(BIN)/python benchmarks/reading.py
	$(BIN)/python benchmarks/planner.py
	$(BIN)/python benchmarks/capacity.py
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[s3-test]'
	$(BIN)/python benchmarks/object_store.py
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/exact_influence.py
	$(BIN)/python -m benchmarks.builtin_lm.context
	$(BIN)/python benchmarks/overhead.py
	$(BIN)/python benchmarks/faults.py --count 32
	$(BIN)/python benchmarks/prune_gradients.py
	$(BIN)/python benchmarks/quickstart.py

compose-env:
	$(PYTHON) deployments/make_env.py

clean:
	rm -rf $(VENV) build dist *.egg-info
