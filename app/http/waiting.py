"""Requests that wait for an event, without using the process."""

from __future__ import annotations

import asyncio
from contextlib import AbstractContextManager, nullcontext
from typing import Protocol


class Connection(Protocol):
    """The connection of the current request."""

    def waiting(self, event: asyncio.Future[bool]) -> AbstractContextManager[None]:
        """Do not count the request as in progress in the block, which awaits the event.

        The event becomes False when the server shuts down or the client closes the connection.
        """
        ...


class UnmanagedConnection:
    """A connection of a server other than `app.server`, which does not end any wait."""

    def waiting(self, event: asyncio.Future[bool]) -> AbstractContextManager[None]:  # noqa: ARG002
        """Do nothing."""
        return nullcontext()


def resolve(event: asyncio.Future[bool], value: bool) -> None:  # noqa: FBT001 - for `call_later`
    """Set the value of an event that has none yet."""
    if not event.done():
        event.set_result(value)
