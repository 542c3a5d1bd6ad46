"""Support for tests: of applications (a pytest plugin, see plugin.py, and its `JobsQueue`) and of backends (`BackendContract`).

The contract needs `pip install "jobs-core[testing]"`, so it is imported only when it is used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .contract import BackendContract
    from .inline import InlineJobs, JobsQueue

__all__ = ["BackendContract", "InlineJobs", "JobsQueue"]


def __getattr__(name: str) -> Any:
    if name in ("InlineJobs", "JobsQueue"):
        from . import inline

        return getattr(inline, name)
    if name == "BackendContract":
        try:
            from .contract import BackendContract
        except ModuleNotFoundError as error:
            if error.name in ("pytest", "hypothesis"):
                message = f'BackendContract needs {error.name}, which is not installed: pip install "jobs-core[testing]"'
                raise ModuleNotFoundError(message, name=error.name) from None
            raise

        return BackendContract
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
