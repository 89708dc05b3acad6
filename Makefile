# Two commands matter: `make run` and `make test`. Everything they need beyond Python 3.11+ and make, they install into .venv.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes
LOCK := $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header
# What checks import the settings with: nothing of the developer's environment or .env.
BARE := env -i PATH="$$PATH" HOME="$$HOME" ENV_FILE=/dev/null DATA_DIR=$(VENV)/checks DATABASE_URL=sqlite:///:memory: DJANGO_SECRET_KEY=checks

# A worker of pytest-xdist for each core and one more, for many tests wait for processes; with PYTHONDONTWRITEBYTECODE
# each of them would compile all tests again. Files in the order of tests/conftest.py, not by their number of tests.
WORKERS = $(shell echo $$(($$(getconf _NPROCESSORS_ONLN) + 1)))
PYTEST = PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest --quiet --numprocesses=$(WORKERS) --maxprocesses=4 --dist=loadscope --no-loadscope-reorder
# The longest test takes a quarter of an hour, and three times as long on a busy machine.
PYTEST_FULL = $(PYTEST) --full -o faulthandler_timeout=7200

.DEFAULT_GOAL := help
.PHONY: help run install serve test test-full lint prove openapi client-models screenshots bench lock

help: ## List what make can do.
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-13s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

run: $(VENV)/.installed ## Install, migrate, fill an empty store with a demo, print requests to try, serve on 127.0.0.1:${PORT:-8000}.
	@exec $(BIN)/python manage.py serve --demo

install: $(VENV)/.installed ## Install what the gateway needs into .venv.

serve: ## The same without demo or install; every setting comes from the environment or .env.
	@test -x $(BIN)/python || { echo "Nothing is installed in $(VENV) yet: make install"; exit 1; }
	@exec $(BIN)/python manage.py serve

test: lint ## Lint, types, migrations, and every test on SQLite and on PostgreSQL.
	$(PYTEST)
	TEST_DATABASE=postgresql $(PYTEST)

test-full: lint ## The same with the long tests.
	$(PYTEST_FULL)
	TEST_DATABASE=postgresql $(PYTEST_FULL)

lint: $(VENV)/.installed-dev ## Lint, format, types, and whether a migration is missing.
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BARE) $(BIN)/mypy
	$(BARE) $(BIN)/python manage.py makemigrations --check --dry-run

prove: $(VENV)/.installed-dev ## Plant one fault after another, and check that a test fails each time: about ten minutes.
	$(BIN)/python -m tests.mutation_checks

openapi: $(VENV)/.installed ## Write tests/golden/openapi.json anew, after a change of the API's description that is meant.
	$(BARE) $(BIN)/python manage.py spectacular --format openapi-json --validate --fail-on-warn --file tests/golden/openapi.json

client-models: $(VENV)/.installed-dev ## Write the models of both clients anew, from tests/golden/openapi.json; needs Node and npm.
	cd clients/python && PATH="$(CURDIR)/$(BIN):$$PATH" datamodel-codegen
	cd clients/typescript && npm ci && npm run generate && npm run build

screenshots: $(VENV)/.installed-dev ## Take the screenshots in docs/screenshots again; needs Chromium.
	SCREENSHOTS=docs/screenshots $(BIN)/python -m pytest tests/test_console_browser.py tests/test_live_page.py --full -k screenshots

bench: $(VENV)/.installed-bench ## Measure the gateway beside FastAPI, DRF and the limit, then its growth to 1,000,000 jobs: half an hour, 4 GB of disk.
	$(BIN)/python -m benchmarks
	$(BIN)/python -m benchmarks --flat

lock: $(VENV)/bin/python ## Write requirements*.txt from requirements*.in.
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	$(LOCK) requirements.in --output-file requirements.txt
	$(LOCK) requirements-dev.in --output-file requirements-dev.txt
	$(LOCK) requirements-bench.in --output-file requirements-bench.txt

$(VENV)/bin/python:
	@command -v $(PYTHON) >/dev/null || { echo "There is no $(PYTHON) here. Name a Python 3.11 or newer: make $(MAKECMDGOALS) PYTHON=python3.12"; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "The gateway needs Python 3.11 or newer; $(PYTHON) is $$($(PYTHON) -V). Name another: make $(MAKECMDGOALS) PYTHON=python3.12"; exit 1; }
	$(PYTHON) -m venv $(VENV)

# Each stamp is as new as the last install from its file.
$(VENV)/.installed: requirements.txt | $(VENV)/bin/python
	$(PIP) -r requirements.txt
	@touch $@

$(VENV)/.installed-dev: requirements-dev.txt requirements.txt | $(VENV)/bin/python
	$(PIP) -r requirements-dev.txt
	@touch $@ $(VENV)/.installed

$(VENV)/.installed-bench: requirements-bench.txt requirements.txt | $(VENV)/bin/python
	$(PIP) -r requirements-bench.txt
	@touch $@ $(VENV)/.installed
