"""Run ordinary Python functions as background jobs. See README.md and `docs/`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .app import App, current_app, set_app_source, set_current_app, warm_up
from .backends.base import State
from .config import Config
from .embedding import load_config, run_command
from .errors import (
    ArgumentError,
    BackendError,
    BackendUnavailable,
    CheckpointError,
    ConfigError,
    Discard,
    DuplicateJob,
    EndlessWait,
    FlowError,
    FlowLost,
    JobCancelled,
    JobDefinitionError,
    JobFailed,
    JobsError,
    JobSuspended,
    JobTimeout,
    JobWasCancelled,
    MessageError,
    MessageTooLarge,
    NotSupported,
    PluginError,
    QueueFull,
    ResultNotStored,
    ResultTimeout,
    Retry,
    Snooze,
    TransactionError,
)
from .handle import JobHandle
from .hookspecs import hookimpl
from .injection import Injected, injected, provided_by, provides
from .job import Call, JobFunction, job
from .message import Message, UniqueKey
from .options import Unique
from .retry_rules import Backoff, RetryRule
from .runs.context import JobContext, RunOutcome, WorkerInfo, current_job
from .version import __version__ as __version__

if TYPE_CHECKING:
    from .flows import Chain, Flow, FlowHandle, FlowMember, FlowStatus, Group, WorkHandle, chain, ended, group
    from .following import JobProgress

__all__ = [
    # Defining and enqueuing jobs
    "Backoff",
    "Call",
    "Injected",
    "JobFunction",
    "JobHandle",
    "JobProgress",
    "RetryRule",
    "State",
    "Unique",
    "injected",
    "job",
    "provided_by",
    "provides",
    # Flows
    "Chain",
    "Flow",
    "FlowHandle",
    "FlowMember",
    "FlowStatus",
    "Group",
    "WorkHandle",
    "chain",
    "ended",
    "group",
    # Inside a job
    "Discard",
    "JobCancelled",
    "JobContext",
    "JobSuspended",
    "JobTimeout",
    "Retry",
    "Snooze",
    "current_job",
    # Applications
    "App",
    "Config",
    "current_app",
    "set_current_app",
    "warm_up",
    # Plugins
    "Message",
    "RunOutcome",
    "UniqueKey",
    "WorkerInfo",
    "hookimpl",
    "load_config",
    "run_command",
    "set_app_source",
    # Errors
    "ArgumentError",
    "BackendError",
    "BackendUnavailable",
    "CheckpointError",
    "ConfigError",
    "DuplicateJob",
    "EndlessWait",
    "FlowError",
    "JobDefinitionError",
    "JobFailed",
    "JobWasCancelled",
    "JobsError",
    "MessageError",
    "MessageTooLarge",
    "FlowLost",
    "NotSupported",
    "PluginError",
    "QueueFull",
    "ResultNotStored",
    "ResultTimeout",
    "TransactionError",
]

if not TYPE_CHECKING:  # a type checker would believe that every name exists
    _FLOWS = {"Chain", "Flow", "FlowHandle", "FlowMember", "FlowStatus", "Group", "WorkHandle", "chain", "ended", "group"}

    def __getattr__(name):
        if name in _FLOWS:  # imported on first use: most programs have no flows
            from . import flows

            found = globals()[name] = getattr(flows, name)
            return found
        if name == "JobProgress":  # likewise: most follow no job
            from .following import JobProgress

            globals()[name] = JobProgress
            return JobProgress
        from .foreign import package_attribute

        raise package_attribute(name)
