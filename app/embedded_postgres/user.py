"""System user of the server process, and the code between fork and exec."""

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
_PARENT_DEATH_SIGNAL = signal.SIGINT  # requests a fast shutdown if the service is killed


class ServerUser(NamedTuple):
    """System user of the server if the service runs as root.

    With `needs_dac_override` the server keeps CAP_DAC_OVERRIDE: the user cannot traverse a parent
    directory of its files.
    """

    uid: int
    gid: int
    needs_dac_override: bool


def choose_user(cluster: Path, required_paths: list[Path]) -> ServerUser | None:
    """Return an unprivileged user if the service runs as root, else None.

    PostgreSQL does not run as root. Raises EmbeddedError if no user exists, or if the user cannot
    traverse `required_paths` and root lacks CAP_DAC_OVERRIDE.
    """
    if os.geteuid() != 0:
        return None
    uid, gid = _unprivileged(cluster)
    inaccessible = _first_inaccessible(required_paths, uid, gid)
    if inaccessible and not _has_dac_override(Path("/proc/self/status")):
        raise EmbeddedError(
            f"PostgreSQL refuses to run as root, and {inaccessible} is closed to user id {uid}, "
            f"which it would run as. Run the service as an ordinary user, or move it. "
            f"{DATABASE_URL_HINT}"
        )
    return ServerUser(uid, gid, needs_dac_override=inaccessible is not None)


def _unprivileged(cluster: Path) -> tuple[int, int]:
    # A cluster keeps its owner, who can then start the service again without root.
    with suppress(FileNotFoundError):
        owner = cluster.stat()
        if owner.st_uid:
            return owner.st_uid, owner.st_gid
    for name in ("postgres", "nobody"):  # initdb requires an entry in the user database
        with suppress(KeyError):
            entry = pwd.getpwnam(name)
            return entry.pw_uid, entry.pw_gid
    raise EmbeddedError(
        f"PostgreSQL refuses to run as root; no user postgres or nobody exists. {DATABASE_URL_HINT}"
    )


def _first_inaccessible(required_paths: list[Path], uid: int, gid: int) -> Path | None:
    """Return the first of the paths and their parents without execute permission for the user."""
    for required in required_paths:
        for path in (*reversed(required.parents), required):
            status = path.stat()
            shift = 6 if status.st_uid == uid else 3 if status.st_gid == gid else 0
            if not status.st_mode >> shift & 1:
                return path
    return None


def _has_dac_override(status: Path) -> bool:
    with suppress(FileNotFoundError):
        for line in status.read_text(encoding="ascii", errors="replace").splitlines():
            if line.startswith("CapPrm:"):
                return bool(int(line.split()[1], 16) & 2)  # bit 1 is CAP_DAC_OVERRIDE
    return False


def chown(path: Path, user: ServerUser | None) -> None:
    """Change the owner of a file or directory to the user; do nothing without one."""
    if user:
        os.chown(path, user.uid, user.gid, follow_symlinks=False)


def make_preexec_fn(user: ServerUser | None) -> Callable[[], None]:
    """Return a function for the child: drop privileges and, on Linux, end with the parent."""
    # After the fork of a threaded process, locks and imports can deadlock: prepare them here.
    libc = ctypes.CDLL(None, use_errno=True) if LINUX else None
    if libc:
        libc.prctl.argtypes = [ctypes.c_int] + [ctypes.c_ulong] * 4
    parent = os.getpid()

    def prepare() -> None:  # pragma: no cover - runs between fork and exec
        if user:
            _drop_privileges(user, libc)
        if libc:  # after setuid, which clears it
            libc.prctl(1, _PARENT_DEATH_SIGNAL, 0, 0, 0)  # PR_SET_PDEATHSIG
            if os.getppid() != parent:
                os._exit(1)

    return prepare


def _drop_privileges(
    user: ServerUser, libc: ctypes.CDLL | None
) -> None:  # pragma: no cover - runs between fork and exec
    if libc and user.needs_dac_override:
        libc.prctl(8, 1, 0, 0, 0)  # PR_SET_KEEPCAPS: keep capabilities across setuid
        # SECBIT_NO_SETUID_FIXUP: access() would otherwise ignore the capability, and PostgreSQL
        # checks its programs with it. Setting it needs CAP_SETPCAP; a failure matters only if the
        # programs themselves are inaccessible.
        libc.prctl(28, libc.prctl(27, 0, 0, 0, 0) | 4, 0, 0, 0)
    os.setgroups([])
    os.setgid(user.gid)
    os.setuid(user.uid)
    if libc and user.needs_dac_override:
        header = (ctypes.c_uint32 * 2)(0x20080522, 0)
        dac_override = (ctypes.c_uint32 * 6)(2, 2, 2, 0, 0, 0)  # effective, permitted, inheritable
        # PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, CAP_DAC_OVERRIDE: only ambient ones survive exec.
        if libc.capset(header, dac_override) or libc.prctl(47, 2, 1, 0, 0):
            raise OSError(ctypes.get_errno(), "CAP_DAC_OVERRIDE")
