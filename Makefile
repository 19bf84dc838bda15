# make repro: the whole study. make test: lint, types and the tests. Each makes its own virtual environment first.
PYTHON ?= python3
VENV := .venv
READY := $(VENV)/ready
export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)

.PHONY: repro test clean lock

repro: $(READY)
	python -m stages.repro

test: $(READY)
	ruff check --quiet zsr stages tests benchmarks
	mypy
	python -m pytest

$(READY): requirements.txt
	$(PYTHON) -m venv $(VENV)
	python -m pip install --quiet --requirement requirements.txt
	touch $@

clean:
	rm -rf $(VENV) .scratch

# Newest versions of everything with the hashes of their files, for all platforms; needs uv. By hand, not by file times.
lock:
	uv pip compile --quiet --universal --python-version 3.10 --extra test --no-header --no-annotate --generate-hashes pyproject.toml > requirements.txt
