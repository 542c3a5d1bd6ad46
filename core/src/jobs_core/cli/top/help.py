"""The page of the key `?`."""

from __future__ import annotations

from collections.abc import Sequence

from .views import Keys, View

_EVERYWHERE: Keys = (
    ("1 to 5, Tab", "another view"),
    ("Esc, ←", "back; ends a filter first"),
    ("↑ ↓, j k, PgUp PgDn, Home End", "choose a row, or scroll"),
    ("F5, Ctrl-L", "read again now"),
    ("m", "all that the last action said"),
    ("q, Ctrl-C", "quit"),
)


def explained(view: View, tabs: Sequence[View]) -> list[str]:
    """Return all keys: those of the present view first."""
    lines = [f"Keys of this view ({view.title})", *_listed(view.help()), "", "Everywhere", *_listed(_EVERYWHERE)]
    for tab in tabs:
        if tab is not view and tab.keys:
            lines += ["", f"Keys of the view {tab.title}", *_listed(tab.keys)]
    return [
        *lines,
        "",
        "Every action is a command of jobsctl. The screen shows it, says what happens to how many jobs, and waits for y.",
        "Actions that do not fit the state of a job do nothing: only scheduled jobs run now, only dead letters are retried.",
        "Rates are those of this machine. A view that the backend takes long to read is read less often: at most a twentieth",
        "of the time is spent on it.",
    ]


def _listed(keys: Keys) -> list[str]:
    return [f"  {key:<32}{what or 'choose'}" for key, what in keys] or ["  none but those below"]
