"""The entries of CORS_ORIGINS, as browsers send them in `Origin`.

A browser sends scheme and host in lower case, the host in punycode, and no default port. An entry
that means such an origin is rewritten; one that no browser can send is rejected.
"""

from __future__ import annotations

import re
from ipaddress import IPv4Address, IPv6Address
from urllib.parse import SplitResult, urlsplit

import idna

EXPECTED_FORM = "An entry is scheme://host, scheme://host:port, null or *"
DEFAULT_PORTS = {"http": 80, "https": 443}
# Pages of these schemes have an opaque origin (HTML, section 7.1.1), which is sent as `null`.
OPAQUE_ORIGIN = {"about", "blob", "data", "file", "javascript"}
SCHEMES_WITHOUT_PAGES = {"ftp", "ws", "wss"}

_LABEL = r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?"
_NAME = re.compile(rf"(?:{_LABEL}\.)*{_LABEL}\.?")
# The last label of an IPv4 address, however it is written (URL standard, "ends in a number").
_NUMBER = re.compile(r"(?:.*\.)?(?:[0-9]+|0x[0-9a-f]*)\.?")


class OriginsError(ValueError):
    """Entries that no browser sends; the message names each by its number and its fault."""


def parse_origins(raw: str) -> tuple[str, ...]:
    """The origins in a value of CORS_ORIGINS; `*` stands for every origin."""
    found: list[str] = []
    faults: list[str] = []
    for number, entry in enumerate(raw.split(","), 1):
        try:
            found.append(_parse_origin(entry.strip()))
        except OriginsError as fault:
            faults.append(f"entry {number} {fault}")
    if faults:
        raise OriginsError(f"{'; '.join(faults)}. {EXPECTED_FORM}")
    return tuple(found)


def _parse_origin(entry: str) -> str:
    if entry == "*" or entry.lower() == "null":
        return entry.lower()
    try:
        parts = urlsplit(entry)
    except ValueError:  # brackets without an address between them
        raise OriginsError("has an invalid host") from None
    if fault := _describe_error(entry, parts):
        raise OriginsError(fault)
    try:
        port = parts.port
    except ValueError:
        raise OriginsError("has an invalid port") from None
    written = parts.netloc if port is None else parts.netloc.rpartition(":")[0]
    try:
        host = _normalize_host(written.removesuffix(":"))
    except ValueError:
        raise OriginsError("has an invalid host") from None
    if port is None or port == DEFAULT_PORTS.get(parts.scheme):
        return f"{parts.scheme}://{host}"
    return f"{parts.scheme}://{host}:{port}"


def _describe_error(entry: str, parts: SplitResult) -> str | None:
    """What the form of an entry says against it."""
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
    return next((fault for applies, fault in rules if applies), None)


def _normalize_host(written: str) -> str:
    """A host as the URL standard serializes it. Raises ValueError where it is none."""
    if written.startswith("["):
        address = IPv6Address(written.removeprefix("[").removesuffix("]"))
        if address.scope_id or address.ipv4_mapped:  # the latter is serialized in two ways
            raise ValueError
        return f"[{address}]"
    name = written.lower() if written.isascii() else idna.encode(written, uts46=True).decode()
    if _NUMBER.fullmatch(name):
        return str(IPv4Address(name))
    if not _NAME.fullmatch(name):
        raise ValueError
    return name
