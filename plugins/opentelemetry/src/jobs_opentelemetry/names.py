"""The names of attributes and metrics: OpenTelemetry's conventions for messaging, and our own under `messaging.jobs`."""

from __future__ import annotations

from typing import Final

SCHEMA: Final = "https://opentelemetry.io/schemas/1.30.0"

SYSTEM: Final = "messaging.system"
OPERATION: Final = "messaging.operation.name"
OPERATION_TYPE: Final = "messaging.operation.type"
DESTINATION: Final = "messaging.destination.name"
MESSAGE_ID: Final = "messaging.message.id"
BATCH: Final = "messaging.batch.message_count"
CLIENT: Final = "messaging.client.id"
GROUP: Final = "messaging.consumer.group.name"
ERROR: Final = "error.type"

JOB: Final = "messaging.jobs.job"
ATTEMPT: Final = "messaging.jobs.attempt"
RETRIES: Final = "messaging.jobs.retries"
REDELIVERIES: Final = "messaging.jobs.redeliveries"
FLOW: Final = "messaging.jobs.flow.id"
OUTCOME: Final = "messaging.jobs.outcome"

SENT: Final = "messaging.client.sent.messages"
CONSUMED: Final = "messaging.client.consumed.messages"
SEND_DURATION: Final = "messaging.client.operation.duration"
PROCESS_DURATION: Final = "messaging.process.duration"

SHORT: Final = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)
"""Bounds of the histograms in seconds, those of the conventions."""

LONG: Final = (*SHORT, 30.0, 60.0, 300.0)
"""The same for runs of jobs, which may take minutes."""
