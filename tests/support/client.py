"""The test client: in-process HTTP that checks every response against the contract."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx

from app.http.middleware import HTTPMiddleware
from tests.support.contract_check import ContractCheck

# A valid ETag that no task has.
FOREIGN_TAG = '"5f2b7c0e9a4d4e0c8f3e6b1d2a7c9e10"'


class ContractClient(httpx.AsyncClient):
    """An HTTP client for one application that checks every response against the contract."""

    contract = ContractCheck()

    def __init__(self, app: HTTPMiddleware, **options: Any) -> None:
        super().__init__(
            transport=httpx.ASGITransport(app=app),  # type: ignore[arg-type]  # two spellings of ASGI
            base_url="http://tasks.test",
            **options,
        )

    async def send(self, request: httpx.Request, **options: Any) -> httpx.Response:
        # A server runs each request in its own asyncio task. Without one, an exception that the
        # driver throws into the service also reaches the test, and coverage loses the test's trace.
        response = await asyncio.create_task(super().send(request, **options))
        self.contract.check(request.method, request.url.raw_path.decode("ascii"), response)
        return response


class RemoteClient(ContractClient):
    """A `ContractClient` for a service in another process."""

    def __init__(self, url: str) -> None:
        httpx.AsyncClient.__init__(self, base_url=url, timeout=60)


def tasks_of(user: str) -> str:
    """Return the path of a user's tasks."""
    return f"/api/v1/users/{user}/tasks"


def assert_problem(
    response: httpx.Response, status: int, slug: str, *locations: str
) -> dict[str, Any]:
    """Check status, type and the locations of the errors, and return the problem."""
    problem: dict[str, Any] = response.json()
    assert response.status_code == status, response.text
    assert problem["type"] == f"/problems/{slug}"
    reported = [error["parameter"] or error["pointer"] for error in problem["errors"]]
    assert sorted(reported) == sorted(locations)
    return problem
