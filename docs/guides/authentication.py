"""Tasks API with a guard that verifies JSON Web Tokens (see authentication.md)."""

import asyncio
import os
from math import inf
from time import monotonic
from typing import Any

import jwt
from litestar.connection import ASGIConnection
from litestar.exceptions import NotAuthorizedException, PermissionDeniedException

from app.asgi import create_app
from app.cli import create_server
from app.http.problems import ProblemError
from app.logging import configure_logging, log
from app.settings import Settings

ALGORITHMS = ["RS256", "ES256", "EdDSA"]  # a public key verifies each of them
KEYS_TTL = 300  # seconds after which the cached keys are fetched again
KEYS_MAX_AGE = 86_400  # seconds that cached keys are used while the key server is down
FETCH_INTERVAL = 10  # seconds between two fetches, also if key IDs are unknown
FETCH_TIMEOUT = 3


class KeysUnavailableError(ProblemError):
    """The key server is down, and the key of the token is not cached."""

    type, status, title = "about:blank", 503, "Service Unavailable"
    detail = "The token cannot be verified now. Nothing was changed."


class OwnTasksOnly:
    """A guard that requires a bearer token whose subject is the user in the path."""

    def __init__(self, jwks_url: str, issuer: str, audience: str) -> None:
        # The client's own cache would block the event loop and not limit fetches that fail.
        self._client = jwt.PyJWKClient(jwks_url, cache_jwk_set=False, timeout=FETCH_TIMEOUT)
        self._issuer, self._audience = issuer, audience
        self._keys: dict[str, jwt.PyJWK] = {}
        self._tried_at = self._fetched_at = -inf
        self._lock = asyncio.Lock()

    async def __call__(self, connection: ASGIConnection[Any, Any, Any, Any], _: object) -> None:
        """Raise 401, 403 or 503 unless the request may pass."""
        user_id = connection.path_params.get("user_id")
        if user_id is None:
            return  # health checks, the contract and the pages are public
        scheme, _, token = connection.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer":
            raise _unauthorized("Send a bearer token.", "Bearer")
        try:
            subject = await self._verify(token.strip())
        except jwt.PyJWTError as error:
            log.info("token rejected", reason=type(error).__name__)
            raise _unauthorized("The token is invalid.", 'Bearer error="invalid_token"') from None
        if subject != user_id:
            raise PermissionDeniedException("The token belongs to another user.")

    async def _verify(self, token: str) -> object:
        """Return the subject of a token. Raise PyJWTError if the token is invalid."""
        key = await self._key(jwt.get_unverified_header(token).get("kid", ""))
        required: Any = {"require": ["exp", "iss", "aud", "sub"]}
        expected: Any = {"issuer": self._issuer, "audience": self._audience, "leeway": 30}
        return jwt.decode(token, key, ALGORITHMS, required, **expected)["sub"]

    async def _key(self, key_id: str) -> jwt.PyJWK:
        expired = monotonic() - self._fetched_at >= KEYS_TTL
        # While one request refreshes expired keys, the others use them.
        if key_id not in self._keys or (expired and not self._lock.locked()):
            async with self._lock:
                if monotonic() - self._tried_at >= FETCH_INTERVAL:
                    await self._fetch()
        if key_id in self._keys:
            return self._keys[key_id]
        if self._fetched_at < self._tried_at:
            raise KeysUnavailableError(headers={"Retry-After": str(FETCH_INTERVAL)})
        raise jwt.InvalidKeyError

    async def _fetch(self) -> None:
        self._tried_at = monotonic()
        try:
            async with asyncio.timeout(FETCH_TIMEOUT):
                keys = await asyncio.to_thread(self._client.get_signing_keys)
        except Exception as error:  # noqa: BLE001 - cached keys remain valid after any error
            log.warning("key server unavailable", cause=f"{type(error).__name__}: {error}")
            if self._tried_at - self._fetched_at >= KEYS_MAX_AGE:
                self._keys = {}
        else:
            self._keys = {str(key.key_id): key for key in keys}
            self._fetched_at = self._tried_at


def _unauthorized(detail: str, challenge: str) -> NotAuthorizedException:
    return NotAuthorizedException(detail, headers={"WWW-Authenticate": challenge})


def main() -> None:
    """Serve the API on DATABASE_URL."""
    env = os.environ
    settings = Settings.from_env(env)
    configure_logging(settings.log_level, settings.log_format)
    guard = OwnTasksOnly(env["JWKS_URL"], env["JWT_ISSUER"], env["JWT_AUDIENCE"])
    create_server(create_app(settings, guards=[guard]), settings).run()


if __name__ == "__main__":
    main()
