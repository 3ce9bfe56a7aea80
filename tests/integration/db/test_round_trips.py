"""What an operation costs on the wire: the messages between the service and the database."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest

from tests.integration.tasks.test_statements import ABSENT, ALICE, BODY, CASES, TASK
from tests.support.client import ContractClient
from tests.support.in_process import serving
from tests.support.relay import Relay, via

pytestmark = pytest.mark.requirement("NFR-004")

# One message binds the arguments, one executes; the server answers when the third, Sync, comes.
# There is no Parse, so it was prepared before, and one Sync, so it is one round trip.
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


def messages(sent: bytearray) -> Iterator[str]:
    """The names of the messages (PostgreSQL, "Message Formats") after the handshake."""
    while sent:
        size = 1 + int.from_bytes(sent[1:5], "big")  # the length counts itself and not the type
        assert len(sent) >= size
        yield NAMES[bytes(sent[:1])]
        del sent[:size]


@pytest.fixture(scope="module")
async def relay(url: str) -> AsyncIterator[Relay]:
    relay = Relay(url)
    await relay.open()
    yield relay
    await relay.close()


@pytest.fixture(scope="module")
async def relayed(url: str, relay: Relay) -> AsyncIterator[ContractClient]:
    """A client of a service whose one connection to the database leads through the relay."""
    async with serving(via(relay.port, url), database_pool_size=1) as client:
        yield client


@pytest.mark.parametrize("name", CASES)
async def test_operation_is_one_round_trip(
    relay: Relay, relayed: ContractClient, name: str
) -> None:
    case = CASES[name]
    for _ in range(2):  # it is prepared when it comes first
        await relayed.delete(ABSENT)
        await relayed.put(TASK, json=BODY)
        relay.asked.clear()
        response = await relayed.request(case.method, case.url, **case.options)
        assert response.status_code == case.status
    # A search is planned for its values: its text comes again, in the same round trip.
    again = ["Parse"] * (name == "listTasks, narrowed")
    assert list(messages(relay.asked)) == [*again, *PREPARED]


async def test_first_operation_on_a_connection_is_two_round_trips(
    relay: Relay, relayed: ContractClient
) -> None:
    relay.asked.clear()
    await relayed.get(ALICE, params={"completed": "true"})  # no case is narrowed by this alone
    seen = list(messages(relay.asked))
    assert seen.count("Parse") == 1
    assert seen.count("Sync") + seen.count("Flush") == 2
