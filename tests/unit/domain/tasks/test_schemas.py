"""The structs of the task operations."""

from __future__ import annotations

from datetime import date
from hashlib import blake2b
from typing import Any

import msgspec
import pytest
from msgspec import UNSET

from app.db.idempotency import idempotency_params
from app.domain.tasks.schemas import (
    Due,
    DueInput,
    Priority,
    TaskCreate,
    TaskMove,
    TaskPatch,
    TaskReplace,
)

pytestmark = pytest.mark.requirement("FR-111")

MILK = {"title": "Buy milk"}
EMPTY: dict[str, Any] = {
    "list_id": None,
    "parent_id": None,
    "priority": "none",
    "due": None,
    "labels": [],
}
FULL = {"title": "Buy milk", "description": None, "completed": False}
DUE = {"date": "2026-11-24", "time": None, "timezone": None}


def digest(payload: TaskCreate) -> bytes:
    stored: bytes = idempotency_params("alice", "k", payload)["payload_digest"]
    return stored


@pytest.mark.requirement("FR-149")
@pytest.mark.parametrize(
    ("body", "encoded"),
    [
        (MILK, b'{"title":"Buy milk"}'),
        (MILK | EMPTY, b'{"title":"Buy milk"}'),
        (MILK | {"description": None, "completed": False}, b'{"title":"Buy milk"}'),
        (
            {"completed": True, "description": "Two.", "title": "Buy milk"} | EMPTY,
            b'{"title":"Buy milk","description":"Two.","completed":true}',
        ),
    ],
    ids=["title", "empty values", "defaults", "all of 1.0.0"],
)
def test_digest_of_a_body_of_contract_1_0_0_is_unchanged(
    body: dict[str, Any], encoded: bytes
) -> None:
    assert digest(msgspec.convert(body, TaskCreate)) == blake2b(encoded, digest_size=32).digest()


@pytest.mark.requirement("FR-149")
@pytest.mark.parametrize(
    "change",
    [
        {"list_id": "0198c5a2-7e1f-7b3a-9d55-2f6f0c1e8a44"},
        {"parent_id": "0198c5a2-7e1f-7b3a-9d55-2f6f0c1e8a44"},
        {"priority": "low"},
        {"due": DUE},
        {"labels": ["a"]},
        {"labels": ["b", "a"]},
    ],
    ids=str,
)
def test_new_property_is_part_of_the_digest(change: dict[str, Any]) -> None:
    changed = msgspec.json.decode(msgspec.json.encode(MILK | change), type=TaskCreate)
    assert digest(changed) != digest(TaskCreate("Buy milk"))


@pytest.mark.parametrize("struct", [TaskCreate, TaskReplace])
def test_absent_property_has_its_empty_value(struct: type[Any]) -> None:
    body = msgspec.json.decode(msgspec.json.encode(FULL), type=struct)
    assert (body.list_id, body.parent_id, body.due) == (None, None, None)
    assert body.priority is Priority.NONE
    assert body.labels == ()


@pytest.mark.requirement("FR-113")
def test_absent_property_of_a_patch_is_unset() -> None:
    patch = msgspec.json.decode(b"{}", type=TaskPatch)
    assert all(getattr(patch, name) is UNSET for name in TaskPatch.__struct_fields__)


@pytest.mark.requirement("FR-126")
def test_absent_place_of_a_move_is_unset() -> None:
    move = msgspec.json.decode(b'{"after_id":null,"parent_id":null}', type=TaskMove)
    assert move == TaskMove(after_id=None, list_id=UNSET, parent_id=None)


@pytest.mark.requirement("FR-137")
@pytest.mark.parametrize("struct", [TaskCreate, TaskReplace, TaskPatch])
def test_repeated_label_is_rejected(struct: type[Any]) -> None:
    different = ["a", "A", "ab"]
    body = msgspec.json.decode(msgspec.json.encode(FULL | {"labels": different}), type=struct)
    assert body.labels == tuple(different)
    with pytest.raises(msgspec.ValidationError):
        msgspec.json.decode(msgspec.json.encode(FULL | {"labels": [*different, "a"]}), type=struct)


@pytest.mark.requirement("FR-132")
def test_stored_due_date_is_encoded_as_it_was_sent() -> None:
    sent = {"date": "0001-01-01", "time": "00:00", "timezone": "Asia/Calcutta"}
    due = msgspec.convert(sent, DueInput)
    assert msgspec.to_builtins(due) == sent
    assert msgspec.to_builtins(Due(date(1, 1, 1), "00:00", "Asia/Calcutta")) == sent
