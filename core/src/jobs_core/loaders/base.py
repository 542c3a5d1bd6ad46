"""The interfaces of a framework plugin: a loader that imports the jobs, a bootstrapper that sets up the framework."""

from __future__ import annotations

import abc
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from typing import TYPE_CHECKING, Any, TypeAlias

from ..alert_channels.base import AlertChannel, AlertChannelFactory
from ..payloads.codecs import PayloadCodec, PayloadCodecFactory
from .importing import add_to_path, import_module, load_error
from .printing import log_printed

if TYPE_CHECKING:
    from ..config import Config
    from ..runs.context import JobContext


class JobLoader(abc.ABC):
    """Imports the modules that define the jobs."""

    @abc.abstractmethod
    def load(self) -> list[str]:
        """Import the modules that define jobs; return their names.

        Called by: the template, or the worker without preload, and `jobsctl check`, once. Blocks: as long as
        the imports do. Raises: LoadError with the user's own line.
        """


class Bootstrapper:
    """Sets up the framework that the job functions use. The methods do nothing by default."""

    def setup(self) -> None:
        """Set up the framework's application, without leaving connections open that a fork would share.

        Called by: the template (or the worker without preload), once, before the jobs are loaded. Raises: LoadError.
        """

    def before_fork(self) -> None:
        """Close connections, pools and threads that the imports may have opened and a fork would share.

        Called by: the template (or the worker without preload), once, after the jobs are loaded. Raises: LoadError.
        """

    def after_fork(self) -> None:
        """Create the resources that each worker process needs for itself.

        Called by: every worker, once, after the fork. Raises: anything; the worker then cannot boot.
        """

    def lifespan(self) -> AbstractAsyncContextManager[Any] | None:
        """Return an async context manager that is open while a worker serves, or None.

        It is entered in each worker after `after_fork`, before the first job, and left after the last one: in an async
        pool on the event loop of the jobs, in other pools on an event loop of its own, in a thread. A worker that is
        killed does not leave it. Called by: every worker, once. Raises: anything; the worker then cannot boot.
        """
        return None

    def around(self, run: JobContext) -> AbstractContextManager[object] | None:
        """Return a context manager for one run of a plain function, or None.

        Called by: executors, for every run, in the thread that runs the job. Raises: as a failure of the run.
        """
        return None

    def aaround(self, run: JobContext) -> AbstractAsyncContextManager[object] | AbstractContextManager[object] | None:
        """Return a context manager for one run of an `async def` function, or None; the same as `around` by default.

        Called by: executors, for every run, in the job's own task. Raises: as a failure of the run.
        """
        return self.around(run)


LoaderFactory: TypeAlias = "Callable[[Config], JobLoader]"
BootstrapperFactory: TypeAlias = "Callable[[Config], Bootstrapper]"

__all__ = [
    "AlertChannel",
    "AlertChannelFactory",
    "Bootstrapper",
    "BootstrapperFactory",
    "JobLoader",
    "LoaderFactory",
    "PayloadCodec",
    "PayloadCodecFactory",
    "add_to_path",
    "import_module",
    "load_error",
    "log_printed",
]
