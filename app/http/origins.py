"""Entries of CORS_ORIGINS, normalized to the form that browsers send in `Origin`.

A browser sends scheme and host in lower case, the host in punycode, and no default port. An entry
that no browser can send is rejected.
"""

from __future__ import annotations

import re
from ipaddress import IPv4Address, IPv6Address
from urllib.parse import SplitResult, urlsplit

import idna

EXPECTED_FORM = "An entry is scheme://host, scheme://host:port, null or *"
DEFAULT_PORTS = {"http": 80, "https": 443}
# Pages of these schemes have an opaque origin (HTML, section 7.1.1), which browsers send as `null`.
OPAQUE_ORIGIN = {"about", "blob", "data", "file", "javascript"}
SCHEMES_WITHOUT_PAGES = {"ftp", "ws", "wss"}

_LABEL = r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?"
_NAME = re.compile(rf"(?:{_LABEL}\.)*{_LABEL}\.?")
# Hosts that are IPv4 addresses in any notation (URL standard, "ends in a number" checker).
_NUMBER = re.compile(r"(?:.*\.)?(?:[0-9]+|0x[0-9a-f]*)\.?")


class OriginsError(ValueError):
    """Invalid entries of CORS_ORIGINS; the message has the number and the error of each."""


def parse_origins(raw: str) -> tuple[str, ...]:
    """Return the origins in a comma-separated list; `*` means any origin.

    Raises OriginsError with all invalid entries.
    """
    origins: list[str] = []
    errors: list[str] = []
    for number, entry in enumerate(raw.split(","), 1):
        try:
            origins.append(_parse_origin(entry.strip()))
        except OriginsError as error:
            errors.append(f"entry {number} {error}")
    if errors:
        raise OriginsError(f"{'; '.join(errors)}. {EXPECTED_FORM}")
    return tuple(origins)


def _parse_origin(entry: str) -> str:
    if entry == "*" or entry.lower() == "null":
        return entry.lower()
    try:
        parts = urlsplit(entry)
    except ValueError:  # brackets without an address in them
        raise OriginsError("has an invalid host") from None
    if error := _describe_error(entry, parts):
        raise OriginsError(error)
    try:
        port = parts.port
    except ValueError:
        raise OriginsError("has an invalid port") from None
    raw_host = parts.netloc if port is None else parts.netloc.rpartition(":")[0]
    try:
        host = _normalize_host(raw_host.removesuffix(":"))
    except ValueError:
        raise OriginsError("has an invalid host") from None
    if port is None or port == DEFAULT_PORTS.get(parts.scheme):
        return f"{parts.scheme}://{host}"
    return f"{parts.scheme}://{host}:{port}"


def _describe_error(entry: str, parts: SplitResult) -> str | None:
    """Return the first syntax error of an entry, or None."""
    rules = (
        (not entry, "is empty"),
        (not entry.isprintable() or " " in entry, "contains white space or a control character"),
        ("*" in entry, "contains *, which is allowed only as an entry of its own"),
        (not parts.scheme or "://" not in entry, "has no scheme"),
        (parts.scheme in OPAQUE_ORIGIN, "has a scheme whose pages send the origin null"),
        (parts.scheme in SCHEMES_WITHOUT_PAGES, "has a scheme that no page has"),
        ("@" in parts.netloc, "has user information"),
        ("?" in entry, "has a query"),
        ("#" in entry, "has a fragment"),
        (parts.path not in {"", "/"} or "\\" in entry, "has a path"),
        (not parts.hostname, "has no host"),
    )
    return next((error for applies, error in rules if applies), None)


def _normalize_host(raw: str) -> str:
    """Return a host as the URL standard serializes it; raises ValueError if it is invalid."""
    if raw.startswith("["):
        address = IPv6Address(raw.removeprefix("[").removesuffix("]"))
        if address.scope_id or address.ipv4_mapped:  # browsers serialize the latter differently
            raise ValueError
        return f"[{address}]"
    name = raw.lower() if raw.isascii() else idna.encode(raw, uts46=True).decode()
    if _NUMBER.fullmatch(name):
        return str(IPv4Address(name))
    if not _NAME.fullmatch(name):
        raise ValueError
    return name
