"""Binds the signature of a handler to the request.

    @get("/{task_id:str}", operation_id="getTask")
    @operation(raises=[TaskNotFound, DatabaseUnavailable])
    async def get_task(self, state: AppState, path: TaskPath) -> TaskResponse: ...

A handler names the parts of the request that it needs. The annotations say how to read them:

- `path`, `query`, `headers`: a struct with one field for each parameter. A request with any other
  query parameter is rejected.
- `data`: the struct of the JSON body. `Annotated[TaskPatch, MERGE_PATCH, JSON]` lists the media
  types that a client may declare. Without a list, that is `application/json`.
- `state`: the application's state.
- `connection`: the connection of the request, for a handler that waits.

The signature is read once, at import. Litestar sees a handler that takes only the request, because
its dependency injection costs 6 to 65 us per request (`research/0029-derived-contract.md`).
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import update_wrapper
from operator import itemgetter
from typing import Annotated, Any, TypeVar, get_args, get_origin, get_type_hints

import msgspec
from litestar import Request

from app.http.body import JSON, JSONBody
from app.http.parameters import NoParameters, Parameters
from app.http.problems import (
    ContentTooLarge,
    InternalError,
    InvalidBody,
    InvalidParameter,
    MalformedBody,
    ProblemError,
    RequestTimeout,
    UnsupportedMediaType,
)
from app.http.waiting import UnmanagedConnection

# What every operation may raise, and what every operation with a body may raise.
ANY_OPERATION = (InvalidParameter, InternalError)
ANY_BODY = (RequestTimeout, MalformedBody, ContentTooLarge, UnsupportedMediaType, InvalidBody)
PARTS = ("state", "path", "query", "headers", "data", "connection")

UNMANAGED = UnmanagedConnection()

ResponseT = TypeVar("ResponseT")


class SignatureError(TypeError):
    """A handler's signature cannot be bound to a request."""


class UndeclaredProblemError(Exception):
    """A handler raised a problem that is not in its `raises`. The client receives a 500."""


class Operation:
    """What a handler reads from the request, and which problems it may raise."""

    def __init__(
        self, function: Callable[..., Awaitable[Any]], raises: Sequence[type[ProblemError]]
    ) -> None:
        self.name = function.__qualname__
        names = list(inspect.signature(function).parameters)
        self.is_method = names[:1] == ["self"]
        self.arguments = names[1:] if self.is_method else names
        annotations = get_type_hints(function, include_extras=True)
        for name in self.arguments:
            if name not in PARTS:
                raise SignatureError(f"{self.name}: {name} is none of {', '.join(PARTS)}.")
        for name in (*self.arguments, "return"):
            if name not in annotations:
                raise SignatureError(f"{self.name}: {name} has no annotation.")
        self.returns = annotations["return"]
        self.parameters: Parameters[Any, Any, Any] = Parameters(
            *(self._struct(annotations, name) for name in ("path", "query", "headers"))
        )
        self.body: JSONBody[Any] | None = None
        if "data" in annotations:
            media_types = [JSON]
            if get_origin(annotations["data"]) is Annotated:
                annotations["data"], *media_types = get_args(annotations["data"])
            self.body = JSONBody(self._struct(annotations, "data"), *media_types)
        self.raises = (*ANY_OPERATION, *(ANY_BODY if self.body else ()), *raises)

    def _struct(self, annotations: Mapping[str, Any], name: str) -> type[msgspec.Struct]:
        struct = annotations.get(name, NoParameters)
        if isinstance(struct, type) and issubclass(struct, msgspec.Struct):
            return struct
        raise SignatureError(f"{self.name}: {name} is not a msgspec.Struct.")


def operation(
    *, raises: Sequence[type[ProblemError]] = ()
) -> Callable[[Callable[..., Awaitable[ResponseT]]], Callable[..., Awaitable[ResponseT]]]:
    """Bind a handler's signature. `raises` lists its problems beyond those of every operation.

    Raises SignatureError at import. The handler raises UndeclaredProblemError for other problems.
    """

    def decorate(
        function: Callable[..., Awaitable[ResponseT]],
    ) -> Callable[..., Awaitable[ResponseT]]:
        bound = Operation(function, raises)
        parse_parameters, body = bound.parameters.parse, bound.body
        select = _selector([PARTS.index(name) for name in bound.arguments])

        async def handler(*owner: object, request: Request[Any, Any, Any]) -> ResponseT:
            path, query, headers = parse_parameters(request)
            data = None if body is None else await body.parse(request)
            connection = request.scope["state"].get("connection", UNMANAGED)
            parts = (request.app.state.app_state, path, query, headers, data, connection)
            try:
                return await function(*owner, *select(parts))
            except ProblemError as problem:
                if type(problem) in bound.raises:
                    raise
                raised = type(problem).__name__
                msg = (
                    f"undeclared problem: {bound.name} raised {raised}, which is not in its raises"
                )
                raise UndeclaredProblemError(msg) from problem

        update_wrapper(handler, function)
        # Litestar reads `__annotations__` and `__signature__`. The contract tests read `operation`.
        handler.__annotations__ = {"request": Request[Any, Any, Any], "return": bound.returns}
        parameters = [inspect.Parameter("request", inspect.Parameter.KEYWORD_ONLY)]
        if bound.is_method:
            parameters.insert(0, inspect.Parameter("self", inspect.Parameter.POSITIONAL_ONLY))
        vars(handler).update(__signature__=inspect.Signature(parameters), operation=bound)
        return handler

    return decorate


def _selector(indexes: Sequence[int]) -> Callable[[Sequence[Any]], Sequence[Any]]:
    """Return a function that selects the values at these indexes."""
    if len(indexes) > 1:
        return itemgetter(*indexes)
    return lambda values: [values[index] for index in indexes]  # itemgetter needs two for a tuple
