"""PostgreSQL: configuration, pool, statements, errors, migrations. Knows no resource."""
