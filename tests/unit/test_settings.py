"""Settings from the environment."""

from __future__ import annotations

import os
import pwd
from pathlib import Path
from typing import Any

import pytest
import trustme
from msgspec.structs import fields

from app.db.config import DatabaseUrlError
from app.logging import LogFormat, LogLevel
from app.settings import Secret, Settings, SettingsError

pytestmark = pytest.mark.requirement("FR-037")

LONG_SECRET = "0123456789abcdef" * 2
GOOD_URL = "postgresql://tasks:hunter2@db.example.org/tasks"
LOCAL_URL = "postgresql://tasks@localhost/tasks"


def errors_of(environ: dict[str, str]) -> list[str]:
    """Return the lines of the error message."""
    with pytest.raises(SettingsError) as raised:
        Settings.from_env(environ)
    return str(raised.value).splitlines()


def test_default_settings() -> None:
    assert Settings.from_env({}) == Settings(
        host="127.0.0.1",
        port=8000,
        database_url=None,
        database_direct_url=None,
        database_tls_verify=True,
        database_ca_file=None,
        database_transaction_pooling=False,
        database_pool_size=10,
        database_pool_recycle=240,
        database_timeout=4.0,
        database_statement_timeout=5.0,
        keep_alive_timeout=75,
        max_concurrent_requests=128,
        data_dir=Path(".data"),
        cursor_secret=None,
        cors_origins=(),
        metrics_host="127.0.0.1",
        metrics_port=None,
        log_level=LogLevel.INFO,
        log_format=LogFormat.AUTO,
        stop_with_parent=None,
    )


@pytest.mark.parametrize(
    ("name", "raw", "value"),
    [
        ("HOST", "::", "::"),
        ("PORT", "0", 0),
        ("PORT", "65535", 65535),
        ("DATABASE_URL", GOOD_URL, Secret(GOOD_URL)),
        ("DATABASE_TLS_VERIFY", "false", False),
        ("DATABASE_TLS_VERIFY", "1", True),
        ("KEEP_ALIVE_TIMEOUT", "1", 1),
        ("KEEP_ALIVE_TIMEOUT", "3600", 3600),
        ("MAX_CONCURRENT_REQUESTS", "1", 1),
        ("MAX_CONCURRENT_REQUESTS", "10000", 10_000),
        ("DATABASE_POOL_SIZE", "1", 1),
        ("DATABASE_POOL_SIZE", "1000", 1000),
        ("DATABASE_TIMEOUT", "0.1", 0.1),
        ("DATABASE_TIMEOUT", "4.5", 4.5),
        ("DATABASE_TIMEOUT", "3", 3.0),
        ("DATABASE_CA_FILE", "/etc/roots.pem", Path("/etc/roots.pem")),
        ("DATABASE_POOL_RECYCLE", "1", 1),
        ("DATABASE_POOL_RECYCLE", "86400", 86400),
        ("DATABASE_STATEMENT_TIMEOUT", "0", 0.0),
        ("DATABASE_STATEMENT_TIMEOUT", "60", 60.0),
        ("DATA_DIR", "/var/lib/tasks", Path("/var/lib/tasks")),
        ("CURSOR_SECRET", LONG_SECRET, Secret(LONG_SECRET)),
        ("CORS_ORIGINS", "*", ("*",)),
        ("CORS_ORIGINS", "https://a.example", ("https://a.example",)),
        (
            "CORS_ORIGINS",
            "https://A.example:443, http://localhost:3000",
            ("https://a.example", "http://localhost:3000"),
        ),
        ("METRICS_HOST", "::", "::"),
        ("METRICS_PORT", "0", 0),
        ("METRICS_PORT", "65535", 65535),
        ("LOG_LEVEL", "debug", LogLevel.DEBUG),
        ("LOG_LEVEL", "error", LogLevel.ERROR),
        ("LOG_FORMAT", "json", LogFormat.JSON),
        ("LOG_FORMAT", "text", LogFormat.TEXT),
        ("STOP_WITH_PARENT", "1", 1),
    ],
)
def test_variable_is_converted(name: str, raw: str, value: Any) -> None:
    assert getattr(Settings.from_env({name: raw}), name.lower()) == value


@pytest.mark.requirement("FR-054")
@pytest.mark.parametrize(
    ("name", "raw", "value"),
    [
        ("DATABASE_DIRECT_URL", GOOD_URL, Secret(GOOD_URL)),
        ("DATABASE_TRANSACTION_POOLING", "true", True),
    ],
)
def test_dependent_database_setting_requires_database_url(name: str, raw: str, value: Any) -> None:
    settings = Settings.from_env({name: raw, "DATABASE_URL": GOOD_URL})
    assert getattr(settings, name.lower()) == value
    assert errors_of({name: raw}) == [f"{name}: requires DATABASE_URL"]


@pytest.mark.parametrize(
    "name", [field.name.upper() for field in fields(Settings) if field.name != "host"]
)
def test_empty_variable_counts_as_unset(name: str) -> None:
    assert Settings.from_env({name: ""}) == Settings()


@pytest.mark.parametrize("raw", ["", "*"])
def test_empty_host_means_every_address(raw: str) -> None:
    assert Settings.from_env({"HOST": raw}) == Settings(host="*")


@pytest.mark.parametrize("name", ["port", "Port", "TASKS_PORT"])
def test_variable_of_another_name_is_ignored(name: str) -> None:
    assert Settings.from_env({name: "many"}) == Settings()


@pytest.mark.parametrize(
    ("name", "raw"),
    [
        ("PORT", "-1"),
        ("PORT", "65536"),
        ("PORT", "many"),
        ("PORT", " 80"),
        ("PORT", "8_0"),
        ("DATABASE_TLS_VERIFY", "yes"),
        ("DATABASE_TRANSACTION_POOLING", "2"),
        ("KEEP_ALIVE_TIMEOUT", "0"),
        ("KEEP_ALIVE_TIMEOUT", "3601"),
        ("KEEP_ALIVE_TIMEOUT", "1.5"),
        ("MAX_CONCURRENT_REQUESTS", "0"),
        ("MAX_CONCURRENT_REQUESTS", "10001"),
        ("DATABASE_POOL_SIZE", "0"),
        ("DATABASE_POOL_SIZE", "1001"),
        ("DATABASE_TIMEOUT", "0.09"),
        ("DATABASE_TIMEOUT", "4.6"),
        ("DATABASE_TIMEOUT", "nan"),
        ("DATABASE_TIMEOUT", "inf"),
        ("DATABASE_DIRECT_URL", "mysql://tasks@db.example.org/tasks"),
        ("DATABASE_POOL_RECYCLE", "0"),
        ("DATABASE_POOL_RECYCLE", "86401"),
        ("DATABASE_STATEMENT_TIMEOUT", "-1"),
        ("DATABASE_STATEMENT_TIMEOUT", "61"),
        ("CURSOR_SECRET", LONG_SECRET[:31]),
        ("CURSOR_SECRET", "null"),
        ("CORS_ORIGINS", "a.example"),
        ("CORS_ORIGINS", "https://a.example,"),
        ("CORS_ORIGINS", "https://a.example https://b.example"),
        ("CORS_ORIGINS", "*a"),
        ("CORS_ORIGINS", "**"),
        ("CORS_ORIGINS", "https://"),
        ("CORS_ORIGINS", "https://*.example"),
        ("METRICS_PORT", "-1"),
        ("METRICS_PORT", "65536"),
        ("LOG_LEVEL", "loud"),
        ("LOG_FORMAT", "xml"),
        ("HOST", "a" * 64),
        ("HOST", "caf\udce9"),
        ("METRICS_HOST", "a" * 64),
        ("METRICS_HOST", "caf\udce9"),
        ("STOP_WITH_PARENT", "0"),
        ("STOP_WITH_PARENT", "many"),
        ("STOP_WITH_PARENT", str(2**31)),
        ("STOP_WITH_PARENT", "9" * 30),
        ("DATABASE_URL", "mysql://tasks@db.example.org/tasks"),
        ("DATABASE_URL", "null"),
    ],
)
def test_invalid_variable_is_named(name: str, raw: str) -> None:
    (line,) = errors_of({"DATABASE_URL": LOCAL_URL, name: raw})
    assert line.startswith(f"{name}: ")


@pytest.mark.parametrize(
    ("name", "raw", "line"),
    [
        ("LOG_LEVEL", "loud", "LOG_LEVEL: must be one of debug, error, info, warning"),
        ("LOG_FORMAT", "xml", "LOG_FORMAT: must be one of auto, json, text"),
        ("CURSOR_SECRET", "short", "CURSOR_SECRET: must have at least 32 characters"),
        ("DATABASE_URL", "postgresql://h", "DATABASE_URL: must name a database"),
        ("DATABASE_POOL_SIZE", "0", "DATABASE_POOL_SIZE: must be an integer from 1 to 1000"),
    ],
)
def test_error_message(name: str, raw: str, line: str) -> None:
    assert errors_of({name: raw}) == [line]


def test_all_invalid_variables_are_reported_together() -> None:
    lines = errors_of(
        {
            "PORT": "many",
            "DATABASE_URL": "mysql://tasks@db.example.org/tasks",
            "DATABASE_TIMEOUT": "60",
            "CURSOR_SECRET": "short",
            "CORS_ORIGINS": "a.example",
            "LOG_LEVEL": "loud",
            "HOST": "0.0.0.0",  # noqa: S104 - valid, and never bound
        }
    )
    assert sorted(line.partition(":")[0] for line in lines) == [
        "CORS_ORIGINS",
        "CURSOR_SECRET",
        "DATABASE_TIMEOUT",
        "DATABASE_URL",
        "LOG_LEVEL",
        "PORT",
    ]


@pytest.mark.parametrize(
    ("name", "raw"),
    [
        ("PORT", "hunter2"),
        ("CURSOR_SECRET", "hunter2"),
        ("CORS_ORIGINS", "hunter2"),
        ("LOG_LEVEL", "hunter2"),
        ("DATABASE_URL", "hunter2"),
        ("DATABASE_URL", "postgresql://tasks:hunter2@db.example.org"),
        ("DATABASE_DIRECT_URL", "postgresql://tasks:hunter2@db.example.org"),
    ],
)
def test_error_does_not_contain_the_value(name: str, raw: str) -> None:
    (line,) = errors_of({"DATABASE_URL": LOCAL_URL, name: raw})
    assert "hunter2" not in line


@pytest.mark.parametrize("render", [repr, str, "{}".format])
def test_secrets_are_masked_in_representations(render: Any) -> None:
    settings = Settings.from_env(
        {"DATABASE_URL": GOOD_URL, "DATABASE_DIRECT_URL": GOOD_URL, "CURSOR_SECRET": LONG_SECRET}
    )
    rendered = render(settings) + render(settings.database_url) + render(settings.database_config())
    assert "hunter2" not in rendered
    assert LONG_SECRET not in rendered


def test_secret_is_shown_as_asterisks() -> None:
    assert repr(Secret("hunter2")) == "Secret('***')"


def test_secret_value_is_available_explicitly() -> None:
    assert Secret("hunter2").get_secret_value() == "hunter2"


def test_secrets_compare_by_value() -> None:
    assert Secret("a") == Secret("a")
    assert hash(Secret("a")) == hash(Secret("a"))
    assert Secret("a") != Secret("b")
    assert Secret("a") != "a"


def test_settings_are_immutable() -> None:
    with pytest.raises(AttributeError):
        Settings().port = 1  # type: ignore[misc]  # the assignment must fail


@pytest.mark.requirement("FR-040")
def test_database_config_follows_the_settings() -> None:
    config = Settings.from_env(
        {
            "DATABASE_URL": GOOD_URL + "?sslmode=require",
            "DATABASE_TLS_VERIFY": "false",
            "DATABASE_TRANSACTION_POOLING": "true",
        }
    ).database_config()
    assert config.transaction_pooling
    assert config.ssl_context is not None
    assert not config.ssl_context.check_hostname


@pytest.mark.requirement("FR-040", "FR-054")
def test_direct_config_follows_the_settings(tmp_path: Path) -> None:
    ca_file = tmp_path / "roots.pem"
    trustme.CA().cert_pem.write_to_path(str(ca_file))
    direct = (
        Settings.from_env(
            {
                "DATABASE_URL": GOOD_URL,
                "DATABASE_DIRECT_URL": GOOD_URL + "?sslmode=require",
                "DATABASE_TLS_VERIFY": "false",
                "DATABASE_CA_FILE": str(ca_file),
            }
        )
        .database_config()
        .direct_config()
    )
    assert direct.ssl_context is not None
    assert not direct.ssl_context.check_hostname
    assert direct.ssl_context.cert_store_stats()["x509_ca"] == 1


@pytest.mark.requirement("FR-054")
def test_direct_config_uses_its_own_url() -> None:
    config = Settings(
        database_url=Secret("postgresql://u:p@pooler.example.org:6432/tasks"),
        database_direct_url=Secret("postgresql://u:q@db.example.org/tasks"),
        database_transaction_pooling=True,
    ).database_config()
    assert config.transaction_pooling
    direct = config.direct_config()
    assert (direct.url.host, direct.url.port, direct.url.password) == ("db.example.org", None, "q")
    assert not direct.transaction_pooling


@pytest.mark.requirement("FR-054")
@pytest.mark.parametrize("name", ["DATABASE_URL", "DATABASE_DIRECT_URL"])
def test_unreadable_ca_file_is_reported(name: str, tmp_path: Path) -> None:
    environ = {"DATABASE_URL": LOCAL_URL, name: GOOD_URL}
    environ |= {"DATABASE_CA_FILE": str(tmp_path / "hunter2")}
    message = "sslrootcert, or DATABASE_CA_FILE, cannot be read"
    assert errors_of(environ) == [f"{name}: {message}"]


@pytest.mark.requirement("FR-040")
@pytest.mark.parametrize("name", ["DATABASE_URL", "DATABASE_DIRECT_URL"])
@pytest.mark.parametrize("error_type", [KeyError, OSError])  # before Python 3.13, and later
def test_url_without_user_needs_a_user_id_with_a_name(
    name: str, error_type: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    def raise_error(_: int) -> None:
        raise error_type

    for variable in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(pwd, "getpwuid", raise_error)
    environ = {"DATABASE_URL": LOCAL_URL, name: "postgresql://db.example.org/tasks"}
    assert errors_of(environ) == [
        f"{name}: must name a user, because user ID {os.getuid()} has no name"
    ]
    Settings.from_env({**environ, "PGUSER": "tasks"})
    monkeypatch.setenv("USER", "tasks")
    Settings.from_env(environ)


@pytest.mark.requirement("FR-040")
@pytest.mark.parametrize("port", ["many", "0", "65536", "-1", "9" * 30])
def test_pgport_must_be_valid_if_the_url_has_no_port(port: str) -> None:
    assert errors_of({"DATABASE_URL": GOOD_URL, "PGPORT": port}) == [
        "PGPORT: must be a port from 1 to 65535, because DATABASE_URL has none"
    ]
    with_port = GOOD_URL.replace("example.org", "example.org:5433")
    Settings.from_env({"DATABASE_URL": with_port, "PGPORT": port})
    Settings.from_env({"DATABASE_URL": GOOD_URL, "PGPORT": "5433"})


def test_database_config_without_a_url_raises() -> None:
    with pytest.raises(DatabaseUrlError, match=r"^there is no database URL$"):
        Settings().database_config()
