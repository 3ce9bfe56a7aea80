"""The list resource: handlers, schemas, validation rules and SQL."""
