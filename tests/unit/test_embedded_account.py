"""What a program of the embedded PostgreSQL is, between the fork and the exec: asked of the kernel."""

import os
import pwd
import signal
import subprocess
import sys

import pytest

from app.embedded import account
from app.embedded.account import Account, before_exec

pytestmark = pytest.mark.requirement("FR-038")

NOBODY = pwd.getpwnam("nobody")
DEATH_SIGNAL = (
    "import ctypes; n = ctypes.c_int(); ctypes.CDLL(None).prctl(2, ctypes.byref(n)); print(n.value)"
)
SECURE_BITS = "import ctypes; print(ctypes.CDLL(None).prctl(27, 0, 0, 0, 0))"


def said(whom: Account | None, *command: str) -> str:
    """What a program prints that is started as the server's are."""
    done = subprocess.run(
        command,
        check=True,
        capture_output=True,
        cwd="/",
        text=True,
        preexec_fn=before_exec(whom),
    )
    return done.stdout


def status(whom: Account | None) -> dict[str, list[str]]:
    """The lines of proc(5) about such a program."""
    lines = said(whom, "/bin/cat", "/proc/self/status").splitlines()
    return {name: rest.split() for name, _, rest in (line.partition(":") for line in lines)}


def test_it_is_told_when_the_service_dies() -> None:
    assert int(said(None, sys.executable, "-c", DEATH_SIGNAL)) == signal.SIGINT


def test_elsewhere_than_on_linux_nothing_is_asked_of_the_kernel(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(account, "LINUX", False)
    assert int(said(None, sys.executable, "-c", DEATH_SIGNAL)) == 0


def test_it_does_not_start_when_the_service_is_dead_by_then(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(os, "getpid", lambda: 1)
    prepare = before_exec(None)
    monkeypatch.undo()
    done = subprocess.run(["/bin/true"], check=False, preexec_fn=prepare)
    assert done.returncode == 1


def test_it_stays_who_we_are_without_an_account() -> None:
    ids = status(None)
    assert ids["Uid"] == [str(os.getuid())] * 4
    assert ids["Gid"] == [str(os.getgid())] * 4


class TestAsRoot:  # pragma: no cover - only root can switch users
    """Root gives up all that it is, but for one capability where the account needs that."""

    __test__ = os.geteuid() == 0  # not collected otherwise

    @pytest.mark.parametrize(("override", "capabilities"), [(True, 2), (False, 0)])
    def test_it_takes_on_the_account(self, capabilities: int, *, override: bool) -> None:
        groups = os.getgroups()
        os.setgroups([0, 1])  # so that there are some to give up
        try:
            found = status(Account(NOBODY.pw_uid, NOBODY.pw_gid, override))
        finally:
            os.setgroups(groups)
        assert found["Uid"] == [str(NOBODY.pw_uid)] * 4
        assert found["Gid"] == [str(NOBODY.pw_gid)] * 4
        assert found["Groups"] == []
        names = ("CapInh", "CapPrm", "CapEff", "CapAmb")
        assert {int(found[name][0], 16) for name in names} == {capabilities}

    def test_the_capability_counts_for_access_too(self) -> None:
        before = int(said(None, sys.executable, "-c", SECURE_BITS))
        whom = Account(NOBODY.pw_uid, NOBODY.pw_gid, override=True)
        assert int(said(whom, sys.executable, "-c", SECURE_BITS)) == before | 4

    def test_it_is_told_when_the_service_dies_whoever_it_is(self) -> None:
        whom = Account(NOBODY.pw_uid, NOBODY.pw_gid, override=True)
        assert int(said(whom, sys.executable, "-c", DEATH_SIGNAL)) == signal.SIGINT
