"""The core's own backends, loader and alert channels, provided through the hooks that third parties use.

Each factory imports its module only when it is called.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from .failpoints import with_failpoints
from .hookspecs import hookimpl

if TYPE_CHECKING:
    from .alert_channels.base import AlertChannel, AlertChannelFactory
    from .backends.base import Backend, BackendFactory, BackendOptions
    from .config import Config
    from .loaders.base import JobLoader, LoaderFactory
    from .payloads.codecs import PayloadCodec, PayloadCodecFactory


def _memory(url: str, options: BackendOptions) -> Backend:
    from .backends.memory import MemoryBackend

    return with_failpoints(MemoryBackend(url, options))


def _sqlite(url: str, options: BackendOptions) -> Backend:
    from .backends.sqlite import SqliteBackend

    return with_failpoints(SqliteBackend(url, options))


def _modules(config: Config) -> JobLoader:
    from .loaders.modules import ModulesLoader

    return ModulesLoader(config)


def _webhook(settings: dict[str, Any]) -> AlertChannel:
    from .alert_channels.channels import WebhookChannel

    return WebhookChannel(settings)


def _slack(settings: dict[str, Any]) -> AlertChannel:
    from .alert_channels.channels import SlackChannel

    return SlackChannel(settings)


def _dingtalk(settings: dict[str, Any]) -> AlertChannel:
    from .alert_channels.channels import DingTalkChannel

    return DingTalkChannel(settings)


def _zstd() -> PayloadCodec:
    from .payloads.codecs import Zstd

    return Zstd()


@hookimpl
def jobs_queue_backends() -> Mapping[str, BackendFactory]:
    return {"sqlite": _sqlite, "memory": _memory}


@hookimpl
def jobs_job_loaders() -> Mapping[str, LoaderFactory]:
    return {"modules": _modules}


@hookimpl
def jobs_payload_codecs() -> Mapping[str, PayloadCodecFactory]:
    return {"zstd": _zstd}


@hookimpl
def jobs_alert_channels() -> Mapping[str, AlertChannelFactory]:
    return {"webhook": _webhook, "slack": _slack, "dingtalk": _dingtalk}
