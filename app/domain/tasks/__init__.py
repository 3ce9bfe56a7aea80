"""Everything about tasks: handlers, structs, rules and SQL."""
