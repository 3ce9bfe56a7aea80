"""User, capabilities and death signal of a program of the embedded PostgreSQL."""

import ctypes
import os
import pwd
import signal
import subprocess
import sys

import pytest

from app.embedded_postgres import user
from app.embedded_postgres.user import ServerUser, make_preexec_fn

pytestmark = pytest.mark.requirement("FR-038")

NOBODY = pwd.getpwnam("nobody")
DEATH_SIGNAL = (
    "import ctypes; n = ctypes.c_int(); ctypes.CDLL(None).prctl(2, ctypes.byref(n)); print(n.value)"
)
LIBC = ctypes.CDLL(None)


def output_of(server_user: ServerUser | None, *command: str) -> str:
    """Return the output of a program that is started like the server."""
    completed = subprocess.run(
        command,
        check=True,
        capture_output=True,
        cwd="/",
        env={},  # without the coverage of the tests
        text=True,
        preexec_fn=make_preexec_fn(server_user),
    )
    return completed.stdout


def status(server_user: ServerUser | None) -> dict[str, list[str]]:
    """Return the fields of /proc/self/status, see proc(5), of such a program."""
    lines = output_of(server_user, "/bin/cat", "/proc/self/status").splitlines()
    return {name: rest.split() for name, _, rest in (line.partition(":") for line in lines)}


def test_program_is_signalled_when_the_service_dies() -> None:
    assert int(output_of(None, sys.executable, "-c", DEATH_SIGNAL)) == signal.SIGINT


def test_death_signal_is_not_set_outside_linux(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(user, "LINUX", False)
    assert int(output_of(None, sys.executable, "-c", DEATH_SIGNAL)) == 0


def test_program_does_not_start_after_the_service_died(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(os, "getpid", lambda: 1)
    prepare = make_preexec_fn(None)
    monkeypatch.undo()
    completed = subprocess.run(["/bin/true"], check=False, preexec_fn=prepare)
    assert completed.returncode == 1


def test_program_without_a_server_user_keeps_its_user() -> None:
    ids = status(None)
    assert ids["Uid"] == [str(os.getuid())] * 4
    assert ids["Gid"] == [str(os.getgid())] * 4


class TestAsRoot:  # pragma: no cover - only root can switch users
    """Root gives up its privileges, except one capability if the server user needs it."""

    __test__ = os.geteuid() == 0  # collected only as root

    @pytest.mark.parametrize(("override", "capabilities"), [(True, 2), (False, 0)])
    def test_program_runs_as_the_server_user(self, capabilities: int, *, override: bool) -> None:
        groups = os.getgroups()
        os.setgroups([0, 1])  # so that there are groups to drop
        try:
            fields = status(ServerUser(NOBODY.pw_uid, NOBODY.pw_gid, override))
        finally:
            os.setgroups(groups)
        assert fields["Uid"] == [str(NOBODY.pw_uid)] * 4
        assert fields["Gid"] == [str(NOBODY.pw_gid)] * 4
        assert fields["Groups"] == []
        names = ("CapInh", "CapPrm", "CapEff", "CapAmb")
        assert {int(fields[name][0], 16) for name in names} == {capabilities}

    @pytest.mark.parametrize(("override", "bits"), [(True, 4 | 16), (False, 0)])
    def test_capability_is_kept_with_its_securebits(self, bits: int, *, override: bool) -> None:
        """The bits are SECBIT_NO_SETUID_FIXUP and SECBIT_KEEP_CAPS. The exec clears the second."""
        prepare = make_preexec_fn(ServerUser(NOBODY.pw_uid, NOBODY.pw_gid, override))
        assert prepare is not None
        reader, writer = os.pipe()

        def preexec() -> None:
            prepare()
            os.write(writer, str(LIBC.prctl(27, 0, 0, 0, 0)).encode())

        subprocess.run(["/bin/true"], check=True, cwd="/", preexec_fn=preexec)
        os.close(writer)
        with os.fdopen(reader) as read:
            assert int(read.read()) == bits

    @staticmethod
    def without(capability: int) -> subprocess.CompletedProcess[bytes]:
        """Read /proc/self/status of a program whose parent lacks a capability."""
        prepare = make_preexec_fn(ServerUser(NOBODY.pw_uid, NOBODY.pw_gid, needs_dac_override=True))
        assert prepare is not None

        def preexec() -> None:
            header, sets = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
            LIBC.capget(header, sets)
            for which in (0, 1):  # effective and permitted
                sets[which] &= ~(1 << capability)
            LIBC.capset(header, sets)
            prepare()

        command = ["/bin/cat", "/proc/self/status"]
        return subprocess.run(command, check=True, capture_output=True, preexec_fn=preexec)

    def test_capability_is_kept_if_securebits_cannot_be_set(self) -> None:
        setpcap = 8
        assert b"CapEff:\t0000000000000002\n" in self.without(setpcap).stdout

    def test_program_does_not_start_without_the_capability(self) -> None:
        dac_override = 1
        with pytest.raises(subprocess.SubprocessError):
            self.without(dac_override)

    def test_program_of_another_user_is_signalled_when_the_service_dies(self) -> None:
        server_user = ServerUser(NOBODY.pw_uid, NOBODY.pw_gid, needs_dac_override=True)
        assert int(output_of(server_user, sys.executable, "-c", DEATH_SIGNAL)) == signal.SIGINT
