"""The outermost layer: what the contract says of every request and response.

The framework's own middleware does not run for 404 and 405, so this wraps the framework.
"""

from __future__ import annotations

import re
from asyncio import CancelledError
from collections.abc import Iterable
from time import perf_counter
from urllib.parse import unquote

import msgspec
from litestar.enums import HttpMethod, ScopeType
from litestar.routes import BaseRoute, HTTPRoute
from litestar.types import ASGIApp, HTTPScope, Message, Receive, Scope, Send

from app.http.cors import CORSPolicy
from app.http.exception_handlers import allow_header
from app.http.headers import CommonHeaders
from app.http.problems import MEDIA_TYPE, InternalError, PathNotFound, ProblemError
from app.http.request_id import parse_traceparent, request_id_from
from app.logging import AccessLogEntry, access_log, log
from app.metrics import Metrics

_VARIABLE = re.compile(r"\{[^}]+\}")
_ENCODED_SLASH = re.compile("%2f", re.IGNORECASE)
# Encoded once: they are the same on every response.
_STATIC_HEADERS = [
    (name.lower().encode(), value.encode())
    for name, value in CommonHeaders("-").to_dict().items()
    if name != "X-Request-ID"
]


class HTTPMiddleware:
    """Wraps an application and is as callable as the application itself (ASGI 3)."""

    def __init__(
        self,
        app: ASGIApp,
        routes: Iterable[BaseRoute],
        cors: CORSPolicy,
        metrics: Metrics | None = None,
    ) -> None:
        """Take the application, its routes, who may call it from a browser, and what counts."""
        self.app = app
        self.cors = cors
        self.metrics = metrics
        self.routes = [
            (re.compile("[^/]+".join(map(re.escape, _VARIABLE.split(route.path_format)))), route)
            for route in routes
            if isinstance(route, HTTPRoute)
        ]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        if scope["type"] != ScopeType.HTTP:
            await self.app(scope, receive, send)
            return
        exchange = RequestContext(scope, send, self.cors)
        if self.metrics is not None:
            self.metrics.request_started()
        try:
            await self._serve(exchange, receive)
        except CancelledError:  # the service ends and cannot wait for the rest of a request
            log.warning(
                "cut off by the end of the service",
                request_id=exchange.request_id,
                trace_id=exchange.trace_id,
            )
            if exchange.status:
                raise
            await exchange.send_problem(InternalError())
        except Exception:
            log.exception("fault", request_id=exchange.request_id, trace_id=exchange.trace_id)
            if exchange.status:
                raise  # too late for another answer: the server closes the connection
            await exchange.send_problem(InternalError())
        finally:
            route = exchange.scope.get("path_template") or self._route_template(exchange)
            seconds = perf_counter() - exchange.started
            if self.metrics is not None:
                # `_OTHER` is OpenTelemetry's name for a method that is not known.
                self.metrics.request_finished(
                    exchange.method or "_OTHER", route, exchange.status, seconds
                )
            exchange.log(route, seconds)

    async def _serve(self, exchange: RequestContext, receive: Receive) -> None:
        problem = exchange.scope["state"].get("problem")
        if problem is not None:  # the server's, of a request that it could not read
            await exchange.send_problem(problem)
        elif not exchange.has_canonical_path:
            await exchange.send_problem(PathNotFound())
        elif exchange.method == HttpMethod.OPTIONS:
            await self._options_response(exchange)
        else:
            await self.app(exchange.scope, receive, exchange.send)

    async def _options_response(self, exchange: RequestContext) -> None:
        route = self._route(exchange.scope["path"])
        if route is None:
            await exchange.send_problem(PathNotFound())
        else:
            exchange.allowed_methods = allow_header(route.methods).encode()
            await exchange.respond(204, [(b"allow", exchange.allowed_methods)], b"")

    def _route(self, path: str) -> HTTPRoute | None:
        return next((route for form, route in self.routes if form.fullmatch(path)), None)

    def _route_template(self, exchange: RequestContext) -> str | None:
        """The route of what the framework did not route: OPTIONS and methods it does not have."""
        route = self._route(exchange.scope["path"])
        return None if route is None else route.path_format


class RequestContext:
    """One request and its response, as they pass the edge."""

    def __init__(self, scope: HTTPScope, send: Send, cors: CORSPolicy) -> None:
        """Take over what the server gave."""
        self.started = perf_counter()
        self.headers = dict(scope["headers"])
        self.request_id = request_id_from(self.headers.get(b"x-request-id", b""))
        self.trace_id = parse_traceparent(self.headers.get(b"traceparent", b""))
        self.method = scope["method"]
        self.status = 0
        self.allowed_methods: bytes | None = None
        self._cors = cors
        self._send = send
        self.scope = scope.copy()
        self.scope["path"] = _routing_path(scope)
        self.scope["state"] = {
            **scope.get("state", {}),
            "request_id": self.request_id,
            "trace_id": self.trace_id,
        }
        if self.method == HttpMethod.HEAD:
            self.scope["method"] = HttpMethod.GET

    @property
    def has_canonical_path(self) -> bool:
        """Whether the framework, which forgives slashes, would match the path as written."""
        path = self.scope["path"]
        return "//" not in path and (path == "/" or not path.endswith("/"))

    async def send(self, message: Message) -> None:
        """Pass a message of the response on, completed."""
        if message["type"] == "http.response.start":
            self.status = int(message["status"])
            message["headers"] = [
                *message["headers"],
                *self._cors.headers(self.headers, self.allowed_methods),
                (b"x-request-id", self.request_id.encode()),
                *_STATIC_HEADERS,
            ]
        elif message["type"] == "http.response.body" and self.method == HttpMethod.HEAD:
            message["body"] = b""
        await self._send(message)

    async def respond(
        self, status: int, headers: Iterable[tuple[bytes, bytes]], body: bytes
    ) -> None:
        """Send a whole response."""
        await self.send({"type": "http.response.start", "status": status, "headers": [*headers]})
        await self.send({"type": "http.response.body", "body": body, "more_body": False})

    async def send_problem(self, problem: ProblemError) -> None:
        """Send a problem."""
        body = msgspec.json.encode(problem.to_problem(self.request_id, self.trace_id))
        headers = [
            (b"content-type", MEDIA_TYPE.encode()),
            (b"content-length", str(len(body)).encode()),
        ]
        await self.respond(problem.status, headers, body)

    def log(self, route: str | None, seconds: float) -> None:
        """Write the request's line: no query, no body, and the route instead of the path."""
        access_log.write(
            AccessLogEntry(
                method=self.method or None,  # the server gives none where it could read none
                route=route,
                status=self.status,
                duration_ms=round(seconds * 1000, 3),
                request_id=self.request_id,
                trace_id=self.trace_id,
            )
        )


def _routing_path(scope: HTTPScope) -> str:
    """The path with encoded slashes kept out of the routing.

    Each becomes U+FFFD: part of its segment, and in no parameter that the contract allows.
    """
    raw = scope["raw_path"]
    if b"%" not in raw:
        return scope["path"]
    return unquote(_ENCODED_SLASH.sub("\N{REPLACEMENT CHARACTER}", raw.decode("latin-1")))
