"""Translate errors of RabbitMQ and pika into the core's own, each with its fix; only here."""

from __future__ import annotations

import ssl

from pika import exceptions

from jobs_core.errors import BackendError, BackendUnavailable

NOT_FOUND, ACCESS_REFUSED, PRECONDITION_FAILED, RESOURCE_LOCKED = 404, 403, 406, 405
_TIMEOUT_MEND = 'set consumer_timeout in rabbitmq.conf above the longest job: see "RabbitMQ" in the documentation'


def reply_code(error: BaseException | None) -> int:
    """Return the code with which the broker closed a channel or connection; 0 if there is none."""
    closed = isinstance(error, exceptions.ConnectionClosed | exceptions.ChannelClosed)
    return int(error.reply_code) if closed else 0  # type: ignore[union-attr]  # narrowed on the line above


def translated(error: BaseException, where: str) -> BackendError:
    """Convert an error of pika to one of the core; `where` names the broker without its secrets."""
    if isinstance(error, BackendError):
        return error
    text = _text(error)
    if isinstance(error, exceptions.ProbableAuthenticationError) or "ACCESS_REFUSED - Login" in text:
        return BackendError(f"{where}: wrong user or password: amqp://user:password@…")
    if isinstance(error, exceptions.ProbableAccessDeniedError) or ("not found" in text and "vhost" in text):
        return BackendError(
            f"{where}: this virtual host does not exist, or this user may not use it: rabbitmqctl add_vhost, set_permissions"
        )
    if isinstance(error, exceptions.IncompatibleProtocolError):
        return BackendError(f"{where}: this is not an AMQP broker, or the port is for TLS: amqps://…")
    if isinstance(error, ssl.SSLCertVerificationError):
        return BackendError(
            f"{where}: its certificate cannot be trusted: {error.verify_message}; ?ca=FILE names your authority"
        )
    code = reply_code(error)
    if code == ACCESS_REFUSED:
        return BackendError(
            f'{where}: the user lacks a permission: {text}; see "RabbitMQ" in the documentation for what jobs needs'
        )
    if code == NOT_FOUND:
        return BackendUnavailable(f"{where}: something of jobs is missing (was it deleted?) and is being recreated: {text}")
    if code == PRECONDITION_FAILED and "timed out" in text:
        return BackendUnavailable(
            f"{where}: a job ran for longer than the broker waits for its acknowledgement: {_TIMEOUT_MEND}"
        )
    if code == PRECONDITION_FAILED:
        return BackendError(
            f'{where}: a queue of jobs exists with other settings: {text}; see "RabbitMQ" in the documentation for ours'
        )
    if isinstance(error, exceptions.AMQPHeartbeatTimeout):
        return BackendUnavailable(f"{where} has fallen silent")
    if isinstance(error, TimeoutError):
        return BackendUnavailable(f"{where} does not answer in time")
    return BackendUnavailable(f"{where} cannot be reached: {text}")


def _text(error: BaseException) -> str:
    if isinstance(error, exceptions.ConnectionClosed | exceptions.ChannelClosed):
        return " ".join(str(error.reply_text).split())
    return " ".join(str(error).split()) or type(error).__name__
