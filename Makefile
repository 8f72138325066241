# make serve      the embedded model behind Trimtab, aligned with URIAL, on http://127.0.0.1:8000
# make test       the tests
# make check      what has to hold before a change lands: lint, types, imports, tests
#
# make docs       the documentation as a site, in build/site
# make reference  the generated parts of the documentation, again from the code
#
# Each makes .venv when it is missing. PYTHON chooses the interpreter (3.11 or newer), SERVE adds flags, JOBS is how many
# test files run at a time.

PYTHON ?= python3
JOBS ?= 2
BIN := .venv/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

.PHONY: serve test check lint docs reference clean

serve: .venv/.local
	$(BIN)/trimtab serve $(SERVE)

test: .venv/.test
	$(BIN)/python -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder

check: .venv/.dev lint test

lint: .venv/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

docs: .venv/.docs
	$(BIN)/zensical build --clean --strict

reference: .venv/.test
	$(BIN)/python -m docs.generate

# One stamp for each set of extras; a change of the packaging installs again.
.venv/.%: pyproject.toml constraints.txt | .venv/bin/python
	$(PIP) -e '.[$*]'
	@touch $@

.venv/bin/python:
	$(PYTHON) -c 'import sys; sys.exit("Trimtab needs Python 3.11 or newer; set PYTHON=") if sys.version_info < (3, 11) else None'
	$(PYTHON) -m venv .venv

clean:
	rm -rf .venv build dist .pytest_cache .mypy_cache .ruff_cache
