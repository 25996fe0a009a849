# Each target is one line that can be run by hand, with .venv/bin/ before it (on Windows .venv\Scripts\).
PYTHON ?= python3
BIN := $(if $(filter Windows_NT,$(OS)),.venv/Scripts,.venv/bin)
INSTALLED := .venv/installed

.PHONY: demo test-quick test test-all test-browser soak lab app lint bench bench-gpu notebooks address styles

demo: $(INSTALLED)  ## paint data/'s demo pair into outputs/
	$(BIN)/python -m nst_helpers.demo

# One thread for each of two workers
test-quick test: export OMP_NUM_THREADS = 1

test-quick: $(INSTALLED)  ## units, formulas, exercises: before every commit
	$(BIN)/python -m pytest -n 2 --dist loadgroup -m "not long and not slow"

test: $(INSTALLED)  ## these, engines, widgets, every notebook once, one real page
	$(BIN)/python -m pytest -n 2 --dist loadgroup

test-all: $(INSTALLED)  ## everything: other pictures, quality "good", every gesture on real pages
	$(BIN)/python -m pytest -m ""

test-browser: $(INSTALLED)  ## the playground in real pages; wants Chromium
	$(BIN)/python -m pytest -m browser -s

soak: $(INSTALLED)  ## half an hour of steering: does the memory grow?
	$(BIN)/python -m benchmarks.soak

lab: $(INSTALLED)  ## JupyterLab on the notebooks
	$(BIN)/python -m jupyter lab --LabApp.default_url=/lab/tree/notebooks/00_quickstart.ipynb

app: $(INSTALLED)  ## the playground as a web app
	$(BIN)/python -m nst_helpers.widgets.app

lint: $(INSTALLED)  ## ruff over modules and notebooks, mypy over nst_helpers
	$(BIN)/python -m ruff check . && $(BIN)/python -m ruff format --check . && $(BIN)/python -m mypy

bench: $(INSTALLED)  ## measure speed and memory against the plain loop
	$(BIN)/python -m benchmarks.bench

bench-gpu: $(INSTALLED)  ## on a graphics card, in under 8 minutes: correctness, speed, memory, a painting
	$(BIN)/python -m benchmarks.gpu

notebooks: $(INSTALLED)  ## run all notebooks and write their outputs into them
	$(BIN)/python notebooks/make_notebooks.py

address: $(INSTALLED)  ## OWNER=… REPO=…: the project's address on GitHub, in the README and all notebooks
	$(BIN)/python notebooks/make_notebooks.py --address "$(OWNER)/$(REPO)"

styles: $(INSTALLED)  ## make the style images in data/styles/
	$(BIN)/python data/make_styles.py

$(INSTALLED): requirements.txt
	$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 11) and 'Python 3.11 or newer is needed')"
	$(PYTHON) -m venv .venv
	@echo 'Installing requirements.txt into .venv: a few minutes, 6.7 GB with the CUDA build of PyTorch'
	$(BIN)/python -m pip install -q -r requirements.txt
	$(BIN)/python -c "import pathlib; pathlib.Path('$@').touch()"
