"""Whom the server runs as, and what its process does between the fork and the exec."""

import ctypes
import os
import pwd
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from app.embedded_postgres.error import DATABASE_URL_HINT, EmbeddedError

LINUX = sys.platform.startswith("linux")
_PARENT_DEATH_SIGNAL = signal.SIGINT  # kill -9 of us is a fast shutdown of the server


class ServerUser(NamedTuple):
    """Whom the server runs as when we are root."""

    uid: int
    gid: int
    needs_dac_override: (
        bool  # keeps CAP_DAC_OVERRIDE: a folder on the way to its files is closed to the uid
    )


def choose_user(cluster: Path, required_paths: list[Path]) -> ServerUser | None:
    """Return whom to run as when we are root, whom PostgreSQL refuses, else None."""
    if os.geteuid() != 0:
        return None
    uid, gid = _unprivileged(cluster)
    closed = _first_inaccessible(required_paths, uid, gid)
    if closed and not _has_dac_override(Path("/proc/self/status")):
        raise EmbeddedError(
            f"PostgreSQL refuses to run as root, and {closed} is closed to user id {uid}, which it "
            f"would run as. Run the service as an ordinary user, or move it. {DATABASE_URL_HINT}"
        )
    return ServerUser(uid, gid, needs_dac_override=closed is not None)


def _unprivileged(cluster: Path) -> tuple[int, int]:
    # Data of an ordinary user stay theirs, so that they can start the service again.
    with suppress(FileNotFoundError):
        owner = cluster.stat()
        if owner.st_uid:
            return owner.st_uid, owner.st_gid
    for name in ("postgres", "nobody"):  # initdb wants an entry in the user database
        with suppress(KeyError):
            entry = pwd.getpwnam(name)
            return entry.pw_uid, entry.pw_gid
    raise EmbeddedError(
        f"PostgreSQL refuses to run as root; no user postgres or nobody exists. {DATABASE_URL_HINT}"
    )


def _first_inaccessible(required_paths: list[Path], uid: int, gid: int) -> Path | None:
    """Return the first of the paths and their parents that mode bits do not let the user pass."""
    for path in required_paths:
        for step in (*reversed(path.parents), path):
            status = step.stat()
            shift = 6 if status.st_uid == uid else 3 if status.st_gid == gid else 0
            if not status.st_mode >> shift & 1:
                return step
    return None


def _has_dac_override(status: Path) -> bool:
    with suppress(FileNotFoundError):
        for line in status.read_text(encoding="ascii", errors="replace").splitlines():
            if line.startswith("CapPrm:"):
                return bool(int(line.split()[1], 16) & 2)  # bit 1 is CAP_DAC_OVERRIDE
    return False


def chown(path: Path, account: ServerUser | None) -> None:
    """Make the account the owner of a file or folder of ours."""
    if account:
        os.chown(path, account.uid, account.gid, follow_symlinks=False)


def make_preexec_fn(account: ServerUser | None) -> Callable[[], None]:
    """Return what the child does after the fork: take on the account, then die with its parent."""
    # All that takes locks or imports is done here: after a fork of a threaded process it may hang.
    libc = ctypes.CDLL(None, use_errno=True) if LINUX else None
    if libc:
        libc.prctl.argtypes = [ctypes.c_int] + [ctypes.c_ulong] * 4
    parent = os.getpid()

    def prepare() -> None:  # pragma: no cover - runs between fork and exec
        if account:
            _drop_privileges(account, libc)
        if libc:  # after setuid, which clears it
            libc.prctl(1, _PARENT_DEATH_SIGNAL, 0, 0, 0)  # PR_SET_PDEATHSIG
            if os.getppid() != parent:
                os._exit(1)

    return prepare


def _drop_privileges(
    account: ServerUser, libc: ctypes.CDLL | None
) -> None:  # pragma: no cover - see above
    if libc and account.needs_dac_override:
        libc.prctl(8, 1, 0, 0, 0)  # PR_SET_KEEPCAPS across setuid
        # SECBIT_NO_SETUID_FIXUP: without it access(), by which PostgreSQL checks its own programs,
        # takes no notice of the capability. It needs CAP_SETPCAP; open programs do without.
        libc.prctl(28, libc.prctl(27, 0, 0, 0, 0) | 4, 0, 0, 0)
    os.setgroups([])
    os.setgid(account.gid)
    os.setuid(account.uid)
    if libc and account.needs_dac_override:
        header = (ctypes.c_uint32 * 2)(0x20080522, 0)
        dac_override = (ctypes.c_uint32 * 6)(2, 2, 2, 0, 0, 0)  # effective, permitted, inheritable
        # PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, CAP_DAC_OVERRIDE: it alone survives the exec
        if libc.capset(header, dac_override) or libc.prctl(47, 2, 1, 0, 0):
            raise OSError(ctypes.get_errno(), "CAP_DAC_OVERRIDE")
