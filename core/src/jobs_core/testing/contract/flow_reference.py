"""A reference for flows that recomputes everything from the definitions in `backends/flows.py`, however slowly."""

from __future__ import annotations

from enum import Enum

from ...backends.flows import After, Member


class Phase(Enum):
    """The phase of a member, by the words of the definitions."""

    WAITING = "waiting"
    STUCK = "stuck"
    ACTIVE = "active"
    DONE = "done"
    DEAD = "dead"
    GONE = "gone"
    SKIPPED = "skipped"


LIVE = frozenset({Phase.WAITING, Phase.ACTIVE})
FINAL = frozenset({Phase.DONE, Phase.GONE, Phase.SKIPPED})


class Reference:
    """One flow."""

    def __init__(self, *, closed: bool = True) -> None:
        self.closed = closed
        self.members: dict[str, Member] = {}
        self.phase: dict[str, Phase] = {}
        self.finale: dict[str, bool] = {}
        self.refused: set[str] = set()
        self.cancelled = self.keeps_finale = False
        self._open: dict[str, set[int]] = {}  # targets that each member still waits for
        self._failed: dict[str, bool] = {}

    def add(self, name: str, place: Member, by: str | None = None) -> None:
        """Add a member, perhaps `by` a running one."""
        finale = bool(by and self.finale[by]) or any(self._is_finale(after) for after in place.after)
        self.members[name], self.phase[name], self.finale[name] = place, Phase.WAITING, finale
        self._open[name], self._failed[name] = set(range(len(place.after))), False

    def add_dead(self, name: str, place: Member, by: str) -> None:
        """Add a member that was refused, which cannot be retried."""
        self.refused.add(name)
        self.add(name, Member(place.flow), by)
        self.phase[name] = Phase.DEAD

    def barred(self, name: str) -> bool:
        """Return whether a member must not start any more."""
        return self.cancelled and not (self.keeps_finale and self.finale[name])

    def named(self, *phases: Phase) -> list[str]:
        return [name for name, phase in self.phase.items() if phase in phases]

    def can_be_retried(self) -> list[str]:
        """Return the dead members that run again when the flow is retried."""
        return [] if self.cancelled else [name for name in self.named(Phase.DEAD) if name not in self.refused]

    def _is_finale(self, after: After) -> bool:
        if after.kind == "stage":
            return any(self.finale[name] for name in self._group(after))
        return after.kind == "all" or self.finale.get(after.target, False)

    def _group(self, after: After) -> list[str]:
        if after.kind == "all":
            return [name for name in self.members if not self.finale[name]]
        return [name for name, place in self.members.items() if place.stage == after.target]

    def _end(self, after: After) -> Phase | None:
        phases = [self.phase[name] for name in ([after.target] if after.kind == "job" else self._group(after))]
        if self.cancelled:
            phases = [Phase.GONE if phase is Phase.DEAD else phase for phase in phases]
        if after.kind == "job":
            return None if phases[0] in LIVE else phases[0]
        if not self.closed or any(phase in LIVE for phase in phases):
            return None
        if Phase.GONE in phases:
            return Phase.GONE
        return Phase.DEAD if Phase.DEAD in phases or Phase.STUCK in phases else Phase.DONE

    def settle_down(self) -> None:
        """Apply the definitions until nothing changes."""
        changed = True
        while changed:
            changed = False
            for name in self.named(Phase.WAITING, Phase.STUCK, Phase.DEAD):
                changed |= self._look_at(name, self.members[name])

    def _look_at(self, name: str, place: Member) -> bool:
        before = self.phase[name], len(self._open[name])
        stuck, lost = False, None
        for n in sorted(self._open[name]):
            end = self._end(place.after[n])
            if end is None:
                continue
            if end is Phase.DONE or place.after[n].ended or place.when != "done":
                self._open[name].discard(n)
                self._failed[name] |= end not in (Phase.DONE, Phase.SKIPPED)
            elif end in (Phase.GONE, Phase.SKIPPED):
                lost = lost or end
            else:
                stuck = True
        if self.phase[name] is not Phase.DEAD:
            self.phase[name] = self._fate(name, place, stuck, lost)
        return (self.phase[name], len(self._open[name])) != before

    def _fate(self, name: str, place: Member, stuck: bool, lost: Phase | None) -> Phase:
        if self.barred(name):
            return Phase.GONE
        if lost:
            return lost
        if self._open[name] or not self.closed:
            return Phase.STUCK if stuck else Phase.WAITING
        return Phase.SKIPPED if place.when == "failed" and not self._failed[name] else Phase.ACTIVE
