"""Faults of a RabbitMQ node, the network and the workers, while jobs run.

The same rows with 100,000 jobs each, and the slow ones, are `make torture`.
"""

from __future__ import annotations

import json
import shlex
import subprocess
import time

import pika
import pytest

from jobs_core.backends.base import State
from jobs_core.errors import BackendUnavailable
from jobs_core.message import new_message
from jobs_core.testing.services import program

from ..support.outages import assert_work_continues_after_flapping
from ..support.proxy import Proxy
from ..support.stopwatch import Stopwatch
from ..support.terminal import Checkout, follow, shell_blocks
from ..torture import rabbitmq as rows
from ..torture.stage import endure


def dead(project):
    return project.app().operate(lambda backend: backend.browse("default", State.DEAD, 100))


# -- counted ---------------------------------------------------------------------------------------


def test_nothing_is_lost_by_whatever_happens_to_node_connections_and_workers(node, tmp_path):
    _, tally = endure(rows.on(node, rows.in_turn(*rows.SHORT)), tmp_path, 3000)
    assert tally.acknowledged == 3000


def test_nothing_is_lost_by_a_network_that_swallows(node, tmp_path):
    _, tally = endure(rows.on(node, rows.in_turn(rows.lose_packets(5 * rows.HEARTBEAT))), tmp_path, 400)
    assert tally.acknowledged == 400


@pytest.mark.parametrize(
    ("low_on", "alarm", "end"),
    [
        ("memory", ("set_vm_memory_high_watermark", "absolute", "1"), ("set_vm_memory_high_watermark", "absolute", "1GB")),
        ("disk", ("set_disk_free_limit", "1000000GB"), ("set_disk_free_limit", "20MB")),
    ],
)
def test_an_alarm_delays_or_refuses_producers_while_workers_continue(rabbit_project, node, low_on, alarm, end):
    project = rabbit_project
    project.configure('enqueue_timeout = "1s"', backend=project_backend(project))
    app = project.app()

    def enqueue(text, patience=5.0):
        message = new_message("tasks.note", "default", [text], {})
        app._producer.push([app.outgoing(message)], patience)

    enqueue("before")
    project.push_many([*[("note", (f"n{n}",), {}) for n in range(50)], ("fail_twice", (), {})])
    node.control(*alarm)
    try:
        with pytest.raises(BackendUnavailable, match=f"accepts no messages at present.*low on {low_on}"):
            for _ in range(3):
                enqueue("into the alarm", patience=1.0)
        worker = project.worker()
        project.until_noted(*[f"note n{n}" for n in range(50)], "attempt 1")
        worker.until_said("accepts no messages at present")  # its retry waits
        assert "attempt 2" not in project.ledger()
    finally:
        node.control(*end)
    project.until(lambda: _enqueued(lambda: enqueue("after")))
    project.until_noted("note after", "attempt 3")
    assert worker.stop() == 0


def project_backend(project):
    return (project.root / "jobs.toml").read_text().splitlines()[0]


def _enqueued(enqueue):
    try:
        enqueue()
    except BackendUnavailable:
        return False
    return True


# -- one by one ------------------------------------------------------------------------------------


def test_jobs_that_wait_or_hold_the_interpreter_cost_no_connection_at_a_heartbeat_of_2_s(node, tmp_path):
    endure(rows.on(node, rows.long_jobs(10.0)), tmp_path, 20)


def test_jobs_that_ran_through_an_outage_are_not_rerun_by_a_live_worker(project, node, rabbitmq_url):
    with Proxy(node.port) as proxy:
        url = rabbitmq_url.replace(str(node.port), str(proxy.port))
        project.configure(backend=f'backend = "{url}"')
        worker = project.worker("--mode", "threads", "--concurrency", "3")
        project.push_many([("nap", (1.0, "ends-within"), {}), ("nap", (4.0, "outlasts"), {})])
        project.until(lambda: sum(line.startswith("start") for line in project.ledger()) == 2)
        proxy.refuse()
        worker.until_said("cannot be reached")
        project.until_noted("end ends-within")
        proxy.accept()
        watch = Stopwatch()
        project.push("note", "after")
        project.until_noted("note after")
        assert watch.stop() <= 3.0
        project.until_noted("end outlasts")
        project.until_empty()
        assert worker.stop() == 0
    starts = [line for line in project.ledger() if line.startswith("start")]
    assert len(starts) == 2, starts


def test_consumption_continues_within_3_s_of_a_flapping_connection(project, node, rabbitmq_url):
    with Proxy(node.port) as proxy:
        assert_work_continues_after_flapping(project, proxy, rabbitmq_url.replace(str(node.port), str(proxy.port)))


def test_a_connection_that_carries_only_heartbeats_stays_open(project, node, rabbitmq_url):
    """It carries nothing else for twice as long as pika waits for a sign of the broker: the heartbeat and 5 s."""
    with Proxy(node.port) as proxy:
        project.configure(backend=f'backend = "{rabbitmq_url.replace(str(node.port), str(proxy.port))}?heartbeat=1"')
        worker = project.worker()
        project.push("nap", 13.0, "long")
        project.until(lambda: project.ledger())
        before = proxy.connections
        project.until_noted("end long")
        assert proxy.connections == before
        assert worker.stop() == 0


def test_silence_is_noticed_within_two_heartbeats(project, node, rabbitmq_url):
    with Proxy(node.port) as proxy:
        url = rabbitmq_url.replace(str(node.port), str(proxy.port))
        project.configure(backend=f'backend = "{url}?heartbeat=5"')
        worker = project.worker()
        project.push("note", "before")
        project.until_noted("note before")
        project.until_empty()
        watch = Stopwatch()
        proxy.black_hole()
        worker.until_said("cannot be reached")
        assert watch.stop() <= 2 * 5 + 2.0  # and the delays of a busy machine
        proxy.heal()
        worker.until_said("answers again")
        assert worker.stop() == 0


@pytest.mark.parametrize("queue", ["jobs.default", "jobs.default:7-9"])
def test_a_queue_deleted_under_a_worker_is_recreated_and_reported(rabbit_project, channel, queue):
    project = rabbit_project
    worker = project.worker()
    project.push("note", "before")
    project.until_noted("note before")
    project.until_empty()
    channel.queue_delete(queue)
    assert queue in worker.until_said("deleted")  # by the broker, if it consumed there just then, or when it checks again
    project.push("note", "after")
    project.push("note", "urgent", priority=9)
    project.until_noted("note after", "note urgent")
    assert worker.stop() == 0


def test_everything_deleted_while_a_worker_is_disconnected_is_recreated_when_it_reconnects(
    project, node, rabbitmq_url, channel
):
    with Proxy(node.port) as proxy:
        project.configure(backend=f'backend = "{rabbitmq_url.replace(str(node.port), str(proxy.port))}"')
        worker = project.worker()
        project.push("fail_twice")
        project.until_noted("attempt 3")
        proxy.refuse()
        worker.until_said("cannot be reached")
        for level in ("", ":1-3", ":7-9", ":suspects", ":dead"):
            channel.queue_delete(f"jobs.default{level}")
        for step in (0, 1, 2):
            channel.exchange_delete(f"jobs:delay.{step:02}")
            channel.queue_delete(f"jobs:delay.{step:02}")
        proxy.accept()
        worker.until_said("answers again")
        project.push("fail_twice")
        project.until(lambda: project.times("attempt 3") == 2)
        project.push("fail")
        project.until(lambda: [record.reason for record in dead(project)] == ["failed"])
        assert worker.stop() == 0


def test_an_idle_worker_reports_an_outage_once(project, node, rabbitmq_url):
    with Proxy(node.port) as proxy:
        project.configure(backend=f'backend = "{rabbitmq_url.replace(str(node.port), str(proxy.port))}"')
        worker = project.worker()
        project.push("note", "before")
        project.until_noted("note before")
        project.until_empty()
        proxy.refuse()
        worker.until_said("cannot be reached")
        time.sleep(3.0)  # the outage lasts for several tries to connect
        proxy.accept()
        worker.until_said("answers again")
        assert worker.stop() == 0
        reasons = [line.partition("until it answers: ")[2] for line in worker.lines if "cannot be reached" in line]
        assert all(reasons), worker.output  # only the courier says it
        assert len(set(reasons)) == len(reasons), reasons
        assert worker.output.count("answers again") == 1


def test_short_jobs_do_not_wait_behind_a_long_one_while_a_worker_is_idle(rabbit_project):
    project = rabbit_project
    workers = [project.worker() for _ in range(2)]
    project.push_many([("note", (f"warm{n}",), {}) for n in range(200)])  # both have messages of short jobs delivered ahead
    project.until_noted(*[f"note warm{n}" for n in range(200)])
    project.push("nap", 600.0, "long")
    project.until(lambda: any(line.startswith("start long") for line in project.ledger()))
    project.push_many([("note", (f"short{n}",), {}) for n in range(100)])
    project.until_noted(*[f"note short{n}" for n in range(100)])
    assert "end long" not in project.ledger()
    for worker in workers:
        worker.kill()


def test_an_idle_worker_uses_no_processor_time(rabbit_project):
    worker = rabbit_project.worker()
    rabbit_project.push("note", "warm")
    rabbit_project.until_noted("note warm")
    before = worker.cpu_seconds()
    time.sleep(3.0)  # the test measures idleness
    assert worker.cpu_seconds() - before <= 0.06


def test_any_language_is_a_producer_by_plain_amqp(rabbit_project, channel):
    project = rabbit_project
    project.configure('[topics.default]\ndefault_job = "tasks.note"', backend=project_backend(project))
    worker = project.worker()
    project.push("note", "warm")
    project.until_noted("note warm")
    persistent = pika.BasicProperties(delivery_mode=2)

    def publish(body, queue="jobs.default", properties=persistent):
        channel.basic_publish("", queue, body, properties, mandatory=True)

    envelope = {"v": 1, "topic": "default", "job": "tasks.note"}
    publish(json.dumps(envelope | {"args": ["from afar"]}))
    publish('"plain"')
    publish("{ not JSON")
    publish(json.dumps(envelope | {"args": ["urgent"]}), queue="jobs.default:7-9")
    publish(json.dumps(envelope | {"args": ["late"], "delay": 1.5, "priority": 5}))
    project.until_noted("note from afar", "note plain", "note urgent")
    assert "note late" not in project.ledger()
    project.until_noted("note late")
    project.until(lambda: [record.payload for record in dead(project)] == [b"{ not JSON"])
    assert worker.stop() == 0


PHP = """
$connection = new AMQPConnection(['host' => '127.0.0.1', 'port' => $argv[1], 'vhost' => $argv[2]]);
$connection->connect();
$exchange = new AMQPExchange(new AMQPChannel($connection));
$body = json_encode(['v' => 1, 'topic' => 'default', 'job' => 'tasks.note', 'args' => ['from PHP']]);
$exchange->publish($body, 'jobs.default', AMQP_MANDATORY, ['delivery_mode' => 2, 'content_type' => 'application/json']);
$connection->disconnect();
"""


def test_php_is_a_producer(rabbit_project, node, rabbitmq_url):
    php = program("php", "php-cli php-amqp")
    if "amqp" not in subprocess.run([php, "-m"], capture_output=True, text=True).stdout:
        program("php-amqp", "php-amqp")  # not a program: its error names what is missing
    project = rabbit_project
    worker = project.worker()
    project.push("note", "warm")
    project.until_noted("note warm")
    vhost = rabbitmq_url.rpartition("/")[2]
    subprocess.run([php, "-r", PHP, str(node.port), vhost], check=True, timeout=30)
    project.until_noted("note from PHP")
    assert worker.stop() == 0


def test_dead_letters_are_listed_requeued_and_dropped(rabbit_project):
    project = rabbit_project
    project.push("fail", "first")
    project.push("fail", "second")
    worker = project.worker()
    project.until(lambda: len(dead(project)) == 2)
    record = dead(project)[0]
    assert (record.reason, record.attempt, len(record.errors)) == ("failed", 3, 3)
    ids = [record.id for record in dead(project)]
    assert project.run("dead", "retry", ids[0], "--yes").returncode in (0, 2)
    worker.stop()


def test_after_setup_workers_need_no_right_to_configure(project, node, rabbitmq_url):
    vhost = rabbitmq_url.rpartition("/")[2]
    node.control("add_user", f"plain-{vhost}", "secret")
    (documented,) = (block.commands for block in shell_blocks() if block.page == "docs/rabbitmq.md")
    program, *words = shlex.split(documented[0].text)
    assert program == "rabbitmqctl"
    node.control(*({"vhost": vhost, "shop": f"plain-{vhost}"}.get(word, word) for word in words))
    plain = rabbitmq_url.replace("guest:guest", f"plain-{vhost}:secret")
    project.configure(backend=f'backend = "{plain}"')
    refused = project.run("push", "tasks.note", "early")
    assert "jobsctl setup" in refused.stdout + refused.stderr
    project.configure(backend=f'backend = "{rabbitmq_url}"')
    assert project.run("setup").returncode == 0
    project.configure(backend=f'backend = "{plain}"')
    worker = project.worker()
    project.push("note", "now")
    project.push("note", "later", delay=0.3)
    project.push("fail_twice")
    project.until_noted("note now", "note later", "attempt 3")
    assert worker.stop() == 0


def test_the_readmes_shell_block_prints_the_output_it_shows(rabbitmq_url, tmp_path):
    checkout = Checkout(tmp_path)
    checkout.replaced["amqp://localhost"] = rabbitmq_url
    (block,) = (block for block in shell_blocks() if block.page == "plugins/rabbitmq_backend/README.md")
    follow(block, checkout, directory="examples/first_steps")


def test_check_says_that_the_broker_would_not_wait_for_the_longest_job(rabbit_project, rabbitmq_url):
    project = rabbit_project
    said = project.run("check").stdout
    assert "consumer_timeout = 86400000" in said
    project.configure("[topics.default]\ntimeout = '20m'", backend=f'backend = "{rabbitmq_url}"')
    assert "consumer_timeout is" not in project.run("check").stdout
    project.configure("[topics.default]\ntimeout = '2h'", backend=f'backend = "{rabbitmq_url}"')
    said = project.run("check").stdout
    assert "7200 s" in said
    assert "consumer_timeout = 14400000" in said
    project.configure("[topics.default]\ntimeout = '2h'", backend=f'backend = "{rabbitmq_url}?consumer_timeout=14400"')
    assert "consumer_timeout is" not in project.run("check").stdout


def test_a_job_longer_than_the_brokers_timeout_is_reported_with_the_fix_and_not_rerun_here(rabbit_project, node):
    """The effect of a consumer_timeout of half an hour on a job of an hour, in seconds."""
    be_patient(node, 1000, 500)
    try:
        project = rabbit_project
        worker = project.worker()
        project.push("nap", 4.0, "long")
        worker.until_said("consumer_timeout")
        project.until_noted("end long")
        project.push("note", "after")
        project.until_noted("note after")
        project.until_empty()
        assert worker.stop() == 0
        assert sum(line.startswith("start") for line in project.ledger()) == 1
    finally:
        be_patient(node, 1_800_000, 60_000)  # the defaults of a node


def be_patient(node, timeout, look):
    """Set how long the node waits for an acknowledgement, and how often it checks that, in milliseconds."""
    node.evaluate(
        f"application:set_env(rabbit, consumer_timeout, {timeout}), application:set_env(rabbit, channel_tick_interval, {look})."
    )
