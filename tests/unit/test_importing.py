"""The importer of a module that fails in any way at import gets one error that can be stored."""

import importlib
import os
import sys

import pytest

from jobs_core import App, set_current_app
from jobs_core.config import Config
from jobs_core.errors import LoadError
from jobs_core.plugins import Plugins
from jobs_core.worker.main import prepare

RAISES = {
    "no text": ("class Bad(Exception):\n    def __str__(self): raise ValueError\nraise Bad\n", "Bad"),
    "a text that is none": ("class Bad(Exception):\n    def __str__(self): return 404\nraise Bad\n", "Bad"),
    "half a character": ("raise ValueError('\\udcff')\n", r"\udcff"),
    "a long text": ("raise ValueError('x' * 10**6 + 'end')\n", "end"),
    "an end of its own": ("class Bad(BaseException): ...\nraise Bad('x')\n", "Bad: x"),
    "GeneratorExit": ("raise GeneratorExit('x')\n", "GeneratorExit"),
    "CancelledError": ("import asyncio\nraise asyncio.CancelledError\n", "CancelledError"),
    "MemoryError": ("raise MemoryError\n", "MemoryError"),
    "RecursionError": ("def f(): f()\nf()\n", "RecursionError"),
    "SystemExit": ("raise SystemExit('bye')\n", "bye"),
    "a method": (
        "from jobs_core import job\nclass A:\n    @job\n    def m(this, x): ...\n",
        "A.m is a method",
    ),
}


@pytest.fixture
def load(tmp_path, monkeypatch):
    """Write a module, and prepare an application with it as a worker would."""
    monkeypatch.syspath_prepend(tmp_path)

    def write(code):
        (tmp_path / "odd_tasks.py").write_text(code)
        importlib.invalidate_caches()
        app = App(Config(backend="memory://importing", modules=["odd_tasks"], base_dir=tmp_path), plugins=Plugins.discover())
        set_current_app(app)
        prepare(app)

    yield write
    set_current_app(None)
    sys.modules.pop("odd_tasks", None)


@pytest.mark.parametrize(("code", "said"), RAISES.values(), ids=RAISES)
def test_a_failing_import_is_reported_with_its_line_for_any_exception(load, code, said):
    with pytest.raises(LoadError) as raised:
        load(code)
    text = str(raised.value)
    assert said in text.encode().decode()
    assert "odd_tasks.py:" in text
    assert len(text) < 10_000


@pytest.mark.parametrize("line", ["@job(topics='x')", "@job(retries=-1)", "@job(name='a b')", "@job(topic='a b')"])
def test_a_wrong_job_definition_is_reported_with_the_applications_line_not_ours(load, line):
    with pytest.raises(LoadError) as raised:
        load(f"from jobs_core import job\n\n{line}\ndef work(): ...\n")
    # Python 3.10 itself names the line below the decorator.
    assert f"odd_tasks.py:3\n    {line}" in str(raised.value) or "odd_tasks.py:4\n    def work()" in str(raised.value)
    assert "jobs_core/job.py" not in str(raised.value)


@pytest.mark.parametrize("ending", ["", "    sys.exit('a helper that is done')", "    raise ValueError('in the child')"])
def test_a_fork_during_an_import_does_not_continue_as_the_importing_process(load, capfd, ending):
    reader, writer = os.pipe()
    load(f"import os, sys\nchild = os.fork()\nif child == 0:\n    os.set_inheritable({writer}, True)\n{ending}\n")
    os.write(writer, f"{os.getpid()}\n".encode())  # every process that came here says so
    if sys.modules["odd_tasks"].child == 0:
        os._exit(3)
    assert os.waitstatus_to_exitcode(os.waitpid(sys.modules["odd_tasks"].child, 0)[1]) == 0
    os.close(writer)
    assert os.read(reader, 100).decode().split() == [str(os.getpid())]
    os.close(reader)


LEAVING = {
    "import os\nos._exit(3)": True,
    "from os import _exit\n_exit(3)": True,
    "import os\nos._exit(status=3)": True,
    "import os\nos.close(2)\nos._exit(3)": False,
    "import os, threading\nt = threading.Thread(target=os._exit, args=(3,))\nt.start()\nt.join()": True,
    "import os\nif os.fork() == 0: os._exit(3)\nos.wait()": False,
    "from os import _exit\nimport atexit": False,
}


@pytest.mark.parametrize("source", LEAVING)
def test_an_import_that_ends_its_process_says_so_with_its_module(load, capfd, source):
    child = os.fork()
    if child == 0:
        try:
            load(source)
            getattr(sys.modules["odd_tasks"], "_exit", os._exit)(3)  # after the import, it is unchanged
        finally:
            os._exit(9)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 3
    said = capfd.readouterr().err
    told = 'jobs: modules: the import of the module "odd_tasks" ended this process: it called os._exit(3)\n'
    assert said.count(told) == LEAVING[source], said
    assert os._exit.__name__ == "_exit"
