"""Parsing of CORS_ORIGINS into the values that a browser sends as Origin."""

from __future__ import annotations

import pytest

from app.http.origins import EXPECTED_FORM, OriginsError, parse_origins
from app.settings import Settings, SettingsError

pytestmark = pytest.mark.requirement("FR-031", "FR-037")


@pytest.mark.parametrize(
    ("entry", "origin"),
    [
        ("https://tasks.example", "https://tasks.example"),
        ("HTTPS://Tasks.Example", "https://tasks.example"),
        ("https://tasks.example:443", "https://tasks.example"),
        ("http://tasks.example:80", "http://tasks.example"),
        ("https://tasks.example:", "https://tasks.example"),
        ("https://tasks.example:0443", "https://tasks.example"),
        ("https://tasks.example:80", "https://tasks.example:80"),
        ("http://localhost:3000", "http://localhost:3000"),
        ("http://localhost:3000/", "http://localhost:3000"),
        (
            "https://b\N{LATIN SMALL LETTER U WITH DIAERESIS}cher.example",
            "https://xn--bcher-kva.example",
        ),
        (
            "https://B\N{LATIN CAPITAL LETTER U WITH DIAERESIS}CHER.example",
            "https://xn--bcher-kva.example",
        ),
        ("https://fa\N{LATIN SMALL LETTER SHARP S}.example", "https://xn--fa-hia.example"),
        ("https://a\N{IDEOGRAPHIC FULL STOP}example", "https://a.example"),
        ("https://xn--bcher-kva.example", "https://xn--bcher-kva.example"),
        ("https://my_app.example", "https://my_app.example"),
        ("https://tasks.example.", "https://tasks.example."),
        ("http://127.0.0.1:8000", "http://127.0.0.1:8000"),
        ("http://[::1]:8000", "http://[::1]:8000"),
        ("http://[0:0:0:0:0:0:0:1]", "http://[::1]"),
        ("http://[2001:DB8::A]", "http://[2001:db8::a]"),
        ("capacitor://localhost", "capacitor://localhost"),
        ("tauri://localhost", "tauri://localhost"),
        ("ionic://localhost:443", "ionic://localhost:443"),
        ("chrome-extension://abcdefghijklmnop", "chrome-extension://abcdefghijklmnop"),
        ("null", "null"),
        ("NULL", "null"),
        ("*", "*"),
        (" https://tasks.example ", "https://tasks.example"),
    ],
)
def test_entry_becomes_the_origin_of_a_browser(entry: str, origin: str) -> None:
    assert parse_origins(entry) == (origin,)


def test_entries_are_separated_by_commas() -> None:
    assert parse_origins("https://A.example, null,*") == ("https://a.example", "null", "*")


@pytest.mark.parametrize(
    ("entry", "error"),
    [
        ("", "is empty"),
        ("https://a.example https://b.example", "contains white space or a control character"),
        ("https://a.exam\nple", "contains white space or a control character"),
        ("https://a.exam\x00ple", "contains white space or a control character"),
        ("tasks.example", "has no scheme"),
        ("tasks.example:8000", "has no scheme"),
        ("localhost:3000", "has no scheme"),
        ("//tasks.example", "has no scheme"),
        ("1http://tasks.example", "has no scheme"),
        ("https:tasks.example", "has no scheme"),
        ("https://", "has no host"),
        ("https://:443", "has no host"),
        ("file:///srv/page.html", "has a scheme whose pages send the origin null"),
        ("data://a", "has a scheme whose pages send the origin null"),
        ("wss://tasks.example", "has a scheme that no page has"),
        ("https://user@tasks.example", "has user information"),
        ("https://user:hunter2@tasks.example", "has user information"),
        ("https://@tasks.example", "has user information"),
        ("https://tasks.example/app", "has a path"),
        ("https://tasks.example//", "has a path"),
        ("https://tasks.example\\app", "has a path"),
        ("https://tasks.example?", "has a query"),
        ("https://tasks.example?a=b", "has a query"),
        ("https://tasks.example/?a=b", "has a query"),
        ("https://tasks.example#", "has a fragment"),
        ("https://tasks.example/#a", "has a fragment"),
        ("https://*.tasks.example", "contains *, which is allowed only as an entry of its own"),
        ("https://tasks.example:*", "contains *, which is allowed only as an entry of its own"),
        ("**", "contains *, which is allowed only as an entry of its own"),
        ("https://tasks.example:65536", "has an invalid port"),
        ("https://tasks.example:http", "has an invalid port"),
        ("https://tasks.example:-1", "has an invalid port"),
        ("https://tasks.example:\N{FULLWIDTH DIGIT EIGHT}", "has an invalid port"),
        ("https://a:b:80", "has an invalid port"),
        ("https://[::1", "has an invalid host"),
        ("https://[::g]", "has an invalid host"),
        ("http://[::ffff:1.2.3.4]", "has an invalid host"),
        ("https://[fe80::1%eth0]", "has an invalid host"),
        ("https://[v1.a]", "has an invalid host"),
        ("https://a[::1]", "has an invalid host"),
        ("https://ta%73ks.example", "has an invalid host"),
        ("https://a..example", "has an invalid host"),
        ("https://.example", "has an invalid host"),
        ("https://a^b.example", "has an invalid host"),
        ("https://" + "a" * 64 + ".example", "has an invalid host"),
        ("https://\N{PILE OF POO}.example", "has an invalid host"),
        ("http://127.1", "has an invalid host"),
        ("http://0x7f.0.0.1", "has an invalid host"),
        ("http://256.0.0.1", "has an invalid host"),
        ("http://127.0.0.1.", "has an invalid host"),
    ],
)
def test_invalid_entry_is_named_by_its_number(entry: str, error: str) -> None:
    with pytest.raises(OriginsError) as raised:
        parse_origins(f"https://a.example,{entry}")
    assert str(raised.value) == f"entry 2 {error}. {EXPECTED_FORM}"


def test_every_invalid_entry_is_named() -> None:
    with pytest.raises(SettingsError) as raised:
        Settings.from_env({"CORS_ORIGINS": "hunter2,null,https://hunter2.example/a"})
    assert str(raised.value) == (
        "CORS_ORIGINS: entry 1 has no scheme; entry 3 has a path. "
        "An entry is scheme://host, scheme://host:port, null or *"
    )
