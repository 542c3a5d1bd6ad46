# Everything a contributor or a visitor runs. `make help` lists the targets.
PYTHON ?= python3
VENV   ?= .venv
SECONDS ?= 15
VERSIONS ?= 13 14 16 17 18
BIN    := $(VENV)/bin
PYTEST := $(BIN)/python -m pytest

TRANSPORT := $(addprefix plugins/rabbitmq_backend/tests/test_,transport.py frames.py loop.py gil.py) \
    $(addprefix plugins/redis_backend/tests/test_,transport.py protocol.py) tests/supervisor/test_probes.py tests/supervisor/test_metrics.py

.DEFAULT_GOAL := help
.PHONY: help demo announce test test-all test-python transport transport-all django-matrix check format lint types imports unit contract faults chaos torture redis-versions postgres-versions contract-rabbitmq contract-pgbouncer plans contract-zeromq bench bench-all bench-web bench-turns bench-peers coming-from docs site image-steps vm-steps dist release-check pins clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-17s %s\n", $$1, $$2}'

$(VENV)/ready: constraints.txt requirements-dev.txt core/pyproject.toml $(wildcard plugins/*/pyproject.toml examples/plugin_*/pyproject.toml)
	@tools/bootstrap.sh $(VENV) $(PYTHON)

demo: ## run real jobs on the files that ship with it, for SECONDS=15
	@tools/demo.sh "$(VENV)" "$(PYTHON)" "$(SECONDS)"

announce:
	@echo "All tests: some 15 minutes on two cores. What is missing is installed first, 1 to 2 minutes once: Python packages"
	@echo "into $(VENV), and as root, where there is apt-get, Debian packages of Redis, RabbitMQ, PostgreSQL, pgbouncer, Prometheus, systemd, PHP, Chromium and gcc."

test: announce $(VENV)/ready ## run the tests of every change; prints what it installs, and how long it takes
	@tools/services.sh
	JOBS_CONTRACT_EXAMPLES=30 $(PYTEST) -n 4 --dist loadfile
	@$(BIN)/python tools/release.py --stamp test >/dev/null 2>&1 || true

test-all: ## run all tests on every Python from 3.10 to 3.14 that is on the machine
	@tools/every-python.sh

test-python: ## run tests on one other Python: PY=3.12 (or a program) TESTS="tests/unit tests/contract"
	@tools/test-python.sh "$(PY)" $(TESTS)

transport: $(VENV)/ready ## run the tests of what is written by hand beside a library, see docs/transport.md
	$(PYTEST) -q $(TRANSPORT)

transport-all: ## run the same on every Python from 3.10 to 3.14 that is on the machine
	@tools/every-python.sh transport

django-matrix: ## test jobs-django on every Python and Django it supports, and run Django's own task tests
	@tools/django-matrix.sh

check: lint types imports unit contract ## check format, lint, types and import rules; run unit tests and contract

format: $(VENV)/ready ## format the code
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

lint: $(VENV)/ready
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: $(VENV)/ready
	$(BIN)/mypy

imports: $(VENV)/ready
	$(BIN)/lint-imports

unit: $(VENV)/ready
	$(PYTEST) tests/unit tests/typing -q

contract: $(VENV)/ready
	$(PYTEST) tests/contract -q

chaos: $(VENV)/ready ## kill random processes for a minute under 20,000 jobs
	JOBS_CHAOS_JOBS=20000 JOBS_CHAOS_SECONDS=60 $(PYTEST) tests/supervisor/test_chaos.py -q -s

faults: $(VENV)/ready ## run the fault tests alone, one per promise
	$(PYTEST) tests/faults -q

torture: $(VENV)/ready ## run 100,000 jobs a row while the broker suffers faults; print a table of the results
	$(BIN)/python -m tests.torture
	$(BIN)/python -m tests.torture.outbox
	$(BIN)/python -m tests.contract.mutants
	JOBS_HYPOTHESIS=search $(PYTEST) -q -m hypothesis --timeout=3600
	JOBS_CONTRACT_EXAMPLES=200 $(PYTEST) -q -k behaves_like_the_model --timeout=3600
	JOBS_MEMORY_JOBS=100000 $(PYTEST) plugins/redis_backend/tests/test_memory.py -q

redis-versions: $(VENV)/ready ## run contract and faults on other servers: SERVERS="/path/valkey-server /path/redis-server"
	@for server in $(SERVERS); do \
	    $$server --version && JOBS_TEST_REDIS_SERVER=$$server $(PYTEST) -q plugins/redis_backend/tests tests/faults/test_redis.py tests/faults/test_redis_clocks.py || exit 1; \
	done

postgres-versions: $(VENV)/ready ## run the tests of jobs-postgres on other servers, fetched with npm: VERSIONS="13 14 16 17 18"
	@PYTHON=$(BIN)/python tools/postgres-versions.sh "$(VERSIONS)" $(TESTS)

contract-rabbitmq: $(VENV)/ready ## run the whole contract on RabbitMQ's classic queues, and with results beside it
	$(PYTEST) plugins/rabbitmq_backend/tests/whole_contract.py -q

plans: $(VENV)/ready ## read the plans of PostgreSQL's statements with a million jobs of each state
	JOBS_PLAN_ROWS=1000000 $(PYTEST) plugins/postgres_backend/tests/test_plans.py -q --timeout 3600

contract-pgbouncer: $(VENV)/ready ## run the whole contract on PostgreSQL through a pgbouncer that pools transactions
	$(PYTEST) -n 2 plugins/postgres_backend/tests/pooled_contract.py -q

contract-zeromq: $(VENV)/ready ## run the contract on ZeroMQ brokers of every kind, killed between commit and confirm
	$(PYTEST) -n 2 plugins/zeromq_backend/tests/broker_contract.py -q

bench: $(VENV)/ready ## measure; print a table, and write JSON to bench/results/
	$(BIN)/python -m bench

bench-all: $(VENV)/ready ## measure all that docs/benchmarks.md shows of one session, and write it there; an hour; PARTS="ours redis"
	$(BIN)/python -m bench.everything $(PARTS)

bench-web: $(VENV)/ready ## measure the dashboard and its API with a million jobs, on every backend that keeps so many; takes minutes
	$(BIN)/python -m bench.web

bench-turns: $(VENV)/ready ## measure another checkout and this one in turn, on every backend: BEFORE=../before
	$(BIN)/python -m bench.turns $(BEFORE)

bench-peers: $(VENV)/ready ## measure Celery, RQ, Procrastinate and others beside ours; writes their tables of docs/benchmarks.md
	$(BIN)/python -m bench.peers

coming-from: $(VENV)/ready ## run the "Coming from" pages beside the newest Celery, RQ, Dramatiq, Huey, arq, taskiq and django-tasks; takes minutes
	@rm -rf bench/.peers/from-*
	$(PYTEST) tests/docs/coming_from.py -q

docs: $(VENV)/ready ## write the reference pages from the code
	$(BIN)/python tools/write_docs.py

site: $(VENV)/ready ## build the documentation site into site/, without the network; broken links fail
	@$(BIN)/python tools/make_site.py

image-steps: $(VENV)/ready ## build the container image and run it read-only, as root on Debian; what is missing is installed
	@tools/image-steps.sh
	@$(BIN)/python tools/release.py --stamp image || echo "Not noted for a release: the tree has changes that are not committed."

vm-steps: $(VENV)/ready ## type the commands of the VM guide in a Debian with systemd, in namespaces of its own; as root on Debian
	@tools/vm-steps.sh $(BIN)/python

.venv-release/ready: requirements-release.txt constraints.txt
	$(PYTHON) -m venv .venv-release
	.venv-release/bin/pip install -q --disable-pip-version-check -c constraints.txt -r requirements-release.txt
	@touch .venv-release/ready

dist: $(VENV)/ready .venv-release/ready ## build every package twice, compare, check; write checksums and a bill of materials
	$(BIN)/python tools/dist.py .venv-release

release-check: $(VENV)/ready ## walk through the release checklist
	@$(BIN)/python tools/release.py --check

pins: ## resolve the newest releases and pin them
	@tools/pin.sh

clean: ## remove what the targets above made
	rm -rf .venv .venv-* .pytest_cache .mypy_cache .ruff_cache bench/results site .site
