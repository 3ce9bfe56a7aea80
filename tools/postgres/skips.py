"""The tests that are skipped on a backend, each with the reason."""

from __future__ import annotations

BEHIND_A_POOLER = {
    "tests/integration/db/test_idle_connections.py::"
    "test_statement_ends_on_the_server_without_a_cancel": (
        "a pooler rejects statement_timeout; docs/guides/postgresql.md says where to set it"
    ),
    "tests/integration/db/test_driver.py::test_statement_is_prepared_once_per_connection": (
        "behind a pooler statements have no name, so the server caches none"
    ),
    "tests/integration/db/test_driver.py::test_inherited_repository_methods_work": (
        "it counts the service's connections at the server, where it sees those of the pooler"
    ),
    "tests/integration/db/test_driver.py::test_statement_cache_is_bounded": (
        "behind a pooler statements have no name, so the server caches none"
    ),
    "tests/integration/db/test_driver.py::test_cancelled_statement_discards_its_connection": (
        "it identifies connections by their server process, which the pooler keeps"
    ),
    "tests/integration/db/test_driver.py::test_table_changed_by_a_migration_can_be_read": (
        "an unnamed statement is not rejected, but decoded with its old description; the service's "
        "statements name their columns"
    ),
    "tests/integration/db/test_recovery.py::test_silent_network_failure_fails_only_one_request": (
        "it identifies connections by their server process, which the pooler keeps"
    ),
    "tests/integration/db/test_tls.py::"
    "TestTLSProxy::test_command_reports_the_error_without_the_password[migrate]": (
        "`migrate` rejects the configured pooler before it connects"
    ),
    "tests/integration/db/test_driver.py::test_connection_caches_a_hundred_statements": (
        "behind a pooler statements have no name, so the server caches none"
    ),
    "tests/integration/db/test_round_trips.py::test_operation_is_one_round_trip": (
        "behind a pooler statements have no name, so they are parsed each time"
    ),
    "tests/integration/db/test_round_trips.py::"
    "test_first_operation_on_a_connection_is_two_round_trips": (
        "behind a pooler statements have no name, so they are parsed each time"
    ),
}

WITH_TLS = {
    "tests/integration/db/test_round_trips.py": "it reads the sent bytes, which TLS encrypts",
}

SKIPS = {"pgbouncer": BEHIND_A_POOLER, "tls": WITH_TLS}
