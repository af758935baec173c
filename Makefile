# make demo: install, then search, finetune, export and report on the embedded data. make test: install, then test.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
RUNS ?= runs

.PHONY: demo test lint wheel clean

demo: $(VENV)/installed
	$(BIN)/autoprune search search_spaces/resnet20_fashion_mnist.toml --out $(RUNS)

test: $(VENV)/installed  # two processes of one thread each, a file at a time
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile

lint: $(VENV)/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# torch first, and its CPU build: nothing here needs CUDA, and the CUDA build is gigabytes. torchvision is for the tests
# over model zoos only, as timm is; its own requirement on torch is older than what it runs with, hence --no-deps.
$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "autoprune needs Python 3.11 or later")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt $(TORCH_INDEX) torch
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev,transformers,cluster]'
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps torchvision==0.16.2 timm==1.0.31
	touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info
