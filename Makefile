# Quick start: `make demo` or `make test`. Each does all the set-up it needs, once.

VENV ?= .venv
# Disk space that the set-up needs, in GiB: 6 installed, the rest for downloads.
MIN_FREE_GIB ?= 12
# `make test` runs so many test processes.
TEST_PROCESSES ?= 2

# The Python that the virtual environment is made with. The one of an existing
# environment stays in use; PYTHON=python3.12 make ... chooses another.
PYTHON_FITS := import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 12))
ifeq ($(strip $(PYTHON)),)
PYTHON := $(shell \
    for python in '$(VENV)/bin/python' python3.11 python3.12 python3.10 python3; do \
        if "$$python" -c '$(PYTHON_FITS)' >/dev/null 2>&1; then \
            echo "$$python"; break; \
        fi; \
    done)
endif
PYTHON_VERSION := $(shell '$(PYTHON)' -c \
    'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null)

BIN := $(VENV)/bin
STAMPS := $(VENV)/.stamps
PYTHON_STAMP := $(STAMPS)/python-$(or $(PYTHON_VERSION),none)
SETUP = '$(PYTHON)' tools/misc/setup_env.py --venv '$(VENV)' \
    --min-free-gib '$(MIN_FREE_GIB)'

# `make demo` trains this: retinanet, mask-rcnn, semantic-fpn, upernet or classification.
TASK ?= retinanet
DEMO_retinanet := retinanet_cycle-mlp-mini_fpn_1xb8-8e_digit-scenes.py
DEMO_mask-rcnn := mask-rcnn_cycle-mlp-mini_fpn_1xb8-6e_digit-scenes.py
DEMO_semantic-fpn := fpn_cycle-mlp-mini_1xb32-3k_digit-scenes.py
DEMO_upernet := upernet_cycle-mlp-mini_1xb32-3k_digit-scenes.py
DEMO_classification := cycle-mlp-mini_1xb32-10e_digit-scenes.py
DEMO_CONFIG = configs/cycle_mlp/$(DEMO_$(TASK))
DEMO_DIR = work_dirs/demo_$(TASK)
# Further options of tools/train.py, such as '--cfg-options train_cfg.max_epochs=2'.
DEMO_OPTIONS ?=
SCENES := data/digit_scenes
RUN := '$(VENV)/bin/python'
ifneq ($(filter demo,$(MAKECMDGOALS)),)
ifeq ($(strip $(DEMO_$(TASK))),)
$(error TASK=$(TASK) is no task of the demo, choose retinanet, mask-rcnn, \
    semantic-fpn, upernet or classification)
endif
endif

.PHONY: help setup demo test lint typecheck format clean clean-venv
.DELETE_ON_ERROR:
# The steps of the set-up share one environment.
.NOTPARALLEL:

help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "%-12s %s\n", $$1, $$2}' Makefile

demo: setup $(SCENES)/digit_scenes.json ## set up, then train, evaluate and draw a small detector (about 10 min)
	@if [ -e '$(DEMO_DIR)' ]; then \
	    mv '$(DEMO_DIR)' "$(DEMO_DIR)_$$(date +%Y%m%d_%H%M%S)"; fi
	$(RUN) tools/train.py $(DEMO_CONFIG) --work-dir $(DEMO_DIR)/run $(DEMO_OPTIONS)
	$(RUN) tools/test.py $(DEMO_CONFIG) "$$(cat $(DEMO_DIR)/run/last_checkpoint)" \
	    --work-dir $(DEMO_DIR)/test --show-dir $(DEMO_DIR)/pictures
	$(RUN) tools/analysis_tools/analyze_logs.py plot_curve $(DEMO_DIR)/run \
	    --out-dir $(DEMO_DIR)/curves
	$(RUN) tools/analysis_tools/analyze_logs.py summary $(DEMO_DIR)/run

# Complete as soon as its marker file is there.
$(SCENES)/digit_scenes.json: | setup
	$(RUN) tools/dataset_converters/make_digit_scenes.py --out $(SCENES)

test: setup ## set up, then run every test
	$(BIN)/python -m pytest -n $(TEST_PROCESSES) -m "slow or not slow"

setup: $(STAMPS)/project ## set up the virtual environment only

lint: setup ## ruff (rules, import order, format) and codespell
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/codespell

typecheck: setup ## mypy on the package
	$(BIN)/mypy

format: setup ## let ruff mend what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean: ## remove caches and build folders
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
	find . -name __pycache__ -not -path '*/.venv*/*' -prune -exec rm -rf {} +

clean-venv: ## remove the virtual environment
	@if [ -e '$(VENV)/pyvenv.cfg' ]; then rm -rf '$(VENV)'; fi

# A stamp of another Python is left over from an environment that is made anew.
$(PYTHON_STAMP):
	$(if $(strip $(PYTHON)),,$(error No Python 3.10, 3.11 or 3.12 found: install one, \
	or name it as in PYTHON=/path/to/python3.11 make setup))
	$(if $(PYTHON_VERSION),,$(error PYTHON=$(PYTHON) does not run: name a Python 3.10, \
	3.11 or 3.12, as in PYTHON=python3.11 make setup))
	@'$(PYTHON)' -c '$(PYTHON_FITS)' || { \
	    echo 'setup: Python $(PYTHON_VERSION) ($(PYTHON)) is not supported: name a' \
	        'Python 3.10, 3.11 or 3.12, as in PYTHON=python3.11 make setup' >&2; \
	    exit 1; }
	@$(SETUP) check venv
	@rm -rf '$(STAMPS)' && mkdir -p '$(STAMPS)' && touch '$@'

$(STAMPS)/torch: $(PYTHON_STAMP) constraints.txt
	@$(SETUP) torch
	@touch '$@'

$(STAMPS)/mmcv: $(STAMPS)/torch
	@$(SETUP) mmcv
	@touch '$@'

$(STAMPS)/project: $(STAMPS)/mmcv setup.py
	@$(SETUP) project
	@touch '$@'
