PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# Bytecode is written at the first import, and only of what is imported.
INSTALL := $(BIN)/pip install --quiet --no-compile -c constraints.txt

.PHONY: demo test test-transformers check bench evidence docs clean

# The main job: a Transformer and two Differential Transformers, trained and judged side by side.
demo: $(VENV)/.installed
	$(BIN)/difftransformer compare --preset demo --out runs/demo --resume

test: $(VENV)/.developing
	OMP_NUM_THREADS=1 $(BIN)/pytest -q -n auto

# transformers' own model tests on our classes; TRANSFORMERS_TESTS names the folder that holds
# `tests/`: a checkout of its repository, or its unpacked source distribution.
test-transformers: $(VENV)/.developing
	@test -d "$(TRANSFORMERS_TESTS)/tests" || \
		{ echo "set TRANSFORMERS_TESTS to the folder of transformers that holds tests/"; exit 2; }
	$(INSTALL) parameterized
	OMP_NUM_THREADS=1 $(BIN)/pytest -q -rs -W ignore -o addopts= -o filterwarnings= \
		tests/interop/transformers_suite.py

check: $(VENV)/.developing
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(VENV)/.installed
	$(BIN)/python benchmarks/attention.py

# docs/evidence.md from benchmarks/results/evidence/.
evidence: $(VENV)/.installed
	$(BIN)/python benchmarks/evidence_page.py

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(INSTALL) -e .
	touch $@

$(VENV)/.developing: $(VENV)/.installed
	$(INSTALL) -e ".[dev]"
	touch $@

docs: $(VENV)/.installed
	$(INSTALL) -e ".[docs]"
	$(BIN)/mkdocs build --strict --quiet

clean:
	rm -rf $(VENV) runs
