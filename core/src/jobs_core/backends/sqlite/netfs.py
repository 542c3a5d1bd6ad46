"""Detect network file systems: SQLite's locks do not work there."""

from __future__ import annotations

from pathlib import Path

NETWORK_TYPES = frozenset(
    {"nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "ceph", "glusterfs", "lustre", "afs", "ncpfs", "fuse.sshfs",
     "fuse.glusterfs", "fuse.s3fs", "fuse.rclone", "fuse.cephfs", "beegfs", "ocfs2", "gfs2"}
)  # fmt: skip


def network_type(path: Path, mountinfo: str | None = None) -> str | None:
    """Return the type of the network file system that contains `path`; None if it is local, or without /proc.

    `mountinfo` is the text of /proc/self/mountinfo, see proc(5). Its lines are: id parent major:minor root mount-point
    options … - type source options.
    """
    if mountinfo is None:
        try:
            mountinfo = Path("/proc/self/mountinfo").read_text()
        except OSError:
            return None
    target = path.resolve()
    best, found = -1, ""
    for line in mountinfo.splitlines():
        head, _, tail = line.partition(" - ")
        point = Path(head.split(" ")[4].encode().decode("unicode_escape"))
        if len(point.parts) > best and target.is_relative_to(point):
            best, found = len(point.parts), tail.split(" ")[0]
    return found if found in NETWORK_TYPES else None
