"""A database URL as providers print it, turned into what asyncpg takes (research/0007)."""

from __future__ import annotations

import re
import ssl
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import certifi
import msgspec
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError

SCHEMES = {"postgres", "postgresql", "postgresql+asyncpg"}
# "allow" and "prefer" fall back to plain text when an attacker asks for it, so they are refused.
VERIFYING_SSLMODES = {"require", "verify-ca", "verify-full"}
CHANNEL_BINDING = {"disable", "prefer", "require"}

MAX_PORT = 65_535
_POOLER_HOST = re.compile(r"^([^/.]+)-pooler(?=\.|\Z)")
# The sign may be escaped once more than the URL asks for.
_ENDPOINT = re.compile(r"endpoint(=|%3d)[a-z0-9.-]+", re.IGNORECASE)


class DatabaseUrlError(ValueError):
    """The URL cannot be used; the message names the part at fault and never holds the password."""


class DatabaseConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Where the database is and how to talk to it."""

    url: URL
    ssl_context: ssl.SSLContext | None
    transaction_pooling: bool
    direct: DatabaseConfig | None = None  # the same database past the pooler, where it was named

    @classmethod
    def from_url(
        cls,
        url: str,
        *,
        verify: bool = True,
        transaction_pooling: bool = False,
        ca_file: Path | None = None,
    ) -> DatabaseConfig:
        """Read a libpq URL; `transaction_pooling` means that a transaction pooler is in between.

        A host that has `-pooler` in its first label, as Neon's poolers have, counts as one too.
        TLS is verified like libpq's `verify-full` unless the database is on this machine or the
        URL says `sslmode=disable`; `verify=False` turns the check off for `require` only.
        `ca_file` is the file of root certificates where the URL names none, else certifi's.
        """
        parsed = _parse_url(url.strip())
        query = {key: _reject_repeated(key, value) for key, value in parsed.query.items()}
        mode = query.pop("sslmode", None)
        named = query.pop("sslrootcert", None)
        _check_channel_binding(query.pop("channel_binding", "prefer"))
        _check_options(query.pop("options", ""))
        host = query.pop("host", parsed.host)
        port = query.pop("port", parsed.port)
        if query:
            msg = f"unknown query key {', '.join(sorted(query))}"
            raise DatabaseUrlError(msg)
        if not host:
            msg = "has no host"
            raise DatabaseUrlError(msg)
        _check_host(host)
        return cls(
            url=parsed.set(
                drivername="postgresql+asyncpg", host=host, port=_parse_port(port), query={}
            ),
            ssl_context=_ssl_context(
                mode, named or str(ca_file or ""), local=_is_local(host), verify=verify
            ),
            transaction_pooling=transaction_pooling or bool(_POOLER_HOST.match(host)),
        )

    def direct_config(self) -> DatabaseConfig:
        """The same database past the pooler, for what needs a session: migrations.

        Still a pooler's where neither Neon's host names nor `direct` say what is behind it.
        """
        if self.direct is not None:
            return self.direct.direct_config()
        host, replaced = _POOLER_HOST.subn(r"\1", str(self.url.host))
        pooler = self.transaction_pooling and not replaced
        return msgspec.structs.replace(
            self, url=self.url.set(host=host), transaction_pooling=pooler
        )

    def connect_kwargs(self, statement_timeout: float = 0) -> dict[str, Any]:
        """All keyword arguments for `asyncpg.connect`; `statement_timeout` as in `connect_args`."""
        return {
            "host": self.url.host,
            "port": self.url.port,
            "user": self.url.username,
            "password": self.url.password,
            "database": self.url.database,
            **self.connect_args(statement_timeout),
            "statement_cache_size": 0,  # app/db/pool.py keeps statements, and says which have names
        }

    def session_args(self) -> dict[str, Any]:
        """The least of them: startup parameters that every pooler takes; enough for migrations."""
        args: dict[str, Any] = {
            "ssl": self.ssl_context or False,
            "server_settings": {"application_name": "tasks-api", "timezone": "UTC"},
        }
        if self.transaction_pooling:
            # Named statements belong to one server connection, which a transaction pooler
            # changes under our feet; without them asyncpg parses and binds in one batch.
            args["statement_cache_size"] = 0
        return args

    def connect_args(self, statement_timeout: float = 0) -> dict[str, Any]:
        """Keyword arguments for `asyncpg.connect`, beside the URL's own parts.

        The server ends a statement after `statement_timeout` seconds, 0 for never; a pooler
        refuses to be told so.
        """
        args = self.session_args()
        if not self.transaction_pooling:
            args["server_settings"] |= {"jit": "off"}
            if statement_timeout:
                milliseconds = str(round(statement_timeout * 1000))
                args["server_settings"]["statement_timeout"] = milliseconds
        return args


def _parse_url(text: str) -> URL:
    try:
        url = make_url(text)
    except (ArgumentError, ValueError):
        # The message of either may hold the whole text.
        msg = "must be a URL such as postgresql://user:password@host/database"
        raise DatabaseUrlError(msg) from None
    if url.drivername not in SCHEMES:
        msg = f"has the scheme {url.drivername}; it must be postgresql"
        raise DatabaseUrlError(msg)
    if not url.database:
        msg = "must name a database"
        raise DatabaseUrlError(msg)
    return url


def _reject_repeated(key: str, value: str | tuple[str, ...]) -> str:
    if isinstance(value, tuple):
        msg = f"has {key} twice"
        raise DatabaseUrlError(msg)
    return value


def _parse_port(port: str | int | None) -> int | None:
    if port is None:
        return None
    if not str(port).isdecimal() or not 0 < int(port) <= MAX_PORT:
        msg = f"has a port outside 1 to {MAX_PORT}"
        raise DatabaseUrlError(msg)
    return int(port)


def _check_options(options: str) -> None:
    # Neon reads the endpoint from here where a client sends no server name; asyncpg sends it.
    if options and not _ENDPOINT.fullmatch(options):
        msg = "has options other than endpoint"
        raise DatabaseUrlError(msg)


def _check_channel_binding(value: str) -> None:
    # asyncpg has none. It would tie the password to the certificate, which is verified.
    if value not in CHANNEL_BINDING:
        msg = "channel_binding must be disable, prefer or require"
        raise DatabaseUrlError(msg)


def is_resolvable(host: str) -> bool:
    """Whether name resolution takes a host; it raises UnicodeError for others."""
    try:
        return host.encode("idna").isascii()
    except UnicodeError:
        return False


def _check_host(host: str) -> None:
    if "@" in host:
        # Otherwise the rest of the password would be taken for the host, and shown.
        msg = "has an unescaped @ before the host; write it as %40"
        raise DatabaseUrlError(msg)
    if "," in host:
        msg = "must name only one host"
        raise DatabaseUrlError(msg)
    if not host.startswith("/") and ("%" in host or not is_resolvable(host)):
        msg = "has a host that is neither a name nor an IP address"
        raise DatabaseUrlError(msg)


def _is_local(host: str) -> bool:
    if host.startswith("/") or host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def _ssl_context(
    mode: str | None, ca_file: str, *, local: bool, verify: bool
) -> ssl.SSLContext | None:
    if mode is None and local:
        return None
    if mode == "disable":
        return None
    if mode is not None and mode not in VERIFYING_SSLMODES:
        msg = "sslmode must be disable, require, verify-ca or verify-full"
        raise DatabaseUrlError(msg)
    try:
        # Slim images have no certificate store, hence certifi's.
        context = ssl.create_default_context(
            cafile=certifi.where() if ca_file in {"", "system"} else ca_file
        )
    except OSError:
        msg = "sslrootcert, or DATABASE_CA_FILE, cannot be read"
        raise DatabaseUrlError(msg) from None
    # Python 3.13 is stricter than libpq: it refuses authorities without keyUsage, as plain `openssl
    # req -x509` makes them, and trusts a root that another authority has signed.
    context.verify_flags &= ~(ssl.VERIFY_X509_STRICT | ssl.VERIFY_X509_PARTIAL_CHAIN)
    if mode == "require" and not verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context
