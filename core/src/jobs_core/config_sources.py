"""Read the configuration from its sources: defaults, jobs.toml or pyproject.toml, JOBS_ variables, *_FILE secrets.

Later sources override earlier ones, key by key. Every value keeps the name of its source, for `jobsctl check --show`.
"""

from __future__ import annotations

import contextlib
import functools
import os
import re
import sys
import typing
from collections.abc import Callable, Iterator, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec

from . import config_text, config_types, foreign
from .config import Config, Defaults, Pool, Section, Topic
from .errors import ConfigError
from .units import Duration, Size, plain_number
from .urls import cover, redact

RESERVED = {"JOBS_TRANSPORT", "JOBS_CONFIG", "JOBS_SETTINGS", "JOBS_FAILPOINT", "JOBS_DISABLE_PLUGINS", "JOBS_TRACE_HOOKS"}
MOST_THREADS = 10_000


class Effective(msgspec.Struct, frozen=True):
    """A configuration with the origin of every value that is not a default, by dotted key."""

    config: Config
    sources: dict[str, str]
    file: Path | None
    directory: Path  # of the file, else the one in which the search began; links are kept, see `working_directory`

    def located(self, key: str, text: str) -> str:
        """Return an error about the value of a key, with its file and line, or its variable, before it."""
        source = self.sources.get(key)
        if source is None:
            return text
        line = None
        if self.file is not None and not source.startswith("JOBS_"):
            within = "tool.jobs." if self.file.name == "pyproject.toml" else ""
            with contextlib.suppress(OSError, UnicodeDecodeError):
                line = config_text.line_of(self.file.read_text(encoding="utf-8-sig"), within + key)
        return f"{source}: {text}" + (f" (at line {line})" if line else "")

    def rows(self) -> list[tuple[str, str, str]]:
        """Return (key, value, source) for every key, with secrets hidden, in the order of the documentation."""
        return [(key, text, self._source(key)) for key, text in _flatten(self.config, "")]

    def secrets_in_file(self) -> list[tuple[str, str, str]]:
        """Return each secret that stands in a file of the configuration: its key, the file, and how to keep it elsewhere."""
        return [
            (key, source, _elsewhere(key))
            for key, source in self.sources.items()
            if not source.startswith("JOBS_") and config_types.is_secret(key, self._value(key))
        ]

    def _value(self, key: str) -> Any:
        """Return the value of a dotted key; None if it has none."""
        value: Any = self.config
        for part in key.split("."):
            value = value.get(part) if isinstance(value, dict) else getattr(value, part, None)
        return value

    def _source(self, key: str) -> str:
        inside = (source for path, source in self.sources.items() if path.startswith(f"{key}."))
        return self.sources.get(key) or next(inside, "default")


def _elsewhere(key: str) -> str:
    """Return how to keep the value of a key out of the file."""
    variable = f"JOBS_{key.upper().replace('.', '__')}"
    return f"set {variable} in the environment" if "." in key else f"let {variable}_FILE name a file with it"


_EMPTY_LIST = "expected a list, got an empty string: use [] for none, or unset the variable to use the file's value"


class FrameworkSettings(msgspec.Struct, frozen=True):
    """The settings of a framework, to be passed to child processes."""

    name: str
    directory: str
    values: dict[str, Any]

    def encode(self) -> str:
        """Return the value of JOBS_SETTINGS."""
        return msgspec.json.encode(_plain(msgspec.structs.asdict(self)), enc_hook=str).decode()


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_plain(item) for item in value]
    return value.total_seconds() if isinstance(value, timedelta) else value


def _framework_settings(text: str) -> FrameworkSettings:
    try:
        return msgspec.json.decode(text, type=FrameworkSettings)
    except msgspec.MsgspecError as error:
        raise ConfigError(
            f"JOBS_SETTINGS: expected the settings that a framework's command passes to its child processes: {error}"
        ) from None


def load(
    file: str | Path | None = None,
    *,
    environ: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    settings: Mapping[str, Any] | None = None,
    settings_name: str = "settings",
) -> Effective:
    """Read and check the configuration.

    `file` (or JOBS_CONFIG) names it; otherwise jobs.toml, then [tool.jobs] of pyproject.toml, is searched for in `cwd` and
    in the directories above it. `settings` are values from an application; they override the file, and the environment
    overrides them. A command that runs inside a framework passes them to its children in JOBS_SETTINGS. Raises ConfigError
    with one line for each problem.
    """
    environ = os.environ if environ is None else environ
    if settings is None and environ.get("JOBS_SETTINGS"):
        handed = _framework_settings(environ["JOBS_SETTINGS"])
        settings, settings_name, cwd = handed.values, handed.name, cwd or Path(handed.directory)
    cwd = working_directory() if cwd is None else cwd
    path = _find(file or environ.get("JOBS_CONFIG") or None, cwd)
    reader = _Reader()
    if path:
        name = path.name if path.parent == cwd else str(path)
        reader.merge(_read(path, name), name)
        reader.file = path, name
    if settings:
        reader.merge(settings, settings_name)
    reader.merge_environment(environ)
    config = reader.build(path.parent.resolve() if path else cwd.resolve())
    return Effective(config, reader.sources, path, path.parent if path else cwd)


def require_utf8(directory: Path, what: str) -> None:
    """Raise ConfigError for a directory whose name is not UTF-8: it can be neither stored, logged nor shown as it is."""
    try:
        str(directory).encode()
    except UnicodeEncodeError:
        shown = str(directory).encode(errors="backslashreplace").decode()
        raise ConfigError(f"{what} {shown} is not valid UTF-8: rename the directory, or move the project") from None


def working_directory() -> Path:
    """Return the current directory under the name by which the user entered it.

    The name may contain a symbolic link, such as `current`, that points to another release after the next deployment. So
    names are kept as given, and each `load` resolves them again; its result, `base_dir`, contains no links.
    """
    try:
        return as_named(Path.cwd())
    except FileNotFoundError:  # it was removed, as old releases are; the directories above it still exist
        return Path(os.environ.get("PWD") or "/")


def as_named(directory: Path) -> Path:
    """Return a directory by the shell's name for it (PWD), if it is the shell's directory or below it."""
    named = os.environ.get("PWD", "")
    if os.path.isabs(named):
        with contextlib.suppress(ValueError):
            return named / directory.relative_to(os.path.realpath(named))
    return directory


def _find(file: str | Path | None, cwd: Path) -> Path | None:
    if file:
        path = cwd / file
        try:
            if path.is_file():
                return path
        except OSError as error:  # in a directory that this user may not read
            raise ConfigError(f"{file}: cannot be read: {error.strerror} (named by -c or JOBS_CONFIG)") from None
        raise ConfigError(f"{file}: no such file (named by -c or JOBS_CONFIG)")
    for path in _places(cwd):
        try:
            if _is_configuration(path):
                return path
        except OSError:  # a directory above that this user may not read
            continue
    return None


def candidates(file: str | Path | None = None) -> list[Path]:
    """List the files that `load` tries, existing or not; the last one is the file that it finds, even if it is invalid."""
    cwd = working_directory()
    if os.environ.get("JOBS_SETTINGS"):
        with contextlib.suppress(ConfigError):
            cwd = Path(_framework_settings(os.environ["JOBS_SETTINGS"]).directory)
    file = file or os.environ.get("JOBS_CONFIG")
    if file:
        return [cwd / file]
    found = []
    for path in _places(cwd):
        found.append(path)
        try:
            if _is_configuration(path):
                break
        except ConfigError:
            break
        except OSError:
            continue
    return found


def _places(cwd: Path) -> Iterator[Path]:
    for directory in (cwd, *cwd.parents):
        yield directory / "jobs.toml"
        yield directory / "pyproject.toml"


def _is_configuration(path: Path) -> bool:
    """Return whether the file exists and contains our configuration; raises OSError, ConfigError."""
    if not path.is_file():
        return False
    return path.name == "jobs.toml" or "jobs" in _parse_toml(path, str(path)).get("tool", {})


def _parse_toml(path: Path, name: str) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8-sig")  # Notepad writes a mark before the first line
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{name}: cannot be read: {error}") from None
    try:
        return _loads(text)
    except ValueError as error:
        raise ConfigError(f"{name}: not valid TOML: {error}: {config_text.advice(text, str(error))}") from None
    except RecursionError:
        raise ConfigError(f"{name}: lists or tables are nested too deeply") from None


def _loads(text: str) -> dict[str, Any]:
    """Parse TOML into a dict; raises ValueError. The parser is imported only when it is needed."""
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    return tomllib.loads(text)


def _read(path: Path, name: str) -> dict[str, Any]:
    data = _parse_toml(path, name)
    if path.name == "pyproject.toml":
        data = data.get("tool", {}).get("jobs", {})
    return data


class _Text(str):
    """A value from the environment: text that may represent any type."""


class _Reader:
    """Collects raw values by key with their sources, and then builds the typed configuration."""

    def __init__(self) -> None:
        self.raw: dict[str, Any] = {}
        self.sources: dict[str, str] = {}
        self._tables: dict[str, str] = {}
        self.errors: list[str] = []
        self.file: tuple[Path, str] | None = None  # the file, and its name as a source of values

    def merge(self, data: Mapping[str, Any], source: str) -> None:
        self._merge(self.raw, data, source, "")

    def _merge(self, into: dict[str, Any], data: Mapping[str, Any], source: str, prefix: str) -> None:
        for key, value in data.items():
            path = f"{prefix}{key}"
            if isinstance(value, Mapping):
                if not isinstance(into.get(key), dict):
                    into[key] = {}
                self._tables.setdefault(path, source)
                self._merge(into[key], value, source, f"{path}.")
            else:
                into[key] = value
                self.sources[path] = source

    def merge_environment(self, environ: Mapping[str, str]) -> None:
        known = set(config_types.fields(Config))
        if environ.get("JOBS_TRANSPORT", "library") != "library":  # plugins read it; a typo would be ignored silently
            self.errors.append(
                f'JOBS_TRANSPORT: expected "library" or no such variable, got "{environ["JOBS_TRANSPORT"][:80]}"'
            )
        for variable, text in sorted(environ.items()):
            if not variable.startswith("JOBS_") or variable in RESERVED:
                continue
            key = variable[len("JOBS_") :].lower()
            from_file = key.endswith("_file") and key.partition("__")[0] not in known
            parts = (key.removesuffix("_file") if from_file else key).split("__")
            if parts[0] not in known:
                # Kubernetes may set JOBS_SERVICE_HOST and the like. Only a typo, or another system's word, is an error.
                near = foreign.close(parts[0], known, 1, 0.8)
                advice = f"did you mean JOBS_{near[0].upper()}?" if near else foreign.key_advice(Config.__name__, key)
                if advice:
                    self.errors.append(f"{variable}: unknown key; {advice}")
                continue
            if from_file:
                text = self._secret_file(variable, text)
            nested: Any = _Text(text)
            for part in reversed(parts):
                nested = {part: nested}
            self.merge(nested, variable)

    def _secret_file(self, variable: str, path: str) -> str:
        try:
            return Path(path).read_text(encoding="utf-8-sig").strip()
        except (OSError, UnicodeDecodeError) as error:
            self.errors.append(f"{variable}: {path}: {getattr(error, 'strerror', None) or error}")
            return ""

    def build(self, base_dir: Path) -> Config:
        self._adopt_plugin_tables()
        self._adopt_preference()
        config: Config = self._section(Config, self.raw, "")
        if not self.errors:
            self._check(config)
        if self.errors:
            raise ConfigError("\n".join(dict.fromkeys(self.errors)))
        return msgspec.structs.replace(config, base_dir=base_dir)

    def _adopt_plugin_tables(self) -> None:
        """Move [flask] to [plugins.flask] if flask is the framework or the loader."""
        for name in {str(self.raw.get("framework", "")), str(self.raw.get("loader", ""))}:
            if isinstance(self.raw.get(name), dict):
                table = self.raw.pop(name)
                self._merge(self.raw.setdefault("plugins", {}), {name: table}, self._tables[name], "plugins.")

    def _adopt_preference(self) -> None:
        """Move [plugins] prefer = […] to the key `prefer`: it is not a plugin's table."""
        plugins = self.raw.get("plugins")
        if isinstance(plugins, dict) and "prefer" in plugins and not isinstance(plugins["prefer"], dict):
            self.raw["prefer"] = plugins.pop("prefer")
            self.sources["prefer"] = self.sources.pop("plugins.prefer")

    def _section(self, kind: Any, value: Any, path: str) -> Any:
        if not isinstance(value, dict):
            self._error(path, f"expected a table, got {config_types.show(value)}{config_types.meant(path)}")
            return None
        fields = config_types.fields(kind)
        built: dict[str, Any] = {}
        for key, item in value.items():
            where = f"{path}.{key}" if path else key
            if key not in fields:
                self._error(where, f"unknown key; {config_types.advice(kind, key, item)}")
                continue
            built[key] = self._value(fields[key].type, item, where)
        for name, field in fields.items():
            if field.required and name not in value:
                self._error(path, f"{name} is missing: set it")
        return config_types.made(kind, built) if not self.errors else None

    def _value(self, kind: Any, value: Any, path: str) -> Any:
        section = config_types.section_in(kind)
        if section and (kind is section or isinstance(value, dict)):
            return self._section(section, value, path)
        given, kind = kind, config_types.arm_for(kind, value)
        bare = config_types.bare(kind)
        if typing.get_origin(bare) is dict and isinstance(value, dict):
            name, item = typing.get_args(bare)
            for key in value:
                self._obey(name, key, f"{path}.{key}")
            self._obey(kind, value, path)
            return {key: self._value(item, entry, f"{path}.{key}") for key, entry in value.items()}
        if section:
            kind = next(arm for arm in config_types.arms(kind) if arm is not section)
        if isinstance(value, _Text):
            if config_types.takes_list(kind) and not value.strip(" ,\r\n\t"):  # an empty secret must not turn signing off
                self._error(path, _EMPTY_LIST)
                return None
            value = _from_text(value, kind)
            if isinstance(value, dict):
                return self._value(given, value, path)
        return self._converted(kind, value, path)

    def _converted(self, kind: Any, value: Any, path: str) -> Any:
        """Return the converted value, or None if that fails; record this error, and values that break a rule."""
        try:
            found = msgspec.convert(value, kind, dec_hook=config_types.unit)
        except (msgspec.ValidationError, OverflowError) as error:
            self._error(path, config_types.reason(error, kind, value, path) + config_types.meant(path))
            return None
        self._obey(kind, found, path)
        return found

    def _obey(self, kind: Any, value: Any, path: str) -> None:
        """Check a converted value, or the items of a list, against the rules in its annotation."""
        for arm in config_types.arms(kind) if value is not None else ():
            for rule in config_types.rules(arm):
                if reason := rule(value):
                    self._error(path, reason)
                    return
            if typing.get_origin(config_types.bare(arm)) is list:
                for item in value:
                    self._obey(typing.get_args(config_types.bare(arm))[0], item, path)

    def _error(self, path: str, reason: str) -> None:
        """Record an error about the key `path`; the text begins with the file or variable that sets it."""
        reason, source, key = cover(reason), None, path
        while key and not source:
            source, key = self.sources.get(key) or self._tables.get(key), key.rpartition(".")[0]
        if source and source.startswith("JOBS_"):
            self.errors.append(_fit_to_show(f"{source}: {reason}"))
        else:
            self.errors.append(_fit_to_show(f"{source or 'configuration'}: {path}: {reason}") + self._line(source, path))

    def _line(self, source: str | None, key: str) -> str:
        """Return the line number of a key in the file, formatted as in errors of the TOML parser; "" if unknown."""
        if self.file is None or source != self.file[1]:
            return ""
        path = self.file[0]
        within = "tool.jobs." if path.name == "pyproject.toml" else ""
        try:
            number = config_text.line_of(path.read_text(encoding="utf-8-sig"), within + key)
        except (OSError, UnicodeDecodeError):  # the file has changed since it was parsed
            return ""
        return f" (at line {number})" if number else ""

    def _check(self, config: Config) -> None:
        """Check rules that concern several keys."""
        for name, pool in config.pools.items():
            self._check_pool(name, pool)
            for topic in pool.topics:
                if not config.topic(topic).serve:
                    self._error(f"topics.{topic}.serve", f"is false, but pool {name} serves {topic}: remove one of the two")
        self._check_payloads(config)
        if config.logs.done and config.logs.level in ("warning", "error"):
            self._error("logs.done", f'its lines have level info, and logs.level = "{config.logs.level}" leaves them out')
        tables: dict[str, Defaults | Topic] = {
            "defaults": config.defaults,
            **{f"topics.{name}": topic for name, topic in config.topics.items()},
        }
        for name, settings in tables.items():
            if settings.encrypt and not config.encryption_keys:
                self._error(f"{name}.encrypt", "is true, but there are no encryption_keys: set them")
        self._check_limits(config)
        self._check_webhooks(config)
        for name, entry in config.schedule.items():
            if (entry.cron is None) == (entry.every is None):
                self._error(f"schedule.{name}", "needs either cron or every")
            elif entry.cron is None and f"schedule.{name}.tz" in self.sources:
                self._error(f"schedule.{name}.tz", "belongs to cron, but this entry has every: leave it out")

    def _check_payloads(self, config: Config) -> None:
        """Check what could otherwise be told only where it is used, without the file: packages, and parts of a URL."""
        if not config.encryption_keys and config.payloads.url is None:
            return
        from .payloads import Keyring  # late: most applications use neither
        from .payloads.store import check_url

        checks: list[Callable[[], object]] = [functools.partial(Keyring, config.encryption_keys)]
        checks += [functools.partial(check_url, config.payloads.url)] if config.payloads.url is not None else []
        for check in checks:
            try:
                check()
            except ConfigError as error:  # its text begins with the key
                key, _, reason = str(error).partition(": ")
                self._error(key, reason)

    def _check_limits(self, config: Config) -> None:
        for name, each in config.topics.items():
            if each.fair and each.max_per_key and config.topic(name).acks == "early":
                self._error(
                    f"topics.{name}.max_per_key",
                    'its jobs are acknowledged before they run (acks = "early"), and a job is counted only until then: remove '
                    "one of the two",
                )
        for name, limit in config.limits.items():
            if limit.concurrency is None and limit.rate is None:
                self._error(f"limits.{name}", "limits nothing: set concurrency or rate")
            elif limit.rate is None and limit.burst is not None:
                self._error(f"limits.{name}.burst", "belongs to rate, which is not set: remove it, or set rate")

    def _check_webhooks(self, config: Config) -> None:
        for name, webhook in config.webhooks.items():
            for key in ("url", "secret"):
                direct, file = getattr(webhook, key), getattr(webhook, f"{key}_file")
                if (direct is None) == (file is None):
                    self._error(f"webhooks.{name}", f"needs either {key} or {key}_file")
            if "done" in webhook.events and not webhook.topics:
                self._error(f"webhooks.{name}.topics", "name the topics whose done jobs are to be told: topics = [...]")
            if "webhooks" in webhook.topics:
                self._error(
                    f"webhooks.{name}.topics", "the jobs of topic webhooks send the events, and cause none: leave it out"
                )

    def _check_pool(self, name: str, pool: Pool) -> None:
        workers = pool.workers
        if not isinstance(workers, int) and workers.min > workers.max:
            self._error(f"pools.{name}.workers", f"min ({workers.min}) is greater than max ({workers.max})")
        if not pool.topics:
            self._error(f"pools.{name}.topics", "a pool must serve at least one topic")
        if reason := too_many_threads(pool):
            self._error(f"pools.{name}.concurrency", reason)
        if pool.mode == "sync" and pool.concurrency > 1:
            at_once = pool.concurrency
            self._error(
                f"pools.{name}.concurrency",
                f"is {at_once:,}, but a worker of a sync pool runs one job at a time: workers = {at_once} starts "
                'that many processes, mode = "threads" or "async" runs that many jobs in each',
            )


def too_many_threads(pool: Pool) -> str | None:
    """Return why a worker cannot have as many threads as this pool requests; None if it can."""
    if pool.mode != "threads" or pool.concurrency <= MOST_THREADS:
        return None
    return f'a worker has at most {MOST_THREADS:,} threads, got {pool.concurrency:,}: use more workers, or mode = "async"'


def _from_text(text: str, kind: Any) -> Any:
    """Convert the text of a variable: keep it if a string is expected, else read it as TOML, or as a list a,b,c or of lines."""
    arms = [config_types.bare(arm) for arm in config_types.arms(kind)]
    if Duration in arms or Size in arms:
        return plain_number(text)  # of seconds or bytes, as in a file
    if any(arm is str or typing.get_origin(arm) is typing.Literal for arm in arms):
        return str(text)
    try:
        return _loads(f"value = {text}")["value"]
    except ValueError:
        if config_types.takes_list(kind):
            return [part.strip() for part in re.split(r"[,\r\n]", text) if part.strip()]
        return str(text)


def _fit_to_show(text: str) -> str:
    """Return an error as one short line without secrets: under any key, the value may be a URL with a password, or long."""
    text = cover(text)
    text = "".join(each if each.isprintable() else repr(each)[1:-1] for each in text[:2000])
    return text if len(text) <= 600 else f"{text[:400]} … {text[-160:]}"


_ARGUMENTS = re.compile(r"schedule\..*\.(args|kwargs)")
"""Keys that hold arguments of jobs, which are shown nowhere but to those who ask for a job."""


def _without_secrets(path: str, value: Any) -> str:
    if isinstance(value, str):
        return redact(value)
    return ", ".join(map(redact, value)) if path == "broker.listen" else "(set)"


def _flatten(value: Any, path: str) -> list[tuple[str, str]]:
    if isinstance(value, Section):
        names = [name for name in value.__struct_fields__ if name != "base_dir"]
        inner = {f"{path}.{name}" if path else name: getattr(value, name) for name in names}
    elif isinstance(value, dict) and value and not config_types.secret(path) and not _ARGUMENTS.fullmatch(path):
        inner = {f"{path}.{key}": item for key, item in value.items()}
    else:
        return [(path, _as_text(value, path))]
    return [row for key, item in inner.items() for row in _flatten(item, key)]


def _as_text(value: Any, path: str) -> str:
    if (config_types.secret(path) or _ARGUMENTS.fullmatch(path)) and value:
        return _without_secrets(path, value)
    if isinstance(value, (Duration, Size)):
        return f'"{value}"'
    return "" if value is None else msgspec.json.encode(config_types.covered(value), enc_hook=str).decode()
