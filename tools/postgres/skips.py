"""The tests that make no sense on a server of a kind, each with its reason. There are no others."""

from __future__ import annotations

BEHIND_A_POOLER = {
    "tests/integration/db/test_idle_connections.py::"
    "test_a_statement_ends_at_the_server_when_nobody_can_cancel_it": (
        "a pooler rejects statement_timeout; docs/guides/postgresql.md says where to set it"
    ),
    "tests/integration/db/test_driver.py::test_a_statement_is_prepared_once_for_a_connection": (
        "behind a pooler statements have no name, so that the server remembers none"
    ),
    "tests/integration/db/test_driver.py::"
    "test_what_a_repository_inherits_works_with_a_connection_of_its_own": (
        "it counts the service's connections at the server, and the pooler has its own"
    ),
    "tests/integration/db/test_driver.py::test_only_so_many_statements_stay_prepared": (
        "behind a pooler statements have no name, so that the server remembers none"
    ),
    "tests/integration/db/test_driver.py::"
    "test_a_statement_that_is_given_up_takes_its_connection_along": (
        "it tells connections by their process at the server, and the pooler keeps that one"
    ),
    "tests/integration/db/test_driver.py::"
    "test_a_table_that_a_migration_changed_meanwhile_is_read_all_the_same": (
        "without a name a statement is not refused, but read as it was described: it must name its "
        "columns, as those of the service do"
    ),
    "tests/integration/db/test_recovery.py::"
    "test_of_connections_that_died_silently_one_alone_costs_a_request": (
        "it tells connections by their process at the server, and the pooler keeps those"
    ),
    "tests/integration/db/test_tls.py::"
    "TestInFront::test_a_command_tells_the_fault_and_no_password[migrate]": (
        "`migrate` refuses a pooler, which the settings say is there, before it connects"
    ),
    "tests/integration/db/test_driver.py::test_a_connection_keeps_a_hundred_statements": (
        "behind a pooler statements have no name, so that the server remembers none"
    ),
    "tests/integration/db/test_round_trips.py::"
    "test_an_operation_is_one_round_trip_of_a_prepared_statement": (
        "behind a pooler statements have no name, and so are parsed each time"
    ),
    "tests/integration/db/test_round_trips.py::test_the_first_of_its_kind_on_a_connection_is_two": (
        "behind a pooler statements have no name, and so are parsed each time"
    ),
}

WITH_TLS = {
    "tests/integration/db/test_round_trips.py": "it reads what is sent, which is encrypted there",
}

LEFT_OUT = {"pgbouncer": BEHIND_A_POOLER, "tls": WITH_TLS}
