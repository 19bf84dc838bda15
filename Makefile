# make repro: the whole study. make test: lint, spelling, types, the tests, the API reference (make docs).
# Each makes its own virtual environment first.
PYTHON ?= python3
VENV := .venv
READY := $(VENV)/ready
export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)

.PHONY: repro test docs clean lock

repro: $(READY)
	python -m stages.repro

test: $(READY)
	ruff check --quiet zsr stages tests benchmarks
	codespell README.md docs zsr stages tests benchmarks extensions studies/*/params.yaml params.yaml dvc.yaml
	mypy
	python -m pytest
	$(MAKE) docs

docs: $(READY)
	pdoc --output-directory build/api zsr

$(READY): requirements.txt
	$(PYTHON) -m venv $(VENV)
	python -m pip install --quiet --requirement requirements.txt
	touch $@

clean:
	rm -rf $(VENV) .scratch build

# Newest versions of everything with the hashes of their files, for all platforms; needs uv. By hand, not by file times.
lock:
	uv pip compile --quiet --universal --python-version 3.10 --extra test --no-header --no-annotate --generate-hashes pyproject.toml > requirements.txt
