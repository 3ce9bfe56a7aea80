"""The feed of changes: handler, schemas, tokens and SQL."""
