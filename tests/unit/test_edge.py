"""The edge alone, around applications that fail in ways the framework does not let happen."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
from litestar.types import Receive, Scope, Send

from app.cors import Cors
from app.edge import Edge
from tests.support.client import ContractClient, assert_problem


async def fail_at_once(_: Scope, __: Receive, ___: Send) -> None:
    message = "before the response"
    raise RuntimeError(message)


async def fail_halfway(_: Scope, __: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    message = "amid the response"
    raise RuntimeError(message)


@pytest.mark.requirement("FR-027", "FR-029", "FR-036")
async def test_a_fault_around_the_framework_is_a_problem(
    capsys: pytest.CaptureFixture[str],
) -> None:
    async with ContractClient(Edge(fail_at_once, [], Cors(()))) as client:
        response = await client.get("/livez", headers={"X-Request-ID": "mine"})
    problem = assert_problem(response, 500, "internal-error")
    assert problem["instance"] == "mine"
    assert "before the response" not in response.text
    assert "before the response" in capsys.readouterr().out


@pytest.mark.requirement("FR-036")
async def test_a_fault_amid_a_response_is_left_to_the_server_which_breaks_it_off() -> None:
    app: Any = Edge(fail_halfway, [], Cors(()))
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(app=app), base_url="http://tasks.test"
    ) as client:
        with pytest.raises(RuntimeError, match="amid the response"):
            await client.get("/livez")
