"""Real servers to run the suite against: PgBouncer, and PostgreSQL with TLS (Debian's packages)."""
