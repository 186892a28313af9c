# Needs Python 3.11 or later and make. `make help` lists the targets.

IS_NEW := import sys; sys.exit(sys.version_info < (3, 11))
# The first that runs: a shim may be there without its Python.
PYTHON ?= $(shell for each in python3.11 python3; do \
  $$each -c '$(IS_NEW)' 2>/dev/null && command -v $$each && break; done)
VENV   ?= .venv
TESTS  ?= tests
# What to install beside the package, joined by "+": dev+cuda, dev+cuda12, dev+tpu.
EXTRAS ?= dev
# Processes that run the tests, and further options for pytest.
JOBS   ?= 2
PYTEST ?=

BIN := $(VENV)/bin
# One stamp a set of extras: made again when what the package requires has changed.
STAMP = $(VENV)/.installed-$(1)
SOURCES := nucleotide_transformer tests experiments setup.py

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help install pretrain model model-results test lint check format notebooks test-interop test-transformers-4 clean

help: ## list the targets
	@sed -n 's/^\([a-z0-9-]*\):.*## /make \1\t/p' $(firstword $(MAKEFILE_LIST)) | expand -t 26

install: $(call STAMP,$(EXTRAS)) ## make .venv and install the package in it, with the tested versions

pretrain: install ## build a corpus from the genomes here, pre-train a small model, evaluate it
	$(BIN)/nt corpus build --inputs nucleotide_transformer/data/genomes/genomes.tsv --chunk-length 1530 --output runs/quickstart_corpus
	$(BIN)/nt corpus baselines runs/quickstart_corpus
	$(BIN)/nt pretrain --config experiments/quickstart.toml

# Where the packaged weights of the first run stand in for it, its metrics are those kept here.
FIRST_IS_OVER = $(wildcard runs/model/model.safetensors)
EARLIER = $(if $(FIRST_IS_OVER),experiments/results/model.jsonl,runs/model/metrics.jsonl)

model: install ## train a model in two runs, and package it (long; ../shared/data/genomes)
	$(BIN)/nt corpus build --config experiments/model/corpus.toml
	$(BIN)/nt corpus build --config experiments/model/unseen.toml
	$(BIN)/nt corpus baselines runs/model_corpus_1530
	$(if $(FIRST_IS_OVER),,$(BIN)/nt pretrain --config experiments/model/pretrain.toml)
	$(BIN)/nt pretrain --config experiments/model/continue.toml
	$(BIN)/nt evaluate --model runs/model_2 --corpus runs/model_corpus_1530 --split validation --num-sequences 4000 --output runs/model_2/held_out.json --overwrite
	$(BIN)/nt evaluate --model runs/model_2 --corpus runs/unseen_corpus --split validation --num-sequences 2000 --baselines runs/model_corpus_1530 --output runs/model_2/unseen.json --overwrite
	$(BIN)/python experiments/model/package.py --run runs/model_2 --recipe experiments/model/continue.toml --earlier $(EARLIER) --earlier-recipes experiments/model/pretrain.toml --results runs/model_2/held_out.json --unseen-results runs/model_2/unseen.json

# A folder for each packaged model: no results of one are taken for another's.
PACKAGED := nucleotide_transformer/packaged/10M_multi_species_v2
RESULTS = runs/results/$(shell grep model.safetensors $(PACKAGED)/SHA256SUMS | cut -c1-12)
TASKS := --tasks ../shared/data/tasks --published experiments/finetune/published_scores.toml
IA3 := --finetune.head-start probe --finetune.total-steps 400 --finetune.learning-rate 1e-3 --finetune.warmup-steps 40 --finetune.evaluate-every-steps 200
LAYERS := --tasks ../shared/data/tasks --only splice_sites_all --methods ia3 $(IA3)

model-results: install ## measure the packaged model: tasks, genes, variants (hours; ../shared/data)
	$(BIN)/python experiments/what_it_knows.py --annotation ../shared/data/annotation --genomes ../shared/data/genomes --corpus runs/model_corpus_1530 --window-tokens 256 --output $(RESULTS)/knowledge
	$(BIN)/nt tasks run $(TASKS) --methods kmers4 kmers6 probe --output $(RESULTS)/tasks
	$(BIN)/nt tasks run $(TASKS) --methods kmers4 kmers6 ia3 $(IA3) --compute.compute-dtype auto --controls $(RESULTS)/tasks --seeds 2 --output $(RESULTS)/tasks_ia3
	$(BIN)/nt tasks run $(LAYERS) --finetune.layers 0 1 2 3 4 5 6 --output $(RESULTS)/tasks_layers
	$(BIN)/nt tasks run $(LAYERS) --output $(RESULTS)/tasks_last
	$(BIN)/python experiments/evaluate_variants.py --shared ../shared/data --frames 2 --window 192 --flank 5 --background 6000 --num-sites 100 --output $(RESULTS)/variants

test: install ## run all tests
	$(BIN)/python -m pytest -n $(JOBS) --dist worksteal $(PYTEST) $(TESTS)

lint: install ## check format, style and types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

check: lint test ## what a change must pass

format: install ## format the code and apply the fixes that are safe
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# Copies, so that a failure leaves the notebooks as they were; where this folder is, is no output.
notebooks: $(call STAMP,dev+notebooks) ## execute the notebooks, and keep the outputs if all of them pass
	rm -rf .cache/notebooks && mkdir -p .cache && cp -r notebooks .cache/notebooks
	$(BIN)/python -m pytest -n $(JOBS) --timeout=900 --nbmake --nbmake-timeout=900 --overwrite .cache/notebooks
	for each in notebooks/*.ipynb; do \
	  sed 's|$(CURDIR)/||g' .cache/$$each > .cache/clean && mv .cache/clean $$each || exit 1; done

test-interop: $(call STAMP,dev+interop) ## compare exports with transformers and torch
	$(BIN)/python -m pytest $(PYTEST) tests/interop

# In a .venv of its own: transformers 4 needs an older huggingface_hub than the package asks for.
# pip warns of it; these tests do without the newer one.
test-transformers-4: ## run the exported PyTorch module on transformers 4.46
	$(MAKE) install VENV=$(VENV)-transformers-4 EXTRAS=dev+interop
	$(VENV)-transformers-4/bin/python -m pip install --quiet --disable-pip-version-check transformers==4.46.3
	$(VENV)-transformers-4/bin/python -m pytest $(PYTEST) tests/interop/test_torch_module.py

clean: ## remove .venv, caches and build files; runs/ stays
	rm -rf $(VENV) $(VENV)-transformers-4 build dist *.egg-info .cache .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find $(SOURCES) -name __pycache__ -type d -prune -exec rm -rf {} +

$(BIN)/python:
	@test -n "$(PYTHON)" && "$(PYTHON)" -c '$(IS_NEW)' || \
	  { echo "Python 3.11 or later is needed: make PYTHON=/path/to/python"; exit 1; }
	"$(PYTHON)" -m venv $(VENV)

# The extras are in the name of the stamp, joined by "+".
$(VENV)/.installed-%: setup.py constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check \
	  --constraint constraints.txt --editable '.[$(subst +,$(comma),$*)]'
	@touch $@

comma := ,
