"""The definition of a function decides whether it is a job, and which are the same job; its position does not."""

import contextlib
import functools
import importlib
import re
import subprocess
import sys
import textwrap

import pytest

from jobs_core import ArgumentError, JobDefinitionError, job
from jobs_core.loaders.importing import load_error
from jobs_core.registry import Registry

BARE = """
def timed(f):
    def inner(*a, **k): return f(*a, **k)
    return inner
"""
KEEPS = BARE.replace("def timed", "def keeps").replace("    def inner", "    @__import__('functools').wraps(f)\n    def inner")
FACTORY = """
def make(text):
    def send(): return text
    return send
"""
TWO_FROM_ONE_LINE = {
    "a decorator without functools.wraps": BARE + "@job\n@timed\ndef one(): ...\n@job\n@timed\ndef two(): ...\n",
    "one alone under such a decorator": BARE + "@job\n@timed\ndef one(): ...\n",
    "such a decorator, both under one name": BARE
    + "@job(name='x')\n@timed\ndef one(): ...\n@job(name='x')\n@timed\ndef two(): ...\n",
    "a factory's closures": FACTORY + "a = job(make('a'))\nb = job(make('b'))\n",
    "a factory's closures under one name": FACTORY + "a = job(name='x')(make('a'))\nb = job(name='x')(make('b'))\n",
    "a factory that decorates": "def make(text):\n  @job\n  def send(): return text\nmake('a')\nmake('b')\n",
    "a loop": "for n in range(2):\n  @job\n  def send(n=n): return n\n",
    "lambdas": "a, b = job(lambda: 1), job(lambda: 2)\n",
    "a list of lambdas": "x = [job(lambda n=n: n) for n in range(2)]\n",
    "exec of one text": "for n in range(2): exec('@job\\ndef send(): ...')\n",
    "a class that is made twice": "def klass():\n  class A:\n    @staticmethod\n    @job\n    def f(x): ...\nklass(), klass()",
    "an alias that is a name": "@job\ndef a(): ...\n@job(aliases=[a.name])\ndef b(): ...\n",
}


@pytest.fixture
def module(tmp_path, monkeypatch):
    """Make a module that this process can import, under a unique name."""
    monkeypatch.syspath_prepend(tmp_path)
    name = f"identity_{tmp_path.name.replace('-', '_')}"

    def write(code):
        (tmp_path / f"{name}.py").write_text("from jobs_core import job\n" + textwrap.dedent(code))
        importlib.invalidate_caches()
        sys.dont_write_bytecode, before = True, sys.dont_write_bytecode
        try:
            return importlib.reload(sys.modules[name]) if name in sys.modules else importlib.import_module(name)
        finally:
            sys.dont_write_bytecode = before

    yield write
    sys.modules.pop(name, None)


@pytest.mark.parametrize("code", TWO_FROM_ONE_LINE.values(), ids=TWO_FROM_ONE_LINE)
def test_ambiguous_jobs_are_refused_at_definition_with_the_fix(module, code):
    with pytest.raises(JobDefinitionError, match=r"@job\(name=\.\.\.\)"):
        module(code)


TOLD_APART = {
    "a decorator with functools.wraps": "import functools\n"
    + BARE.replace("    def inner", "    @functools.wraps(f)\n    def inner")
    + "@job\n@timed\ndef one(): return 'one'\n@job\n@timed\ndef two(): return 'two'\n",
    "names": BARE + "one = job(name='one')(timed(lambda: 'one'))\ntwo = job(name='two')(timed(lambda: 'two'))\n",
    "a factory's closures with names": FACTORY
    + "one = job(name='n1')(make('one'))\ntwo = job(name='n2')(make('two'))\n",
}  # fmt: skip


@pytest.mark.parametrize("code", TOLD_APART.values(), ids=TOLD_APART)
def test_distinguishable_functions_are_two_jobs(module, code):
    tasks = module(code)
    assert (tasks.one(), tasks.two()) == ("one", "two")
    assert tasks.one.name != tasks.two.name


@pytest.mark.parametrize("other", ["topic='b'", "acks='early'", "aliases=['z']", "cron='* * * * *'"])
def test_one_function_is_one_job_with_one_set_of_options(module, other):
    with pytest.raises(JobDefinitionError, match=r"two sets of options.*@job\(name=\.\.\.\)"):
        module(f"def f(): ...\none = job(f)\ntwo = job({other})(f)\n")
    assert module("def f(): ...\none = job(topic='a')(f)\ntwo = job(topic='a')(f)\n").two.name


@pytest.mark.parametrize("name", ["cafe\u0301", "__debug__", "lambda", "\ufb01", "1", "orders.import", "\u00b5"])
def test_any_name_can_be_called_and_is_shown_as_it_is_written(name):
    made = job(registry=Registry(), name=name)(plain)
    with pytest.raises(ArgumentError, match=re.escape(name.rpartition(".")[2])):
        made.arguments.bind((), {})


def test_code_without_a_module_needs_a_name():
    with pytest.raises(JobDefinitionError, match=r"no module.*@job\(name=\.\.\.\)"):
        exec("@job\ndef f(): ...", {"job": job})


def test_a_reloaded_module_redefines_its_jobs_wherever_they_are_now(module):
    module("@job\ndef f(): return 1\n@job(name='g')\ndef old(): return 1\n")
    tasks = module(
        "\n\n\n@job\ndef f(): return 2\n@job(name='g')\ndef renamed(): return 2\n"
        + BARE
        + "@job(name='t')\n@timed\ndef t(): ...\n"
    )
    tasks = module(BARE + "@job(name='t')\n@timed\ndef t(): return 3\n@job\ndef f(): return 3\n")
    from jobs_core.registry import default_registry

    assert default_registry.find(tasks.f.name) is tasks.f
    assert default_registry.find("t")() == 3
    with pytest.raises(JobDefinitionError, match="two functions"):
        module("@job\ndef f(): return 4\n@job\ndef f(): return 5\n")


def test_a_module_that_is_removed_and_imported_again_redefines_its_jobs(module):
    name = module("@job\ndef f(): return 1\n").__name__
    del sys.modules[name]
    assert module("\n@job\ndef f(): return 2\n").f() == 2


def test_in_main_a_function_may_be_defined_again():
    code = """
from jobs_core import job
@job(name="x")
def f(): return 1
@job(name="x")
def f(): return 2
def timed(f):
    def inner(*a, **k): return f(*a, **k)
    return inner
def cell(n):
    def g(): return n
    g.__qualname__ = g.__name__ = "g"
    return job(name="y")(timed(g))
cell(1), cell(2)
def h(): return 3
try: job(name="y")(timed(h))
except Exception as error: print("refused", "'y'" in str(error))
print(f())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "refused True\n2\n", done.stderr


# -- what can be run as meant ----------------------------------------------------------------------


def keeps(function):
    @functools.wraps(function)
    def inner(*args, **kwargs):
        return function(*args, **kwargs)

    return inner


async def coroutine(x: int) -> int:
    return x


def generator(x):
    yield x


async def async_generator(x):
    yield x


def plain(x: int) -> int:
    return x


class Around:
    def __init__(self, function=None):
        if function is not None:
            functools.update_wrapper(self, function)

    def __call__(self, x):
        return x

    def method(self, x):
        return x

    @classmethod
    def of_class(cls, x):
        return x

    wrapped = keeps(method)


CANNOT_RUN = {
    "a class": int,
    "an instance with __call__": Around(),
    "a bound method": Around().method,
    "a bound method that is wrapped": Around().wrapped,
    "a method of the class": Around.of_class,
    "a method": Around.method,
    "a wrapped method": Around.wrapped,
    "a classmethod object": classmethod(plain),
    "a property": property(plain),
    "a partial": functools.partial(plain, 1),
    "a partial that looks like its function": functools.update_wrapper(functools.partial(plain, 1), plain),
    "a builtin": len,
    "a generator": generator,
    "an async generator": async_generator,
    "a generator under a decorator": keeps(generator),
    "an async generator under two": keeps(keeps(async_generator)),
    "a context manager": contextlib.contextmanager(generator),
    "None": None,
    "text": "text",
}


@pytest.mark.parametrize("thing", CANNOT_RUN.values(), ids=CANNOT_RUN)
def test_jobs_that_cannot_run_as_intended_are_refused_at_definition_with_the_fix(thing):
    with pytest.raises(JobDefinitionError, match="write|decorate|make"):
        job(registry=Registry(), name="x")(thing)


def test_a_method_is_refused_as_its_class_is_made():
    for parameter, around in (("self", lambda f: f), ("cls", classmethod), ("self", property)):
        with pytest.raises(JobDefinitionError, match=f"is a method, and a worker has no {parameter}"):
            exec(
                f"class A:\n  @around\n  @job(registry=registry)\n  def m({parameter}, x): ...",
                {"job": job, "registry": Registry(), "around": around, "__name__": __name__},
            )


@pytest.mark.parametrize("parameters", ["this, x", "x", "_, /", "self=None"])
@pytest.mark.parametrize("around", ["", "@keeps"])
def test_a_method_is_refused_whatever_its_first_parameter_is_called(module, parameters, around):
    with pytest.raises(Exception) as raised:  # before Python 3.12 a RuntimeError with ours as its cause
        module(KEEPS + f"class A:\n  @job\n  {around}\n  def m({parameters}): ...")
    error = raised.value if isinstance(raised.value, JobDefinitionError) else raised.value.__cause__
    assert isinstance(error, JobDefinitionError)
    assert "A.m is a method" in str(error)
    assert "@staticmethod" in str(error)
    assert "A.m is a method" in str(load_error("", raised.value))


@pytest.mark.parametrize(
    "body",
    [
        "@staticmethod\n  @job\n  def m(x): return x",
        "@job\n  @staticmethod\n  def m(x): return x",
        "m = job(f)",
        "m = g",
    ],
)
def test_static_and_class_methods_without_an_object_may_be_jobs(module, body):
    tasks = module(f"def f(x): return x\n@job\ndef g(x): return x\nclass A:\n  {body}")
    assert tasks.A.m(1) == 1
    tasks.A.m.arguments.bind((1,), {})


def test_a_job_cannot_be_decorated_again(registry):
    first = job(registry=registry, name="a")(plain)
    with pytest.raises(JobDefinitionError, match="a is already a job.*aliases"):
        job(registry=registry, name="b")(first)


def test_wrappers_that_go_round_in_circles_are_refused(registry):
    def f(): ...

    f.__wrapped__ = f
    with pytest.raises(JobDefinitionError, match="takes a function"):
        job(registry=registry)(f)


class Static:
    @job(registry=Registry())
    @staticmethod
    def inside(x: int) -> int:
        return x

    @staticmethod
    @job(registry=Registry())
    def outside(x: int) -> int:
        return x


@functools.singledispatch
def dispatched(x):
    return x


RUNS = {
    "a function": plain,
    "a decorated function": keeps(plain),
    "an object around a function": Around(plain),
    "a cached function": functools.lru_cache(plain),
    "a dispatching function": dispatched,
    "a static method": Static.inside.function,
}


@pytest.mark.parametrize("function", RUNS.values(), ids=RUNS)
def test_functions_that_run_as_intended_are_accepted(registry, function):
    made = job(registry=registry, name="x")(function)
    made.arguments.check((1,), {})
    assert made(1) == 1


def test_static_methods_are_jobs_under_their_class():
    assert Static.inside(1) == Static().inside(1) == Static.outside(1) == Static().outside(1) == 1
    assert Static.outside.name == f"{__name__}.Static.outside"


@pytest.mark.parametrize("name", ["orders.import", "class", "a.None", "x-y", "1.2", "žluť", "a.<lambda>", "λ", "x" * 200])
def test_every_name_that_is_taken_can_be_used(registry, name):
    made = job(registry=registry, name=name)(plain)
    made.arguments.check((), {"x": 1})
    with pytest.raises(TypeError, match="missing"):
        made.arguments.check((), {})


@pytest.mark.parametrize("name", ["", "a b", "a\n", "\ud800", "x" * 201, 5, b"a", None])
def test_every_other_name_is_refused(name):
    with pytest.raises(JobDefinitionError, match="invalid job name"):
        job(registry=Registry(), name="x", aliases=[name])(plain)
    if name is not None:
        with pytest.raises(JobDefinitionError, match="invalid job name"):
            job(registry=Registry(), name=name)(plain)


def test_aliases_are_a_list(registry):
    with pytest.raises(JobDefinitionError, match=r"aliases: expected a list of names, got the string 'old\.name'"):
        job(registry=registry, aliases="old.name")(plain)


class Grumpy:
    def __eq__(self, other):
        raise KeyError("compare me not")

    __hash__ = None

    def __repr__(self):
        raise ValueError("nor show me")


@pytest.mark.parametrize(
    "annotation", ["number of days", "x y", "1 +", "list[", "lambda: 1", "1/0", "undefined", Grumpy(), 5, print, [1], ...],
)  # fmt: skip
def test_an_annotation_that_is_not_a_type_is_reported_by_its_argument(registry, annotation):
    def f(days, *, other: int = 1): ...

    f.__annotations__["days"] = f.__annotations__["return"] = annotation
    made = job(registry=registry, name="x")(f)
    with pytest.raises(TypeError, match="argument 'days' of x: its (annotation|type)"):
        made.arguments.check((1,), {})
    assert made.convert_result(5) == 5


@pytest.mark.parametrize("signature", [5, "x"])
def test_a_function_with_unknown_parameters_is_refused_by_name(registry, signature):
    def f(): ...

    f.__signature__ = signature
    made = job(registry=registry, name="x")(f)
    with pytest.raises(JobDefinitionError, match="x: the parameters"):
        made.arguments.check((1,), {})
