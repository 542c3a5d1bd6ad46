"""The payload store: the bodies of large messages, kept beside the queue as blobs.

A blob belongs to one job, whose id is in its name. It is written before its job is pushed, and deleted after the job has
ended; so blobs may be left over, and never missing. A blob is never changed.
"""

from __future__ import annotations

import abc
import base64
import binascii
import contextlib
import errno
import hashlib
import importlib.util
import os
import re
import stat
import threading
import time
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import parse_qs, unquote, urlsplit

from .. import private
from ..boundary import text_of
from ..deadline import left
from ..errors import ConfigError, PayloadStoreUnavailable
from ..failpoints import failpoint
from ..urls import cover, redact

_NAME = re.compile(r"(?P<id>[A-Za-z0-9_-]{1,180})\.[0-9a-f]{32}")
_PLAIN_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9-]{0,127}")
_UNFINISHED = ".tmp"
_NO_OBSTORE = "payloads.url: s3:// needs a further package: pip install 'jobs-core[s3]'"


def blob_name(job_id: str) -> str:
    """Return a new name for a blob of a job."""
    if not _PLAIN_ID.fullmatch(job_id):
        job_id = "_" + base64.urlsafe_b64encode(job_id.encode()).decode().rstrip("=")
    return f"{job_id}.{os.urandom(16).hex()}"


def sha256(data: bytes) -> str:
    """Return the digest under which a blob's data is known in its message."""
    return hashlib.sha256(data).hexdigest()


def job_of(name: str) -> str | None:
    """Return the id of the job to which a blob of this name belongs; None if it is not the name of a blob."""
    match = _NAME.fullmatch(name)
    if match is None or not match["id"].startswith("_"):
        return match and match["id"]
    try:
        return base64.b64decode(match["id"][1:] + "==", altchars=b"-_").decode()
    except (binascii.Error, UnicodeDecodeError):
        return None


class Blob(NamedTuple):
    """A blob in the store, or the rest of one that was never finished."""

    name: str
    age: float  # seconds since it was written


class PayloadStore(abc.ABC):
    """A store of blobs. Any thread may use it. Every method may block, and raises PayloadStoreUnavailable."""

    @abc.abstractmethod
    def put(self, name: str, data: bytes) -> None:
        """Store a blob durably, whole or not at all."""

    @abc.abstractmethod
    def get(self, name: str, limit: int) -> bytes | None:
        """Return a blob, of one that is larger than `limit` only the first bytes; None if there is none."""

    @abc.abstractmethod
    def delete(self, names: Sequence[str]) -> None:
        """Delete blobs; those that do not exist count as deleted."""

    @abc.abstractmethod
    def blobs(self) -> Iterator[Blob]:
        """Yield all blobs, in any order."""

    def check(self) -> bool:
        """Write, read and delete a tiny blob; return False if that was not tried, because the first blob makes the store."""
        name, data = blob_name(f"check-{os.urandom(8).hex()}"), b"check"
        self.put(name, data)
        found = self.get(name, len(data))
        self.delete([name])
        if found != data:
            raise PayloadStoreUnavailable("the payload store did not return the blob that was just written to it")
        return True


class FileStore(PayloadStore):
    """Blobs as files in a directory that belongs to this user alone; on another machine's disk, too, if it is mounted."""

    def __init__(self, directory: Path, *, syncs: bool) -> None:
        self._directory = directory
        self._syncs = syncs

    def put(self, name: str, data: bytes) -> None:
        unfinished = self._directory / f"{name}{_UNFINISHED}"
        with self._told():
            private.directory(self._directory)
            descriptor = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
                file.flush()
                if self._syncs:
                    os.fsync(file.fileno())
            failpoint("payload.before_rename")
            unfinished.rename(self._directory / name)
            if self._syncs:
                self._sync_directory()
        failpoint("payload.after_put")

    def get(self, name: str, limit: int) -> bytes | None:
        if job_of(name) is None:
            return None
        with self._told():
            try:
                descriptor = os.open(self._directory / name, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
                with os.fdopen(descriptor, "rb") as file:  # neither through a link, nor from a pipe that nobody writes
                    return file.read(limit + 1) if stat.S_ISREG(os.fstat(descriptor).st_mode) else None
            except FileNotFoundError:
                self._directory.stat()  # a directory that is not mounted is an outage, not a missing blob
                return None
            except OSError as error:
                if error.errno not in (errno.ELOOP, errno.EISDIR, errno.ENXIO):
                    raise
                return None  # in its place is something that we did not write
        return None

    def delete(self, names: Sequence[str]) -> None:
        with self._told():
            for name in names:
                with contextlib.suppress(FileNotFoundError):
                    if job_of(name.removesuffix(_UNFINISHED)) is not None:  # never a file elsewhere
                        (self._directory / name).unlink()

    def blobs(self) -> Iterator[Blob]:
        now = time.time()
        with self._told():
            if self._directory.exists():
                for entry in os.scandir(self._directory):
                    with contextlib.suppress(FileNotFoundError):  # deleted meanwhile
                        yield Blob(entry.name, now - entry.stat(follow_symlinks=False).st_mtime)

    def check(self) -> bool:
        with self._told():
            there = self._directory
            while not there.exists() and there != there.parent:
                there = there.parent
            if not there.is_dir():
                raise NotADirectoryError(errno.ENOTDIR, f"{there} is not a directory")
            if not os.access(there, os.W_OK | os.X_OK):
                raise PermissionError(errno.EACCES, f"{there} is not writable")
        return there == self._directory and super().check()

    def _sync_directory(self) -> None:
        descriptor = os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise PayloadStoreUnavailable(
                f"the payload store {self._directory} cannot be used: {error.strerror or error}"
            ) from None


class ObjectStore(PayloadStore):
    """Blobs as objects in a bucket of S3, or of a server that speaks its protocol; settings are those of AWS's environment."""

    _used_in = 0  # the process that first made a request, since all stores share obstore's threads

    def __init__(self, url: str, timeout: float, *, patient: bool = True) -> None:
        try:
            import obstore
            from obstore.store import from_url
        except ImportError:
            raise ConfigError(_NO_OBSTORE) from None
        self._obstore: Any = obstore
        self._timeout = timeout
        self._shown = redact(url)
        options: Any = {} if patient else {"retry_config": {"max_retries": 1, "retry_timeout": timedelta(seconds=5)}}
        try:
            self._store: Any = from_url(url, **options)
        except Exception as error:
            raise ConfigError(
                f"payloads.url: {self._shown} cannot be used: {_in_short(error)}: set AWS_ACCESS_KEY_ID, "
                "AWS_SECRET_ACCESS_KEY, AWS_REGION and, unless it is Amazon's, AWS_ENDPOINT_URL"
            ) from None

    def put(self, name: str, data: bytes) -> None:
        """Write on a thread of its own: a server that accepts and never answers cannot be waited for in any other way."""
        failures: list[Exception | None] = []

        def write() -> None:
            try:
                with self._told():
                    self._obstore.put(self._store, name, data)
                failures.append(None)
            except Exception as error:
                failures.append(error)

        writing = threading.Thread(target=write, name="jobs-payload", daemon=True)
        writing.start()
        writing.join(left(self._timeout))
        if not failures:
            raise PayloadStoreUnavailable(
                f"the payload store {self._shown} did not take {len(data):,} bytes within enqueue_timeout, {self._timeout:g} s"
            )
        if failures[0] is not None:
            raise failures[0]
        failpoint("payload.after_put")

    def get(self, name: str, limit: int) -> bytes | None:
        with self._told():
            try:
                found = self._obstore.get(self._store, name)
            except FileNotFoundError as error:
                if "NoSuchBucket" in text_of(error):  # an outage, or a slip in the URL, and not a missing blob
                    raise
                return None
            if found.meta["size"] > limit:
                return b"\0" * (limit + 1)
            return bytes(found.bytes())
        return None

    def delete(self, names: Sequence[str]) -> None:
        with self._told(), contextlib.suppress(FileNotFoundError):
            self._obstore.delete(self._store, list(names))

    def blobs(self) -> Iterator[Blob]:
        with self._told():
            for page in self._obstore.list(self._store):
                for each in page:
                    written: datetime = each["last_modified"]
                    yield Blob(each["path"], time.time() - written.timestamp())

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        cls = type(self)
        if cls._used_in not in (0, os.getpid()):  # obstore's threads are gone: each call would wait for ever
            raise PayloadStoreUnavailable(
                "the payload store in S3 cannot be used in this process: it was forked from one that has used the store: "
                "start it with the method spawn, or enqueue nothing before the fork"
            )
        cls._used_in = os.getpid()
        try:
            yield
        except Exception as error:  # each kind of failure has its own class
            raise PayloadStoreUnavailable(f"the payload store {self._shown} cannot be used: {_in_short(error)}") from None


def _in_short(error: Exception) -> str:
    """Return what a server answered, else the first line of the client library's error: the others are debug output."""
    text = cover(text_of(error))
    answer = re.search(r"<Code>(\w+)</Code>(?:\s*<Message>([^<]*)</Message>)?", text)
    if answer:
        return ": ".join(filter(None, answer.groups()))[:300]
    lines = text.strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:300]}" if lines else type(error).__name__


def check_url(url: str) -> None:
    """Raise ConfigError if this is not the URL of a store, or its package is missing; do not open the store."""
    if not _is_bucket(url):
        _directory_of(url)
    elif importlib.util.find_spec("obstore") is None:
        raise ConfigError(_NO_OBSTORE)


def open_store(url: str, timeout: float = 5.0, *, patient: bool = True) -> PayloadStore:
    """Return the store of a URL, file:///directory or s3://bucket/prefix; raise ConfigError for any other.

    A bucket has to take a blob within `timeout` seconds. A store that is not `patient` gives up other operations within
    seconds, too: for commands, which a user waits for.
    """
    return ObjectStore(url, timeout, patient=patient) if _is_bucket(url) else _directory_of(url)


def _is_bucket(url: str) -> bool:
    try:
        parts = urlsplit(url)
    except ValueError:  # such as an unclosed bracket; `_directory_of` says what is expected
        return False
    return parts.scheme == "s3" and bool(parts.netloc)


def _directory_of(url: str) -> FileStore:
    try:
        parts = urlsplit(url)
    except ValueError:
        parts = urlsplit("")
    options = parse_qs(parts.query)
    durability = options.pop("durability", ["machine"])
    if parts.scheme != "file" or parts.netloc or len(parts.path) < 2 or options or durability not in (["machine"], ["process"]):
        raise ConfigError(
            'payloads.url: expected "file:///an/absolute/directory", perhaps with ?durability=process, or "s3://bucket/prefix"'
        )
    return FileStore(Path(unquote(parts.path)), syncs=durability == ["machine"])


def is_unfinished(name: str) -> bool:
    """Return whether a file is the rest of a blob whose writer died."""
    return name.endswith(_UNFINISHED) and job_of(name.removesuffix(_UNFINISHED)) is not None
