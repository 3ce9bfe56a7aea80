"""getTask."""

from __future__ import annotations

from uuid import uuid4

import pytest

from tests.support.client import FOREIGN_TAG, ContractClient, assert_problem, tasks_of

ALICE = tasks_of("alice")


@pytest.mark.requirement("FR-002")
async def test_task_is_returned_as_created(client: ContractClient) -> None:
    created = await client.post(ALICE, json={"title": "Buy milk"})
    response = await client.get(created.headers["location"])
    assert response.status_code == 200
    assert response.json() == created.json()
    assert response.headers["etag"] == response.json()["etag"] == created.headers["etag"]


@pytest.mark.requirement("FR-002", "FR-020")
async def test_task_of_another_user_is_404(client: ContractClient) -> None:
    created = await client.post(ALICE, json={"title": "Buy milk"})
    response = await client.get(f"{tasks_of('bob')}/{created.json()['id']}")
    assert_problem(response, 404, "task-not-found")


@pytest.mark.requirement("FR-002")
async def test_unknown_id_is_404(client: ContractClient) -> None:
    assert_problem(await client.get(f"{ALICE}/{uuid4()}"), 404, "task-not-found")


@pytest.mark.requirement("FR-002")
async def test_id_is_case_insensitive(client: ContractClient) -> None:
    created = await client.post(ALICE, json={"title": "Buy milk"})
    response = await client.get(f"{ALICE}/{created.json()['id'].upper()}")
    assert response.json() == created.json()


@pytest.mark.requirement("FR-013")
@pytest.mark.parametrize("template", ["{}", "W/{}", '"other", {}', "*"])
async def test_current_etag_is_304(client: ContractClient, template: str) -> None:
    created = await client.post(ALICE, json={"title": "Buy milk"})
    etag = created.headers["etag"]
    response = await client.get(
        created.headers["location"], headers={"If-None-Match": template.format(etag)}
    )
    assert response.status_code == 304
    assert response.headers["etag"] == etag


@pytest.mark.requirement("FR-013")
@pytest.mark.parametrize("etag", ['"other"', FOREIGN_TAG, f"W/{FOREIGN_TAG}"])
async def test_other_etag_is_200(client: ContractClient, etag: str) -> None:
    created = await client.post(ALICE, json={"title": "Buy milk"})
    response = await client.get(created.headers["location"], headers={"If-None-Match": etag})
    assert response.status_code == 200
    assert response.json() == created.json()
