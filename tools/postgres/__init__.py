"""Servers for the test suite: PgBouncer, and PostgreSQL with TLS (Debian's packages)."""
