"""Import the modules that the user configured; if one fails, the error shows the line of the user's code."""

from __future__ import annotations

import importlib
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

from .. import boundary
from ..errors import JobDefinitionError, LoadError

on_import: Callable[[str], object] | None = None
"""Called with each module's name before its import, so that an import that ends the process can be named."""


CORE = Path(boundary.__file__).parent
MACHINERY = ("<frozen", str(CORE))
AS_PROGRAM = "code that is only for running it as a program belongs under `if __name__ == '__main__':`"


def ended_importing(module: str, how: object) -> str:
    """Return the message for an import that has ended its process; `how` is its exit code or signal."""
    where = f' while it imported the module "{module}"' if module else ""
    return (
        f"the process that imports the application ended{where} ({how}): "
        f"by os._exit, or a crash in a library's C code ({AS_PROGRAM})"
    )


def not_imported(module: str, seconds: float, place: str, remedy: str) -> str:
    """Return the message for an import that took too long."""
    which = f'the module "{module}"' if module else "the application"
    where = f"it is at\n  {place}\n" if place else "its position is not known, because it holds the interpreter\n"
    return f"{which} is still not imported after {seconds:g} s: {where}{remedy}"


def place_of(thread: int) -> str:
    """Return a thread's position: its innermost line in the application, with its code; "" if that is not known."""
    frame = sys._current_frames().get(thread)
    frames = [each for each in traceback.extract_stack(frame) if not each.filename.startswith(MACHINERY)] if frame else []
    places = [each for each in frames if not each.filename.startswith(_libraries())] or frames
    return boundary.storable(f"{places[-1].filename}:{places[-1].lineno}  {places[-1].line}") if places else ""


def _libraries() -> tuple[str, ...]:
    """Return the directories of libraries; their files belong to the application only if it is installed there."""
    import sysconfig  # late: it reads a file of the size of this package

    return tuple(sysconfig.get_path(name) for name in ("stdlib", "purelib", "platlib"))


def add_to_path(directory: Path) -> None:
    """Add `directory` to the front of the module path, once."""
    text = str(directory.resolve())
    if text not in sys.path:
        sys.path.insert(0, text)


def import_module(name: str, key: str) -> None:
    """Import a module that the configuration names under `key`; raise LoadError with the line of the user's code."""
    if on_import is not None:
        on_import(name)
    try:
        with boundary.exit_told(f'{key}: the import of the module "{name}"'):
            importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name and (name == error.name or name.startswith(f"{error.name}.")):
            raise LoadError(
                f'{key}: there is no module "{name}": is it spelled as in an import statement, and is it in '
                "the directory of jobs.toml, or in one on PYTHONPATH?"
            ) from None
        raise load_error(f'{key}: the module "{name}" cannot be imported', error) from error
    except SystemExit as error:
        raise load_error(f'{key}: the module "{name}" ends the process when it is imported ({AS_PROGRAM})', error) from error
    except BaseException as error:
        if boundary.passes(error):
            raise
        raise load_error(f'{key}: the module "{name}" cannot be imported', error) from error


def load_error(what: str, error: BaseException) -> LoadError:
    """Return an error that shows the line in the user's file, without frames of the import machinery and our own code."""
    return LoadError(pinpointed(f"{what}:", error), frame=_place(error)[0])


def pinpointed(what: str, error: BaseException) -> str:
    """Return `what`, the line of code that failed, and the error, each on a line of its own."""
    where, line = _place(error)
    if isinstance(error, RuntimeError) and isinstance(error.__cause__, JobDefinitionError):
        error = error.__cause__  # before Python 3.12, exceptions in __set_name__ are wrapped
    place = f"\n  {where}" if where else ""
    code = f"\n    {line}" if line else ""
    return f"{what}{place}{code}\n  {boundary.told(error)}"


def _place(error: BaseException) -> tuple[str, str]:
    """Return the position of the failure, and the code of that line; "" for anything unknown."""
    if isinstance(error, SyntaxError) and error.filename:
        return f"{error.filename}:{error.lineno}", ""
    frames = list(filter(_is_code_of_a_file, traceback.extract_tb(error.__traceback__)))
    if isinstance(error, JobDefinitionError):  # raised in our code, but the user has to fix the call of it
        frames = [frame for frame in frames if Path(frame.filename).parent != CORE] or frames
    return (f"{frames[-1].filename}:{frames[-1].lineno}", frames[-1].line or "") if frames else ("", "")


def _is_code_of_a_file(frame: traceback.FrameSummary) -> bool:
    return "importlib" not in frame.filename and frame.filename != __file__ and not frame.filename.startswith("<")
