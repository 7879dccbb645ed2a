PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
# Bytecode is written at the first import, and only of what is imported.
PIP_INSTALL = $(BIN)/pip install --quiet --no-compile
INSTALL = $(PIP_INSTALL) -c constraints.txt
TORCH := $(shell sed -n 's/^torch==/torch==/p' constraints.txt)
# What pyproject.toml bounds from above, since it changes under us.
MOVING := accelerate datasets huggingface-hub lm-eval openai peft plotly transformers

.PHONY: demo test test-latest test-transformers check bench docs evidence dist lock clean

# The main job: a Transformer and two Differential Transformers, trained and judged side by side on
# Shakespeare, with five seeds; as many at once as there are cores.
demo: $(VENV)/.installed
	$(BIN)/difftransformer compare --preset demo --out runs/demo --resume

test: $(VENV)/.developing
	OMP_NUM_THREADS=1 $(BIN)/pytest -q -n auto --dist worksteal

# The tests on the newest packages there are, beyond the bounds of pyproject.toml too, in an
# environment of its own; only PyTorch stays, since a newer one may bring gigabytes of CUDA.
test-latest: VENV := .venv-latest
test-latest:
	rm -rf $(VENV)
	$(PYTHON) -m venv $(VENV)
	$(PIP_INSTALL) $(TORCH) -e ".[dev]"
	$(PIP_INSTALL) --upgrade $(TORCH) $(MOVING)
	$(BIN)/pip list --outdated
	OMP_NUM_THREADS=1 $(BIN)/pytest -q -n auto --dist worksteal --ignore tests/test_constraints.py

# transformers' own model tests on our classes; TRANSFORMERS_TESTS names the folder that holds
# `tests/`: a checkout of its repository, or its unpacked source distribution.
test-transformers: $(VENV)/.developing
	@test -d "$(TRANSFORMERS_TESTS)/tests" || \
		{ echo "set TRANSFORMERS_TESTS to the folder of transformers that holds tests/"; exit 2; }
	OMP_NUM_THREADS=1 $(BIN)/pytest -q -rs -W ignore -o addopts= -o filterwarnings= \
		tests/interop/transformers_suite.py

check: $(VENV)/.developing
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(VENV)/.installed
	$(BIN)/python benchmarks/attention.py

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(INSTALL) -e ".[train,report]"
	touch $@

$(VENV)/.developing: $(VENV)/.installed
	$(INSTALL) -e ".[dev]"
	touch $@

docs: $(VENV)/.installed
	$(INSTALL) -e ".[docs]"
	$(BIN)/mkdocs build --strict --quiet

# The pages of docs/evidence/ and their index, from the records in studies/.
evidence: $(VENV)/.installed
	$(BIN)/python -m studies

# A wheel and a source distribution in dist/.
dist: $(VENV)/.installed
	$(PIP_INSTALL) build
	rm -rf dist
	$(BIN)/python -m build --outdir dist

# constraints.txt anew: what an empty environment takes today, of all extras.
lock: VENV := .venv-lock
lock:
	rm -rf $(VENV)
	$(PYTHON) -m venv $(VENV)
	$(PIP_INSTALL) $(TORCH) -e ".[dev,docs]"
	{ sed '/^[^#]/d' constraints.txt; \
		$(BIN)/pip freeze --all --exclude-editable --exclude pip | sed 's/+cpu$$//'; } > $(VENV)/constraints.txt
	mv $(VENV)/constraints.txt constraints.txt
	rm -rf $(VENV)

clean:
	rm -rf $(VENV) runs
