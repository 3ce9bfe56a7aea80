"""All data of a user: export and erasure."""
