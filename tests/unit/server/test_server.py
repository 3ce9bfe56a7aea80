"""The main loop of the HTTP server."""

from __future__ import annotations

import errno
from typing import Any, cast

import pytest
from structlog.testing import capture_logs
from uvicorn import Config

from app.http.cors import CORSPolicy
from app.server.admission import AdmissionControl
from app.server.server import Server, _accept_pending


@pytest.mark.requirement("FR-036")
async def test_exception_in_timeout_check_does_not_stop_the_server(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(_: float) -> None:
        raise ZeroDivisionError

    admission = AdmissionControl(1, CORSPolicy(()))
    monkeypatch.setattr(admission, "check_timeouts", fail)
    server = Server(Config(cast("Any", None), log_config=None), admission)
    with capture_logs() as lines:
        assert await server.on_tick(1) is False
    assert [(line["event"], line["log_level"]) for line in lines] == [
        ("unhandled exception", "error")
    ]


@pytest.mark.parametrize("error_number", [errno.EAGAIN, errno.EMFILE])
def test_accept_errors_end_the_shutdown_drain(error_number: int) -> None:
    class Listener:
        def accept(self) -> None:
            raise OSError(error_number, "no more")

    assert list(_accept_pending(cast("Any", Listener()))) == []
