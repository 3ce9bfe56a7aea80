"""What a person is told when the embedded PostgreSQL cannot run."""

DATABASE_URL_HINT = "Or set DATABASE_URL to use another PostgreSQL."


class EmbeddedError(Exception):
    """The embedded server cannot run; the message is written for a person."""
