"""Every shell block of the documentation does what it shows, typed as a reader would."""

from __future__ import annotations

import pytest

from jobs_core.testing.services.redis import RedisServer

from ..support.terminal import FOLLOWED, Checkout, Command, follow, shell_blocks

NOT_HERE = {
    "docs/deployment.md-1": "makes a user and a unit on the machine; tests/cli/test_systemd.py has the unit",
    "docs/dashboard.md-1": "serves until it is ended; run in plugins/web/tests",
    "docs/dashboard.md-2": "takes a supervisor with a dashboard; run in tests/supervisor/test_dashboard.py",
    "docs/logs.md-1": "reads the journal of a unit that is not installed",
    "docs/machines.md-1": "takes several machines; run in tests/supervisor/test_machines.py",
    "examples/README.md-5": "takes a PostgreSQL server; tests/docs/test_shops.py runs the shop",
    "examples/README.md-6": "likewise",
    "examples/README.md-7": "likewise",
    "docs/postgres.md-1": "takes a PostgreSQL server; plugins/postgres_backend/tests/test_setup.py runs what it prints",
    "plugins/web/README.md-1": "serves until it is ended; run in plugins/web/tests",
    "docs/rabbitmq.md-1": "run in tests/faults/test_rabbitmq.py, where there is a node",
    "plugins/rabbitmq_backend/README.md-1": "likewise",
}
"""Blocks that are not run here, with the reason."""

DIRECTORIES = {
    "README.md-3": "examples/first_steps",
    "docs/running.md-1": "examples/first_steps",
    "docs/monitoring.md-1": "examples/first_steps",
    "docs/monitoring.md-2": "examples/first_steps",
    "docs/monitoring.md-3": "examples/first_steps",
    "docs/schedule.md-1": "examples/first_steps",
    "plugins/flask_loader/README.md-2": "examples/flask_shop",
    "plugins/fastapi_loader/README.md-2": "examples/fastapi_shop",
    "plugins/django_loader/README.md-2": "examples/django_shop",
    "plugins/zeromq_backend/README.md-1": "examples/first_steps",
    "plugins/redis_backend/README.md-1": "examples/first_steps",
}
"""The directory of a block's reader; the root of the checkout otherwise."""

FIRST_WORKER = "import json, sys; print(json.load(sys.stdin)['workers'][0]['pid'])"
BEFORE = {
    "docs/monitoring.md-2": ["export JOBS_HTTP__LISTEN=127.0.0.1:9000", "jobsctl start"],
    "docs/monitoring.md-3": ["jobsctl start", f'WORKER=$(jobsctl status --json | python -c "{FIRST_WORKER}")'],
}
"""Preconditions of blocks."""

LOOSE = {
    "docs/monitoring.md-1": "shows the figures of half a day",
    "docs/monitoring.md-2": "shows what troubles look like",
    "docs/monitoring.md-3": "shows a worker with 5,000 jobs",
}
"""Blocks that show the answers of another installation."""

CODES = {"jobsctl exit": 3}
"""Exit codes other than 0: at that point of docs/running.md, nothing runs any more."""

BLOCKS = {str(block): block for block in shell_blocks()}


@pytest.fixture
def checkout(tmp_path):
    return Checkout(tmp_path)


@pytest.mark.parametrize("name", sorted(BLOCKS.keys() - NOT_HERE.keys()))
def test_a_shell_block_prints_the_output_it_shows(name, checkout, tmp_path):
    block = BLOCKS[name]
    checkout.replaced["4711"] = "$WORKER"
    if name in LOOSE:
        block = block._replace(commands=[Command(command.text, []) for command in block.commands])

    def run() -> None:
        follow(block, checkout, directory=DIRECTORIES.get(name, ""), before=BEFORE.get(name, ()), codes=CODES)

    if any("redis://" in command.text for command in block.commands):
        with RedisServer(tmp_path / "redis") as server:
            checkout.replaced["6379"] = str(server.port)
            run()
    else:
        run()


def test_the_tables_name_blocks_that_there_are():
    assert {*NOT_HERE, *DIRECTORIES, *BEFORE, *LOOSE} <= BLOCKS.keys()
    assert len(NOT_HERE) * 4 < len(BLOCKS) + len(shell_blocks(FOLLOWED)), "most of them are run"


@pytest.mark.parametrize(
    "command",
    [
        Command("false", []),
        Command("no-such-program", []),
        Command("echo one", ["two"]),
        Command("echo one", ["one", "two"]),
        Command("pip install no-such-distribution", []),
        Command("pip install ./plugins/no_such_plugin", []),
        Command("make no-such-target", []),
        Command("cd no_such_directory", []),
    ],
    ids=lambda command: command.text,
)
def test_a_block_that_is_wrong_is_found(command, checkout):
    with pytest.raises(AssertionError, match=command.text):
        follow(BLOCKS["README.md-1"]._replace(commands=[command]), checkout)
