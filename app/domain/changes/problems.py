"""The problem types of the feed."""

from __future__ import annotations

from http import HTTPStatus

from app.http.problems import ProblemError


class InvalidToken(ProblemError):
    """The token was not issued for this user."""

    status = HTTPStatus.BAD_REQUEST
    title = "Invalid token"
    detail = "The token was not issued by this service for this user. Restart without `since`."
    advice = "Send `next_since` of the last response unchanged, or start again without `since`."


class TokenExpired(ProblemError):
    """Changes after the position of the token are no longer known."""

    status = HTTPStatus.GONE
    title = "Token expired"
    detail = "Changes since this token are no longer known. Restart without `since`."
    advice = (
        "Start again without `since`. When the walk is complete, delete the items that it did not "
        "return."
    )
