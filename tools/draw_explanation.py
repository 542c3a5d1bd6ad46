"""Draw the pictures of docs/explanation/: `python tools/draw_explanation.py` writes docs/pictures/*.svg; tests compare them."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

TOOLS = Path(__file__).parent


def _together() -> ModuleType:
    spec = importlib.util.spec_from_file_location("draw_together", TOOLS / "draw_together.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


_drawing = _together()
PICTURES = _drawing.PICTURES
Picture = _drawing.Picture


def processes() -> str:
    picture = Picture(
        700,
        320,
        "The processes of one machine",
        "The application enqueues into the backend. On a machine, the supervisor has a template, which has imported the "
        "application, and a housekeeper. Workers are forked from the template; they reserve and settle jobs in the backend.",
    )
    picture.box(10, 40, 150, 48, "b", "application", "enqueues")
    picture.box(10, 220, 150, 60, "c", "backend", "keeps all jobs")
    picture.arrow((85, 88), (85, 216))
    picture.box(230, 20, 460, 286, "slot")
    picture.text(244, 42, "one machine: jobsctl start", small=True)
    picture.box(390, 56, 140, 48, "a", "supervisor", "starts and watches")
    picture.box(250, 144, 120, 48, "box", "template", "has imported it all")
    picture.box(550, 144, 125, 48, "box", "housekeeper", "leases, schedule")
    for n in range(3):
        picture.box(262 + 104 * n, 234, 92, 48, "a", "worker", "runs jobs")
    picture.arrow((420, 104), (420, 124), (310, 124), (310, 140))
    picture.arrow((500, 104), (500, 124), (612, 124), (612, 140))
    picture.arrow((310, 192), (310, 230))
    picture.line((310, 210), (516, 210))
    picture.arrow((412, 210), (412, 230))
    picture.arrow((516, 210), (516, 230))
    picture.text(322, 206, "fork, within milliseconds", small=True)
    picture.arrow((258, 258), (164, 258))
    picture.text(168, 250, "reserve,", small=True)
    picture.text(168, 276, "settle", small=True)
    return str(picture)


def crash() -> str:
    picture = Picture(
        700,
        250,
        "A worker is killed",
        "A job is enqueued, reserved by worker 1 and running when the worker is killed. The supervisor notices at once, and "
        "the job returns to its topic; worker 2, which replaces worker 1, runs it again to its end and settles it.",
    )
    for y, name, begin, end in ((50, "backend", 90, 690), (110, "worker 1", 90, 334), (170, "worker 2", 352, 690)):
        picture.text(10, y + 5, name)
        picture.line((begin, y), (end, y))
    picture.box(100, 36, 70, 28, "b", "ready")
    picture.box(170, 36, 170, 28, "a", "reserved")
    picture.box(340, 36, 60, 28, "b", "ready")
    picture.box(400, 36, 200, 28, "a", "reserved")
    picture.box(600, 36, 80, 28, "c", "done")
    picture.arrow((170, 64), (170, 92))
    picture.box(174, 96, 160, 28, "a", "runs the job")
    picture.text(336, 116, "✕", middle=True)
    picture.text(346, 104, "kill -9", small=True)
    picture.box(352, 156, 48, 28, "box", "starts")
    picture.arrow((400, 64), (400, 152))
    picture.box(404, 156, 190, 28, "a", "runs the job again")
    picture.arrow((598, 156), (598, 68))
    picture.text(
        10, 226, "The supervisor sees its child die and returns its jobs: no timeout has to pass. With the", small=True
    )
    picture.text(10, 242, "whole machine gone, another machine returns them when the lease ends.", small=True)
    return str(picture)


def twice() -> str:
    picture = Picture(
        700,
        250,
        "Two orders, and a crash between the steps",
        "If the job is acknowledged first and the crash comes before the work is done, the job is lost. If the work is done "
        "first and the crash comes before the acknowledgement, the job runs twice. There is no third order.",
    )
    for y, title, first, second, result, kind in (
        (40, "at most once", "acknowledge", "mail is sent", "no mail at all", "b"),
        (150, "at least once", "mail is sent", "acknowledge", "the mail is sent again", "c"),
    ):
        picture.text(10, y - 8, title)
        picture.box(10, y, 140, 44, "a", first)
        picture.arrow((150, y + 22), (306, y + 22))
        picture.text(228, y + 14, "✕", middle=True)
        picture.text(228, y + 42, "crash here", small=True, middle=True)
        picture.box(310, y, 140, 44, "slot", second)
        picture.text(462, y + 27, "→")
        picture.box(490, y, 200, 44, kind, result)
    picture.text(10, 228, 'Jobs run at least once here, unless a job says acks="early".', small=True)
    return str(picture)


DRAWINGS = {"processes": processes, "crash": crash, "twice": twice}


def main() -> None:
    for name, draw in DRAWINGS.items():
        (PICTURES / f"{name}.svg").write_text(draw(), encoding="utf-8")
    print(f"{len(DRAWINGS)} pictures written", file=sys.stderr)


if __name__ == "__main__":
    main()
