# Everything on a fresh machine with only Python 3.11+ and make: `make demo`, then `make test`.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
SETUP  := setup.cfg pyproject.toml

.DEFAULT_GOAL := help
.PHONY: help demo test lint format bench bench-models bench-aws storm storm-aws notebooks test-aws clean-aws clean

help:            ## this list
	@grep -hE '^[a-z-]+: .*##|^[a-z-]+:  *##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 14

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit("mltrigger needs Python 3.11 or newer; call make PYTHON=python3.12") if sys.version_info < (3, 11) else None'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed-%: $(SETUP) | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[$*]'
	@touch $@

demo: $(VENV)/.installed-demo            ## the main job: scanned pages through OCR and a classifier, embedded
	$(BIN)/mltrigger demo

test: $(VENV)/.installed-test            ## unit, contract and notebook tests
	$(BIN)/python -m pytest -q

# Credentials are those that boto3 finds; AWS_REGION or AWS_DEFAULT_REGION says where. With AWS_ENDPOINT_URL it runs against an emulator.
test-aws: $(VENV)/.installed-test            ## checks on a real AWS account, yours: says what it makes and costs, and removes it
	PYTHONPATH=. $(BIN)/python -m pytest -p no:cacheprovider --override-ini addopts=--strict-markers --override-ini 'python_files=live_*.py' -rN tests/live

clean-aws: $(VENV)/.installed-test            ## remove what a killed `make test-aws` left: PREFIX=mlt-live-…
	PYTHONPATH=. $(BIN)/python tests/live/clean.py "$(PREFIX)"

lint: $(VENV)/.installed-lint $(VENV)/.installed-test            ## format, lint, types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: $(VENV)/.installed-lint            ## let ruff rewrite what it can
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(VENV)/.installed-demo $(VENV)/.installed-bench            ## the embedded broker against bare sqlite3 and its peers
	$(BIN)/python -m benchmarks

# MLSERVER=…/bin/mlserver of an environment with mlserver and mlserver-sklearn: then MLServer is measured beside it.
bench-models: $(VENV)/.installed-demo $(VENV)/.installed-bench            ## models in batches against calling them directly
	$(BIN)/python -m benchmarks.models $(if $(MLSERVER),--mlserver $(MLSERVER))

bench-aws: $(VENV)/.installed-bench            ## mltrigger on SQS against a bare boto3 loop and Celery; needs Node 20 for its server
	$(BIN)/python -m benchmarks.aws

storm: $(VENV)/.installed-demo $(VENV)/.installed-bench            ## end workers at random moments, beside huey: nothing may be lost or recorded twice
	$(BIN)/python -m benchmarks.storm --seeds 5

storm-aws: $(VENV)/.installed-bench            ## kill workers while SQS throttles, fails and resets: nothing may be lost or recorded twice
	$(BIN)/python -m benchmarks.aws.storm

notebooks: $(VENV)/.installed-test $(VENV)/.installed-tutorial            ## run the notebooks and save their outputs
	cd notebooks && for n in *.ipynb; do ../$(BIN)/jupyter nbconvert --to notebook --execute --inplace --ExecutePreprocessor.record_timing=False $$n || exit 1; done

clean:            ## remove the environment and what runs leave behind
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis build dist *.egg-info
