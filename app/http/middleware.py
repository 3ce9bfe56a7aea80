"""HTTP middleware around Litestar: the contract's rules for every request and response.

Litestar does not run its own middleware for 404 and 405.
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
# Identical for every response, so encoded once.
_STATIC_HEADERS = [
    (name.lower().encode(), value.encode())
    for name, value in CommonHeaders("-").to_dict().items()
    if name != "X-Request-ID"
]


class HTTPMiddleware:
    """ASGI 3 middleware for common headers, CORS, OPTIONS, access log and metrics.

    `routes` are the routes of `app`. `metrics` is None if metrics are disabled.
    """

    def __init__(
        self,
        app: ASGIApp,
        routes: Iterable[BaseRoute],
        cors: CORSPolicy,
        metrics: Metrics | None = None,
    ) -> None:
        self.app = app
        self.cors = cors
        self.metrics = metrics
        self.routes = [
            (re.compile("[^/]+".join(map(re.escape, _VARIABLE.split(route.path_format)))), route)
            for route in routes
            if isinstance(route, HTTPRoute)
        ]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle an ASGI scope; scopes other than HTTP are passed through."""
        if scope["type"] != ScopeType.HTTP:
            await self.app(scope, receive, send)
            return
        context = RequestContext(scope, send, self.cors)
        if self.metrics is not None:
            self.metrics.request_started()
        try:
            await self._handle(context, receive)
        except CancelledError:  # the graceful shutdown timed out
            log.warning(
                "request cancelled by shutdown",
                request_id=context.request_id,
                trace_id=context.trace_id,
            )
            if context.status:
                raise
            await context.send_problem(InternalError())
        except Exception:
            log.exception(
                "unhandled exception", request_id=context.request_id, trace_id=context.trace_id
            )
            if context.status:
                raise  # the response has started: the server closes the connection
            await context.send_problem(InternalError())
        finally:
            route = context.scope.get("path_template") or self._route_template(context)
            duration = perf_counter() - context.started
            if self.metrics is not None:
                # `_OTHER` is OpenTelemetry's value for an unknown method.
                self.metrics.request_finished(
                    context.method or "_OTHER", route, context.status, duration
                )
            context.log(route, duration)

    async def _handle(self, context: RequestContext, receive: Receive) -> None:
        problem = context.scope["state"].get("problem")
        if problem is not None:  # set by HTTPProtocol for a request that cannot be parsed
            await context.send_problem(problem)
        elif not context.has_canonical_path:
            await context.send_problem(PathNotFound())
        elif context.method == HttpMethod.OPTIONS:
            await self._options_response(context)
        else:
            await self.app(context.scope, receive, context.send)

    async def _options_response(self, context: RequestContext) -> None:
        route = self._route(context.scope["path"])
        if route is None:
            await context.send_problem(PathNotFound())
        else:
            context.allowed_methods = allow_header(route.methods).encode()
            await context.respond(204, [(b"allow", context.allowed_methods)], b"")

    def _route(self, path: str) -> HTTPRoute | None:
        return next((route for pattern, route in self.routes if pattern.fullmatch(path)), None)

    def _route_template(self, context: RequestContext) -> str | None:
        """Return the route of a request that Litestar did not route: OPTIONS or an unknown method.

        None if no route matches the path.
        """
        route = self._route(context.scope["path"])
        return None if route is None else route.path_format


class RequestContext:
    """State of one request and its response in the middleware.

    `status` is 0 until the response starts.
    """

    def __init__(self, scope: HTTPScope, send: Send, cors: CORSPolicy) -> None:
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
            "omits_body": self.method == HttpMethod.HEAD,
        }
        if self.method == HttpMethod.HEAD:
            self.scope["method"] = HttpMethod.GET

    @property
    def has_canonical_path(self) -> bool:
        """Whether the path has no empty segments, which Litestar's router would ignore."""
        path = self.scope["path"]
        return "//" not in path and (path == "/" or not path.endswith("/"))

    async def send(self, message: Message) -> None:
        """Send an ASGI message; add common and CORS headers, and omit the body for HEAD."""
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
        """Send a complete response."""
        await self.send({"type": "http.response.start", "status": status, "headers": [*headers]})
        await self.send({"type": "http.response.body", "body": body, "more_body": False})

    async def send_problem(self, problem: ProblemError) -> None:
        """Send a problem response (RFC 9457)."""
        body = msgspec.json.encode(problem.to_problem(self.request_id, self.trace_id))
        headers = [
            (b"content-type", MEDIA_TYPE.encode()),
            (b"content-length", str(len(body)).encode()),
        ]
        await self.respond(problem.status, headers, body)

    def log(self, route: str | None, duration: float) -> None:
        """Write the access log entry; `duration` is in seconds.

        For privacy it has the route instead of the path, and neither query nor body.
        """
        access_log.write(
            AccessLogEntry(
                method=self.method or None,  # empty if it was not parsed
                route=route,
                status=self.status,
                duration_ms=round(duration * 1000, 3),
                request_id=self.request_id,
                trace_id=self.trace_id,
            )
        )


def _routing_path(scope: HTTPScope) -> str:
    """Return the decoded path; an encoded slash does not split a segment.

    It becomes U+FFFD, which no path parameter of the contract allows.
    """
    raw = scope["raw_path"]
    if b"%" not in raw:
        return scope["path"]
    return unquote(_ENCODED_SLASH.sub("\N{REPLACEMENT CHARACTER}", raw.decode("latin-1")))
