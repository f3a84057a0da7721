# make demo: install into .venv and generate one object. make test: install the development tools and run the tests.
# make notebooks: run the notebooks; nothing is stored (python notebooks/execute.py does that).
# make browser: the web app in headless Chromium (skipped where there is no browser).
# Another interpreter: make demo PYTHON=/path/to/python3.12

PYTHON ?= $(shell for name in python3.11 python3 python3.12 python3.13; do \
	$$name -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo $$name; break; }; done)
VENV := .venv
BIN := $(VENV)/bin
JOBS ?= 2
PROMPT ?= a round wooden table with three legs
OUT ?= outputs/
PIP := $(BIN)/python -m pip install --disable-pip-version-check -q -c constraints.txt

.PHONY: demo test notebooks browser lint format clean

demo: $(VENV)/.installed
	$(BIN)/omni123 generate "$(PROMPT)" --out $(OUT)

# Two files at a time with a thread each: small models gain nothing from more threads.
test: $(VENV)/.installed-dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS) --dist loadfile

notebooks: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -m slow tests/notebooks

browser: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -m slow -rs tests/app/test_browser.py

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/.installed-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) outputs build dist .pytest_cache .ruff_cache .mypy_cache

$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "error: Python 3.11 or newer is needed; install it or give PYTHON=/path/to/python" >&2; exit 1; }
	@# A half-made environment (no ensurepip, say) would be taken for a whole one the next time.
	$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); exit 1; }

$(VENV)/.installed: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) -e .
	@touch $@

$(VENV)/.installed-dev: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) -e ".[dev]"
	@touch $@ $(VENV)/.installed
