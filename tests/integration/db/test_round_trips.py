"""The messages between the service and the database for each operation."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest

from tests.integration.tasks.test_statements import (
    ABSENT,
    ALICE,
    BODY,
    CASES,
    IN_LIST,
    LIST,
    ORGANIZED,
    ORGANIZED_BODY,
    TASK,
    UNNAMED_CASES,
)
from tests.support.client import ContractClient
from tests.support.in_process import serving
from tests.support.relay import Relay, url_via_port

pytestmark = pytest.mark.requirement("NFR-004")

# Bind has the arguments, Execute runs the statement, and the server responds after Sync. There is
# no Parse, so the statement was prepared before. There is one Sync, so it is one round trip.
PREPARED = ["Bind", "Execute", "Sync"]
NAMES = {
    b"B": "Bind",
    b"C": "Close",
    b"D": "Describe",
    b"E": "Execute",
    b"H": "Flush",
    b"P": "Parse",
    b"Q": "Query",
    b"S": "Sync",
}


def messages(data: bytearray) -> Iterator[str]:
    """Return the names of the messages after the handshake (PostgreSQL, "Message Formats")."""
    while data:
        size = 1 + int.from_bytes(
            data[1:5], "big"
        )  # the length includes itself, but not the type byte
        assert len(data) >= size
        yield NAMES[bytes(data[:1])]
        del data[:size]


@pytest.fixture(scope="module")
async def relay(url: str) -> AsyncIterator[Relay]:
    relay = Relay(url)
    await relay.open()
    yield relay
    await relay.close()


@pytest.fixture(scope="module")
async def relayed_client(url: str, relay: Relay) -> AsyncIterator[ContractClient]:
    """A client of a service with one database connection, through the relay."""
    async with serving(url_via_port(relay.port, url), database_pool_size=1) as client:
        yield client


@pytest.mark.parametrize("name", CASES)
async def test_operation_is_one_round_trip(
    relay: Relay, relayed_client: ContractClient, name: str
) -> None:
    case = CASES[name]
    await relayed_client.put(f"/api/v1/users/alice/lists/{LIST}", json={"name": "Errands"})
    for _ in range(2):  # the first request prepares the statement
        await relayed_client.delete(ABSENT)
        await relayed_client.put(TASK, json=BODY)
        await relayed_client.put(ORGANIZED, json=ORGANIZED_BODY)
        await relayed_client.put(IN_LIST, json={**BODY, "list_id": str(LIST)})
        relay.sent_to_server.clear()
        response = await relayed_client.request(case.method, case.url, **case.options)
        assert response.status_code == case.status
    # These use a custom plan, so their SQL is sent again, in the same round trip.
    repeated = ["Parse"] * (name in UNNAMED_CASES)
    assert list(messages(relay.sent_to_server)) == [*repeated, *PREPARED]


async def test_first_operation_on_a_connection_is_two_round_trips(
    relay: Relay, relayed_client: ContractClient
) -> None:
    relay.sent_to_server.clear()
    await relayed_client.get(ALICE, params={"completed": "false"})  # no case has only this filter
    observed = list(messages(relay.sent_to_server))
    assert observed.count("Parse") == 1
    assert observed.count("Sync") + observed.count("Flush") == 2
