# Quick start: `make demo` or `make test`. Each does all the set-up it needs, once.

VENV ?= .venv
UPSTREAM_VENV ?= .venv-upstream
# Disk space that a set-up needs, in GiB: 6 installed, the rest for downloads.
MIN_FREE_GIB ?= 10
# `make test` runs so many test processes.
TEST_PROCESSES ?= 2
# `make demo` trains this: retinanet, mask-rcnn, semantic-fpn, upernet or classification.
TASK ?= retinanet
DEMO_retinanet := retinanet_cyclemlp-mini_fpn_1xb8-8e_digit-scenes.py
DEMO_mask-rcnn := mask-rcnn_cyclemlp-mini_fpn_1xb8-6e_digit-scenes.py
DEMO_semantic-fpn := fpn_cyclemlp-mini_1xb32-3k_digit-scenes.py
DEMO_upernet := upernet_cyclemlp-mini_1xb32-3k_digit-scenes.py
DEMO_classification := cyclemlp-mini_1xb32-10e_digit-scenes.py
DEMO_CONFIG = configs/cyclemlp/$(DEMO_$(TASK))
DEMO_DIR = work_dirs/demo_$(TASK)
# Further options of tools/train.py, such as '--cfg-options train_cfg.max_epochs=2'.
DEMO_OPTIONS ?=
SCENES := data/digit_scenes
ifneq ($(filter demo,$(MAKECMDGOALS)),)
ifeq ($(strip $(DEMO_$(TASK))),)
$(error TASK=$(TASK) is no task of the demo, choose retinanet, mask-rcnn, \
    semantic-fpn, upernet or classification)
endif
endif
# Arguments of pytest for the upstream stack.
UPSTREAM_TESTS ?= tests/checkpoints tests/test_factory.py tests/engine tests/necks \
    tests/ops tests/layers tests/backbones/test_contract.py \
    tests/backbones/test_parity.py tests/configs/test_step.py \
    tests/integration/test_digit_runs.py

# The Python that a virtual environment is made with. The one of an existing environment
# stays in use; PYTHON=python3.12 make ... chooses another.
fits = import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, $(1)))
find-python = $(shell for python in $(2); do \
    if "$$python" -c '$(call fits,$(1))' >/dev/null 2>&1; then \
        echo "$$python"; break; \
    fi; done)
ifeq ($(strip $(PYTHON)),)
PYTHON := $(call find-python,13,'$(VENV)/bin/python' \
    python3.11 python3.12 python3.13 python3.10 python3)
endif
ifeq ($(strip $(UPSTREAM_PYTHON)),)
UPSTREAM_PYTHON = $(call find-python,11,'$(UPSTREAM_VENV)/bin/python' \
    '$(PYTHON)' python3.11 python3.10 python3)
endif

# $(1) variable that names a Python, $(2) its value, $(3) minor version of the newest that
# fits
define check-python
@'$(2)' -c '$(call fits,$(3))' 2>/dev/null || { \
    echo "setup: Python 3.10 to 3.$(3) is needed," \
        "$(if $(strip $(2)),$(2) is $$('$(2)' -V 2>/dev/null || echo none),none found):" \
        'name one, as in $(1)=python3.11 make setup' >&2; exit 1; }
endef
SET_UP = dev/setup_env.py --min-free-gib '$(MIN_FREE_GIB)'
MAIN = --venv '$(VENV)' --constraints constraints.txt --extras onedl,test,dev
UPSTREAM = --venv '$(UPSTREAM_VENV)' --constraints constraints-upstream.txt \
    --extras upstream,test

.PHONY: help setup operators demo test lint typecheck format clean clean-venv
.PHONY: setup-upstream test-upstream
# The targets share one environment.
.NOTPARALLEL:

help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "%-15s %s\n", $$1, $$2}' Makefile

demo: setup $(SCENES)/digit_scenes.json ## set up, then train, evaluate and draw a small detector (about 10 min; TASK=mask-rcnn ... for the others)
	@if [ -e '$(DEMO_DIR)' ]; then \
	    mv '$(DEMO_DIR)' "$(DEMO_DIR)_$$(date +%Y%m%d_%H%M%S)"; fi
	'$(VENV)/bin/python' tools/train.py $(DEMO_CONFIG) --work-dir $(DEMO_DIR)/run $(DEMO_OPTIONS)
	'$(VENV)/bin/python' tools/test.py $(DEMO_CONFIG) "$$(cat $(DEMO_DIR)/run/last_checkpoint)" \
	    --work-dir $(DEMO_DIR)/test --show-dir $(DEMO_DIR)/pictures
	'$(VENV)/bin/python' tools/analysis_tools/analyze_logs.py plot_curve $(DEMO_DIR)/run \
	    --out-dir $(DEMO_DIR)/curves
	'$(VENV)/bin/python' tools/analysis_tools/analyze_logs.py summary $(DEMO_DIR)/run

# Complete as soon as its marker file is there.
$(SCENES)/digit_scenes.json: | setup
	'$(VENV)/bin/python' tools/dataset_converters/make_digit_scenes.py --out $(SCENES)

test: setup ## set up, then run every test
	'$(VENV)/bin/python' -m pytest -n $(TEST_PROCESSES) --dist loadfile --no-loadscope-reorder \
	    -m 'not nightly'

setup: ## set up the virtual environment only
	$(call check-python,PYTHON,$(PYTHON),13)
	@'$(PYTHON)' $(SET_UP) $(MAIN)

operators: setup ## compile mmcv's own operators as well (not needed; 13 min and more)
	@'$(PYTHON)' $(SET_UP) $(MAIN) --operators

setup-upstream: ## set up another environment, with the upstream OpenMMLab packages
	$(call check-python,UPSTREAM_PYTHON,$(UPSTREAM_PYTHON),11)
	@'$(UPSTREAM_PYTHON)' $(SET_UP) $(UPSTREAM)

test-upstream: setup-upstream ## set up, then run the tests of the upstream stack
	'$(UPSTREAM_VENV)/bin/python' -m pytest -n $(TEST_PROCESSES) --dist loadfile --no-loadscope-reorder \
	    -m 'not nightly' $(UPSTREAM_TESTS)

lint: setup ## ruff (rules, import order, format) and codespell
	'$(VENV)/bin/ruff' check .
	'$(VENV)/bin/ruff' format --check .
	'$(VENV)/bin/codespell'

typecheck: setup ## mypy on the package
	'$(VENV)/bin/mypy'

format: setup ## let ruff mend what it can
	'$(VENV)/bin/ruff' check --fix .
	'$(VENV)/bin/ruff' format .

clean: ## remove caches and build folders
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
	find . -name __pycache__ -not -path '*/.venv*/*' -prune -exec rm -rf {} +

clean-venv: ## remove the virtual environments
	@for venv in '$(VENV)' '$(UPSTREAM_VENV)'; do \
	    if [ -e "$$venv/pyvenv.cfg" ]; then rm -rf "$$venv"; fi; done
