"""Single changes to the contract and to the code that the comparison must detect."""

from __future__ import annotations

import copy
from typing import Any

TASKS = "/paths/~1api~1v1~1users~1{user_id}~1tasks"
TASK = TASKS + "~1{task_id}"
SCHEMAS = "/components/schemas"
RESPONSES = "/components/responses"
PARAMETERS = "/components/parameters"
HEADERS = "/components/headers"
PROBLEM = "content/application~1problem+json"
# The tags with the tables of problem types and limits.
ERRORS = "/tags/8/description"
LIMITS = "/tags/15/description"

Change = tuple[str, str, Any]
"""An operation, its JSON Pointer and its value. The value of `move` is the new name."""

# Changes to openapi.yaml, each with the reported pointer (None: the pointer of the change).
CHANGES: list[tuple[Change, str | None]] = [
    (("replace", "/openapi", "3.1.1"), None),
    (("replace", "/info/version", "9.0.0"), None),
    (("replace", "/servers/0/url", "/v2"), None),
    (("replace", "/security", [{"bearer": []}]), None),
    (("remove", "/tags/0", None), "/tags"),
    (("remove", "/paths/~1livez", None), None),
    (("move", "/paths/~1readyz", "/ready"), "/paths/~1ready"),
    (("add", "/paths/~1metrics", {"get": {"operationId": "getMetrics"}}), None),
    (("remove", f"{TASK}/delete", None), None),
    (("move", f"{TASK}/patch", "post"), f"{TASK}/post"),
    (("replace", f"{TASKS}/get/operationId", "findTasks"), None),
    (("replace", f"{TASKS}/get/tags/0", "lists"), f"{TASKS}/get/tags"),
    (("add", f"{TASKS}/get/deprecated", True), None),
    (("add", f"{TASKS}/get/security", [{"bearer": []}]), None),
    # Parameters
    (("remove", f"{TASKS}/get/parameters/4", None), f"{TASKS}/get/parameters"),
    (("remove", f"{TASK}/get/parameters/1", None), f"{TASK}/get/parameters"),
    (("replace", f"{PARAMETERS}/Limit/name", "size"), f"{TASKS}/get/parameters"),
    (("replace", f"{PARAMETERS}/Sort/in", "header"), f"{TASKS}/get/parameters"),
    (("add", f"{PARAMETERS}/CursorInQuery/required", True), None),
    (("replace", f"{PARAMETERS}/Limit/schema/maximum", 500), None),
    (("remove", f"{PARAMETERS}/Limit/schema/minimum", None), None),
    (("replace", f"{PARAMETERS}/Limit/schema/type", "number"), None),
    (("add", f"{PARAMETERS}/Limit/schema/default", 50), None),
    (("replace", f"{PARAMETERS}/Limit/description", "At most; 25 when absent."), None),
    (("replace", f"{PARAMETERS}/Sort/description", "The instant to order by."), None),
    (("replace", f"{PARAMETERS}/Query/schema/maxLength", 100), None),
    (("replace", f"{PARAMETERS}/Query/schema/pattern", "^.*$"), None),
    (
        ("replace", f"{PARAMETERS}/IfAbsent/schema/$ref", f"#{SCHEMAS}/ETagList"),
        f"{SCHEMAS}/ETagList/pattern",
    ),
    (("add", f"{PARAMETERS}/Completed/style", "form"), None),
    # Request bodies
    (("remove", f"{TASKS}/post/requestBody/required", None), None),
    (
        ("move", f"{TASKS}/post/requestBody/content/application~1json", "text/json"),
        f"{TASKS}/post/requestBody/content/text~1json",
    ),
    (
        (
            "replace",
            f"{TASK}/put/requestBody/content/application~1json/schema/$ref",
            f"#{SCHEMAS}/TaskCreate",
        ),
        None,
    ),
    (("replace", f"{TASK}/patch/description", "JSON Merge Patch."), None),
    # Responses
    (("remove", f"{TASK}/get/responses/304", None), None),
    (("move", f"{TASKS}/post/responses/201", "200"), f"{TASKS}/post/responses/200"),
    (("add", f"{TASK}/get/responses/409", {"$ref": f"#{RESPONSES}/PreconditionFailed"}), None),
    (("remove", f"{TASK}/delete/responses/default", None), None),
    (
        ("replace", f"{TASK}/get/responses/404/$ref", f"#{RESPONSES}/InvalidBody"),
        f"{RESPONSES}/InvalidBody/{PROBLEM}/examples",
    ),
    (("remove", f"{TASKS}/post/responses/201/headers/Location", None), None),
    (("remove", f"{RESPONSES}/DatabaseUnavailable/headers/Retry-After", None), None),
    (("add", f"{TASK}/delete/responses/204/headers/ETag", {"$ref": f"#{HEADERS}/ETag"}), None),
    (
        ("move", f"{RESPONSES}/OtherProblem/{PROBLEM}", "application/json"),
        f"{RESPONSES}/OtherProblem/content/application~1json",
    ),
    (
        ("remove", f"{RESPONSES}/InvalidQuery/{PROBLEM}/examples/cursor", None),
        f"{RESPONSES}/InvalidQuery/{PROBLEM}/examples",
    ),
    (("remove", f"{TASKS}/post/responses/201/links/getTask", None), None),
    (
        (
            "replace",
            f"{TASK}/put/responses/201/links/updateTask/parameters/task_id",
            "$response.body#/user_id",
        ),
        None,
    ),
    (("remove", f"{HEADERS}/XRequestId/required", None), None),
    (("replace", f"{HEADERS}/CacheControl/schema/const", "no-store"), None),
    (("replace", f"{HEADERS}/RetryAfter/schema/maximum", 3600), None),
    (("replace", f"{HEADERS}/Location/schema/format", "uri"), None),
    # Schemas
    (("replace", f"{SCHEMAS}/Title/maxLength", 501), None),
    (("remove", f"{SCHEMAS}/Title/minLength", None), None),
    (("replace", f"{SCHEMAS}/UserId/pattern", "^[A-Za-z0-9._:|@+-]*$"), None),
    (("remove", f"{SCHEMAS}/TaskId/format", None), None),
    (("add", f"{SCHEMAS}/TaskSort/enum/2", "title"), f"{SCHEMAS}/TaskSort/enum"),
    (("remove", f"{SCHEMAS}/SortOrder/enum/0", None), f"{SCHEMAS}/SortOrder/enum"),
    (("remove", f"{SCHEMAS}/Task/required/4", None), f"{SCHEMAS}/Task/required"),
    (("remove", f"{SCHEMAS}/Task/properties/completed_at", None), None),
    (("add", f"{SCHEMAS}/Task/properties/due_on", {"type": "string"}), None),
    (
        ("replace", f"{SCHEMAS}/Task/properties/description/type", "string"),
        None,
    ),
    (("add", f"{SCHEMAS}/Task/additionalProperties", False), None),
    (("remove", f"{SCHEMAS}/TaskCreate/additionalProperties", None), None),
    (("add", f"{SCHEMAS}/TaskCreate/required/1", "completed"), f"{SCHEMAS}/TaskCreate/required"),
    (
        (
            "replace",
            f"{SCHEMAS}/TaskCreate/properties/completed/description",
            "Done; true when absent.",
        ),
        None,
    ),
    (("add", f"{SCHEMAS}/TaskPatch/minProperties", 1), None),
    (("replace", f"{SCHEMAS}/TaskPage/properties/items/maxItems", 100), None),
    (("replace", f"{SCHEMAS}/Problem/properties/status/maximum", 499), None),
    (
        ("move", f"{SCHEMAS}/FieldError/properties/pointer", "path"),
        f"{SCHEMAS}/FieldError/properties/path",
    ),
    (("add", f"{SCHEMAS}/Tag", {"type": "string"}), None),
]
# Changes to the tables of two tags: pointer, old text, new text.
ROWS = [
    (LIMITS, "| bytes of a body | 131072 |", "| bytes of a body | 65536 |"),
    (LIMITS, "| errors listed in a problem | 100 |", ""),
    (ERRORS, "| `/problems/task-not-found` | 404 |", "| `/problems/task-not-found` | 410 |"),
    (ERRORS, "| `/problems/not-ready` | 503 |", "| `/problems/unready` | 503 |"),
]


# Edits of the code: file, text, replacement, and the reported pointer.
EDITS = [
    (
        "app/domain/tasks/schemas.py",
        "max_length=500",
        "max_length=600",
        f"{SCHEMAS}/Title/maxLength",
    ),
    (
        "app/http/parameters.py",
        r"[A-Za-z0-9][A-Za-z0-9._:|@+-]*\Z",
        r"[a-z0-9][a-z0-9._:|@+-]*\Z",
        f"{SCHEMAS}/UserId/pattern",
    ),
    (
        "app/http/pagination.py",
        "Meta(ge=1, le=200)",
        "Meta(ge=0, le=200)",
        f"{PARAMETERS}/Limit/schema/minimum",
    ),
    (
        "app/http/pagination.py",
        "DEFAULT_LIMIT = 50",
        "DEFAULT_LIMIT = 25",
        f"{PARAMETERS}/Limit/description",
    ),
    (
        "app/domain/tasks/schemas.py",
        "order: SortOrder = SortOrder.DESC",
        "order: SortOrder = SortOrder.ASC",
        f"{PARAMETERS}/Order/description",
    ),
    (
        "app/domain/tasks/schemas.py",
        '    DESC = "desc"',
        '    DESC = "descending"',
        f"{SCHEMAS}/SortOrder/enum",
    ),
    (
        "app/domain/tasks/schemas.py",
        "    q: SearchQuery | None = None\n",
        "",
        f"{TASKS}/get/parameters",
    ),
    (
        "app/domain/tasks/schemas.py",
        "    created_after: Timestamp | None",
        "    seen_after: Timestamp | None = None\n    created_after: Timestamp | None",
        f"{TASKS}/get/parameters",
    ),
    (
        "app/domain/tasks/schemas.py",
        "    completed_at: Timestamp | None\n",
        "    completed_at: Timestamp\n",
        f"{SCHEMAS}/Task/properties/completed_at/type",
    ),
    (
        "app/domain/tasks/schemas.py",
        "    etag: EntityTag\n",
        "    etag: EntityTag\n    urgency: int\n",
        f"{SCHEMAS}/Task/properties/urgency",
    ),
    (
        "app/domain/tasks/schemas.py",
        "    description: Description | None\n    completed: bool\n    list_id: ResourceId",
        "    description: Description | None\n    completed: bool = False\n    list_id: ResourceId",
        f"{SCHEMAS}/TaskReplace/required",
    ),
    (
        "app/domain/tasks/schemas.py",
        "class TaskPatch(msgspec.Struct, frozen=True, forbid_unknown_fields=True)",
        "class TaskPatch(msgspec.Struct, frozen=True)",
        f"{SCHEMAS}/TaskPatch/additionalProperties",
    ),
    (
        "app/domain/tasks/schemas.py",
        "    completed: bool = False\n",
        "    completed: bool = True\n",
        f"{SCHEMAS}/TaskCreate/properties/completed/description",
    ),
    (
        "app/domain/tasks/schemas.py",
        "class TaskPage(msgspec.Struct, frozen=True)",
        "class TaskPage(msgspec.Struct, frozen=True, tag=True)",
        f"{SCHEMAS}/TaskPage/properties/type",
    ),
    (
        "app/domain/tasks/controller.py",
        'operation_id="getTask"',
        'operation_id="readTask"',
        f"{TASK}/get/operationId",
    ),
    (
        "app/domain/tasks/controller.py",
        '@get("/tasks", operation_id',
        '@get("/todos", operation_id',
        f"{TASKS}/get",
    ),
    ("app/domain/tasks/controller.py", "    @put(", "    @post(", f"{TASK}/put"),
    (
        "app/domain/tasks/controller.py",
        'tags = ("tasks",)',
        'tags = ("todos",)',
        f"{TASKS}/get/tags",
    ),
    (
        "app/domain/tasks/controller.py",
        "-> TaskResponse | NotModifiedResponse",
        "-> TaskResponse",
        f"{TASK}/get/responses/304",
    ),
    (
        "app/domain/tasks/controller.py",
        "    status = HTTP_201_CREATED",
        "    status = 202",
        f"{TASKS}/post/responses/201",
    ),
    (
        "app/domain/tasks/controller.py",
        "    headers_type = CreatedHeaders\n",
        "    headers_type = ETagHeaders\n",
        f"{TASKS}/post/responses/201/headers/Location",
    ),
    (
        "app/domain/tasks/controller.py",
        "raises=[InvalidCursor, DatabaseUnavailable]",
        "raises=[DatabaseUnavailable]",
        f"{RESPONSES}/InvalidQuery/{PROBLEM}/examples",
    ),
    (
        "app/domain/tasks/controller.py",
        "raises=[TaskNotFound, DatabaseUnavailable]",
        "raises=[DatabaseUnavailable]",
        f"{TASK}/get/responses/404",
    ),
    (
        "app/domain/tasks/controller.py",
        "data: Annotated[TaskPatch, MERGE_PATCH, JSON]",
        "data: Annotated[TaskPatch, MERGE_PATCH]",
        f"{TASK}/patch/description",
    ),
    (
        "app/domain/tasks/controller.py",
        "data: TaskReplace",
        "data: TaskCreate",
        f"{TASK}/put/requestBody/content/application~1json/schema/$ref",
    ),
    (
        "app/domain/tasks/controller.py",
        "path: TaskPath, headers: IfMatchHeaders) -> None",
        "path: TaskPath) -> None",
        f"{TASK}/delete/parameters",
    ),
    (
        "app/domain/tasks/controller.py",
        "path: UserPath, query: ListTasksQuery",
        "path: UserPath",
        f"{TASKS}/get/parameters",
    ),
    (
        "app/domain/tasks/controller.py",
        "headers: CreateHeaders, data: TaskCreate",
        "headers: CreateHeaders",
        f"{TASKS}/post/requestBody",
    ),
    (
        "app/http/operation.py",
        "ANY_OPERATION = (InvalidParameter, InternalError)",
        "ANY_OPERATION = (InvalidParameter,)",
        f"{TASK}/get/responses/500",
    ),
    (
        "app/http/operation.py",
        "MalformedBody, ContentTooLarge, UnsupportedMediaType",
        "MalformedBody, UnsupportedMediaType",
        f"{TASKS}/post/responses/413",
    ),
    (
        "app/http/parameters.py",
        "max_length=1024",
        "max_length=2048",
        f"{SCHEMAS}/ETagList/maxLength",
    ),
    (
        "app/http/headers.py",
        '"private, no-cache"]',
        '"no-store"]',
        f"{HEADERS}/CacheControl/schema/const",
    ),
    (
        "app/http/headers.py",
        "Meta(ge=1, le=60)",
        "Meta(ge=1, le=600)",
        f"{HEADERS}/RetryAfter/schema/maximum",
    ),
    ("app/http/etags.py", "[0-9a-f]{32}", "[0-9a-f]+", f"{SCHEMAS}/EntityTag/pattern"),
    (
        "app/http/problems.py",
        "class MethodNotAllowed(",
        "class Locked(ProblemError):\n    status = 423\n\n\nclass MethodNotAllowed(",
        ERRORS,
    ),
    (
        "app/domain/tasks/problems.py",
        '    title = "Task not found"',
        '    type = "/problems/no-such-task"\n    title = "Task not found"',
        f"{RESPONSES}/TaskNotFound/content/application~1problem+json/examples",
    ),
    (
        "app/http/problems.py",
        "    status = HTTPStatus.PRECONDITION_FAILED",
        "    status = HTTPStatus.CONFLICT",
        f"{TASK}/put/responses/412",
    ),
    (
        "app/http/problems.py",
        "MAX_ERRORS = 100",
        "MAX_ERRORS = 50",
        f"{SCHEMAS}/Problem/properties/errors/maxItems",
    ),
    (
        "app/http/problems.py",
        "    parameter: Name | None = None\n",
        "    name: Name | None = None\n",
        f"{SCHEMAS}/FieldError/properties/parameter",
    ),
    ("app/domain/health/controller.py", '"/livez"', '"/alive"', "/paths/~1livez"),
    (
        "app/domain/health/controller.py",
        "raises=[NotReady]",
        "raises=[]",
        "/paths/~1readyz/get/responses/503",
    ),
    (
        "app/openapi/controller.py",
        '"application/yaml"',
        '"text/yaml"',
        "/paths/~1openapi.yaml/get/responses/200/content/application~1yaml",
    ),
    (
        "app/asgi.py",
        "MAX_BODY_BYTES = 131_072",
        "MAX_BODY_BYTES = 65_536",
        LIMITS,
    ),
]


def apply_change(change: Change, document: dict[str, Any]) -> dict[str, Any]:
    """Return a changed copy. Raise KeyError or IndexError if the pointer does not exist."""
    operation, pointer, value = change
    changed = copy.deepcopy(document)
    *parents, last = [part.replace("~1", "/").replace("~0", "~") for part in pointer.split("/")[1:]]
    node: Any = changed
    for part in parents:
        node = node[int(part) if isinstance(node, list) else part]
    key: Any = int(last) if isinstance(node, list) else last
    if operation == "add" and isinstance(node, list):
        node.insert(key, value)
    elif operation == "add":
        assert key not in node
        node[key] = value
    elif operation == "replace":
        assert node[key] != value
        node[key] = value
    else:
        before = node.pop(key)
        if operation == "move":
            node[value] = before
    return changed
