"""Settings from environment variables, read once at startup."""

from __future__ import annotations

import getpass
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, get_origin

import msgspec
from msgspec import Meta
from msgspec.structs import fields
from sqlalchemy.engine import URL

from app.db.config import MAX_PORT, DatabaseConfig, DatabaseUrlError, is_resolvable
from app.http.origins import OriginsError, parse_origins
from app.http.validation import describe_mismatch
from app.logging import LogFormat, LogLevel

ALL_ADDRESSES = "*"  # of IPv4 and IPv6


class SettingsError(Exception):
    """Invalid settings; the message has one line for each invalid variable, without its value."""


class Secret:
    """A string that `repr` does not show."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def get_secret_value(self) -> str:
        """Return the string."""
        return self._value

    def __repr__(self) -> str:
        return "Secret('***')"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and self._value == other.get_secret_value()

    def __hash__(self) -> int:
        return hash(self._value)


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """Settings of one process; each field is read from its name in upper case.

    docs/configuration.md describes each setting, and a test compares its tables with these fields.
    Timeouts and `database_pool_recycle` are in seconds.
    """

    host: str = "127.0.0.1"
    port: Annotated[int, Meta(ge=0, le=65535)] = 8000
    database_url: Secret | None = None
    database_direct_url: Secret | None = None
    database_tls_verify: bool = True
    database_ca_file: Path | None = None
    database_transaction_pooling: bool = False
    database_pool_size: Annotated[int, Meta(ge=1, le=1000)] = 10
    database_pool_recycle: Annotated[int, Meta(ge=1, le=86_400)] = 240
    database_timeout: Annotated[float, Meta(ge=0.1, le=4.5)] = 4.0
    database_statement_timeout: Annotated[float, Meta(ge=0, le=60)] = 5.0
    data_dir: Path = Path(".data")
    keep_alive_timeout: Annotated[int, Meta(ge=1, le=3600)] = 75
    max_concurrent_requests: Annotated[int, Meta(ge=1, le=10_000)] = 128
    cursor_secret: Secret | None = None
    cors_origins: tuple[str, ...] = ()
    metrics_host: str = "127.0.0.1"
    metrics_port: Annotated[int, Meta(ge=0, le=65535)] | None = None
    log_level: LogLevel = LogLevel.INFO
    log_format: LogFormat = LogFormat.AUTO
    stop_with_parent: Annotated[int, Meta(ge=1, le=2**31 - 1)] | None = None

    @classmethod
    def from_env(cls, environ: Mapping[str, str]) -> Settings:
        """Read the settings from `environ`.

        Empty variables are treated as unset, except HOST, which then means ALL_ADDRESSES. Raises
        SettingsError with all invalid variables.
        """
        values: dict[str, Any] = {}
        errors: list[str] = []
        for field in fields(cls):
            name = field.name.upper()
            raw = environ.get(name, "")
            if name == "HOST" and "HOST" in environ:
                raw = raw or ALL_ADDRESSES
            if raw:
                try:
                    values[field.name] = _convert(raw, field.type)
                except msgspec.ValidationError:
                    errors.append(f"{name}: {describe_mismatch(field.type, raw)}")
                except OriginsError as error:
                    errors.append(f"{name}: {error}")
        settings = cls(**values)
        errors.extend(_cross_field_errors(settings, environ))
        if errors:
            raise SettingsError("\n".join(errors))
        return settings

    def database_config(self) -> DatabaseConfig:
        """Return the connection parameters; raises DatabaseUrlError without a usable URL."""
        if self.database_url is None:
            msg = "there is no database URL"
            raise DatabaseUrlError(msg)
        connection = DatabaseConfig.from_url(
            self.database_url.get_secret_value(),
            verify=self.database_tls_verify,
            ca_file=self.database_ca_file,
            transaction_pooling=self.database_transaction_pooling,
        )
        return msgspec.structs.replace(connection, direct=self._direct_config())

    def _direct_config(self) -> DatabaseConfig | None:
        if self.database_direct_url is None:
            return None
        return DatabaseConfig.from_url(
            self.database_direct_url.get_secret_value(),
            verify=self.database_tls_verify,
            ca_file=self.database_ca_file,
        )


def _convert(raw: str, type_: Any) -> Any:  # noqa: ANN401 - a field's type may be any
    if get_origin(type_) is tuple:
        return parse_origins(raw)
    return msgspec.convert(raw, type_, strict=False, dec_hook=_decode)


def _decode(type_: type, raw: Any) -> Any:  # noqa: ANN401 - msgspec's signature
    if type_ is Secret:
        return Secret(raw)
    return Path(raw)


def _cross_field_errors(settings: Settings, environ: Mapping[str, str]) -> list[str]:
    """Return the errors that a field's type cannot express."""
    if settings.database_url is None:
        # `serve` would use the embedded database, and `migrate` another one.
        dependent = ("database_direct_url", "database_transaction_pooling")
        names = [name for name in dependent if getattr(settings, name)]
        errors = [f"{name.upper()}: requires DATABASE_URL" for name in names]
    else:
        errors = list(_url_errors(settings, environ))
    for name in ("host", "metrics_host"):
        if not is_resolvable(getattr(settings, name)):
            errors.append(f"{name.upper()}: must be a host name or an IP address")
    secret = settings.cursor_secret
    if secret is not None and len(secret.get_secret_value()) < 32:  # noqa: PLR2004 - 128 bits in hex
        errors.append("CURSOR_SECRET: must have at least 32 characters")
    return errors


def _url_errors(settings: Settings, environ: Mapping[str, str]) -> Iterator[str]:
    for name in ("database_url", "database_direct_url"):
        url: Secret | None = getattr(settings, name)
        if url is not None:
            try:
                connection = DatabaseConfig.from_url(
                    url.get_secret_value(), ca_file=settings.database_ca_file
                )
            except DatabaseUrlError as error:
                yield f"{name.upper()}: {error}"
            else:
                yield from _default_url_errors(name, connection.url, environ)


def _default_url_errors(name: str, url: URL, environ: Mapping[str, str]) -> Iterator[str]:
    """Yield the errors in the driver's defaults for absent parts of a URL (as in libpq)."""
    if not (url.username or environ.get("PGUSER") or _has_user_name()):
        yield f"{name.upper()}: must name a user, because user ID {os.getuid()} has no name"
    port = environ.get("PGPORT")
    if port and url.port is None and not (port.isdecimal() and 0 < int(port) <= MAX_PORT):
        yield f"PGPORT: must be a port from 1 to {MAX_PORT}, because {name.upper()} has none"


def _has_user_name() -> bool:
    try:
        return bool(getpass.getuser())
    except (KeyError, OSError):  # OSError since Python 3.13
        return False
