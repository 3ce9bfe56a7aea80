"""PostgreSQL: configuration, pool, statements, errors, migrations. It imports no resource."""
