PYTHON ?= python3
VENV ?= .venv
PY := $(VENV)/bin/python
export OMP_NUM_THREADS ?= 2
# Two tests at a time, one thread each: threads of two processes on two cores wait for each other.
PYTEST := OMP_NUM_THREADS=1 $(PY) -m pytest -n 2 --dist loadfile --durations 15

.PHONY: sample test lint install

sample: $(VENV)/sample ## install with JAX and run the main job on the built-in sample
	$(PY) main.py

test: $(VENV)/test ## install all three backends and run the tests, one process a backend
	KERAS_BACKEND=torch $(PYTEST)
	KERAS_BACKEND=jax $(PYTEST) -m "not once"
	KERAS_BACKEND=tensorflow $(PYTEST) -m "not once"

lint: $(VENV)/test
	$(VENV)/bin/ruff check . && $(VENV)/bin/ruff format --check . && $(VENV)/bin/mypy

$(VENV)/sample: pyproject.toml
	$(PYTHON) -m venv $(VENV) && $(PY) -m pip install -q '.[jax]' && touch $@

$(VENV)/test: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV) && $(PY) -m pip install -q -c constraints.txt torch && \
	$(PY) -m pip install -q -c constraints.txt -e '.[jax,tensorflow-cpu,torch,rs,databases,dev]' && touch $@
