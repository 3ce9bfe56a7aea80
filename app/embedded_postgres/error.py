"""Error of the embedded PostgreSQL."""

DATABASE_URL_HINT = "Or set DATABASE_URL to use another PostgreSQL."


class EmbeddedError(Exception):
    """The embedded server cannot run; the command line prints the message."""
