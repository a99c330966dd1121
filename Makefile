# Everything that is done with a checkout. Needs GNU make and Python 3.10 to 3.13, nothing else.

PYTHON ?= python3
# Address of PyTorch's own package index for CPU builds, for a machine without a GPU. Empty: pip
# takes the build that it finds first, which on Linux is the CUDA one unless pip knows a CPU wheel.
TORCH_INDEX_URL ?=
PYTEST_ARGS ?=
# The whole suite, two files at a time. A test that takes ten seconds of a processor says `slow`; what
# fails is three times that, since a busy machine charges a test more. Files go in the order of their
# names: those with the fewest tests have the longest ones, and would come last.
WHOLE := -n 2 --dist loadfile --no-loadscope-reorder --cpu-limit 30

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
CODE := halu decoders detectors service eval tests tools examples benchmarks
INSTALLED := $(VENV)/.installed

# Models here are tiny: torch's threads would only wait for each other.
test test-clients coverage docs-check docs: export OMP_NUM_THREADS := 1

.DELETE_ON_ERROR:
.PHONY: help install demo test coverage mutants test-vllm test-clients check format-check lint types docs-check format docs site shape wheel dist sbom audit clean

help:
	@echo 'make install   .venv in this checkout, with everything that needs no GPU'
	@echo 'make demo      install, then ask the built-in model and measure it'
	@echo 'make test      install, then the whole test suite (PYTEST_ARGS=... for a part of it)'
	@echo 'make coverage  install, then the whole test suite; what it never runs goes to docs/coverage.md'
	@echo 'make mutants   change rules, policies and scorers, and see whether a test notices (half an hour)'
	@echo 'make test-vllm  the tests that run vLLM, in an environment of their own (.venv-vllm)'
	@echo 'make test-clients  other clients of the service, LiteLLM in an environment of its own (.venv-litellm)'
	@echo 'make check     install, then format, lint, types, generated docs'
	@echo 'make format    format the code and mend what lint can mend'
	@echo 'make docs      write what is generated in README, CONTRIBUTING, docs and benchmarks'
	@echo 'make shape     how large files and functions are, and what imports what'
	@echo 'make site      docs/ as a site in site/ with search; look at it with python -m http.server -d site'
	@echo 'make wheel     a wheel of the working tree in dist/'
	@echo 'make dist      sdist and wheel of the last commit in dist/, the same bytes wherever they are built'
	@echo 'make sbom      dist/halu.cdx.json: every package of the environment that the tests run in'
	@echo 'make audit     known vulnerabilities of the pinned packages; asks a public service'
	@echo 'make clean     remove what was built; .venv stays'

install: $(INSTALLED)

demo: install
	$(BIN)/python examples/demo.py

test: install
	$(BIN)/python -m pytest $(or $(PYTEST_ARGS),$(WHOLE))

coverage: install
	rm -f build/coverage.json
	status=0; $(BIN)/python -m pytest $(WHOLE) --cov --cov-report=json:build/coverage.json --cov-report=term || status=$$?; \
	$(BIN)/python tools/coverage_page.py build/coverage.json && exit $$status

# mutmut and what it needs are for this alone, so that `make install` leaves them out.
mutants: install
	$(PIP) install --quiet -e '.[mutants]' --no-build-isolation -c constraints.txt
	$(BIN)/python tools/mutants.py

test-vllm: install
	$(BIN)/python tools/test_vllm.py $(PYTEST_ARGS)

test-clients: install
	$(BIN)/python tools/test_clients.py $(PYTEST_ARGS)

check: format-check lint types docs-check

format-check: install
	$(BIN)/ruff format --check $(wildcard $(CODE))

lint: install
	$(BIN)/ruff check $(wildcard $(CODE))

# mypy -p needs the packages where they are once installed. setuptools never removes a module from
# build/lib that the tree has lost, so that goes first.
types: install
	rm -rf build/lib build/typed
	$(PIP) install --quiet --no-deps --no-build-isolation --target build/typed .
	MYPYPATH=build/typed $(BIN)/mypy -p halu
	MYPYPATH=build/typed:tools:benchmarks $(BIN)/mypy --explicit-package-bases tools benchmarks

docs-check: install
	$(BIN)/python tools/readme_tables.py --check
	$(BIN)/python tools/strategy_pages.py --check
	$(BIN)/python tools/results_page.py --check
	$(BIN)/python tools/vllm_page.py --check
	$(BIN)/python tools/shape.py --check

format: install
	$(BIN)/ruff check --fix-only $(wildcard $(CODE))
	$(BIN)/ruff format $(wildcard $(CODE))

docs: install
	$(BIN)/python tools/readme_tables.py
	$(BIN)/python tools/strategy_pages.py
	$(BIN)/python tools/results_page.py
	$(BIN)/python tools/vllm_page.py
	$(BIN)/python tools/shape.py --write

shape: install
	$(BIN)/python tools/shape.py

wheel: install
	rm -rf build/lib
	$(PIP) wheel --quiet --no-deps --no-build-isolation --wheel-dir dist .

site: install
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --quiet --strict

dist: install
	$(BIN)/python tools/dist.py

sbom: install
	mkdir -p dist
	$(BIN)/python -m cyclonedx_py environment --pyproject pyproject.toml --mc-type library --output-reproducible -o dist/halu.cdx.json $(BIN)/python

audit:
	$(PYTHON) -m venv build/audit
	build/audit/bin/python -m pip install --quiet pip-audit
	build/audit/bin/pip-audit --disable-pip --no-deps -r constraints.txt

clean:
	rm -rf .coverage* build dist site *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find $(wildcard $(CODE)) -name __pycache__ -type d -prune -exec rm -rf {} +

$(BIN)/python:
	@$(PYTHON) -c 'import sys; v = sys.version_info; (3, 10) <= v < (3, 14) or sys.exit("halu needs Python 3.10 to 3.13; this is %d.%d. Name another: make PYTHON=python3.12" % v[:2])'
	$(PYTHON) -m venv $(VENV)

# torch comes first and alone: from its own index if one is named, and before anything that needs
# it, so that what is there already is kept. The CPU index has nothing else that halu wants.
# An egg-info folder that an earlier build left would hide new entry points from `python -m`.
$(INSTALLED): pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) install --quiet --upgrade -c constraints.txt pip setuptools
	$(PIP) install --no-deps $(if $(TORCH_INDEX_URL),--index-url $(TORCH_INDEX_URL)) -c constraints.txt torch
	rm -rf halu.egg-info
	$(PIP) install --no-build-isolation -c constraints.txt -e '.[all,dev]'
	@touch $@
