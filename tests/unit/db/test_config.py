"""Parsing of database URLs."""

from __future__ import annotations

import ssl
from pathlib import Path

import certifi
import pytest
import trustme

from app.db.config import DatabaseConfig, DatabaseUrlError

pytestmark = pytest.mark.requirement("FR-040")

NEON = (
    "postgresql://u:p@ep-x-1-pooler.eu-central-1.aws.neon.tech/db"
    "?sslmode=require&channel_binding=require"
)
REMOTE = "postgresql://u:p@db.example.org/tasks"
LOCAL = "postgresql://u:p@localhost/tasks"


def error_for(url: str) -> str:
    """Return the error for an invalid URL."""
    with pytest.raises(DatabaseUrlError) as raised:
        DatabaseConfig.from_url(url)
    return str(raised.value)


def rendered_url(config: DatabaseConfig) -> str:
    """Render the URL that SQLAlchemy receives."""
    return config.url.render_as_string(hide_password=False)


def test_neon_url_is_accepted_as_printed() -> None:
    config = DatabaseConfig.from_url(NEON)
    expected = "postgresql+asyncpg://u:p@ep-x-1-pooler.eu-central-1.aws.neon.tech/db"
    assert rendered_url(config) == expected
    assert config.transaction_pooling
    assert config.ssl_context is not None
    assert config.ssl_context.verify_mode is ssl.CERT_REQUIRED
    assert config.ssl_context.check_hostname


@pytest.mark.parametrize("scheme", ["postgres", "postgresql", "postgresql+asyncpg"])
def test_postgresql_schemes_are_accepted(scheme: str) -> None:
    config = DatabaseConfig.from_url(f"{scheme}://u:p@db.example.org:5433/tasks")
    assert rendered_url(config) == "postgresql+asyncpg://u:p@db.example.org:5433/tasks"


@pytest.mark.parametrize("scheme", ["mysql", "http", "postgresql+psycopg", "POSTGRES"])
def test_unsupported_scheme_is_named_in_the_error(scheme: str) -> None:
    assert error_for(f"{scheme}://u:p@db.example.org/tasks") == (
        f"has the scheme {scheme}; it must be postgresql"
    )


def test_percent_signs_in_a_socket_path_are_preserved() -> None:
    config = DatabaseConfig.from_url("postgresql://u@/tasks?host=/srv/50%25%20off")
    assert config.connect_kwargs()["host"] == "/srv/50% off"


def test_socket_path_is_read_from_the_query() -> None:
    config = DatabaseConfig.from_url("postgresql:///tasks?host=/run/postgresql&port=5433")
    assert (config.url.host, config.url.port) == ("/run/postgresql", 5433)
    assert config.url.query == {}
    assert config.ssl_context is None


@pytest.mark.requirement("FR-054")
@pytest.mark.parametrize(
    ("raw", "decoded"),
    [
        ("p%40%3A%2Fw", "p@:/w"),
        ("p+q", "p+q"),
        ("p/w?x#y", "p/w?x#y"),
        ("p%C3%A4%25", "pä%"),
        ("a%20b", "a b"),
    ],
)
def test_password_may_be_percent_encoded_or_literal(raw: str, decoded: str) -> None:
    config = DatabaseConfig.from_url(f"postgresql://u:{raw}@h/db")
    assert (config.url.password, config.url.host) == (decoded, "h")


@pytest.mark.requirement("FR-054")
def test_surrounding_whitespace_is_ignored() -> None:
    assert rendered_url(DatabaseConfig.from_url(f"  {REMOTE}\n")) == rendered_url(
        DatabaseConfig.from_url(REMOTE)
    )


@pytest.mark.requirement("FR-054")
@pytest.mark.parametrize("binding", ["disable", "prefer", "require"])
def test_channel_binding_has_no_effect(binding: str) -> None:
    bound = DatabaseConfig.from_url(f"{REMOTE}?sslmode=require&channel_binding={binding}")
    assert rendered_url(bound) == rendered_url(DatabaseConfig.from_url(REMOTE))


@pytest.mark.requirement("FR-054")
@pytest.mark.parametrize(
    ("raw", "host"),
    [
        ("[2001:db8::1]:5433", "2001:db8::1"),
        ("db", "db"),
        ("b\u00fccher.example", "b\u00fccher.example"),
    ],
)
def test_host_may_be_a_name_or_an_address(raw: str, host: str) -> None:
    config = DatabaseConfig.from_url(f"postgresql://u:p@{raw}/db")
    assert (config.url.host, config.direct_config().url.host) == (host, host)
    assert config.ssl_context is not None


@pytest.mark.parametrize(
    "options", ["endpoint%3Dep-x-1", "endpoint%253Dep-x-1", "endpoint%3DAZ.az-09"]
)
def test_neon_endpoint_option_is_ignored(options: str) -> None:
    assert rendered_url(DatabaseConfig.from_url(f"{REMOTE}?options={options}")) == (
        "postgresql+asyncpg://u:p@db.example.org/tasks"
    )


@pytest.mark.parametrize(
    "options",
    [
        "endpoint%3D",
        "endpoint",
        "-c%20search_path%3Dx",
        "project%3Dp",
        "endpoint%3Dep-x-1%20-c%20search_path%3Dx",
    ],
)
def test_other_options_are_rejected(options: str) -> None:
    assert error_for(f"{REMOTE}?options={options}") == "has options other than endpoint"


def test_unknown_query_keys_are_named_in_order() -> None:
    assert error_for(f"{REMOTE}?target=hunter2&connect_timeout=10&sslmode=require") == (
        "unknown query key connect_timeout, target"
    )


@pytest.mark.parametrize("key", ["sslmode", "host", "options", "anything"])
def test_repeated_query_key_is_named(key: str) -> None:
    assert error_for(f"{REMOTE}?{key}=a&{key}=b") == f"has {key} twice"


@pytest.mark.parametrize(
    ("url", "error"),
    [
        ("postgresql://u:hunter2@h", "must name a database"),
        ("postgresql://u:hunter2@h/", "must name a database"),
        ("postgresql://u:hunter2@/db", "has no host"),
        ("postgresql:///db", "has no host"),
        ("postgresql://u:hunt@er2@h/db", "has an unescaped @ before the host; write it as %40"),
        ("postgresql://u:hunter2@h/db?port=x", "has a port outside 1 to 65535"),
        ("postgresql://u:hunter2@h/db?port=-1", "has a port outside 1 to 65535"),
        ("postgresql://u:hunter2@h/db?port=0", "has a port outside 1 to 65535"),
        ("postgresql://u:hunter2@h:0/db", "has a port outside 1 to 65535"),
        ("mysql://u:hunter2@h/db", "has the scheme mysql; it must be postgresql"),
        (
            "postgresql://u:hunter2@h/db?sslmode=hunter2",
            "sslmode must be disable, require, verify-ca or verify-full",
        ),
        ("postgresql://u:hunter2@h/db?options=hunter2", "has options other than endpoint"),
        (
            "postgresql://u:hunter2@h/db?channel_binding=hunter2",
            "channel_binding must be disable, prefer or require",
        ),
        ("postgresql://u:hunter2@a,b/db", "must name only one host"),
        ("postgresql://u:hunter2@h/db?host=/a,/b", "must name only one host"),
        (
            "postgresql://u:hunter2@h..x/db",
            "has a host that is neither a name nor an IP address",
        ),
        (
            f"postgresql://u:hunter2@{'h' * 64}/db",
            "has a host that is neither a name nor an IP address",
        ),
        (
            "postgresql://u:hunter2@h%0Ax/db",
            "has a host that is neither a name nor an IP address",
        ),
        (
            "postgresql://u:hunter2@h/db?sslrootcert=/hunter2",
            "sslrootcert, or DATABASE_CA_FILE, cannot be read",
        ),
        (
            "hunter2",
            "must be a URL such as postgresql://user:password@host/database",
        ),
        (
            "u:hunter2@h/db",
            "must be a URL such as postgresql://user:password@host/database",
        ),
        (
            "postgresql://u:p@h:hunter2/db",
            "must be a URL such as postgresql://user:password@host/database",
        ),
    ],
)
def test_url_errors_do_not_contain_values(url: str, error: str) -> None:
    assert error_for(url) == error


@pytest.mark.parametrize("port", [1, 65535])
def test_smallest_and_largest_port_are_accepted(port: int) -> None:
    assert DatabaseConfig.from_url(f"postgresql://u:p@db.example.org:{port}/tasks").url.port == port


@pytest.mark.parametrize("suffix", [":65536/tasks", "/tasks?port=65536"])
def test_port_above_the_maximum_is_rejected(suffix: str) -> None:
    assert "port" in error_for(f"postgresql://u:p@db.example.org{suffix}")


@pytest.mark.parametrize("mode", ["prefer", "allow", "", "REQUIRE", "true"])
@pytest.mark.parametrize("url", [REMOTE, LOCAL])
def test_sslmode_with_plaintext_fallback_is_rejected(url: str, mode: str) -> None:
    # SQLAlchemy drops an empty value. Verified TLS is then the default for a remote host.
    url += f"?sslmode={mode}&host=db.example.org"
    assert mode == "" or error_for(url).startswith("sslmode must be ")
    assert mode != "" or DatabaseConfig.from_url(url).ssl_context is not None


@pytest.mark.parametrize(
    "query", ["", "?sslmode=require", "?sslmode=verify-ca", "?sslmode=verify-full"]
)
def test_remote_host_is_verified_like_verify_full(query: str) -> None:
    tls = DatabaseConfig.from_url(REMOTE + query).ssl_context
    assert tls is not None
    assert (tls.verify_mode, tls.check_hostname) == (ssl.CERT_REQUIRED, True)
    assert tls.verify_flags == ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).verify_flags


@pytest.mark.parametrize("query", ["", "?sslmode=verify-ca", "?sslmode=verify-full"])
def test_verification_can_be_disabled_only_for_sslmode_require(query: str) -> None:
    tls = DatabaseConfig.from_url(REMOTE + query, verify=False).ssl_context
    assert tls is not None
    assert (tls.verify_mode, tls.check_hostname) == (ssl.CERT_REQUIRED, True)


def test_sslmode_require_without_verification_still_encrypts() -> None:
    tls = DatabaseConfig.from_url(f"{REMOTE}?sslmode=require", verify=False).ssl_context
    assert tls is not None
    assert (tls.verify_mode, tls.check_hostname) == (ssl.CERT_NONE, False)


@pytest.mark.parametrize("url", [REMOTE, LOCAL])
def test_sslmode_disable_uses_plaintext_for_every_host(url: str) -> None:
    assert DatabaseConfig.from_url(f"{url}?sslmode=disable").ssl_context is None


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "127.9.9.9", "[::1]"])
def test_loopback_host_does_not_require_tls(host: str) -> None:
    assert DatabaseConfig.from_url(f"postgresql://u:p@{host}/tasks").ssl_context is None


@pytest.mark.parametrize(
    "host", ["10.0.0.1", "[2001:db8::1]", "localhost.example.org", "127.0.0.1.example.org", "db"]
)
def test_other_hosts_require_tls(host: str) -> None:
    assert DatabaseConfig.from_url(f"postgresql://u:p@{host}/tasks").ssl_context is not None


def test_loopback_host_uses_tls_if_requested() -> None:
    tls = DatabaseConfig.from_url(f"{LOCAL}?sslmode=verify-full").ssl_context
    assert tls is not None
    assert tls.check_hostname


def test_host_in_the_query_determines_tls() -> None:
    assert (
        DatabaseConfig.from_url("postgresql://u:p@localhost/tasks?host=db.example.org").ssl_context
        is not None
    )


@pytest.mark.parametrize("query", ["", "&sslrootcert=system", f"&sslrootcert={certifi.where()}"])
def test_root_certificates_are_bundled_or_read_from_a_file(query: str) -> None:
    tls = DatabaseConfig.from_url(f"{REMOTE}?sslmode=verify-full{query}").ssl_context
    assert tls is not None
    bundled = Path(certifi.where()).read_text("utf-8").count("BEGIN CERTIFICATE")
    assert tls.cert_store_stats()["x509"] == bundled


def test_ca_file_without_certificates_is_rejected(tmp_path: Path) -> None:
    empty = tmp_path / "roots.pem"
    empty.write_text("no certificate")
    assert (
        error_for(f"{REMOTE}?sslrootcert={empty}")
        == "sslrootcert, or DATABASE_CA_FILE, cannot be read"
    )


@pytest.mark.parametrize(
    ("host", "pooler"),
    [
        ("ep-x-1-pooler.eu-central-1.aws.neon.tech", True),
        ("ep-x-1.eu-central-1.aws.neon.tech", False),
        ("db.my-pooler.example.org", False),
        ("pooler.example.org", False),
        ("-pooler.example.org", False),
        ("ep-x-pooler2.example.org", False),
        ("ep-x-pooler", True),
    ],
)
def test_neon_pooler_is_detected_by_host_name(host: str, *, pooler: bool) -> None:
    assert DatabaseConfig.from_url(f"postgresql://u:p@{host}/db").transaction_pooling is pooler


def test_other_pooler_is_enabled_by_the_setting() -> None:
    assert DatabaseConfig.from_url(REMOTE, transaction_pooling=True).transaction_pooling


@pytest.mark.parametrize("folder", ["/srv/tasks-pooler", "/srv/tasks-pooler.d/socket"])
def test_socket_directory_is_never_a_pooler(folder: str) -> None:
    config = DatabaseConfig.from_url(f"postgresql:///tasks?host={folder}")
    assert not config.transaction_pooling
    assert config.direct_config().url.host == folder


def test_direct_config_bypasses_the_neon_pooler() -> None:
    direct = DatabaseConfig.from_url(NEON).direct_config()
    assert direct.url.host == "ep-x-1.eu-central-1.aws.neon.tech"
    assert not direct.transaction_pooling


def test_direct_config_of_a_direct_connection_is_unchanged() -> None:
    config = DatabaseConfig.from_url(REMOTE)
    assert config.direct_config() == config


def test_direct_config_keeps_tls_and_credentials() -> None:
    pooled = DatabaseConfig.from_url(NEON)
    direct = pooled.direct_config()
    assert direct.ssl_context is pooled.ssl_context
    assert (direct.url.username, direct.url.password, direct.url.database) == ("u", "p", "db")


def test_direct_connection_uses_default_statement_planning() -> None:
    assert DatabaseConfig.from_url(LOCAL).connect_args() == {
        "ssl": False,
        "server_settings": {"application_name": "tasks-api", "timezone": "UTC", "jit": "off"},
    }


def test_migration_sends_no_settings_that_poolers_reject() -> None:
    assert DatabaseConfig.from_url(LOCAL).session_args() == {
        "ssl": False,
        "server_settings": {"application_name": "tasks-api", "timezone": "UTC"},
    }


def test_connect_kwargs_contain_url_parts_and_connect_args() -> None:
    config = DatabaseConfig.from_url("postgresql://u:p%40@[::1]:6000/tasks")
    assert config.connect_kwargs(2.5) == {
        "host": "::1",
        "port": 6000,
        "user": "u",
        "password": "p@",
        "database": "tasks",
        **config.connect_args(2.5),
        "statement_cache_size": 0,
    }
    assert config.connect_kwargs() == config.connect_kwargs(0)
    assert "statement_timeout" not in config.connect_kwargs()["server_settings"]


def test_config_is_immutable() -> None:
    with pytest.raises(AttributeError):
        DatabaseConfig.from_url(LOCAL).transaction_pooling = True  # type: ignore[misc]  # the assignment must fail


def test_socket_directory_may_have_a_long_name() -> None:
    folder = "/" + "a" * 70
    assert DatabaseConfig.from_url(f"postgresql:///tasks?host={folder}").url.host == folder


@pytest.mark.requirement("FR-055")
def test_statement_timeout_is_set_only_without_a_pooler() -> None:
    settings = DatabaseConfig.from_url(LOCAL).connect_args(2.5)["server_settings"]
    assert settings["statement_timeout"] == "2500"
    pooled = DatabaseConfig.from_url(NEON)
    assert pooled.connect_args(2.5) == pooled.connect_args()


@pytest.mark.requirement("FR-054")
def test_ca_file_setting_applies_unless_the_url_names_one(tmp_path: Path) -> None:
    ca_file = tmp_path / "roots.pem"
    trustme.CA().cert_pem.write_to_path(str(ca_file))
    from_setting = DatabaseConfig.from_url(REMOTE, ca_file=ca_file).ssl_context
    assert from_setting is not None
    assert from_setting.cert_store_stats()["x509_ca"] == 1
    from_url = DatabaseConfig.from_url(f"{REMOTE}?sslrootcert=system", ca_file=ca_file).ssl_context
    assert from_url is not None
    assert from_url.cert_store_stats()["x509_ca"] > 1


def test_pooler_receives_no_session_settings() -> None:
    config = DatabaseConfig.from_url(NEON)
    assert config.connect_args() == {
        "ssl": config.ssl_context,
        "server_settings": {"application_name": "tasks-api", "timezone": "UTC"},
        "statement_cache_size": 0,
    }


def test_password_is_not_in_the_representation() -> None:
    config = DatabaseConfig.from_url("postgresql://u:hunter2@db.example.org/tasks")
    assert "hunter2" not in f"{config} {config!r} {config.url}"
