"""Database configuration: parses a libpq URL into arguments for asyncpg (research/0007)."""

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
# "allow" and "prefer" are rejected: an attacker can make them fall back to plain text.
VERIFYING_SSLMODES = {"require", "verify-ca", "verify-full"}
CHANNEL_BINDING = {"disable", "prefer", "require"}

MAX_PORT = 65_535
_POOLER_HOST = re.compile(r"^([^/.]+)-pooler(?=\.|\Z)")
# Some clients percent-encode the equals sign twice.
_ENDPOINT = re.compile(r"endpoint(=|%3d)[a-z0-9.-]+", re.IGNORECASE)


class DatabaseUrlError(ValueError):
    """The URL is invalid. The message names the invalid part and never contains the password."""


class DatabaseConfig(msgspec.Struct, frozen=True, kw_only=True):
    """The address of the database and the options of its connections.

    `transaction_pooling` is set if a transaction pooler is between the service and the database.
    `direct` is the configuration of the same database without the pooler, if it is known.
    """

    url: URL
    ssl_context: ssl.SSLContext | None
    transaction_pooling: bool
    direct: DatabaseConfig | None = None

    @classmethod
    def from_url(
        cls,
        url: str,
        *,
        verify: bool = True,
        transaction_pooling: bool = False,
        ca_file: Path | None = None,
    ) -> DatabaseConfig:
        """Parse a libpq URL. Raises DatabaseUrlError.

        A host with `-pooler` at the end of its first label also sets `transaction_pooling`. Neon's
        poolers have such hosts.

        TLS is verified like libpq's `verify-full`. A database on this machine and
        `sslmode=disable` are exceptions. `verify=False` disables verification for
        `sslmode=require` only. `ca_file` contains the root certificates if the URL names none. The
        default is certifi's file.
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
        """Return the configuration without the pooler. Migrations need it for their session.

        `transaction_pooling` stays set if neither `direct` nor a Neon host name shows the database
        behind the pooler.
        """
        if self.direct is not None:
            return self.direct.direct_config()
        host, replaced = _POOLER_HOST.subn(r"\1", str(self.url.host))
        pooler = self.transaction_pooling and not replaced
        return msgspec.structs.replace(
            self, url=self.url.set(host=host), transaction_pooling=pooler
        )

    def connect_kwargs(self, statement_timeout: float = 0) -> dict[str, Any]:
        """Return all keyword arguments for `asyncpg.connect`."""
        return {
            "host": self.url.host,
            "port": self.url.port,
            "user": self.url.username,
            "password": self.url.password,
            "database": self.url.database,
            **self.connect_args(statement_timeout),
            "statement_cache_size": 0,  # app/db/pool.py has its own statement cache
        }

    def session_args(self) -> dict[str, Any]:
        """Return TLS and the startup parameters that every pooler accepts. Migrations use these."""
        args: dict[str, Any] = {
            "ssl": self.ssl_context or False,
            "server_settings": {"application_name": "tasks-api", "timezone": "UTC"},
        }
        if self.transaction_pooling:
            # A named statement belongs to one server connection, and a transaction pooler may
            # change that between transactions.
            args["statement_cache_size"] = 0
        return args

    def connect_args(self, statement_timeout: float = 0) -> dict[str, Any]:
        """Return the keyword arguments for `asyncpg.connect` that are not parts of the URL.

        The server cancels a statement after `statement_timeout` seconds (0: no limit). Poolers
        reject this parameter, so it is not sent to them.
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
        # Both exceptions may quote the whole URL, which contains the password.
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
    # Neon reads the endpoint from here if a client sends no TLS server name. asyncpg sends it.
    if options and not _ENDPOINT.fullmatch(options):
        msg = "has options other than endpoint"
        raise DatabaseUrlError(msg)


def _check_channel_binding(value: str) -> None:
    # asyncpg does not support channel binding. The certificate is verified instead.
    if value not in CHANNEL_BINDING:
        msg = "channel_binding must be disable, prefer or require"
        raise DatabaseUrlError(msg)


def is_resolvable(host: str) -> bool:
    """Return whether name resolution accepts a host. Otherwise it raises UnicodeError."""
    try:
        return host.encode("idna").isascii()
    except UnicodeError:
        return False


def _check_host(host: str) -> None:
    if "@" in host:
        # The host would be the rest of the password, and messages show the host.
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
        # Slim container images have no certificate store.
        context = ssl.create_default_context(
            cafile=certifi.where() if ca_file in {"", "system"} else ca_file
        )
    except OSError:
        msg = "sslrootcert, or DATABASE_CA_FILE, cannot be read"
        raise DatabaseUrlError(msg) from None
    # Python 3.13 differs from libpq in two points. It rejects authorities without keyUsage, which
    # `openssl req -x509` creates. It also trusts a root that another authority has signed.
    context.verify_flags &= ~(ssl.VERIFY_X509_STRICT | ssl.VERIFY_X509_PARTIAL_CHAIN)
    if mode == "require" and not verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context
