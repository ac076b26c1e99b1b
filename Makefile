# make demo: from made-up videos to a fused accuracy, about 10 minutes on 2 CPU cores.
# make test: the tests. Both create .venv and install what they need when it is missing or outdated.
PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
DEMO ?= demo
SEED ?= 0

.PHONY: demo test lint clean

$(VENV)/installed: requirements.txt
	test -x $(PY) || $(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install --quiet -r requirements.txt
	touch $@

$(VENV)/installed-dev: requirements-dev.txt $(VENV)/installed
	$(VENV)/bin/pip install --quiet -r requirements-dev.txt
	touch $@

test: $(VENV)/installed-dev
	$(PY) -m pytest

lint: $(VENV)/installed-dev
	$(VENV)/bin/ruff check .

demo: $(VENV)/installed
	$(PY) make_demo_data.py $(DEMO) --seed $(SEED)

clean:
	rm -rf $(DEMO)
