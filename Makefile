.DEFAULT_GOAL := help
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet --constraint constraints.txt

export MODELS DATA STUDY
.PHONY: help install demo test tune-demo study-tuning study study-quick test-slurm real-models lint types docs format embedded clean

help: ## Show this help
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

$(VENV)/installed: pyproject.toml constraints.txt
	@echo "Installing into $(VENV) ..."
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; make PYTHON=<path> names one.")'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(PIP) --editable .
	@touch $@

$(VENV)/installed-dev: $(VENV)/installed
	@echo "Installing what the tests need ..."
	@$(PIP) --editable '.[dev]'
	@touch $@

install: $(VENV)/installed ## Make .venv with pinned dependencies

demo: $(VENV)/installed ## Run the main job on the embedded data and model
	$(BIN)/python -m align_pipeline.run task=belebele lang=set/embedded hydra.run.dir=outputs/demo
	$(BIN)/python -m align_pipeline.report runs=outputs/demo out=outputs/demo/report

test: $(VENV)/installed-dev ## Run the tests (offline, CPU)
	$(BIN)/python -m pytest --numprocesses 2 --dist worksteal

tune-demo: $(VENV)/installed ## Train the embedded model on aligned and on shuffled sentences, and compare
	$(BIN)/python -m align_pipeline.tune -m tune=midalign,shuffled lang=swh task=xcopa tune.pairs.split=devtest \
	  tune.steps=60 tune.accumulation=2 tune.learning_rate=1e-3 tune.evaluate_every=0 hydra.sweep.dir=outputs/tune-demo/tuned
	$(BIN)/python -m align_pipeline.run -m task=xcopa lang=swh hydra.sweep.dir=outputs/tune-demo/base
	$(BIN)/python -m align_pipeline.run -m model=tuned task=xcopa lang=swh hydra.sweep.dir=outputs/tune-demo/evaluated \
	  model.tuned=outputs/tune-demo/tuned/tiny_midalign_swh_seed0,outputs/tune-demo/tuned/tiny_shuffled_swh_seed0
	$(BIN)/python -m align_pipeline.report runs=outputs/tune-demo/base runs=outputs/tune-demo/evaluated out=outputs/tune-demo/report

study: $(VENV)/installed ## Run the study of docs/studies/gemma3-270m.md, or go on with it (MODELS=, DATA=: folders)
	PYTHON=$(BIN)/python docs/studies/gemma3-270m.sh

study-tuning: $(VENV)/installed ## Run the study of docs/study-tuning.md, or go on with it (MODELS=, DATA=: folders)
	PYTHON=$(BIN)/python docs/study-tuning.sh

study-quick: $(VENV)/installed ## Run it on two languages and few items
	PYTHON=$(BIN)/python docs/studies/gemma3-270m.sh quick

test-slurm: $(VENV)/installed-dev ## Run sweeps on a SLURM cluster of this machine alone
	@tests/slurm/install.sh
	$(BIN)/python -m pytest tests/slurm --durations=0

real-models: $(VENV)/installed-dev ## Write two small pretrained models into outputs/real_models, for tests
	$(BIN)/python tests/real_models/make.py outputs/real_models

lint: $(VENV)/installed-dev ## Check style, format and which module may import which
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

types: $(VENV)/installed-dev ## Check types
	$(BIN)/mypy

docs: $(VENV)/installed-dev ## Build the documentation's site into outputs/site
	$(BIN)/python -m mkdocs build --strict --quiet

format: $(VENV)/installed-dev ## Format the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

embedded: $(VENV)/installed ## Rebuild the embedded data, tokenizer and model
	$(BIN)/python -m align_pipeline.embedded.train

clean: ## Remove what runs and tools wrote (not .venv)
	rm -rf outputs/runs outputs/sweeps outputs/cache .pytest_cache .mypy_cache .ruff_cache .hypothesis
