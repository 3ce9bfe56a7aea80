"""Single changes to the contract, each with what it means for those who call the API."""

from __future__ import annotations

from typing import Any, NamedTuple

from tests.tools.edits import DOCUMENT, GONE, Edits

LIST = "/paths/~1api~1v1~1users~1{user_id}~1tasks"
ITEM = f"{LIST}~1{{task_id}}"
PARAMETERS = "/components/parameters"
RESPONSES = "/components/responses"
HEADERS = "/components/headers"
SCHEMAS = "/components/schemas"
MERGE_PATCH = f"{ITEM}/patch/requestBody/content/application~1merge-patch+json"
TEXT = {"type": "string", "maxLength": 10}


class Case(NamedTuple):
    """A change, and the pointer that must be named where it is not the first edited."""

    edits: Edits
    pointer: str | None = None


def one(pointer: str, value: Any, named: str | None = None) -> Case:
    """A change at one place."""
    return Case({pointer: value}, named)


BREAKING: dict[str, Case] = {
    "an operation goes": one(f"{ITEM}/delete", GONE),
    "a path goes": one("/paths/~1readyz", GONE),
    "an operationId": one(f"{LIST}/get/operationId", "findTasks"),
    "a tag of an operation": one(f"{LIST}/get/tags/0", "health", f"{LIST}/get/tags"),
    "a parameter goes": one(f"{LIST}/get/parameters/3", GONE),
    "a parameter becomes required": one(f"{PARAMETERS}/Limit/required", True),  # noqa: FBT003
    "a parameter's maximum": one(f"{PARAMETERS}/Limit/schema/maximum", 100),
    "a parameter's minimum": one(f"{PARAMETERS}/Limit/schema/minimum", 2),
    "a parameter's type": one(f"{PARAMETERS}/Limit/schema/type", "string"),
    "a parameter's pattern": one(f"{PARAMETERS}/Query/schema/pattern", "^[a-z]+$"),
    "a parameter's format": one(f"{PARAMETERS}/Query/schema/format", "uuid"),
    "a parameter's style": one(f"{PARAMETERS}/Limit/style", "pipeDelimited"),
    "a parameter moves": one(f"{PARAMETERS}/Limit/in", "header"),
    "a parameter's name": one(f"{PARAMETERS}/Limit/name", "size"),
    "a new required parameter": one(
        f"{LIST}/get/parameters/-",
        {"name": "zone", "in": "query", "required": True, "schema": TEXT},
        f"{LIST}/get/parameters/11",
    ),
    "a value of a parameter goes": one(
        f"{SCHEMAS}/TaskSort/enum/1", GONE, f"{SCHEMAS}/TaskSort/enum"
    ),
    "a member of a request becomes required": one(
        f"{SCHEMAS}/TaskCreate/required/-", "description", f"{SCHEMAS}/TaskCreate/required"
    ),
    "a member of a request goes": one(f"{SCHEMAS}/TaskCreate/properties/completed", GONE),
    "a member of a request gets shorter": one(
        f"{SCHEMAS}/TaskCreate/properties/description/maxLength", 100
    ),
    "a member of a request may no longer be null": one(
        f"{SCHEMAS}/TaskPatch/properties/description/type", "string"
    ),
    "a request must have a member": one(f"{SCHEMAS}/TaskPatch/minProperties", 1),
    "a media type of a request": Case(
        {MERGE_PATCH: GONE, f"{ITEM}/patch/requestBody/content/text~1plain": {"schema": TEXT}}
    ),
    "a request gets a body": one(
        "/paths/~1livez/get/requestBody",
        {"required": True, "content": {"application/json": {"schema": TEXT}}},
    ),
    "a keyword that is unknown": one(f"{SCHEMAS}/TaskCreate/if", {"required": ["completed"]}),
    "a member of a response goes": Case(
        {f"{SCHEMAS}/Task/properties/etag": GONE, f"{SCHEMAS}/Task/required/8": GONE}
    ),
    "a member of a response becomes optional": one(
        f"{SCHEMAS}/Task/required/8", GONE, f"{SCHEMAS}/Task/required"
    ),
    "a member of a response may be null": one(
        f"{SCHEMAS}/Task/properties/completed/type", ["boolean", "null"]
    ),
    "a response gets longer": one(f"{SCHEMAS}/TaskPage/properties/items/maxItems", 500),
    "a limit of a response goes": one(f"{SCHEMAS}/Problem/properties/detail/maxLength", GONE),
    "a pattern of a response": one(f"{SCHEMAS}/Health/properties/status/pattern", "^[A-Z]+$"),
    "a format of a response goes": one(f"{SCHEMAS}/Task/properties/completed_at/format", GONE),
    "a text that goes both ways gets longer": one(f"{SCHEMAS}/Title/maxLength", 600),
    "a text that goes both ways gets shorter": one(f"{SCHEMAS}/Title/maxLength", 400),
    "a header field goes": one(f"{ITEM}/get/responses/200/headers/ETag", GONE),
    "a header field becomes optional": one(f"{HEADERS}/Location/required", False),  # noqa: FBT003
    "a value of a header field": one(f"{HEADERS}/CacheControl/schema/const", "no-store"),
    "a success goes": one(f"{ITEM}/put/responses/201", GONE),
    "an error goes": one(f"{ITEM}/patch/responses/412", GONE),
    "what stands for other errors goes": one(f"{ITEM}/get/responses/default", GONE),
    "a new success": one(f"{LIST}/post/responses/202", {"description": "Later."}),
    "a media type of a response": one(
        f"{ITEM}/get/responses/200/content/text~1plain", {"schema": TEXT}
    ),
    "another schema": one(
        f"{LIST}/get/responses/200/content/application~1json/schema/$ref",
        f"#{SCHEMAS}/Task",
        f"{SCHEMAS}/TaskPage/properties/items",
    ),
    "a link goes": one(f"{LIST}/post/responses/201/links/getTask", GONE),
    "a schema has another name": Case(
        {
            f"{SCHEMAS}/FieldError": GONE,
            f"{SCHEMAS}/Failure": DOCUMENT["components"]["schemas"]["Fault"],
            f"{SCHEMAS}/Problem/properties/errors/items/$ref": f"#{SCHEMAS}/Failure",
        }
    ),
    "callers must authenticate": Case(
        {
            "/security/-": {"bearer": []},
            "/components/securitySchemes": {"bearer": {"type": "http", "scheme": "bearer"}},
        },
        "/security/0",
    ),
    "another server": one("/servers/0/url", "/v2"),
    "another version of OpenAPI": one("/openapi", "3.1.1"),
}

COMPATIBLE: dict[str, Case] = {
    "a new path": one(
        "/paths/~1version",
        {"get": {"operationId": "getVersion", "responses": {"204": {"description": "-"}}}},
    ),
    "a new operation": one(
        "/paths/~1livez/delete", {"operationId": "stop", "responses": {"204": {"description": "-"}}}
    ),
    "a new optional parameter": one(
        f"{LIST}/get/parameters/-",
        {"name": "zone", "in": "query", "schema": TEXT},
        f"{LIST}/get/parameters/11",
    ),
    "a new optional member of a request": one(f"{SCHEMAS}/TaskCreate/properties/note", TEXT),
    "a new member of a response": one(f"{SCHEMAS}/Task/properties/note", TEXT),
    "a parameter's maximum": one(f"{PARAMETERS}/Limit/schema/maximum", 500),
    "a parameter's pattern goes": one(f"{PARAMETERS}/Query/schema/pattern", GONE),
    "a new value of a parameter": one(
        f"{SCHEMAS}/TaskSort/enum/-", "title", f"{SCHEMAS}/TaskSort/enum"
    ),
    "a member of a request becomes optional": one(
        f"{SCHEMAS}/TaskReplace/required/1", GONE, f"{SCHEMAS}/TaskReplace/required"
    ),
    "a member of a request may be null": one(
        f"{SCHEMAS}/TaskPatch/properties/completed/type", ["boolean", "null"]
    ),
    "a request may have more members": one(f"{SCHEMAS}/TaskCreate/additionalProperties", GONE),
    "a body becomes optional": one(f"{LIST}/post/requestBody/required", False),  # noqa: FBT003
    "a new media type of a request": one(
        f"{ITEM}/patch/requestBody/content/application~1json",
        {"schema": {"$ref": f"#{SCHEMAS}/TaskPatch"}},
    ),
    "a new error": one(f"{LIST}/get/responses/409", {"$ref": f"#{RESPONSES}/OtherProblem"}),
    "a new header field": one(
        f"{ITEM}/get/responses/200/headers/Age", {"schema": {"type": "integer"}}
    ),
    "a header field becomes required": one(f"{HEADERS}/Allow/required", True),  # noqa: FBT003
    "a response gets shorter": one(f"{SCHEMAS}/TaskPage/properties/items/maxItems", 100),
    "a member of a response is never null": one(
        f"{SCHEMAS}/Task/properties/completed_at/type", "string"
    ),
    "a new link": one(f"{LIST}/post/responses/201/links/listTasks", {"operationId": "listTasks"}),
    "a deprecation": one(f"{LIST}/get/deprecated", True),  # noqa: FBT003
}

WORDING: dict[str, Case] = {
    "a description": one(f"{SCHEMAS}/Task/description", "Another."),
    "the long description": one("/info/description", "Shorter."),
    "a summary": one(f"{LIST}/get/summary", "Another"),
    "an example": one(f"{LIST}/get/responses/200/content/application~1json/examples/empty", GONE),
    "an example of a schema": one(
        f"{SCHEMAS}/Title/examples/0", "Sleep", f"{SCHEMAS}/Title/examples"
    ),
    "a description of a tag": one("/tags/0/description", "Another."),
    "another order": one(f"{SCHEMAS}/SortOrder/enum", ["desc", "asc"]),
}
