"""The task resource: handlers, schemas, validation rules and SQL."""
