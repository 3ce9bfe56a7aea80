"""Request IDs and trace IDs."""

from __future__ import annotations

from uuid import UUID

import pytest

from app.http.request_id import parse_traceparent, request_id_from

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


@pytest.mark.requirement("FR-029")
@pytest.mark.parametrize(
    "header", [b"A", b"Z", b"a", b"z", b"0", b"9", b".", b"_", b"-", b"a" * 128]
)
def test_valid_request_id_is_kept(header: bytes) -> None:
    assert request_id_from(header) == header.decode()


@pytest.mark.requirement("FR-029")
@pytest.mark.parametrize(
    "header", [b"", b"a" * 129, b"a b", b"a\n", b"@", b"[", b"`", b"{", b"/", b":"]
)
def test_invalid_request_id_is_replaced(header: bytes) -> None:
    first, second = UUID(request_id_from(header)), UUID(request_id_from(header))
    assert first.version == second.version == 7
    assert first != second


@pytest.mark.requirement("FR-050")
@pytest.mark.parametrize("digit", "0123456789abcdef")
def test_traceparent_accepts_every_hexadecimal_digit(digit: str) -> None:
    other = "1" if digit == "0" else "0"
    trace, span = f"{digit * 31}{other}", f"{digit * 15}{other}"
    for version in (f"{digit}0", f"0{digit}"):
        for flags in (f"{digit}0", f"0{digit}"):
            assert parse_traceparent(f"{version}-{trace}-{span}-{flags}".encode()) == trace


@pytest.mark.requirement("FR-050")
@pytest.mark.parametrize("character", "/:`gAF")
@pytest.mark.parametrize("position", [1, 3, 34, 36, 51, 53, 54])
def test_traceparent_with_an_invalid_character_has_no_trace(character: str, position: int) -> None:
    valid = f"00-{TRACE}-{SPAN}-01"
    assert parse_traceparent(valid.encode()) == TRACE
    assert (
        parse_traceparent(f"{valid[:position]}{character}{valid[position + 1 :]}".encode()) is None
    )


@pytest.mark.requirement("FR-050")
@pytest.mark.parametrize(
    "header",
    [
        "",
        f"ff-{TRACE}-{SPAN}-01",
        f"00-{'0' * 32}-{SPAN}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE[1:]}-{SPAN}-01",
        f"00-{TRACE}0-{SPAN}-01",
        f"00-{TRACE}-{SPAN[1:]}-01",
        f"00-{TRACE}-{SPAN}0-01",
        f"00-{TRACE}-{SPAN}-1",
        f"0-{TRACE}-{SPAN}-01",
        f" 00-{TRACE}-{SPAN}-01",
        f"00-{TRACE}-{SPAN}-01\n",
    ],
)
def test_invalid_traceparent_has_no_trace(header: str) -> None:
    assert parse_traceparent(header.encode()) is None
