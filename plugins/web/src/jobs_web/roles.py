"""Roles, and users who have one."""

from __future__ import annotations

import enum

from msgspec import Struct


class Role(enum.IntEnum):
    """What a user may do. Each role includes those before it."""

    READ = 1  # look at everything
    OPERATE = 2  # run again, cancel, pause: what can be undone, or concerns single jobs
    ADMIN = 3  # delete many jobs, and change machines, limits and the schedule

    @property
    def word(self) -> str:
        return self.name.lower()


ROLES = {role.word: role for role in Role}


class User(Struct, frozen=True):
    """A user, as audit lines name them."""

    name: str
    role: Role
    fingerprint: str = ""  # of the token with which they logged in: another token ends their sessions
    topics: tuple[str, ...] = ()  # if set, the user is a producer: it enqueues to these topics, and does nothing else
