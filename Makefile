# Everything here needs only make and a Python 3.11, 3.12 or 3.13 with venv.
#   make demo PYTHON=python3.12          another Python
#   make demo ARGS=--config.steps=100    more arguments for the command that is run
PYTHON ?= python3
ARGS ?=

VENV := .venv
RUN := $(VENV)/bin/python
PARALLEL = -n auto --maxprocesses 4 --dist loadfile  # a file stays on one core
PIP = $(RUN) -m pip install -qq --disable-pip-version-check
# What requirements/ lists is complete, so pip looks for nothing else; a file with another hash is
# refused. Packages are built, where they have no wheel, with the setuptools of requirements/build.txt.
HASHED = $(PIP) --no-deps --no-build-isolation --require-hashes -r

# What a new JAX, NumPy or Orbax may break first.
SMOKE := $(addprefix tests/,runtime/test_devices.py house/test_exact_products.py \
  retrieval/test_evaluator.py retrieval/test_count_kernels.py workdir/test_sealed_checkpoints.py)

.DEFAULT_GOAL := help
.PHONY: help demo test test-all newest torch onnx openvino browser notebook tables gpu docs bench baselines lint format clean

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-9s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# Large pages, a tenth faster on a CPU: docs/performance.md.
demo: export GLIBC_TUNABLES ?= glibc.malloc.hugetlb=1
demo: $(VENV)/.test  ## train and evaluate on the embedded data set
	$(RUN) -m batnet_jax.main --config=configs/demo.py $(ARGS)

test: $(VENV)/.test  ## run the tests
	$(RUN) -m pytest $(PARALLEL) $(ARGS)

test-all: $(VENV)/.test  ## run the tests, the slow ones too
	$(RUN) -m pytest $(PARALLEL) -m "slow or not slow" $(ARGS)

newest:  ## some tests with the newest versions that pyproject.toml allows, in .venv-newest
	$(CHECK_PYTHON)
	@"$(PYTHON)" -m venv $(VENV)-newest
	@$(VENV)-newest/bin/python -m pip install -qq --disable-pip-version-check --upgrade -e . \
	  pytest hypothesis autograd setuptools
	$(VENV)-newest/bin/python -m pytest -p no:cacheprovider $(SMOKE) $(ARGS)

torch: $(VENV)/.torch  ## install PyTorch, which reads .pth files; more tests compare with it

onnx: $(VENV)/.onnx  ## install the packages that write and run .onnx files

openvino: $(VENV)/.openvino  ## install OpenVINO, which runs .onnx files, also in int8

browser: $(VENV)/.browser  ## install Playwright: tests of pages run in Chromium, if it is installed

notebook: $(VENV)/.notebook  ## install the packages that run docs/notebooks/ (Jupyter's kernel, pandas)

tables: $(VENV)/.tables  ## install DuckDB and Polars: tests open our .parquet in them

gpu: $(VENV)/.gpu  ## install JAX for NVIDIA GPUs (CUDA 13)

docs: $(VENV)/.docs  ## the documentation as a site, in site/
	NO_MKDOCS_2_WARNING=1 $(VENV)/bin/mkdocs build --strict --quiet
	@echo "in site/; to read it: python3 -m http.server --directory site"

bench: $(VENV)/.test  ## measure the package on this machine (COMPARE=old.json shows what changed)
	$(RUN) benchmarks/bench.py $(if $(COMPARE),--compare $(COMPARE)) $(ARGS)

baselines: $(VENV)/.test  ## baselines on the embedded data set (ARGS=--workdir=runs/demo adds the run)
	$(RUN) benchmarks/baselines.py --config=configs/demo.py $(ARGS)

lint: $(VENV)/.dev  ## check style, types and known vulnerabilities of packages (changes nothing)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/pyright --pythonpath $(RUN)
	$(RUN) -m pip check --disable-pip-version-check
	$(RUN) requirements/audit.py

sbom: VERSION = $(shell $(RUN) -c 'from batnet_jax.version import VERSION; print(VERSION)')
sbom: $(VENV)/.dev  ## write dist/*.cdx.json: the packages that this one runs with (CycloneDX)
	@mkdir -p dist
	$(RUN) -W ignore -m cyclonedx_py requirements requirements/run.txt --pyproject pyproject.toml \
	  --mc-type library --output-reproducible -o dist/batnet_jax-$(VERSION).cdx.json

pins: $(VENV)/.dev  ## write requirements/*.txt from constraints.txt, with hashes
	requirements/compile.sh $(VENV)/bin/uv

format: $(VENV)/.dev  ## correct the style
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .

clean:  ## remove .venv and caches; data/ and runs/ stay
	rm -rf $(VENV) $(VENV)-newest build dist site *.egg-info .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

define CHECK_PYTHON
	@command -v "$(PYTHON)" >/dev/null || { \
	  echo "error: '$(PYTHON)' not found: install Python 3.11 to 3.13, or pass PYTHON=..." >&2; exit 1; }
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info[:2] not in ((3, 11), (3, 12), (3, 13)))' || { \
	  echo "error: '$(PYTHON)' is not Python 3.11, 3.12 or 3.13: pass one with PYTHON=..." >&2; exit 1; }
	@"$(PYTHON)" -c 'import ensurepip, venv' 2>/dev/null || { \
	  echo "error: '$(PYTHON)' has no venv: install it (on Debian and Ubuntu python3-venv)" >&2; exit 1; }
endef

# The stamps are younger than what they depend on once everything is installed.
$(VENV)/.test: pyproject.toml requirements/build.txt requirements/run.txt requirements/test.txt
	$(CHECK_PYTHON)
	@echo "installing into $(VENV): some 80 packages"
	@"$(PYTHON)" -m venv $(VENV)
	@$(HASHED) requirements/build.txt
	@$(HASHED) requirements/run.txt -r requirements/test.txt
	@$(PIP) --no-deps --no-build-isolation -e .
	@touch $@

# PyTorch has files for CPUs and for versions of CUDA elsewhere, whose hashes no list has.
$(VENV)/.torch: $(VENV)/.test constraints.txt
	@echo "installing PyTorch into $(VENV)"
	@$(PIP) -c constraints.txt -e '.[torch]'
	@touch $@

$(VENV)/.onnx: $(VENV)/.test requirements/onnx.txt
	@echo "installing the ONNX packages into $(VENV)"
	@$(HASHED) requirements/onnx.txt
	@touch $@

$(VENV)/.openvino: $(VENV)/.onnx requirements/openvino.txt
	@echo "installing OpenVINO and nncf into $(VENV)"
	@$(HASHED) requirements/openvino.txt
	@touch $@

$(VENV)/.browser: $(VENV)/.test requirements/browser.txt
	@echo "installing Playwright into $(VENV)"
	@$(HASHED) requirements/browser.txt
	@touch $@

$(VENV)/.notebook: $(VENV)/.test requirements/notebook.txt
	@echo "installing Jupyter's kernel and pandas into $(VENV)"
	@$(HASHED) requirements/notebook.txt
	@touch $@

$(VENV)/.tables: $(VENV)/.test requirements/tables.txt
	@echo "installing DuckDB and Polars into $(VENV)"
	@$(HASHED) requirements/tables.txt
	@touch $@

$(VENV)/.gpu: $(VENV)/.test requirements/gpu.txt
	@echo "installing JAX for GPUs into $(VENV)"
	@$(HASHED) requirements/gpu.txt
	@touch $@

$(VENV)/.docs: $(VENV)/.test requirements/docs.txt
	@echo "installing MkDocs into $(VENV)"
	@$(HASHED) requirements/docs.txt
	@touch $@

$(VENV)/.dev: $(VENV)/.test requirements/dev.txt
	@echo "installing the linters into $(VENV)"
	@$(HASHED) requirements/dev.txt
	@touch $@
