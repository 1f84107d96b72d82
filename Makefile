# Everything on a fresh machine with only Python 3.11+ and make: `make demo`, then `make test`.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
SETUP  := setup.cfg pyproject.toml
# The versions that are installed, chosen by `make lock`. `make LOCK= …` takes the newest releases.
LOCK   := constraints.txt
# Python compiles the modules that are imported; to compile all of them takes longer than to install them.
PIP    := $(BIN)/python -m pip install --quiet --quiet --disable-pip-version-check --no-compile $(if $(LOCK),-c $(LOCK))
# How many tests run at once. They wait a lot, so it may be more than there are cores.
JOBS   ?= 6
# Libraries for numbers use one thread each: the other cores have tests of their own. Bytecode is kept:
# tests start hundreds of processes.
PYTEST := PYTHONDONTWRITEBYTECODE= OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 $(BIN)/python -m pytest -q
TESTS  := $(PYTEST) -n $(JOBS) --dist loadgroup
# The notebooks run beside the tests: their outputs are compared with the saved ones.
CELLS  := -p tests.helpers.light -p nbval --nbval --nbval-current-env --nbval-cell-timeout 120 --nbval-sanitize-with tests/helpers/nbval-sanitize.cfg \
	tests notebooks
# Debian's packages of the programs that tests drive; CONTRIBUTING.md has the line.
DEBIAN := chromium-headless-shell default-jdk-headless fonts-dejavu-core gcc golang-go libc6-dev locales mosquitto nodejs pgbouncer r-base-core r-cran-httr rabbitmq-server redis-server zsh
# The wall clock of `make test-later`: 400 days ahead, in a zone with an odd offset and summer time.
LATER  := AHEAD_S=34560000 TZ=Pacific/Chatham

.DEFAULT_GOAL := help
.PHONY: help demo docs docs-links installed compiled test test-all test-latest test-later test-pythons test-slow coverage programs lock lint format bench bench-models bench-aws bench-postgresql storm storm-guilt storm-aws storm-postgresql storm-postgresql-kills notebooks test-aws clean-aws clean

help:            ## this list
	@grep -hE '^[a-z-]+: .*##|^[a-z-]+:  *##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 14

# The pip of Python 3.11 takes twice as long to install all.
$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit("mltrigger needs Python 3.11 or newer; call make PYTHON=python3.12") if sys.version_info < (3, 11) else None'
	$(PYTHON) -m venv $(VENV)
	$(PIP) --upgrade 'pip>=26'

# The build backend is installed first and used as it is: an isolated build would fetch its newest release.
$(VENV)/.installed-%: $(SETUP) $(LOCK) | $(BIN)/python
	$(PIP) 'setuptools>=77'
	$(PIP) --no-build-isolation -e '.[$*]'
	@touch $@

demo: $(VENV)/.installed-demo            ## the main job: scanned pages through OCR and a classifier, embedded
	$(BIN)/mltrigger demo

# One call of pip resolves once.
EXTRAS := browser docs frameworks lint test
comma  := ,
installed: programs | $(BIN)/python            ## the programs and libraries of lint and test-all, in one go
	$(PIP) 'setuptools>=77'
	$(PIP) --no-build-isolation -e '.[$(subst $() $(),$(comma),$(EXTRAS))]'
	@touch $(EXTRAS:%=$(VENV)/.installed-%)

# Else each process of the tests would compile the same modules at the same time.
compiled: $(VENV)/.installed-test            ## compile the modules that the tests import
	@$(PYTEST) --collect-only -qq $(CELLS) >/dev/null

test: $(VENV)/.installed-test            ## unit, contract and notebook tests
	$(TESTS) $(CELLS)

test-all: programs $(VENV)/.installed-test $(VENV)/.installed-browser $(VENV)/.installed-docs $(VENV)/.installed-frameworks            ## all of them: what is missing is installed, or fails
	$(TESTS) --all $(CELLS)

coverage: programs $(VENV)/.installed-test $(VENV)/.installed-browser $(VENV)/.installed-docs $(VENV)/.installed-frameworks            ## the share of the lines and branches that all tests run; takes longer
	$(TESTS) --all --cov --cov-report=
	$(BIN)/coverage report --format=total | sed 's/.*/&% of the lines and branches of mltrigger were run/'

test-slow: $(VENV)/.installed-test            ## every case of the slow tests: kills at each statement, storms, many random examples
	$(TESTS) --slow -m slow

# An environment each; pyenv or the system has the interpreters.
test-pythons:            ## the tests on Python 3.11, 3.12 and 3.13
	for version in 3.11 3.12 3.13; do $(MAKE) PYTHON=python$$version VENV=.venv-$$version test || exit 1; done

test-latest:            ## the same on the newest releases of everything, in an environment of its own
	$(MAKE) LOCK= VENV=.venv-latest test

test-later: $(VENV)/.installed-test $(VENV)/wall_clock.so            ## the same with the wall clock 400 days ahead, in another time zone
	LD_PRELOAD=$(abspath $(VENV)/wall_clock.so) $(LATER) $(TESTS)

$(VENV)/wall_clock.so: tests/helpers/wall_clock.c | $(BIN)/python
	$(CC) -O2 -shared -fPIC -o $@ $< -ldl

programs:            ## install the programs that tests drive: needs apt-get, and root
	@for program in chromium-headless-shell cc go java mosquitto node npm pgbouncer rabbitmq-server redis-server Rscript zsh; do command -v $$program >/dev/null || missing=1; done; \
	if [ -n "$$missing" ]; then apt-get update -qq && RUNLEVEL=1 DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $(DEBIAN) >/dev/null; fi
	@command -v npm >/dev/null || DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends npm >/dev/null

# torch is held back: the newer ones bring 5 GB of CUDA, and the tests use the CPU.
lock: $(BIN)/python            ## choose the versions that make installs anew: constraints.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check 'uv>=0.9'
	printf 'pip>=26\nsetuptools>=77\ntorch<2.14\n' | $(BIN)/uv pip compile --quiet --upgrade --universal --python-version 3.11 --all-extras --no-annotate \
		--custom-compile-command 'make lock' --output-file $(LOCK) setup.cfg -

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

# Warnings are errors, nothing is fetched. A link inside must lead somewhere.
docs: $(VENV)/.installed-docs            ## the documentation as a site, in docs/_build/html
	$(BIN)/python -m sphinx -W --keep-going -q -j auto -b html -d docs/_build/doctrees docs docs/_build/html
	$(BIN)/python docs/_ext/check_site.py docs/_build/html

docs-links: $(VENV)/.installed-docs            ## the links to outside pages, where there is a network
	$(BIN)/python -m sphinx -q -j auto -b linkcheck -d docs/_build/doctrees docs docs/_build/links

bench: $(VENV)/.installed-demo $(VENV)/.installed-test $(VENV)/.installed-bench            ## the embedded broker against bare sqlite3 and its peers
	$(BIN)/python -m benchmarks

# MLSERVER=…/bin/mlserver of an environment with mlserver and mlserver-sklearn: then MLServer is measured beside it.
bench-models: $(VENV)/.installed-demo $(VENV)/.installed-bench            ## models in batches against calling them directly
	$(BIN)/python -m benchmarks.models $(if $(MLSERVER),--mlserver $(MLSERVER))

bench-aws: $(VENV)/.installed-bench            ## mltrigger on SQS against a bare boto3 loop and Celery; needs Node 20 for its server
	$(BIN)/python -m benchmarks.aws

bench-postgresql: $(VENV)/.installed-test $(VENV)/.installed-bench            ## mltrigger on PostgreSQL against bare psycopg, DBOS and Procrastinate
	$(BIN)/python -m benchmarks --only postgresql

storm: $(VENV)/.installed-demo $(VENV)/.installed-bench            ## end workers at random moments, beside huey: nothing may be lost or recorded twice
	$(BIN)/python -m benchmarks.storm --seeds 5

storm-postgresql: $(VENV)/.installed-test            ## 1,000,000 events, 8 workers in 4 network namespaces (as root), one log in PostgreSQL
	$(BIN)/python -m benchmarks.storm.postgresql_many

storm-postgresql-kills: $(VENV)/.installed-test            ## end workers, the publisher and the server of PostgreSQL: nothing may be lost or recorded twice
	$(BIN)/python -m benchmarks.storm.postgresql

storm-guilt: $(VENV)/.installed-bench            ## events that end, stop and fork processes beside innocent ones: none of these may be blamed
	$(BIN)/python -m benchmarks.storm.guilt

storm-aws: $(VENV)/.installed-bench            ## kill workers while SQS throttles, fails and resets: nothing may be lost or recorded twice
	$(BIN)/python -m benchmarks.aws.storm

# Saved without the state of widgets: a page made of a notebook then shows the static form, which says that it is one.
notebooks: $(VENV)/.installed-test $(VENV)/.installed-tutorial            ## run the notebooks and save their outputs
	cd notebooks && for n in *.ipynb; do ../$(BIN)/jupyter nbconvert --to notebook --execute --inplace \
		--ExecutePreprocessor.record_timing=False --ExecutePreprocessor.store_widget_state=False $$n || exit 1; done

clean:            ## remove the environment and what runs leave behind
	rm -rf docs/_build docs/api docs/project docs/tutorials $(VENV) .venv-latest .venv-3.* .coverage* .pytest_cache .mypy_cache .ruff_cache .hypothesis build dist *.egg-info
