# Every target makes the virtual environment itself if there is none.
VENV := .venv
PYTHON := $(VENV)/bin/python
SSPIR := $(VENV)/bin/sspir
EXP ?= ssp_ir
RUN ?= runs/$(EXP)/none-s0
BENCH ?= photos
# Extras whose tests run in continuous integration
TESTED := app,dashboards,demo,dev,formats,joblib,lora,parquet,peers,perceptual,search,tensorboard
EXTRAS := $(if $(CI),$(TESTED),dev,demo)
.DEFAULT_GOAL := help
.PHONY: help setup demo test test-slow test-app test-gpu test-lowest lint format train sweep sweep-ray evaluate restore bench bench-gpu bench-gpu-bundle smoke-sd15 clean

help:  ## show this
	@grep -hE '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 18

setup: $(VENV)/ready  ## make the virtual environment .venv

$(VENV)/ready: pyproject.toml
	test -x $(PYTHON) || python3 -m venv $(VENV)
	$(PYTHON) -m pip install --quiet --upgrade pip
	$(PYTHON) -m pip install --quiet --editable '.[$(EXTRAS)]'
	touch $@

demo: setup  ## restore some photos with the model that comes along: make demo ARGS="--photos DIR"
	$(SSPIR) demo $(ARGS)

test: setup  ## run the fast tests
	$(PYTHON) -m pytest -n 2 $(ARGS)

test-slow: setup  ## run the tests that take minutes
	$(PYTHON) -m pytest -m slow $(ARGS)

test-app: setup  ## run the tests of the page and the endpoint, in a real browser: two minutes
	$(PYTHON) -m pip install --quiet --editable '.[app]'
	$(PYTHON) -m pytest -n 2 -m 'not slow' tests/app $(ARGS)

# Without `setup`, which asks the network: PYTHON=python3 takes an environment that has all that is needed
test-gpu:  ## run the tests that take a GPU, or two
	PYTHONPATH=src $(PYTHON) -m pytest -m gpu $(ARGS)

# All but torch, which is that of .venv
test-lowest: setup  ## run the fast tests with the lowest versions that pyproject.toml allows
	test -x .venv-lowest/bin/python || $(PYTHON) -m venv .venv-lowest
	$(PYTHON) tests/lowest.py > .venv-lowest/constraints.txt
	.venv-lowest/bin/python -m pip install --quiet --constraint .venv-lowest/constraints.txt --editable '.[$(TESTED),slurm]'
	.venv-lowest/bin/python -m pytest -n 2 $(ARGS)

lint: setup  ## check style and types
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

format: setup  ## put the code in shape
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .

train: setup  ## make train EXP=tiny ARGS="trainer.max_steps=10"
	$(SSPIR) train experiments=$(EXP) $(ARGS)

sweep: setup  ## make sweep EXP=tiny OVER="'ablation=glob(*)' seed=0,1,2"
	$(SSPIR) train --multirun experiments=$(EXP) $(OVER) $(ARGS)

# Ray's launcher pins another cloudpickle: it has an environment of its own above .venv, whose packages it sees
sweep-ray: setup  ## the same on a Ray cluster of this machine's cores, or of RAY_ADDRESS
	test -x .venv-ray/bin/python || $(PYTHON) -m venv .venv-ray
	below=$$($(PYTHON) -c "import sysconfig; print(sysconfig.get_path('purelib'))"); \
	own=$$(.venv-ray/bin/python -c "import sysconfig; print(sysconfig.get_path('purelib'))"); \
	echo "import site; site.addsitedir('$$below')" > "$$own/below.pth"
	.venv-ray/bin/python -m pip install --quiet 'hydra-ray-launcher>=1.2,<2'
	.venv-ray/bin/python -m sspir train --multirun hydra/launcher=ray experiments=$(EXP) $(OVER) $(ARGS)

evaluate: setup  ## make evaluate RUN=runs/tiny/none-s0 BENCH=set14
	$(SSPIR) evaluate run=$(RUN) benchmark=$(BENCH) $(ARGS)

restore: setup  ## make restore RUN=runs/tiny/none-s0 IN=photos OUT=restored
	$(SSPIR) restore $(IN) --weights $(RUN) --out $(OUT) $(ARGS)

bench: setup  ## measure speed, each figure as a ratio within one run
	for file in $(filter-out %/bench_gpu.py,$(wildcard benchmarks/bench_*.py)); do $(PYTHON) $$file || exit 1; done
	for what in attention sizes; do $(PYTHON) benchmarks/bench_restore.py $$what || exit 1; done
	test -z "$(SSPIR_DATA)" || for what in steps fidelity; do \
		$(PYTHON) benchmarks/bench_restore.py $$what $(SSPIR_DATA)/benchmarks/realsr_dev || exit 1; done

# Without `setup`, as test-gpu
bench-gpu:  ## measure what one GPU does, five minutes: make bench-gpu ARGS="--only restore"
	PYTHONPATH=src $(PYTHON) -W ignore benchmarks/bench_gpu.py $(ARGS)

bench-gpu-bundle: setup  ## make dist/gpu-bundle, which does the same on a machine without network
	$(PYTHON) -m pip install --quiet --editable '.[lora]'
	$(PYTHON) benchmarks/bundle.py $(ARGS)

smoke-sd15: setup  ## training steps, one restoration, and one step beside 50, at Stable Diffusion's true size: 20 GiB, ten minutes
	$(PYTHON) -m pip install --quiet --editable '.[lora]'
	$(PYTHON) benchmarks/smoke_sd15.py $(ARGS)

clean:  ## remove what can be made again, but no runs
	rm -rf $(VENV) .venv-ray .venv-lowest dist build .mypy_cache .ruff_cache .pytest_cache
